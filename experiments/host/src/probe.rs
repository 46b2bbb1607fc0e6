//! `lab probe`: the probes beside any server, a line a second.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ebpf::{Absence, BySide, Counters, Durations, Options, PortPackets, Probes, Program};
use serde_json::{Map, Value, json};

use crate::causing::{self, Caused, Causing};
use crate::seconds::Seconds;
use crate::target::{Queues, Target};

/// Drop reasons named in a line at most: the rest are in their sum.
const REASONS: usize = 3;

/// Packets in a second, with which a server that reads would have been seen to read.
const NO_READS: u64 = 20;

/// What it cannot know.
const LIMITS: &str = "\
What it cannot know:
  It reads no protocol. A request is what the server reads after waiting for data: commands that
  are sent together (pipelines) are one, a large body or TLS records may be several.
  When a request was due, only its client knows.
  Data that leaves by splice, or comes over MPTCP, has packets and no waits and services.
  Packets, retransmissions, drops and resets are those of the port in the server's network
  namespace, also when several processes have it; --address tells servers on one port apart.
  A nearly full accept queue is no loss of the network: it stands in a place of its own.
docs/commands.md says where else to look.";

/// What to watch.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = LIMITS)]
pub struct ProbeArgs {
    /// The port that the server listens on
    #[arg(long, value_name = "PORT", required_unless_present = "pid")]
    port: Option<u16>,
    /// The server's process: its port is found, when it has only one. Requests count that this
    /// process or one that it began reads
    #[arg(long)]
    pid: Option<u32>,
    /// Count only connections to this address of the server's: for two servers on one port
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
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

/// Watches until interrupted.
///
/// # Errors
/// [`spec::UsageError`], or what keeps the probes from being attached.
pub async fn run(args: &ProbeArgs) -> anyhow::Result<()> {
    let target = Target::find(args.port, args.pid)?;
    let options = Options {
        server_pid: args.pid,
        learn_server: args.pid.is_none(),
        netns: u32::try_from(target.netns).ok(),
        owned: args.pid.is_some(),
        address: args.address,
        follow: true,
        absent: args.without.clone(),
        ..Options::of_port(target.port)
    };
    let mut probes = Probes::attach(&options)?;
    for state in probes.report() {
        if let Some(reason) = state.reason.filter(|it| !matches!(it, Absence::NotNeeded { .. })) {
            text::say!("{}: {reason}", state.name);
        }
    }
    if !args.json {
        target.sentences(args.address, args.pid).iter().for_each(|it| text::say!("{it}"));
    }
    let mut seconds = Seconds::begin(args.seconds).await?;
    let mut before = (probes.read(), target.queues());
    let mut causing = Causing::default();
    while seconds.next().await {
        let now = (probes.read(), target.queues());
        probes.reuse_slots(&now.0)?;
        let (grown, queues) = (now.0.since(&before.0), now.1.since(&before.1));
        let causes = causing.second(&probes, (&before.0, &now.0), &grown);
        before = now;
        let rows =
            || grown.packets.iter().flatten().filter(|it| u64::from(it.netns) == target.netns);
        let near = target.nearest(rows().map(|row| row.name.as_str()));
        let near = Near { netns: target.netns, names: near };
        let shown = Second { grown: &grown, queues: &queues, near, causes };
        let line = if args.json { json_line(&shown)? } else { shown.line() };
        // The reader of the pipe has seen enough, or nothing more can be written: `lab` knows.
        if !text::tell(format_args!("{line}\n")) {
            break;
        }
    }
    Ok(())
}

fn json_line(second: &Second<'_>) -> anyhow::Result<String> {
    let t = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut line = Map::new();
    line.insert("t".to_owned(), t.into());
    line.insert("source".to_owned(), "probe".into());
    for part in [json!(second.grown), json!(second.queues)] {
        if let Value::Object(fields) = part {
            line.extend(fields);
        }
    }
    line.insert("nearest".to_owned(), json!(second.near.names));
    line.insert("runqueue_delay_us".to_owned(), serde_json::to_value(delays(second.grown))?);
    line.insert("causes".to_owned(), causing::json(second.causes.as_deref()));
    Ok(serde_json::to_string(&line)?)
}

/// What a second brought.
struct Second<'a> {
    grown: &'a Counters,
    queues: &'a Queues,
    causes: Option<Vec<Caused>>,
    near: Near,
}

/// The interfaces nearest the server's sockets.
struct Near {
    netns: u64,
    names: Vec<String>,
}

impl Near {
    /// Packets there.
    fn rows<'a>(&'a self, grown: &'a Counters) -> impl Iterator<Item = &'a PortPackets> {
        let is_near =
            |it: &&PortPackets| u64::from(it.netns) == self.netns && self.names.contains(&it.name);
        grown.packets.iter().flatten().filter(is_near)
    }
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

impl Second<'_> {
    fn line(&self) -> String {
        let grown = self.grown;
        let retransmits = grown.retransmits.as_ref().and_then(|sides| {
            let (server, client) = (sides.server.total(), sides.client.total());
            Some(server? + client?)
        });
        let requests = grown.server_wait.as_ref().map(Durations::count);
        format!(
            "{}  requests (by reads) {}  retransmits {}  {}  {}  {}  µs p50/p99/max: run queue {}  \
             wait {}  service {}{}{}",
            self.packets(),
            count(requests),
            count(retransmits),
            self.drops(),
            self.resets(),
            self.queues.line(),
            quantiles(delays(grown).as_ref()),
            quantiles(grown.server_wait.as_ref()),
            quantiles(grown.server_service.as_ref()),
            causing::words(self.causes.as_deref()),
            self.notes(requests),
        )
    }

    /// Packets at the interfaces nearest the sockets, by name when there are several.
    fn packets(&self) -> String {
        let rows: Vec<_> = self.near.rows(self.grown).collect();
        let sum = |which: fn(&PortPackets) -> Option<u64>| {
            self.grown.packets.as_ref()?;
            rows.iter().map(|row| which(row)).sum::<Option<u64>>()
        };
        let (rx, tx) = (sum(|row| row.rx_packets), sum(|row| row.tx_packets));
        let mut names: Vec<_> = rows
            .iter()
            .filter(|row| row.rx_packets.unwrap_or(0) + row.tx_packets.unwrap_or(0) > 0)
            .map(|row| row.name.as_str())
            .collect();
        names.sort_unstable();
        let at = if names.is_empty() { String::new() } else { format!(" at {}", names.join("+")) };
        format!("in {} out {} packets{at}", count(rx), count(tx))
    }

    /// Drops that lost something, each with its place.
    fn drops(&self) -> String {
        let Some(places) = &self.grown.drops_by_place else { return "drops -".to_owned() };
        let mut places: Vec<_> = places.iter().filter(|it| it.lost > 0).collect();
        places.sort_by_key(|it| std::cmp::Reverse(it.lost));
        let all: u64 = places.iter().map(|it| it.lost).sum();
        let mut line = format!("drops {all}");
        for place in places.iter().take(REASONS) {
            line += &format!(" {}@{}:{}", place.reason, place.place, place.lost);
        }
        let more: u64 = places.iter().skip(REASONS).map(|it| it.lost).sum();
        if more > 0 {
            line += &format!(" at {} other places:{more}", places.len() - REASONS);
        }
        line
    }

    /// Resets that the server's ends sent and received.
    fn resets(&self) -> String {
        let of = |sides: Option<BySide<u64>>| count(sides.map(|it| it.server));
        let (sent, received) = (of(self.grown.resets_sent), of(self.grown.resets_received));
        format!("resets sent {sent} received {received}")
    }

    /// What the probes could not keep, and what the figures do not mean.
    fn notes(&self, requests: Option<u64>) -> String {
        let mut notes = String::new();
        let lost = &self.grown.lost;
        for (what, count) in [
            ("threads not watched (no slot)", lost.threads),
            ("reads not paired (connections collide)", lost.flows_collided),
            ("drops without a place", lost.drop_places),
            ("losses without a client", lost.peers),
            ("runs of probes left out", lost.probe_runs),
        ] {
            if count > 0 {
                notes += &format!("  NOT COUNTED: {what} {count}");
            }
        }
        let packets: u64 = self.near.rows(self.grown).filter_map(|row| row.rx_packets).sum();
        if packets >= NO_READS && requests == Some(0) && self.queues.waiting() == 0 {
            notes += "  no read was seen: data that leaves by splice, or comes over MPTCP, has no \
                      waits and services here";
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use ebpf::{DropPlace, Lost};

    use super::*;

    fn line(grown: &Counters) -> String {
        let near = Near { netns: 1, names: vec!["br0".to_owned()] };
        Second { grown, queues: &Queues::default(), near, causes: None }.line()
    }

    fn packets(name: &str, netns: u32, count: u64) -> PortPackets {
        let name = name.to_owned();
        PortPackets {
            netns,
            name,
            rx_packets: Some(count),
            tx_packets: Some(count),
            ..PortPackets::default()
        }
    }

    #[test]
    fn a_packet_counts_once_and_at_the_nearest_interface() {
        let rows = vec![packets("br0", 1, 7), packets("eth0", 1, 7), packets("br0", 2, 9)];
        let line = line(&Counters { packets: Some(rows), ..Counters::default() });
        assert!(line.starts_with("in 7 out 7 packets at br0  "), "{line}");
        let unknown = super::tests::line(&Counters::default());
        assert!(unknown.starts_with("in - out - packets  "), "{unknown}");
    }

    #[test]
    fn drops_have_their_places_and_what_loses_nothing_is_no_drop() {
        let place = |place: &str, port, lost| DropPlace {
            reason: "R".to_owned(),
            place: place.to_owned(),
            all: port,
            port,
            lost,
        };
        let places = vec![
            place("healthy", 900, 0),
            place("a", 1, 1),
            place("b", 9, 9),
            place("c", 2, 2),
            place("d", 3, 3),
            place("e", 4, 4),
        ];
        let line = line(&Counters { drops_by_place: Some(places), ..Counters::default() });
        let expected = "  drops 19 R@b:9 R@e:4 R@d:3 at 2 other places:3  ";
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn what_is_not_counted_is_said() {
        let silent = Counters {
            packets: Some(vec![packets("br0", 1, 30_917)]),
            server_wait: Some(Durations::default()),
            ..Counters::default()
        };
        assert!(line(&silent).contains("no read was seen: data that leaves by splice"));
        let quiet = Counters { packets: Some(vec![packets("br0", 1, 3)]), ..silent.clone() };
        assert!(!line(&quiet).contains("no read was seen"));
        let lost = Lost { threads: 476, ..Lost::default() };
        let line = line(&Counters { lost, ..quiet });
        assert!(line.ends_with("  NOT COUNTED: threads not watched (no slot) 476"), "{line}");
    }
}
