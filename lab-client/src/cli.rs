//! The command line, and the control thread's life from start to end.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use control::{AccessArgs, BadConfig, Interface, Output};
use platform::{Priority, set_priority};
use service::Notices;
use workload::{
    Chat, Config, Connect, Creates, Line, Load, Pacing, Phase, Rate, Ready, SLOW_KEPT, check_rate,
};

use crate::client::{Client, StartError};
use crate::panel::{Hub, router};
use crate::solo::{Plan, Solo, load_phase};

/// The load: users who connect, log in, and shake on an open-loop schedule.
///
/// Exit status: 0 when the load was what was asked for, 4 when it was not, 1 for errors.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// The server
    #[arg(long, default_value = "127.0.0.1:1025", value_name = "ADDR:PORT")]
    pub server: SocketAddrV4,
    /// Users of this client, such as 0..1000000: the first, and the exclusive end
    #[arg(long, default_value = "0..1000", value_name = "FIRST..END", value_parser = parse_range)]
    pub users: (u32, u32),
    /// Users of all clients are 0 to N-1 [default: the end of --users]
    #[arg(long, value_name = "N")]
    pub total_users: Option<u32>,
    /// Shakes per second, over all clients; can be changed over the control interface
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub rate: u32,
    /// How the shakes of a second are spread over it
    #[arg(long, value_enum, default_value = "even")]
    pub pacing: PacingArg,
    /// Keep so many shakes under way instead of a rate: for saturation
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub in_flight: Option<u32>,
    /// How long to shake [default: until interrupted; a second interrupt does not wait for answers]
    #[arg(long, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: Option<u64>,
    /// Connections begun per second, over all clients [default: as fast as they complete]
    #[arg(long, value_name = "N", value_parser = connects_per_second,
          allow_negative_numbers = true)]
    pub connect_rate: Option<f64>,
    /// Addresses to come from [default: loopback addresses for a server on this machine]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub sources: Option<Vec<Ipv4Addr>>,
    /// How notices of sent packets come: "answer" for the prototype's server
    #[arg(long, value_enum, default_value = "push")]
    pub notices: NoticesArg,
    /// Chat texts per second, over all clients
    #[arg(long, default_value_t = 0.0, value_name = "N", value_parser = per_second,
          allow_negative_numbers = true)]
    pub chat: f64,
    /// Packets created per second by users, over all clients
    #[arg(long, default_value_t = 0.0, value_name = "N", value_parser = per_second,
          allow_negative_numbers = true)]
    pub creates: f64,
    /// Tell the server that we speak its own commands, so that it pushes to us
    #[arg(long)]
    pub own_commands: bool,
    /// After this time without an answer a shake has timed out
    #[arg(long, default_value_t = 5000, value_name = "MILLISECONDS")]
    pub timeout: u64,
    /// A send that is later than this counts as late
    #[arg(long, default_value_t = 1000, value_name = "MICROSECONDS")]
    pub late: u64,
    /// The shortest sleep worth a timer: shakes due within it leave together
    #[arg(long, default_value_t = 100, value_name = "MICROSECONDS")]
    pub timer_slack: u64,
    /// What the schedule comes from
    #[arg(long, default_value_t = 2015, value_name = "N")]
    pub seed: u64,
    /// Shards [default: one a CPU]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// CPUs for the shards, such as 0,2 or 0-3 [default: all]
    #[arg(long, value_name = "LIST", value_parser = control::CpuList::parse)]
    pub cpus: Option<control::CpuList>,
    /// Congestion control of the connections [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Where the control interface (HTTP) listens: GET /qps?qps= changes the rate, unless there is
    /// --in-flight
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub control: SocketAddr,
    /// Who may use the control interface.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Write samples as lines of JSON to standard output, and take phases as lines of JSON from
    /// standard input; its end stops the client
    #[arg(long)]
    pub pipe: bool,
    /// The whole configuration as JSON, in the place of all other options
    #[arg(long, value_name = "JSON", hide = true)]
    pub config: Option<String>,
}

/// [`Pacing`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PacingArg {
    /// Evenly
    Even,
    /// As a Poisson process
    Poisson,
    /// As the prototype: everyone due in a second at its start
    Prototype,
}

/// [`Notices`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NoticesArg {
    /// By themselves
    Push,
    /// In the place of the answer to a shake
    Answer,
}

fn parse_range(text: &str) -> Result<(u32, u32), String> {
    let range = text.split_once("..").and_then(|(first, end)| {
        Some((first.trim().parse::<u32>().ok()?, end.trim().parse::<u32>().ok()?))
    });
    match range {
        Some((first, end)) if first < end => Ok((first, end)),
        _ => Err(format!("'{text}' is no ascending range such as 0..1000000")),
    }
}

/// The longest load: 30 years.
const MOST_SECONDS: u64 = 1_000_000_000;

fn per_second(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    check_rate("rate", rate).map_err(|error| error.to_string())?;
    Ok(rate)
}

impl Args {
    /// The configuration that the arguments ask for.
    ///
    /// # Errors
    /// JSON that is no configuration.
    fn config(&self) -> anyhow::Result<Config> {
        if let Some(json) = &self.config {
            return Ok(serde_json::from_str(json).map_err(BadConfig::from)?);
        }
        let (first_user, end_user) = self.users;
        Ok(Config {
            server: self.server,
            total_users: self.total_users.unwrap_or(end_user),
            first_user,
            end_user,
            first_flow: first_user,
            flows: end_user - first_user,
            shards: self.shards,
            cpus: self.cpus.clone().map(|cpus| cpus.0),
            sources: self.sources.clone(),
            seed: self.seed,
            notices: match self.notices {
                NoticesArg::Push => Notices::Push,
                NoticesArg::Answer => Notices::Answer,
            },
            timeout: Duration::from_millis(self.timeout),
            late: Duration::from_micros(self.late),
            own_commands: self.own_commands || self.chat > 0.0 || self.creates > 0.0,
            timer_slack: Duration::from_micros(self.timer_slack),
            congestion: self.congestion.clone(),
            reconnect: true,
            slow_kept: SLOW_KEPT,
            join: false,
            clock_ahead_ns: 0,
            probes: None,
        })
    }

    /// What a client on its own is to do.
    fn plan(&self) -> Plan {
        let pacing = match self.pacing {
            PacingArg::Even => Pacing::Even,
            PacingArg::Poisson => Pacing::Poisson,
            PacingArg::Prototype => Pacing::Prototype,
        };
        let load = match self.in_flight {
            Some(in_flight) => Load::Closed { in_flight },
            // Also at a rate of 0, which may be raised.
            None => Load::Open { rate: Rate::Fixed(self.rate), pacing },
        };
        let users = self.total_users.unwrap_or(self.users.1);
        Plan {
            connect: Connect { users, rate: self.connect_rate },
            load: Phase {
                chat: (self.chat > 0.0).then_some(Chat { rate: self.chat, bytes: 32 }),
                creates: (self.creates > 0.0).then_some(Creates { rate: self.creates }),
                ..load_phase(load, self.seconds)
            },
        }
    }
}

fn connects_per_second(text: &str) -> Result<f64, String> {
    let rate = per_second(text)?;
    if rate > 0.0 { Ok(rate) } else { Err("nobody would connect".to_owned()) }
}

/// A load that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadLoad(String);

/// Whether a client did not start because of what it was asked for, and not of what it met.
pub fn is_usage(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StartError::Config(_)))
        || control::is_usage(error)
        || error.is::<BadLoad>()
}

/// Runs a client: on its own, or with `--pipe` as it is told. Returns whether the load was what was
/// asked for.
///
/// # Errors
/// What keeps the client from starting, or a shard from going on.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let config = args.config()?;
    let plan = (!args.pipe).then(|| args.plan());
    if let Some(plan) = &plan {
        plan.load.check().map_err(|error| BadLoad(error.to_string()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("lab-client-io")
        .build()?;
    // Before the shards exist: an address in use is known before a thread is started.
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(args.control))
        .with_context(|| format!("the control interface cannot listen on {}", args.control))?;
    let (access, notice) = args.access.access(listener.local_addr()?, args.pipe)?;
    let output = Output::start("lab-client")?;
    output.take_panics();
    let client = Client::start(&config)?;
    // The shards have their threads. This one is never to run in the place of theirs; its orders
    // have their share of a CPU all the same.
    let _ = set_priority(None, Priority::Batch);
    if let Some(notice) = notice.filter(|_| !args.pipe) {
        output.tell(&format!("lab-client: {notice}"));
    }
    let hub = Hub::new(&client);
    let routes = router(&hub, &access);
    let interface = Interface { listener, routes, pipe: args.pipe, output: output.clone() };
    let ended = attend(&runtime, client, &hub, &config, plan, interface);
    runtime.block_on(output.finish())?;
    // A thread of the runtime may still wait for input that never comes.
    runtime.shutdown_background();
    ended
}

/// Attends to a running client until its shards have ended: with a plan it carries that out, and
/// says whether the load was what was asked for.
fn attend(
    runtime: &tokio::runtime::Runtime,
    client: Client,
    hub: &Hub,
    config: &Config,
    plan: Option<Plan>,
    interface: Interface,
) -> anyhow::Result<bool> {
    let ready = Line::Ready(Ready {
        control: interface.listener.local_addr()?.to_string(),
        pid: std::process::id(),
        threads: client.threads().iter().map(|thread| thread.as_raw_nonzero().get()).collect(),
        users: (config.first_user, config.end_user),
        sources: client.resolved().flows.sources.iter().map(Ipv4Addr::to_string).collect(),
    });
    let output = interface.output.clone();
    let last = || Line::Ended(hub.audit());
    let mut outcome = None;
    match plan {
        None => runtime.block_on(control::serve(hub, interface, ready, last))?,
        Some(plan) => {
            let solo = Solo::new(hub.clone(), plan, output.clone());
            solo.start().map_err(anyhow::Error::msg)?;
            runtime.block_on(control::serve(&solo, interface, ready, last))?;
            let outcome = outcome.insert(solo.outcome());
            if outcome.failure.is_none() {
                outcome.print(&output);
            }
        }
    }
    let failures = hub.failures();
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    client.join()?;
    let Some(outcome) = outcome else { return Ok(true) };
    match &outcome.failure {
        Some(failure) => anyhow::bail!(failure.clone()),
        None => Ok(outcome.check().is_ok()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    #[cfg(debug_assertions)]
    use crate::message::Message;

    #[test]
    fn the_defaults_of_the_command_line_are_those_of_the_configuration() {
        Args::command().debug_assert();
        let args = Args::parse_from(["lab-client"]);
        assert_eq!(args.config().expect("valid"), Config::default());
    }

    #[test]
    fn ranges_of_users() {
        assert_eq!(parse_range("0..1000000"), Ok((0, 1_000_000)));
        for bad in ["5", "5..5", "9..3", "a..b", "0..99999999999"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }

    /// Commands are checked before a shard has them, so this is one that nobody sends: its end does
    /// not fit a number, which only a build with such checks sees.
    #[cfg(debug_assertions)]
    #[test]
    fn a_shard_that_panics_ends_the_client_and_its_name_is_told() {
        let args = ["lab-client", "--users", "0..10", "--shards", "2", "--control", "127.0.0.1:0"];
        let config = Args::parse_from(args).config().expect("valid");
        let client = Client::start(&config).expect("a client");
        let hub = Hub::new(&client);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let output = Output::start("lab-client").expect("threads");
        let interface = Interface { listener, routes: axum::Router::new(), pipe: false, output };
        let endless = Phase { start: 1, seconds: Some(u64::MAX), ..Phase::default() };
        client.mail().post(1, Message::Phase(Box::new(endless))).expect("room");
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let ended = attend(&runtime, client, &hub, &config, None, interface);
            tell.send(ended.map_err(|error| error.to_string()))
        });
        let ended = told.recv_timeout(Duration::from_secs(20)).expect("it ends by itself");
        let why = ended.expect_err("it could not go on");
        assert!(why.contains("shard 1") && why.contains("panicked"), "{why}");
        assert!(!why.contains("shard 0"), "the other one ended in order: {why}");
    }
}
