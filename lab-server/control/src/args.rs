//! Options of the control interface, the same for server and client.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::access::{Access, Commands, IN_FILE, PRINTED, is_outside};
use crate::token::{Token, TokenError};

/// Who may use the control interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct AccessArgs {
    /// Take what changes something with the token in this file (as Authorization: Bearer TOKEN); a
    /// file that is not there is made with mode 0600 [default: a new token, printed at the start;
    /// with --pipe none, and nothing can be changed over HTTP]
    #[arg(long, value_name = "FILE", conflicts_with = "control_open")]
    pub control_token_file: Option<PathBuf>,
    /// Take what changes something without a token, as the prototype did: all users and programs of
    /// this machine can stop this one or give packets away, by GETs such as /yaohongbao and /qps as
    /// well, which an old browser sends for any page. On loopback only
    #[arg(long)]
    pub control_open: bool,
    /// A further name that the control interface is asked for by (Host); addresses, localhost and
    /// this machine's own name always are. Can be repeated
    #[arg(long, value_name = "NAME")]
    pub control_host: Vec<String>,
}

/// Why the control interface is not served.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Everyone in the network could command.
    #[error(
        "--control {0} is reached from other machines, and without a token everyone there could \
         command: name a --control-token-file (and no --control-open), or listen on 127.0.0.1"
    )]
    Outside(SocketAddr),
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// `--config` that says no configuration.
#[derive(Debug, thiserror::Error)]
#[error("--config: {0}")]
pub struct BadConfig(#[from] serde_json::Error);

/// Whether a program did not start because of what it was asked for here, and not of what it met.
pub fn is_usage(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(AccessError::Outside(_))) || error.is::<BadConfig>()
}

impl AccessArgs {
    /// Who may use an interface that listens on an address, and what to tell a person who starts
    /// it. With `pipe` it is a program that is told so.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn access(
        &self,
        address: SocketAddr,
        pipe: bool,
    ) -> Result<(Access, Option<String>), AccessError> {
        let is_reached_from_outside = is_outside(address);
        let (commands, notice) = match &self.control_token_file {
            Some(file) => {
                let notice = format!("commands need the token in {}", file.display());
                (Commands::Token(Token::of_file(file)?, IN_FILE), Some(notice))
            }
            None if self.control_open => (Commands::Everyone, None),
            None if pipe => (Commands::Nobody, None),
            None => {
                let token = Token::new()?;
                let notice = format!("commands need 'Authorization: Bearer {}'", token.secret());
                (Commands::Token(token, PRINTED), Some(notice))
            }
        };
        if is_reached_from_outside && !matches!(commands, Commands::Token(..)) {
            return Err(AccessError::Outside(address));
        }
        Ok((Access::new(commands, is_reached_from_outside, &self.control_host), notice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_loopback_there_is_a_token_or_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = Some(directory.path().join("token"));
        let open = AccessArgs { control_open: true, ..AccessArgs::default() };
        let kept = AccessArgs { control_token_file: file, ..AccessArgs::default() };
        let printed = AccessArgs::default();
        for (args, pipe, outside) in [
            (&open, false, false),
            (&open, true, false),
            (&printed, false, true),
            (&printed, true, false),
            (&kept, false, true),
            (&kept, true, true),
        ] {
            for (address, is_served) in [
                ("127.0.0.1:1", true),
                ("127.9.9.9:1", true),
                ("[::1]:1", true),
                ("[::ffff:127.0.0.1]:1", true),
                ("0.0.0.0:1", outside),
                ("[::]:1", outside),
                ("10.0.0.1:1", outside),
            ] {
                let address = address.parse().expect("an address");
                let got = args.access(address, pipe);
                assert_eq!(got.is_ok(), is_served, "{address} {pipe} {args:?}");
                if let Err(error) = got {
                    let said = error.to_string();
                    assert!(said.contains("--control-token-file"), "{said}");
                    assert!(said.contains(&address.to_string()), "{said}");
                }
            }
        }
    }
}
