//! What surrounds programs under test, second by second: their processes, the kernel's protocols,
//! the machine, the interfaces. What cannot be read is null.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebpf::nic::{Nic, NicReading, NicRow, interfaces};
use ebpf::perf::{PerfReading, ProcessCounters, ProcessPerf};
use ebpf::proc::{
    CgroupReading, CpuTimes, MachineReading, NetworkReading, ProcReader, ThreadsReading,
};
use serde_json::{Map, Value, json};

use crate::namespace::Netns;
use crate::program::Who;

/// Interfaces looked at; a machine with more is looked at in part, and a warning says so.
const INTERFACES: usize = 16;

/// What one source says of a second.
#[derive(Debug)]
pub struct SampleRow {
    /// The source.
    pub source: &'static str,
    /// What it is of.
    pub of: Vec<(&'static str, Value)>,
    /// Its values.
    pub values: Value,
}

/// A process that is looked at.
struct Process {
    who: Who,
    pid: u32,
    before: ThreadsReading,
    cgroup_before: CgroupReading,
    perf: Result<ProcessCounters, String>,
    perf_before: ProcessPerf,
}

/// A network namespace that is looked at.
struct Network {
    name: String,
    /// Which one; `None` for that of this process.
    namespace: Option<Arc<Netns>>,
    before: NetworkReading,
    interfaces: Vec<Interface>,
}

/// An interface.
struct Interface {
    nic: Nic,
    before: NicReading,
    /// Why it cannot be read any more.
    gone: Option<String>,
}

/// Everything that is looked at.
pub struct Surroundings {
    reader: ProcReader,
    processes: Vec<Process>,
    networks: Vec<Network>,
    /// `None` when another process tells of it.
    machine: Option<MachineReading>,
}

/// A counter of the kernel's TCP under the name that it has in `samples.jsonl`; summaries and
/// conditions use these. All others that grew are beside them under their own names.
const TCP: [(&str, &str, &str); 14] = [
    ("retrans_segs", "Tcp", "RetransSegs"),
    ("in_errs", "Tcp", "InErrs"),
    ("out_rsts", "Tcp", "OutRsts"),
    ("attempt_fails", "Tcp", "AttemptFails"),
    ("estab_resets", "Tcp", "EstabResets"),
    ("listen_overflows", "TcpExt", "ListenOverflows"),
    ("listen_drops", "TcpExt", "ListenDrops"),
    ("timeouts", "TcpExt", "TCPTimeouts"),
    ("lost_retransmit", "TcpExt", "TCPLostRetransmit"),
    ("fast_retrans", "TcpExt", "TCPFastRetrans"),
    ("syn_retrans", "TcpExt", "TCPSynRetrans"),
    ("backlog_drop", "TcpExt", "TCPBacklogDrop"),
    ("rcvq_drop", "TcpExt", "TCPRcvQDrop"),
    ("req_qfull_drop", "TcpExt", "TCPReqQFullDrop"),
];

impl Surroundings {
    /// The machine, and no process yet.
    pub fn of_machine() -> Self {
        let reader = ProcReader::default();
        let machine = Some(reader.machine());
        Self { reader, processes: Vec::new(), networks: Vec::new(), machine }
    }

    /// Nothing yet, and never the machine.
    pub fn without_machine() -> Self {
        Self { machine: None, ..Self::of_machine() }
    }

    /// Looks at a process from here on.
    pub fn add_process(&mut self, who: Who, pid: u32) {
        let before = self.reader.threads(pid);
        let cgroup_before = self.reader.cgroup(pid);
        let mut perf = ProcessCounters::open(pid);
        let perf_before = perf.as_mut().ok().and_then(|perf| perf.read().ok()).unwrap_or_default();
        self.processes.push(Process { who, pid, before, cgroup_before, perf, perf_before });
    }

    /// Looks at the protocols and the interfaces of a network namespace, or of that of this
    /// process, from here on. Returns what cannot be looked at.
    pub fn add_network(&mut self, name: &str, namespace: Option<Arc<Netns>>) -> Vec<String> {
        let opened = match &namespace {
            Some(namespace) => namespace.run(open_interfaces).and_then(|opened| opened),
            None => open_interfaces(),
        };
        let (interfaces, not) = opened.unwrap_or_else(|error| {
            (Vec::new(), vec![format!("the interfaces cannot be read: {error}")])
        });
        let before = protocols(&self.reader, namespace.as_deref());
        self.networks.push(Network { name: name.to_owned(), namespace, before, interfaces });
        not
    }

    /// What happened in the second `t`, which has just ended.
    pub fn second(&mut self, t: u64) -> Vec<SampleRow> {
        let mut rows = self.networks(t);
        rows.extend((0..self.processes()).flat_map(|place| self.process(t, place)));
        rows.extend(self.machine(t));
        rows
    }

    /// The part of it about networks, whose counters are compared with what was done to them.
    pub fn networks(&mut self, t: u64) -> Vec<SampleRow> {
        let mut rows = Vec::new();
        for network in &mut self.networks {
            network.second(t, &self.reader, &mut rows);
        }
        rows
    }

    /// How many processes are looked at.
    pub fn processes(&self) -> usize {
        self.processes.len()
    }

    /// The part of a second about one of the processes.
    pub fn process(&mut self, t: u64, place: usize) -> Vec<SampleRow> {
        let mut rows = Vec::new();
        if let Some(process) = self.processes.get_mut(place) {
            process.second(t, &self.reader, &mut rows);
        }
        rows
    }

    /// The part of a second about the machine.
    pub fn machine(&mut self, t: u64) -> Option<SampleRow> {
        let before = self.machine.as_mut()?;
        let now = self.reader.machine();
        let grown = now.since(before);
        *before = now;
        let of = vec![("of", json!("machine"))];
        Some(SampleRow { source: "proc", of, values: machine_values(t, &grown) })
    }
}

/// The protocols' counters of a namespace. From within, not through one of its processes: it is
/// read once more when they have ended.
fn protocols(reader: &ProcReader, namespace: Option<&Netns>) -> NetworkReading {
    match namespace {
        Some(namespace) => namespace.run(|| reader.network(None)).unwrap_or_default(),
        None => reader.network(None),
    }
}

impl Network {
    fn second(&mut self, t: u64, reader: &ProcReader, rows: &mut Vec<SampleRow>) {
        let now = protocols(reader, self.namespace.as_deref());
        let of = vec![("of", json!("tcp")), ("namespace", json!(self.name))];
        let values = network_values(t, &now.since(&self.before));
        rows.push(SampleRow { source: "proc", of, values });
        self.before = now;
        for interface in &mut self.interfaces {
            let mut row = interface.second(t);
            row.of.push(("namespace", json!(self.name)));
            rows.push(row);
        }
    }
}

fn open_interfaces() -> std::io::Result<(Vec<Interface>, Vec<String>)> {
    let names = interfaces()?;
    let (mut opened, mut not) = (Vec::new(), Vec::new());
    if names.len() > INTERFACES {
        not.push(format!("{} interfaces: only the first {INTERFACES} are read", names.len()));
    }
    for name in names.into_iter().take(INTERFACES) {
        let nic = Nic::open(&name).and_then(|mut nic| Ok((nic.read()?, nic)));
        match nic {
            Ok((before, nic)) => opened.push(Interface { nic, before, gone: None }),
            Err(error) => not.push(error.to_string()),
        }
    }
    Ok((opened, not))
}

impl Process {
    fn second(&mut self, t: u64, reader: &ProcReader, rows: &mut Vec<SampleRow>) {
        let of = match self.who {
            Who::Server => vec![("of", json!("server")), ("client", Value::Null)],
            Who::Client(number) => vec![("of", json!("client")), ("client", json!(number))],
            Who::Hog(fault) => vec![("of", json!("hog")), ("fault", json!(fault))],
        };
        let now = reader.threads(self.pid);
        let grown = now.since(&self.before);
        // A thread that ended took its waits along: nothing is better than a wrong figure. Its CPU
        // time stays in the process's account.
        let whole = grown.threads.as_ref().filter(|_| grown.ended == Some(0));
        let wait_us =
            whole.map(|threads| threads.values().map(|it| it.wait_ns).sum::<u64>() / 1000);
        let threads: Option<Vec<Value>> = grown.threads.as_ref().map(|threads| {
            let line = |(tid, it): (&u32, &ebpf::proc::ThreadTimes)| {
                json!({ "tid": tid, "name": it.name, "cpu_us": it.ran_ns / 1000,
                    "wait_us": it.wait_ns / 1000, "turns": it.turns })
            };
            threads.iter().map(line).collect()
        });
        let cgroup = reader.cgroup(self.pid);
        let values = json!({
            "t": t,
            "rss_anon_bytes": grown.rss_anon_bytes,
            "cpu_us": grown.cpu_ns.map(|ns| ns / 1000),
            "wait_us": wait_us,
            "threads": threads,
            "cgroup": cgroup_values(&cgroup.since(&self.cgroup_before)),
        });
        self.cgroup_before = cgroup;
        rows.push(SampleRow { source: "proc", of: of.clone(), values });
        self.before = now;
        rows.push(SampleRow { source: "perf", of, values: self.perf_values(t) });
    }

    fn perf_values(&mut self, t: u64) -> Value {
        let read = self.perf.as_mut().map_err(|why| why.clone()).and_then(ProcessCounters::read);
        let now = match read {
            Ok(now) => now,
            Err(why) => return json!({ "t": t, "threads": null, "missing": why }),
        };
        let grown = now.since(&self.perf_before);
        self.perf_before = now;
        let mut missing: BTreeMap<&str, &str> = BTreeMap::new();
        for thread in grown.threads.values() {
            missing.extend(thread.missing.iter().map(|(what, why)| (*what, why.as_str())));
        }
        let sum = |each: fn(&PerfReading) -> Option<u64>| {
            let values: Option<Vec<u64>> = grown.threads.values().map(each).collect();
            values.filter(|values| !values.is_empty()).map(|values| values.iter().sum::<u64>())
        };
        let threads: Vec<Value> = grown.threads.values().map(thread_values).collect();
        json!({
            "t": t,
            "task_clock_ns": sum(|it| it.task_clock_ns),
            "context_switches": sum(|it| it.context_switches),
            "migrations": sum(|it| it.migrations),
            "page_faults": sum(|it| it.page_faults),
            "cycles": sum(|it| it.cycles),
            "instructions": sum(|it| it.instructions),
            "cache_misses": sum(|it| it.cache_misses),
            "threads": threads,
            "missing": missing,
        })
    }
}

/// The group, and of it and those above the one whose quota took most.
fn cgroup_values(grown: &CgroupReading) -> Value {
    let tightest = grown.tightest();
    let quota = tightest.map(|(_, quota)| quota);
    json!({
        "group": grown.group,
        "limited_by": tightest.map(|(group, _)| group),
        "quota_us": quota.and_then(|it| it.quota_us),
        "period_us": quota.map(|it| it.period_us),
        "periods": quota.map(|it| it.periods),
        "throttled_periods": quota.map(|it| it.throttled_periods),
        "throttled_us": quota.map(|it| it.throttled_us),
        "frozen": grown.frozen,
        "missing": grown.missing,
    })
}

fn thread_values(it: &PerfReading) -> Value {
    json!({
        "tid": it.tid,
        "task_clock_ns": it.task_clock_ns,
        "context_switches": it.context_switches,
        "migrations": it.migrations,
        "page_faults": it.page_faults,
        "cycles": it.cycles,
        "instructions": it.instructions,
        "cache_misses": it.cache_misses,
    })
}

fn network_values(t: u64, grown: &NetworkReading) -> Value {
    let mut line = Map::new();
    line.insert("t".to_owned(), t.into());
    for (name, protocol, counter) in TCP {
        line.insert(name.to_owned(), grown.counter(protocol, counter).into());
    }
    let mut others = Map::new();
    for (protocol, counters) in grown.protocols.iter().flatten() {
        let nonzero = counters.iter().filter(|(_, value)| value.is_some_and(|value| value != 0));
        others.extend(nonzero.map(|(name, value)| (format!("{protocol}{name}"), json!(value))));
    }
    line.insert("grown".to_owned(), others.into());
    if !grown.missing.is_empty() {
        line.insert("missing".to_owned(), json!(grown.missing));
    }
    Value::Object(line)
}

fn machine_values(t: u64, grown: &MachineReading) -> Value {
    let sum = |each: fn(&CpuTimes) -> Option<u64>| {
        let values: Option<Vec<u64>> = grown.cpus.as_ref()?.iter().map(each).collect();
        Some(values?.iter().sum::<u64>())
    };
    let pressure = |it: Option<ebpf::proc::Pressure>| it.map(|it| it.some.total_us);
    json!({
        "t": t,
        "slab_bytes": grown.slab_bytes,
        "available_bytes": grown.available_bytes,
        "idle_us": sum(|cpu| Some(cpu.idle_us)),
        "steal_us": sum(|cpu| cpu.steal_us),
        "softirq_us": sum(|cpu| Some(cpu.softirq_us)),
        "pressure_cpu_us": pressure(grown.pressure_cpu),
        "pressure_memory_us": pressure(grown.pressure_memory),
        "pressure_io_us": pressure(grown.pressure_io),
        "cpus": grown.cpus,
        "softnet": grown.softnet,
        "missing": grown.missing,
    })
}

impl Interface {
    fn second(&mut self, t: u64) -> SampleRow {
        let of = vec![("nic", json!(self.nic.name()))];
        let read = match &self.gone {
            Some(why) => Err(why.clone()),
            None => self.nic.read().map_err(|error| error.to_string()),
        };
        let now = match read {
            Ok(now) => now,
            Err(why) => {
                self.gone = Some(why.clone());
                let values = json!({ "t": t, "link": null, "missing": why });
                return SampleRow { source: "nic", of, values };
            }
        };
        let grown = now.since(&self.before);
        self.before = now;
        let mut values = json!({ "t": t });
        if let (Value::Object(all), Value::Object(row)) = (&mut values, json!(NicRow::from(&grown)))
        {
            all.extend(row);
        }
        SampleRow { source: "nic", of, values }
    }
}
