//! The way to NATS: address, credentials and TLS, as NATS has them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr, jetstream};

use crate::protocol::inbox;
use host::program::NATS_PASSWORD;
use spec::UsageError;

/// A connection that is silent for three of these is given up, and a new one tried: a host that was
/// cut off is back this soon after the network is.
const PING: Duration = Duration::from_secs(1);

/// Between two attempts to connect again.
const RECONNECT: Duration = Duration::from_millis(200);

/// An attempt to connect takes so long at most.
const CONNECT: Duration = Duration::from_secs(2);

/// How long JetStream may take for an answer.
const JETSTREAM: Duration = Duration::from_secs(2);

/// How to reach NATS.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Access {
    /// The NATS server, such as nats://10.0.0.1:4222
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Go on where nothing protects the way to NATS: neither TLS, nor that it stays on this machine
    #[arg(long)]
    pub nats_plain: bool,
    /// The credentials file of the NATS account
    #[arg(long, value_name = "FILE")]
    pub creds: Option<PathBuf>,
    /// The user of the NATS account; the password is in --nats-password-file, or in the
    /// environment as LAB_NATS_PASSWORD
    #[arg(long, value_name = "NAME")]
    pub nats_user: Option<String>,
    /// A file with nothing but the password
    #[arg(long, value_name = "FILE")]
    pub nats_password_file: Option<PathBuf>,
    /// A file with nothing but the seed of an NKey
    #[arg(long, value_name = "FILE")]
    pub nkey: Option<PathBuf>,
    /// The certificate authority of the NATS server (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// A certificate of our own for the NATS server (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// How to run on a fleet.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where NATS is.
    pub access: Access,
    /// Go on whatever the clocks of the hosts say.
    pub allow_clock_offset: bool,
}

/// The longest password or token that a file has, in bytes.
const LONGEST_SECRET: u64 = 4 << 10;

/// The most that a file of certificates or credentials has, in bytes.
const MOST_CERTIFICATES: u64 = 4 << 20;

fn secret(path: &Path) -> anyhow::Result<String> {
    let text = platform::read_text_within(path, LONGEST_SECRET)
        .map_err(|error| UsageError::error(format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

impl Access {
    /// The address, or why there is none.
    ///
    /// # Errors
    /// When none was given.
    pub fn url(&self) -> anyhow::Result<&str> {
        self.nats.as_deref().ok_or_else(|| UsageError::error("--nats URL: which NATS server?"))
    }

    async fn options(&self, name: &str) -> anyhow::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .name(name)
            .ping_interval(PING)
            .connection_timeout(CONNECT)
            .reconnect_delay_callback(|_| RECONNECT)
            .ignore_discovered_servers()
            .subscription_capacity(1 << 16)
            // What happens to the connection is seen in what happens to the run.
            .event_callback(|_| async {});
        if let Some(creds) = &self.creds {
            let read = options.credentials_file(creds).await;
            options = read.map_err(|error| {
                UsageError::error(format!("--creds {}: {error}", creds.display()))
            })?;
        }
        if let Some(user) = &self.nats_user {
            let password = match &self.nats_password_file {
                Some(file) => secret(file)?,
                None => std::env::var(NATS_PASSWORD).map_err(|_| {
                    UsageError::error(format!(
                        "--nats-user {user}: its password is missing; give --nats-password-file \
                         or set {NATS_PASSWORD}"
                    ))
                })?,
            };
            options = options.user_and_password(user.clone(), password);
        }
        if let Some(nkey) = &self.nkey {
            let seed = secret(nkey)?;
            nkeys::KeyPair::from_seed(&seed).map_err(|error| {
                let file = nkey.display();
                UsageError::error(format!("--nkey {file}: no seed of an NKey is in it: {error}"))
            })?;
            options = options.nkey(seed);
        }
        for (flag, file) in [
            ("--tls-ca", &self.tls_ca),
            ("--tls-cert", &self.tls_cert),
            ("--tls-key", &self.tls_key),
        ] {
            let Some(file) = file else { continue };
            platform::read_within(file, MOST_CERTIFICATES).map_err(|error| {
                UsageError::error(format!("{flag} {}: {error}", file.display()))
            })?;
        }
        if let Some(ca) = &self.tls_ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        Ok(options)
    }

    /// Whoever can read the way to NATS can read passwords, and whoever can write there can have
    /// agents do what coordinators may.
    ///
    /// # Errors
    /// [`UsageError`] when neither TLS nor loopback protects it.
    fn check_way(&self) -> anyhow::Result<()> {
        let url = self.url()?;
        let address: ServerAddr =
            url.parse().map_err(|error| UsageError::error(format!("--nats {url}: {error}")))?;
        let host = address.host();
        let of_this_machine = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|host: IpAddr| host.is_loopback());
        let tls = address.tls_required() || self.tls_ca.is_some() || self.tls_cert.is_some();
        if of_this_machine || tls || self.nats_plain {
            return Ok(());
        }
        Err(UsageError::error(format!(
            "--nats {url}: nothing protects the way there; give tls://{host} or --tls-ca FILE, or \
             --nats-plain in a network that nobody else can reach"
        )))
    }

    /// Connects. From then on the connection comes back by itself.
    ///
    /// # Errors
    /// [`UsageError`]: no server there, credentials that are not taken, or a way to it that nothing
    /// protects.
    pub async fn connect(&self, name: &str) -> anyhow::Result<Client> {
        let options = self.options(name).await?;
        self.connect_with(options).await
    }

    /// The same for an agent, which has an inbox of its own: no other hears what it is answered.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub(crate) async fn connect_agent(&self, agent: &str) -> anyhow::Result<Client> {
        let options = self.options(&format!("lab agent {agent}")).await?;
        self.connect_with(options.custom_inbox_prefix(inbox(agent))).await
    }

    async fn connect_with(&self, options: ConnectOptions) -> anyhow::Result<Client> {
        self.check_way()?;
        let url = self.url()?;
        options.connect(url).await.map_err(|error| {
            UsageError::error(match error.kind() {
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                    format!("NATS at {url} refuses these credentials: {error}")
                }
                ConnectErrorKind::ServerParse => format!("--nats {url}: {error}"),
                ConnectErrorKind::Tls => format!("NATS at {url}: no TLS with it: {error}"),
                _ if error.to_string().contains("certificate") => format!(
                    "NATS at {url}: no TLS with it: {error}; --tls-ca, --tls-cert and --tls-key \
                     name the certificates"
                ),
                _ => format!("NATS at {url} cannot be reached: {error}"),
            })
        })
    }

    /// The way to JetStream, if this server and account have it.
    ///
    /// # Errors
    /// [`UsageError`] when they have not.
    pub async fn jetstream(&self, client: &Client) -> anyhow::Result<jetstream::Context> {
        let context = jetstream::ContextBuilder::new()
            .timeout(JETSTREAM)
            .ack_timeout(JETSTREAM)
            .build(client.clone());
        // Asked for by hand: the client's type has fields that NATS 2.9 does not send.
        let asked = client.request("$JS.API.INFO", bytes::Bytes::new());
        let why = match tokio::time::timeout(JETSTREAM, asked).await {
            Ok(Ok(answer)) => {
                let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
                match answer["error"]["description"].as_str() {
                    None => return Ok(context),
                    Some(why) => why.to_owned(),
                }
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        Err(UsageError::error(format!(
            "NATS at {} has no JetStream for this account: start nats-server with -js, and enable \
             jetstream in the account ({why})",
            self.url()?
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_nothing_protects_is_refused_unless_it_is_asked_for() {
        let of = |url: &str| Access { nats: Some(url.to_owned()), ..Access::default() };
        for url in [
            "nats://127.0.0.1:4222",
            "127.3.2.1",
            "nats://localhost",
            "nats://[::1]:4222",
            "tls://10.0.0.1",
        ] {
            of(url).check_way().unwrap_or_else(|error| panic!("{url}: {error}"));
        }
        for url in ["nats://10.0.0.1:4222", "10.0.0.1", "nats://nats.example", "localhost.example"]
        {
            let error = of(url).check_way().expect_err(url);
            assert!(
                error.is::<UsageError>() && error.to_string().contains("--nats-plain"),
                "{error}"
            );
            Access { nats_plain: true, ..of(url) }.check_way().expect("asked for");
            Access { tls_ca: Some("ca.pem".into()), ..of(url) }.check_way().expect("with TLS");
        }
    }
}
