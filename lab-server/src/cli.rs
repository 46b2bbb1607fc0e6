//! The command line, and the control thread's life from start to end.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use control::{AccessArgs, BadConfig, CpuList, Interface, Output};
use platform::{Priority, set_priority};
use service::{Budgets, Command, Config, Line, MAX_PACKET_RATE, Notices, Ready, Steering};

use crate::panel::{Hub, router};
use crate::server::{Server, StartError};

/// The server under test: users in SETs, red packets, one shard a core.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Where to listen; port 0 takes any that is free
    #[arg(long, default_value = "127.0.0.1:1025", value_name = "ADDR:PORT")]
    pub listen: SocketAddrV4,
    /// Where the control interface (HTTP) listens
    #[arg(long, default_value = "127.0.0.1:8989", value_name = "ADDR:PORT")]
    pub control: SocketAddr,
    /// Who may use the control interface.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Users are 0 to N-1
    #[arg(long, default_value_t = 1_200_000, value_name = "N")]
    pub users: u32,
    /// Connections at the same time [default: a little more than the users]
    #[arg(long, value_name = "N")]
    pub connections: Option<u32>,
    /// Shards [default: one a CPU, more where descriptors are scarce]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// CPUs for the shards, such as 0,2 or 0-3 [default: all]
    #[arg(long, value_name = "LIST", value_parser = CpuList::parse)]
    pub cpus: Option<CpuList>,
    /// SETs in all
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub sets: usize,
    /// Shakes a second; those above are answered "overloaded" [default: no limit]
    #[arg(long, value_name = "N")]
    pub overload: Option<u64>,
    /// Start with a generator of so many red packets a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(RATES))]
    pub packets_per_second: Option<u32>,
    /// How notices of sent packets reach their users
    #[arg(long, value_enum, default_value = "push")]
    pub notices: NoticesArg,
    /// How long a sent packet can be claimed
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = seconds,
          allow_negative_numbers = true)]
    pub packet_life: f64,
    /// Packets that wait in one SET at most
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub queue: usize,
    /// Sent packets that one user may have open
    #[arg(long, default_value_t = Budgets::default().packets, value_name = "N")]
    pub user_packets: u32,
    /// Claims and notices that one user may have on their way
    #[arg(long, default_value_t = Budgets::default().mail, value_name = "N")]
    pub user_mail: u16,
    /// Chat texts that one user may have on their way
    #[arg(long, default_value_t = Budgets::default().chats, value_name = "N")]
    pub user_chats: u16,
    /// What amounts and splits come from
    #[arg(long, default_value_t = 2015, value_name = "N")]
    pub seed: u64,
    /// How connections find their shard
    #[arg(long, value_enum, default_value = "auto")]
    pub steering: SteeringArg,
    /// Congestion control of the connections [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Keep a durable ledger in this directory, and go on with what is there: nothing is answered
    /// before it is on disk [default: books in memory]
    #[arg(long, value_name = "DIR")]
    pub ledger: Option<PathBuf>,
    /// Keep all of the durable ledger, and not only what a restart needs: for an audit of every
    /// grant
    #[arg(long, requires = "ledger")]
    pub ledger_history: bool,
    /// Write samples as lines of JSON to standard output, and take commands as lines of JSON from
    /// standard input; its end stops the server
    #[arg(long)]
    pub pipe: bool,
    /// The whole configuration as JSON, in the place of all other options
    #[arg(long, value_name = "JSON", hide = true)]
    pub config: Option<String>,
}

/// [`Notices`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NoticesArg {
    /// Written to the named users' own connections
    Push,
    /// The prototype's way: as the answer to the next shake of the named user's SET
    Answer,
}

/// [`Steering`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SteeringArg {
    /// By CPU on loopback with a CPU for each shard, else by hash
    Auto,
    /// Evenly, by a hash over the addresses
    Hash,
    /// To the shard on the CPU that took the first packet
    Cpu,
}

impl Args {
    /// The configuration that the arguments ask for.
    ///
    /// # Errors
    /// A packet life that is no duration, or JSON that is no configuration.
    pub fn config(&self) -> anyhow::Result<Config> {
        if let Some(json) = &self.config {
            return Ok(serde_json::from_str(json).map_err(BadConfig::from)?);
        }
        Ok(Config {
            listen: self.listen,
            users: self.users,
            connections: self.connections,
            shards: self.shards,
            cpus: self.cpus.clone().map(|cpus| cpus.0),
            sets: self.sets,
            overload: self.overload,
            notices: match self.notices {
                NoticesArg::Push => Notices::Push,
                NoticesArg::Answer => Notices::Answer,
            },
            packet_life: Duration::try_from_secs_f64(self.packet_life)
                .with_context(|| format!("--packet-life {}", self.packet_life))?,
            queue_bound: self.queue,
            budgets: Budgets {
                packets: self.user_packets,
                mail: self.user_mail,
                chats: self.user_chats,
            },
            seed: self.seed,
            steering: match self.steering {
                SteeringArg::Auto => Steering::Auto,
                SteeringArg::Hash => Steering::Hash,
                SteeringArg::Cpu => Steering::Cpu,
            },
            congestion: self.congestion.clone(),
            ledger: self.ledger.clone(),
            ledger_history: self.ledger_history,
            ..Config::default()
        })
    }
}

/// Packets a second that a generator can be asked for.
const RATES: std::ops::RangeInclusive<i64> = 1..=MAX_PACKET_RATE as i64;

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    Duration::try_from_secs_f64(seconds).map(|_| seconds).map_err(|error| error.to_string())
}

/// Whether a server did not start because of what it was asked for, and not of what it met.
pub fn is_usage(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StartError::Config(_))) || control::is_usage(error)
}

/// Runs a server until SIGTERM, SIGINT, SIGHUP, a stop command, or, with `--pipe`, the end of its
/// input.
///
/// # Errors
/// What keeps the server from starting, or a shard from going on.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let config = args.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("lab-server-io")
        .build()?;
    // Before the shards exist: an address in use is known before a thread is started.
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(args.control))
        .with_context(|| format!("the control interface cannot listen on {}", args.control))?;
    let (access, notice) = args.access.access(listener.local_addr()?, args.pipe)?;
    let output = Output::start("lab-server")?;
    output.take_panics();
    let server = Server::start(&config)?;
    // The shards have their threads. This one is never to run in the place of theirs; its orders
    // have their share of a CPU all the same.
    let _ = set_priority(None, Priority::Batch);
    let hub = Hub::new(&server, &config);
    if let Some(rate) = args.packets_per_second {
        hub.execute(Command::generator(rate)).context("--packets-per-second")?;
    }
    if let Some(notice) = notice.filter(|_| !args.pipe) {
        output.tell(&format!("lab-server: {notice}"));
    }
    let routes = router(&hub, &access);
    let interface = Interface { listener, routes, pipe: args.pipe, output: output.clone() };
    let ended = attend(&runtime, server, &hub, config.sets, interface);
    runtime.block_on(output.finish())?;
    // A thread of the runtime may still wait for input that never comes.
    runtime.shutdown_background();
    ended
}

/// Attends to a running server until its shards have ended.
fn attend(
    runtime: &tokio::runtime::Runtime,
    server: Server,
    hub: &Hub,
    sets: usize,
    interface: Interface,
) -> anyhow::Result<()> {
    let ready = Line::Ready(Ready {
        listen: server.address().to_string(),
        control: interface.listener.local_addr()?.to_string(),
        pid: std::process::id(),
        threads: server.threads().iter().map(|thread| thread.as_raw_nonzero().get()).collect(),
        sets,
        ledger: server.ledger().cloned(),
    });
    let last = || Line::Ended(hub.ledger());
    runtime.block_on(control::serve(hub, interface, ready, last))?;
    // Also after a failure: what the durable ledger has been told goes to the disk.
    let joined = server.join();
    let failures = hub.failures();
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    joined
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::message::Message;

    #[test]
    fn the_defaults_of_the_command_line_are_those_of_the_configuration() {
        Args::command().debug_assert();
        let args = Args::parse_from(["lab-server"]);
        assert_eq!(args.config().expect("valid"), Config::default());
    }

    /// No frame and no command makes a shard panic, so this is a message that nobody sends: for a
    /// SET that there is not.
    #[test]
    fn a_shard_that_panics_ends_the_server_and_its_name_is_told() {
        let config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            users: 100,
            shards: Some(2),
            sets: 4,
            ..Config::default()
        };
        let server = Server::start(&config).expect("a server");
        let hub = Hub::new(&server, &config);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let output = Output::start("lab-server").expect("threads");
        let interface = Interface { listener, routes: axum::Router::new(), pipe: false, output };
        server.tell(1, Message::Packet { set: 9_999, packet: 1, amount: 1 });
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let ended = attend(&runtime, server, &hub, config.sets, interface);
            tell.send(ended.map_err(|error| error.to_string()))
        });
        let ended = told.recv_timeout(Duration::from_secs(20)).expect("it ends by itself");
        let why = ended.expect_err("it could not go on");
        assert!(why.contains("shard 1") && why.contains("panicked"), "{why}");
        assert!(!why.contains("shard 0"), "the other one ended in order: {why}");
    }
}
