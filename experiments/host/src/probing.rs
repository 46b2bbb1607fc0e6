//! The probes beside programs under test: attached when the server listens, read every second.
//!
//! What cannot be attached is told with its reason, and its figures are null.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use attribution::{FlowLayout, Handover, ServerSide};
use ebpf::{Counters, Durations, Options, Probes, Program};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use spec::places::{groups, loopback_sources};
use spec::{Count, Experiment, Probing as Wanted};

/// Kernel memory of the probes per flow, in bytes: the entry in which instants are stamped.
const FLOW_BYTES: u64 = 128;

/// Requests a second, for each thread of the end that has fewer, beyond which only a sample of the
/// connections is explained: a thread can answer or ask 100,000 to 200,000, and the articles'
/// 60,000 are explained to the last one.
const SAMPLE_BEYOND: u32 = 80_000;

/// Addresses that follow one another this loosely are still counted through: an entry for each port
/// of each address between the first and the last.
const DENSE: u64 = 4;

/// Entries for flows that are hashed, for each user.
const HASHED: u32 = 2;

/// Which probes to attach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// Whether their absence is an error.
    pub required: bool,
    /// Whether softirqs are timed, too.
    pub softirqs: bool,
    /// The server's port, for a host that does not have the server.
    pub port: Option<u16>,
    /// Whether this host's kernel has the server's ends of connections.
    pub server_end: bool,
    /// Whether there are clients whose kernels have not: a sample of requests is joined.
    pub join: bool,
    /// Where the flows lie.
    pub layout: FlowLayout,
}

/// The probes of this machine, or why there are none.
pub struct Probing {
    probes: Option<Probes>,
    before: Counters,
    because: Option<String>,
    /// The network namespace of which the interface's own counters tell the packets.
    loopback: Option<u64>,
}

/// Where the flows of so many users with these addresses and ports lie.
pub fn flow_layout(
    sources: impl IntoIterator<Item = Ipv4Addr>,
    (port_first, port_last): (u16, u16),
    users: u32,
) -> FlowLayout {
    let mut numbers: Vec<u32> = sources.into_iter().map(u32::from).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let first = numbers.first().copied().unwrap_or(0);
    let between = numbers.last().map_or(0, |last| last - first);
    if u64::from(between) >= DENSE * numbers.len().max(1) as u64 {
        return FlowLayout::Hashed { capacity: users.saturating_mul(HASHED) };
    }
    let client_first = Ipv4Addr::from(first);
    FlowLayout::Dense { client_first, client_count: between + 1, port_first, port_last }
}

impl Probing {
    /// No probes, and why.
    pub fn none(because: &str) -> Self {
        Self {
            probes: None,
            before: Counters::default(),
            because: Some(because.to_owned()),
            loopback: None,
        }
    }

    /// Attaches the probes to a server that listens and has no connections yet. `loopback` is the
    /// network namespace of all programs when nothing else is in it: then its only interface's
    /// counters tell the packets, and the probes need not count them.
    ///
    /// # Errors
    /// Only when the experiment cannot do without them.
    pub fn attach(
        experiment: &Experiment,
        port: u16,
        server_pid: u32,
        ports: (u16, u16),
        loopback: Option<u64>,
    ) -> anyhow::Result<Self> {
        if experiment.probes == Wanted::Off {
            return Ok(Self::none("the experiment switches them off (probes: Off)"));
        }
        let users = experiment.users.get();
        let of_groups: Vec<Ipv4Addr> =
            groups(experiment).into_iter().flat_map(|group| group.sources).collect();
        let sources = match &experiment.client.sources {
            _ if !of_groups.is_empty() => of_groups,
            Some(sources) => sources.clone(),
            None => loopback_sources(users, ports.0, ports.1),
        };
        let options = Options {
            server_pid: Some(server_pid),
            softirqs: experiment.softirqs,
            packets: loopback.is_none(),
            sample_beyond: Some(SAMPLE_BEYOND.saturating_mul(shards(experiment))),
            ..Options::of_flows(port, flow_layout(sources, ports, users))
        };
        Self::attach_with(&options, experiment.probes == Wanted::Required, loopback)
    }

    /// Attaches the probes of one of several machines, beside the server if that is here. All
    /// connections are stamped: each kernel would choose another sample of them.
    ///
    /// # Errors
    /// Only when the experiment cannot do without them.
    pub fn attach_spec(
        spec: &ProbeSpec,
        port: u16,
        server_pid: Option<u32>,
    ) -> anyhow::Result<Self> {
        let options = Options {
            server_pid,
            softirqs: spec.softirqs,
            // Agents of one kernel see each other's programs.
            learn_server: server_pid.is_none() && spec.server_end,
            server_end: spec.server_end,
            keep_answers: spec.join && server_pid.is_some(),
            ..Options::of_flows(port, spec.layout)
        };
        Self::attach_with(&options, spec.required, None)
    }

    fn attach_with(
        options: &Options,
        required: bool,
        loopback: Option<u64>,
    ) -> anyhow::Result<Self> {
        match Probes::attach(options) {
            Ok(probes) => {
                let before = probes.read();
                Ok(Self { probes: Some(probes), before, because: None, loopback })
            }
            Err(error) if required => {
                Err(anyhow::Error::from(error).context("the experiment requires probes"))
            }
            Err(error) => Ok(Self::none(&error.to_string())),
        }
    }

    /// Whether they are attached.
    pub fn is_attached(&self) -> bool {
        self.probes.is_some()
    }

    /// What the manifest says of them.
    pub fn to_json(&self) -> Value {
        let Some(probes) = &self.probes else {
            return json!({ "attached": [], "absent": [], "because": self.because });
        };
        let (attached, absent): (Vec<_>, Vec<_>) =
            probes.report().into_iter().partition(|state| state.attached);
        let names: Vec<&str> = attached.iter().map(|state| state.name).collect();
        json!({
            "attached": names,
            "absent": absent,
            "because": null,
            "flow_bytes": u64::from(probes.layout().entries()) * FLOW_BYTES,
        })
    }

    /// The arrays for a client to read, and their descriptors.
    pub fn handover(&self) -> std::io::Result<Option<(Handover, [OwnedFd; 6])>> {
        let Some(probes) = &self.probes else { return Ok(None) };
        let [flows, threads, timelines, cpus, logs, sampling] =
            probes.inherited().map(|fd| fd.as_fd().try_clone_to_owned());
        let fds = [flows?, threads?, timelines?, cpus?, logs?, sampling?];
        let [flows, threads, timelines, cpus, logs, sampling] =
            fds.each_ref().map(std::os::fd::AsRawFd::as_raw_fd);
        let layout = probes.layout();
        let handover = Handover { flows, threads, timelines, cpus, logs, sampling, layout };
        Ok(Some((handover, fds)))
    }

    /// The server's end of requests, by the client's end of the connection and the first byte;
    /// without probes of none at all.
    pub fn server_sides(&self, requests: &[(SocketAddrV4, u32)]) -> Vec<Option<ServerSide>> {
        let Some(probes) = &self.probes else { return Vec::new() };
        requests.iter().map(|(from, sequence)| probes.server_side(*from, *sequence)).collect()
    }

    /// Watches the threads of a client.
    pub fn watch_client(&self, number: u32, pid: u32) {
        if let Some(probes) = &self.probes {
            probes.watch(pid, Program::Client(u8::try_from(number).unwrap_or(u8::MAX)));
        }
    }

    /// What the kernel counted since this was asked the last time; `None` without probes. `link` is
    /// what the counters of the only interface grew by; without `machine` only what belongs
    /// to the programs watched here is told.
    pub fn second(&mut self, t: u64, link: Option<&Value>, machine: bool) -> Option<Value> {
        let probes = self.probes.as_ref()?;
        let now = probes.read();
        let grown = now.since(&self.before);
        self.before = now;
        let grown = if machine { grown } else { of_programs(grown) };
        let delays = [
            ("server", delays(&grown, |program| program == Program::Server)),
            ("client", delays(&grown, |program| matches!(program, Program::Client(_)))),
        ];
        let delays: Map<String, Value> =
            delays.into_iter().map(|(side, delays)| (side.to_owned(), delays)).collect();
        let mut line = Map::new();
        line.insert("t".to_owned(), t.into());
        match serde_json::to_value(grown) {
            Ok(Value::Object(fields)) => line.extend(fields),
            Ok(_) => {}
            Err(error) => drop(line.insert("error".to_owned(), error.to_string().into())),
        }
        if let Some((netns, link)) = self.loopback.zip(link) {
            line.insert("packets".to_owned(), json!([packets(netns, link)]));
        }
        line.insert("stamped_one_in".to_owned(), probes.one_in().into());
        line.insert("runqueue_delay_buckets_ns".to_owned(), delays.into());
        Some(Value::Object(line))
    }
}

/// What belongs to the programs that are watched; all else is the kernel's, and null.
fn of_programs(it: Counters) -> Counters {
    Counters {
        at_ns: it.at_ns,
        threads: it.threads,
        server_wait: it.server_wait,
        server_service: it.server_service,
        lost: it.lost,
        ..Counters::default()
    }
}

/// The packets of an interface by its own counters, as the probes' rows have them. Bytes are with
/// the link's header.
fn packets(netns: u64, link: &Value) -> Value {
    let mut row = json!({ "netns": netns, "ifindex": 1, "name": "lo" });
    for name in ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"] {
        row[name] = link[name].clone();
    }
    row
}

/// Threads that answer or ask, of the end that has fewer.
fn shards(experiment: &Experiment) -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let one = |shards: Option<Count>| shards.map_or(cpus, |shards| shards.get().min(cpus));
    let (server, client) = (one(experiment.server.shards), one(experiment.client.shards));
    server.min(client.saturating_mul(experiment.client.processes.get()))
}

/// The run-queue delays of one side's threads: least duration of each bucket in nanoseconds, count.
fn delays(grown: &Counters, of: impl Fn(Program) -> bool) -> Value {
    let Some(threads) = &grown.threads else { return Value::Null };
    let mut all = Durations::default();
    threads.iter().filter(|it| of(it.program)).for_each(|it| all.merge(&it.runqueue_delay));
    all.buckets().map(|(ns, count)| json!([ns, count])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_span_all_addresses() {
        let address = |last| Ipv4Addr::new(127, 0, 1, last);
        let expected = FlowLayout::Dense {
            client_first: address(1),
            client_count: 3,
            port_first: 10,
            port_last: 20,
        };
        assert_eq!(flow_layout([address(3), address(1)], (10, 20), 9), expected);
        assert_eq!(flow_layout([address(1)], (10, 20), 9).entries(), 11);
        // Far apart, the entries between them would fill gigabytes.
        let apart = [address(1), Ipv4Addr::new(127, 9, 0, 1)];
        assert_eq!(flow_layout(apart, (10, 20), 9), FlowLayout::Hashed { capacity: 18 });
        let ends = [Ipv4Addr::new(0, 0, 0, 0), Ipv4Addr::new(255, 255, 255, 255)];
        assert_eq!(flow_layout(ends, (10, 20), 9), FlowLayout::Hashed { capacity: 18 });
    }
}
