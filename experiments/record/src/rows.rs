//! What a line of `samples.jsonl`, `slow.jsonl` and `truth.jsonl` says, one struct for each kind.
//!
//! Owns: the names and types of the fields that anything reads back. Must not know: what is worked
//! out from them. A row has what its line has: a field that is missing, null or of another kind is
//! `None`, or 0 where it is a counter, and a field that is not named here is passed over.

use std::collections::BTreeMap;

use accounting::Money;
use accounting::server::Counters;
use attribution::{CauseRows, Tally, Trace};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Reads a line of JSON as a row. A null is a field that is missing, at any depth. A field that
/// cannot be read costs itself only: lines are also of older and newer versions.
///
/// # Errors
/// What is wrong with the line: it is no object, or lacks what makes it a row.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    // A list of the same length would be taken for a struct.
    row(serde_json::from_slice(line)?)
}

/// The same of an object.
pub(crate) fn row<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, serde_json::Error> {
    let mut object = Value::Object(object);
    remove_nulls(&mut object);
    let error = match T::deserialize(&object) {
        Ok(row) => return Ok(row),
        Err(error) => error,
    };
    let names: Vec<String> = object.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    let without = |name: &String| {
        let mut rest = object.clone();
        rest.as_object_mut()?.shift_remove(name)?;
        T::deserialize(&rest).ok()
    };
    names.iter().find_map(without).ok_or(error)
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// What kind of sample a line of `samples.jsonl` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleSource {
    /// A second of a shard of a client: [`ClientRow`].
    Client,
    /// A second of a shard of the server: [`ServerRow`].
    Server,
    /// Why requests took their time: [`CausesRow`].
    Causes,
    /// What `/proc` says: [`ProcRow`].
    Proc,
    /// What an interface counted: [`NicRow`].
    Nic,
    /// What the probes saw: [`ProbeRow`].
    Probe,
    /// When a CPU stood still: [`StallRow`].
    Stalls,
    /// Anything else; nothing reads it back.
    #[serde(other)]
    Other,
}

impl SampleSource {
    /// The source of a line.
    ///
    /// # Errors
    /// The line is not a JSON object with a source.
    pub fn of(line: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head {
            source: SampleSource,
        }
        serde_json::from_slice(line).map(|Head { source }| source)
    }
}

/// A second of a shard of a client.
#[derive(Clone, Debug, Deserialize)]
pub struct ClientRow {
    /// The Unix second.
    pub t: u64,
    /// Which client.
    pub client: u32,
    /// Which shard.
    pub shard: usize,
    /// Users logged in.
    pub online: u64,
    /// CPU time of the thread.
    pub cpu_us: Option<u64>,
    /// Its time waiting for a CPU.
    pub wait_us: Option<u64>,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
}

/// A second of a shard of the server.
#[derive(Clone, Debug, Deserialize)]
pub struct ServerRow {
    /// The Unix second.
    pub t: u64,
    /// What was counted.
    #[serde(flatten)]
    pub counters: Counters,
}

/// A second of a shard of either program, its counters and levels by their names: a counter that a
/// line does not have, because an older version wrote it, is not 0 here.
#[derive(Clone, Debug, Deserialize)]
pub struct ShardRow {
    /// The Unix second.
    pub t: u64,
    /// Which client.
    #[serde(default)]
    pub client: u64,
    /// Which shard.
    #[serde(default)]
    pub shard: u64,
    /// The books of a shard of the server.
    pub ledger: Option<ShardBooks>,
    /// Everything else.
    #[serde(flatten)]
    figures: Map<String, Value>,
}

/// The books of a shard of the server, as far as they are plotted.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ShardBooks {
    /// Everything that ever came in.
    pub created: Money,
    /// Packets given to users who shook.
    pub granted: Money,
    /// Shares given to users who claimed.
    pub claimed: Money,
}

impl ShardRow {
    /// A counter or a level.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name)?.as_f64()
    }
}

/// Why the requests of a second of a shard took their time.
#[derive(Clone, Debug, Deserialize)]
pub struct CausesRow {
    /// The Unix second in which they were over.
    pub t: u64,
    /// The phase in which they were due.
    pub phase: Option<String>,
    /// The sums.
    #[serde(flatten)]
    pub rows: CauseRows,
}

/// What a line of `/proc` samples is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcSubject {
    /// The server's process.
    Server,
    /// A client process.
    Client,
    /// The protocols of a network namespace.
    Tcp,
    /// The machine.
    Machine,
    /// The process that records.
    Coordinator,
    /// Something else, such as a hog.
    #[default]
    #[serde(other)]
    Other,
}

/// What `/proc` says of a process, of the protocols or of the machine in a second. A line has the
/// fields of its subject only.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ProcRow {
    /// The Unix second.
    pub t: u64,
    /// Of which host.
    pub host: Option<String>,
    /// What it is about.
    #[serde(default)]
    pub of: ProcSubject,
    /// The network namespace, of protocols.
    pub namespace: Option<String>,
    /// CPU time of a process, in microseconds.
    pub cpu_us: Option<u64>,
    /// Anonymous memory of a process, in bytes.
    pub rss_anon_bytes: Option<u64>,
    /// The cgroups of a process.
    pub cgroup: Option<CgroupRow>,
    /// Time in which the machine's CPUs had nothing to do.
    pub idle_us: Option<u64>,
    /// Time that the hypervisor took.
    pub steal_us: Option<u64>,
    /// Time in softirqs.
    pub softirq_us: Option<u64>,
    /// Time in which a task waited for a disk.
    pub pressure_io_us: Option<u64>,
    /// Time in which a task waited for memory.
    pub pressure_memory_us: Option<u64>,
    /// Memory of the kernel's objects.
    pub slab_bytes: Option<u64>,
    /// Segments sent again.
    pub retrans_segs: Option<u64>,
    /// Retransmission timeouts.
    pub timeouts: Option<u64>,
    /// Segments sent again without waiting for a timeout.
    pub fast_retrans: Option<u64>,
    /// SYNs sent again.
    pub syn_retrans: Option<u64>,
    /// Connections that found the backlog of a listening socket full.
    pub listen_overflows: Option<u64>,
    /// Connections dropped by a listening socket.
    pub listen_drops: Option<u64>,
    /// Segments dropped because a receive queue was full.
    pub rcvq_drop: Option<u64>,
    /// Every counter of the protocols that has grown, under the kernel's own name.
    pub grown: Option<BTreeMap<String, i64>>,
}

/// What the cgroups of a process did to it in a second.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CgroupRow {
    /// Of its group and those above it, the one whose quota of CPU time took most.
    pub limited_by: Option<String>,
    /// The time that group may use in a period.
    pub quota_us: Option<u64>,
    /// The period.
    pub period_us: Option<u64>,
    /// Periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// For how long CPUs of the group stood still for it.
    pub throttled_us: Option<u64>,
    /// Whether the process was frozen when the second ended.
    pub frozen: Option<bool>,
}

/// When a CPU stood still in a second.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct StallRow {
    /// The Unix second.
    pub t: u64,
    /// Of which host.
    pub host: Option<String>,
    /// The CPU.
    pub cpu: u32,
    /// How often; `None` when that was not seen.
    pub stalls: Option<u64>,
    /// For how long in all.
    #[serde(default)]
    pub stalled_us: u64,
    /// The longest time.
    #[serde(default)]
    pub longest_us: u64,
    /// What the hypervisor took by the kernel's account.
    pub steal_us: Option<u64>,
    /// From when until when, on the monotonic clock.
    #[serde(default)]
    pub intervals_ns: Vec<(u64, u64)>,
}

/// What an interface counted in a second.
#[derive(Clone, Debug, Deserialize)]
pub struct NicRow {
    /// The Unix second.
    pub t: u64,
    /// Its name.
    pub nic: Option<String>,
    /// Its network namespace.
    pub namespace: Option<String>,
    /// The kernel's counters.
    pub link: Option<BTreeMap<String, Option<f64>>>,
    /// The driver's own.
    pub driver_counters: Option<BTreeMap<String, Option<f64>>>,
    /// Frames lost on their way in.
    pub lost_received: Option<u64>,
    /// Frames lost on their way out.
    pub lost_sent: Option<u64>,
}

/// What the probes saw in a second.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ProbeRow {
    /// The Unix second.
    pub t: u64,
    /// Packets of the experiment that were dropped.
    pub drops: Option<u64>,
    /// Packets dropped, by place and reason.
    pub drops_by_place: Option<Vec<DropPlace>>,
    /// Packets that a queueing discipline dropped.
    pub qdisc_drops: Option<u64>,
    /// Segments that found a receive queue full.
    pub receive_queue_full: Option<u64>,
    /// Connections that found the backlog of a listening socket full.
    pub listen_overflows: Option<u64>,
    /// Segments sent again, by side and kind.
    pub retransmits: Option<BTreeMap<String, BTreeMap<String, u64>>>,
    /// What passed the ends of the path between server and clients.
    pub packets: Option<Vec<PathEnd>>,
    /// The threads of the programs.
    pub threads: Option<Vec<ProbedThread>>,
    /// The CPUs.
    pub cpus: Option<Vec<ProbedCpu>>,
    /// Softirqs by CPU, where they were timed.
    pub softirq: Option<Vec<SoftirqRow>>,
    /// Signals that stopped a process of the run.
    pub stops: Option<Vec<StopRow>>,
    /// How long threads waited for a CPU, by side: buckets of nanoseconds and how many waits.
    pub runqueue_delay_buckets_ns: Option<BTreeMap<String, Vec<(u64, u64)>>>,
}

/// Packets dropped at one place for one reason.
#[derive(Clone, Debug, Deserialize)]
pub struct DropPlace {
    /// The kernel's reason.
    pub reason: Option<String>,
    /// Packets of the experiment.
    #[serde(default)]
    pub port: u64,
    /// Of these, packets that lost something; rows of before do not tell.
    pub lost: Option<u64>,
}

impl DropPlace {
    /// Packets of the experiment that lost something: all of them where the row does not tell.
    pub fn lost(&self) -> u64 {
        self.lost.unwrap_or(self.port)
    }
}

/// What passed one end of a path.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct PathEnd {
    /// Packets that left it.
    #[serde(default)]
    pub tx_packets: u64,
    /// Packets that entered it.
    #[serde(default)]
    pub rx_packets: u64,
}

/// A thread of a program, as the probes saw it.
#[derive(Clone, Debug, Deserialize)]
pub struct ProbedThread {
    /// Its number.
    pub tid: Option<u64>,
    /// Of which program: `"server"`, or an object that names a client.
    #[serde(default)]
    program: Value,
    /// How long it ran.
    #[serde(default)]
    pub ran_ns: u64,
    /// How long it was runnable while another program had the CPU.
    #[serde(default)]
    pub wait_foreign_ns: u64,
    /// How long it waited for a CPU each time.
    pub runqueue_delay_us: Option<RunqueueDelay>,
}

impl ProbedThread {
    /// Whether it belongs to the server.
    pub fn is_of_server(&self) -> bool {
        self.program == "server"
    }
}

/// Softirqs of a CPU.
#[derive(Clone, Debug, Deserialize)]
pub struct SoftirqRow {
    /// Time by kind.
    #[serde(default)]
    pub time_ns: BTreeMap<String, u64>,
}

/// A signal that stopped a process.
#[derive(Clone, Debug, Deserialize)]
pub struct StopRow {
    /// The process.
    pub pid: u32,
    /// The signal's number.
    pub signal: u32,
    /// The name of who sent it.
    pub sender: String,
    /// Its process.
    pub sender_pid: u32,
}

/// Percentiles of waiting for a CPU, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RunqueueDelay {
    /// The 99th.
    pub p99: Option<f64>,
}

/// A CPU, as the probes saw it.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ProbedCpu {
    /// How long programs had it that are not of the run.
    #[serde(default)]
    pub other_ns: u64,
}

/// A line of `slow.jsonl`: one of the slowest requests of a second.
#[derive(Clone, Debug, Deserialize)]
pub struct SlowRow {
    /// The Unix second in which it was over.
    pub t: u64,
    /// The phase in which it was due.
    pub phase: Option<String>,
    /// Who shook.
    pub user: Option<u32>,
    /// The client's end of the connection.
    pub from: Option<String>,
    /// When it was due, on the monotonic clock.
    pub due_ns: Option<u64>,
    /// How late it left, as the client itself measured it.
    pub send_lag_us: Option<u64>,
    /// From the intended instant to the answer.
    pub latency_us: u64,
    /// What the kernel saw of it.
    pub seen: Option<Trace>,
}

/// A line of `truth.jsonl`: what a fault did, as its injector wrote it down.
#[derive(Clone, Debug, Deserialize)]
pub struct TruthRow {
    /// What kind of fault.
    pub kind: String,
    /// When it began, on the monotonic clock in nanoseconds.
    pub t: u64,
    /// When it ended; drops have only a beginning.
    pub end_ns: Option<u64>,
    /// The CPU that a hog had.
    pub cpu: Option<usize>,
    /// The client's end of the connection that a packet was dropped or held of.
    pub flow: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (line, expected) in [
            (r#"{"t":1,"source":"client","online":3}"#, Some(SampleSource::Client)),
            (r#"{"source":"probe"}"#, Some(SampleSource::Probe)),
            (r#"{"t":1,"source":"perf"}"#, Some(SampleSource::Other)),
            (r#"{"t":1}"#, None),
            (r#"{"t": 12, "source": "clie"#, None),
            ("[1, 2]", None),
            ("", None),
        ] {
            assert_eq!(SampleSource::of(line.as_bytes()).ok(), expected, "{line}");
        }
    }

    #[test]
    fn a_row_has_what_its_line_has() {
        let row: ShardRow =
            parse(br#"{"t":7,"source":"client","shard":1,"answered":3,"cpu_us":null}"#)
                .expect("a row");
        assert_eq!((row.t, row.client, row.shard), (7, 0, 1));
        assert_eq!((row.figure("answered"), row.figure("sent")), (Some(3.0), None));
        assert_eq!(row.figure("cpu_us"), None);

        let row: ProcRow =
            parse(br#"{"t":7,"of":"coordinator","cpu_us":12,"more":[{}]}"#).expect("a row");
        assert_eq!((row.of, row.cpu_us), (ProcSubject::Coordinator, Some(12)));
        assert_eq!(row.slab_bytes, None);
        let row: ProcRow =
            parse(br#"{"t":7,"of":"tcp","retrans_segs":2,"grown":{"A":-1}}"#).expect("a row");
        assert_eq!((row.of, row.retrans_segs), (ProcSubject::Tcp, Some(2)));

        let row: ProbeRow = parse(
            br#"{"t":7,"threads":[{"tid":5,"program":"server","runqueue_delay_us":{"p99":51.2}},
            {"program":{"client":0},"ran_ns":9}],"runqueue_delay_buckets_ns":{"server":[[1,2]]}}"#,
        )
        .expect("a row");
        let threads = row.threads.expect("threads");
        assert!(threads[0].is_of_server() && !threads[1].is_of_server());
        assert_eq!(row.runqueue_delay_buckets_ns.expect("buckets")["server"], [(1, 2)]);
    }

    /// What the probes of an older kernel leave null, and a field of a newer version.
    #[test]
    fn a_null_or_a_strange_field_costs_itself_only() {
        let row: ProbeRow = parse(
            br#"{"t":7,"runqueue_delay_buckets_ns":{"server":null,"client":[[1,2]]},
            "retransmits":{"server":{"fast":null,"timeout":2}},
            "packets":[{"tx_packets":null,"rx_packets":5},{"tx_packets":3,"rx_packets":null}]}"#,
        )
        .expect("a row");
        let buckets = row.runqueue_delay_buckets_ns.expect("buckets");
        assert_eq!((buckets.get("server"), buckets["client"].len()), (None, 1));
        assert_eq!(row.retransmits.expect("retransmits")["server"].len(), 1);
        let packets = row.packets.expect("packets");
        assert_eq!((packets[0].tx_packets, packets[0].rx_packets), (0, 5));
        let row: ProcRow =
            parse(br#"{"t":7,"of":"tcp","retrans_segs":2.5,"cpu_us":3}"#).expect("a row");
        assert_eq!((row.retrans_segs, row.cpu_us), (None, Some(3)));
    }

    #[test]
    fn a_line_that_says_what_it_should_not_is_an_error() {
        assert!(parse::<CausesRow>(b"{}").is_err());
        assert!(parse::<SlowRow>(br#"{"t":1}"#).is_err());
        assert!(parse::<ProcRow>(br#"{"t":-1,"of":"tcp"}"#).is_err());
        assert!(parse::<ServerRow>(b"[1]").is_err());
    }
}
