//! `lab probe`: the probes beside any server, a line a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ebpf::{Absence, Counters, Durations, Options, Probes, Program};
use interrupts::Interrupts;
use serde_json::{Map, Value, json};
use spec::UsageError;

use crate::causing::{self, Caused, Causing};
use crate::listeners::{is_listened_on, ports_of};

/// Drop reasons named in a line at most: the rest are in their sum.
const REASONS: usize = 3;

/// What to watch.
#[derive(Clone, Debug, clap::Args)]
pub struct ProbeArgs {
    /// The port that the server listens on
    #[arg(long, value_name = "PORT", required_unless_present = "pid")]
    port: Option<u16>,
    /// The server's process: its port is found, when it has only one
    #[arg(long)]
    pid: Option<u32>,
    /// End after so many seconds [default: when interrupted]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Lines of JSON with everything that is counted
    #[arg(long)]
    json: bool,
    /// Leave a probe out, to see what is left without it
    #[arg(long = "without", value_name = "PROBE")]
    without: Vec<String>,
}

fn not_listened_on(port: u16) -> anyhow::Error {
    UsageError::error(format!(
        "nobody listens on port {port} in this network namespace: start the server first"
    ))
}

/// The port to watch.
fn port(args: &ProbeArgs) -> anyhow::Result<u16> {
    let Some(pid) = args.pid else {
        let port = args.port.unwrap_or(0);
        return if is_listened_on(port)? { Ok(port) } else { Err(not_listened_on(port)) };
    };
    let ports = ports_of(pid).map_err(|error| {
        UsageError::error(format!("process {pid} cannot be looked at: {error}"))
    })?;
    match (args.port, &ports[..]) {
        (Some(port), _) if ports.contains(&port) => Ok(port),
        // A socket that a program keeps without a descriptor (io_uring) is nobody's in `/proc`.
        (Some(port), _) if is_listened_on(port)? => Ok(port),
        (Some(port), _) => Err(not_listened_on(port)),
        (None, [port]) => Ok(*port),
        (None, _) => Err(UsageError::error(format!(
            "process {pid} listens on {ports:?}: say which one with --port"
        ))),
    }
}

/// Watches until interrupted.
///
/// # Errors
/// [`UsageError`], or what keeps the probes from being attached.
pub async fn run(args: &ProbeArgs) -> anyhow::Result<()> {
    let port = port(args)?;
    let options = Options {
        server_pid: args.pid,
        learn_server: args.pid.is_none(),
        absent: args.without.clone(),
        ..Options::of_port(port)
    };
    let probes = Probes::attach(&options)?;
    for state in probes.report() {
        if let Some(reason) = state.reason.filter(|it| !matches!(it, Absence::NotNeeded { .. })) {
            text::say!("{}: {reason}", state.name);
        }
    }
    if !args.json {
        text::say!("port {port}: when its requests were due, only their client knows (no T0)");
    }
    let mut interrupts = Interrupts::listen()?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    let mut before = probes.read();
    let mut causing = Causing::default();
    let mut left = args.seconds.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::select! {
            _ = ticks.tick() => {}
            () = interrupts.next() => break,
        }
        left -= 1;
        let now = probes.read();
        let grown = now.since(&before);
        let causes = causing.second(&probes, (&before, &now), &grown);
        before = now;
        let causes = causes.as_deref();
        let line = if args.json { json_line(&grown, causes)? } else { line(&grown, causes) };
        // The reader of the pipe has seen enough, or nothing more can be written: `lab` knows.
        if !text::tell(format_args!("{line}\n")) {
            break;
        }
    }
    Ok(())
}

fn json_line(grown: &Counters, causes: Option<&[Caused]>) -> anyhow::Result<String> {
    let t = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut line = Map::new();
    line.insert("t".to_owned(), t.into());
    line.insert("source".to_owned(), "probe".into());
    if let Value::Object(fields) = json!(grown) {
        line.extend(fields);
    }
    line.insert("runqueue_delay_us".to_owned(), serde_json::to_value(delays(grown))?);
    line.insert("causes".to_owned(), causing::json(causes));
    Ok(serde_json::to_string(&line)?)
}

/// How long the server's threads waited for a CPU, each time; `None` when that was not looked at.
fn delays(grown: &Counters) -> Option<Durations> {
    let mut all = Durations::default();
    for thread in grown.threads.as_ref()? {
        if thread.program == Program::Server {
            all.merge(&thread.runqueue_delay);
        }
    }
    Some(all)
}

fn count(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// p50, p99 and the longest, in microseconds.
fn quantiles(durations: Option<&Durations>) -> String {
    let us = |ns: Option<u64>| {
        ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.0}", ns as f64 / 1000.0))
    };
    match durations {
        Some(it) => {
            let (p50, p99) = (it.quantile_ns(0.5), it.quantile_ns(0.99));
            format!("{}/{}/{}", us(p50), us(p99), us(it.max_ns()))
        }
        None => "-/-/-".to_owned(),
    }
}

fn line(grown: &Counters, causes: Option<&[Caused]>) -> String {
    let packets = |which: fn(&ebpf::PortPackets) -> Option<u64>| {
        let rows = grown.packets.as_ref()?;
        rows.iter().map(which).sum::<Option<u64>>()
    };
    let retransmits = grown.retransmits.as_ref().and_then(|sides| {
        let (server, client) = (sides.server.total(), sides.client.total());
        Some(server? + client?)
    });
    let mut reasons = String::new();
    for place in grown.drops_by_place.iter().flatten().filter(|it| it.port > 0).take(REASONS) {
        reasons += &format!(" {}@{}:{}", place.reason, place.place, place.port);
    }
    let requests = grown.server_wait.as_ref().map(Durations::count);
    format!(
        "in {} out {} packets  requests {}  retransmits {}  drops {}{reasons}  µs p50/p99/max: \
         run queue {}  wait {}  service {}{}",
        count(packets(|row| row.rx_packets)),
        count(packets(|row| row.tx_packets)),
        count(requests),
        count(retransmits),
        count(grown.drops),
        quantiles(delays(grown).as_ref()),
        quantiles(grown.server_wait.as_ref()),
        quantiles(grown.server_service.as_ref()),
        causing::words(causes),
    )
}
