//! What `/proc` says every second: memory and CPU of the programs, the kernel's TCP counters, the
//! machine.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::machine::meminfo;

/// A second of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessSecond {
    /// The Unix second.
    pub t: u64,
    /// Anonymous memory that is resident, in bytes; null when the process is gone.
    pub rss_anon_bytes: Option<u64>,
    /// CPU time of all its threads in this second, in microseconds.
    pub cpu_us: Option<u64>,
    /// Time that its threads waited for a CPU in this second, in microseconds.
    pub wait_us: Option<u64>,
}

/// A process that is looked at every second.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    times: Option<(u64, u64)>,
}

fn read(path: String) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

impl Process {
    /// A process.
    pub fn new(pid: u32) -> Self {
        Self { pid, times: thread_times(pid) }
    }

    /// What it used since it was asked the last time.
    pub fn second(&mut self, t: u64) -> ProcessSecond {
        let now = thread_times(self.pid);
        let both = now.zip(self.times);
        self.times = now;
        ProcessSecond {
            t,
            rss_anon_bytes: rss_anon(self.pid),
            // A thread that ended took its account along: nothing is better than a wrong figure.
            cpu_us: both.and_then(|(now, then)| Some(now.0.checked_sub(then.0)? / 1000)),
            wait_us: both.and_then(|(now, then)| Some(now.1.checked_sub(then.1)? / 1000)),
        }
    }
}

/// Anonymous resident memory of a process, in bytes.
fn rss_anon(pid: u32) -> Option<u64> {
    let status = read(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// CPU time and waiting time of all threads of a process, in nanoseconds.
fn thread_times(pid: u32) -> Option<(u64, u64)> {
    let mut sum = (0, 0);
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let mut fields = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(ran)), Some(Ok(waited))) = (fields.next(), fields.next()) else {
            return None;
        };
        sum = (sum.0 + ran, sum.1 + waited);
    }
    Some(sum)
}

/// Counters of the kernel's TCP that a run is judged by, as they are named in `/proc/net`.
const TCP: [&str; 14] = [
    "RetransSegs",
    "InErrs",
    "OutRsts",
    "AttemptFails",
    "EstabResets",
    "ListenOverflows",
    "ListenDrops",
    "TCPTimeouts",
    "TCPLostRetransmit",
    "TCPFastRetrans",
    "TCPSynRetrans",
    "TCPBacklogDrop",
    "TCPRcvQDrop",
    "TCPReqQFullDrop",
];

/// The TCP counters of a process's network namespace, as they grow.
#[derive(Debug)]
pub struct Tcp {
    pid: u32,
    last: BTreeMap<&'static str, u64>,
}

impl Tcp {
    /// The counters of the namespace of a process.
    pub fn new(pid: u32) -> Self {
        Self { pid, last: tcp_counters(pid) }
    }

    /// What they grew by since they were asked the last time.
    pub fn second(&mut self, t: u64) -> Value {
        let now = tcp_counters(self.pid);
        let mut grown = Map::new();
        grown.insert("t".to_owned(), t.into());
        for name in TCP {
            let growth = now.get(name).zip(self.last.get(name));
            let growth = growth.map(|(now, then)| now.saturating_sub(*then));
            grown.insert(snake(name), growth.into());
        }
        if !now.is_empty() {
            self.last = now;
        }
        Value::Object(grown)
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut before_upper = true;
    for c in name.chars() {
        if c.is_ascii_uppercase() && !before_upper {
            out.push('_');
        }
        before_upper = c.is_ascii_uppercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn tcp_counters(pid: u32) -> BTreeMap<&'static str, u64> {
    let mut counters = BTreeMap::new();
    for file in ["snmp", "netstat"] {
        let Some(text) = read(format!("/proc/{pid}/net/{file}")) else { continue };
        // Two lines each: the names, and the values in the same order.
        let lines: Vec<&str> = text.lines().collect();
        for [names, values] in lines.as_chunks::<2>().0 {
            let values = values.split_whitespace().map(str::parse::<u64>);
            for (name, value) in names.split_whitespace().zip(values) {
                let known = TCP.iter().find(|known| **known == name);
                if let (Some(known), Ok(value)) = (known, value) {
                    counters.insert(*known, value);
                }
            }
        }
    }
    counters
}

/// A second of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MachineSecond {
    /// The Unix second.
    pub t: u64,
    /// Memory of the kernel's own objects, in bytes.
    pub slab_bytes: Option<u64>,
    /// Memory that can be had, in bytes.
    pub available_bytes: Option<u64>,
    /// Time in which CPUs had nothing to do, in microseconds, over all CPUs.
    pub idle_us: Option<u64>,
    /// Time that the hypervisor gave to others, in microseconds.
    pub steal_us: Option<u64>,
    /// Time spent on soft interrupts, in microseconds.
    pub softirq_us: Option<u64>,
}

/// The machine, looked at every second.
#[derive(Debug)]
pub struct MachineTimes {
    last: Option<[u64; 3]>,
}

impl Default for MachineTimes {
    fn default() -> Self {
        Self { last: cpu_times() }
    }
}

impl MachineTimes {
    /// What happened since it was asked the last time.
    pub fn second(&mut self, t: u64) -> MachineSecond {
        let now = cpu_times();
        let grown = now.zip(self.last).map(|(now, then)| {
            let mut grown = [0; 3];
            for (place, growth) in grown.iter_mut().enumerate() {
                *growth = now[place].saturating_sub(then[place]);
            }
            grown
        });
        self.last = now;
        MachineSecond {
            t,
            slab_bytes: meminfo("Slab:"),
            available_bytes: meminfo("MemAvailable:"),
            idle_us: grown.map(|grown| grown[0]),
            steal_us: grown.map(|grown| grown[1]),
            softirq_us: grown.map(|grown| grown[2]),
        }
    }
}

/// Idle, stolen and soft-interrupt time of all CPUs since boot, in microseconds.
fn cpu_times() -> Option<[u64; 3]> {
    let text = read("/proc/stat".to_owned())?;
    let ticks: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).map_while(|it| it.parse().ok()).collect();
    let us_per_tick = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    // user nice system idle iowait irq softirq steal
    Some([ticks.get(3)? + ticks.get(4)?, *ticks.get(7)?, *ticks.get(6)?].map(|it| it * us_per_tick))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_network_are_seen() {
        let pid = std::process::id();
        let mut process = Process::new(pid);
        let second = process.second(7);
        assert!(second.rss_anon_bytes.is_some_and(|bytes| bytes > 4096));
        assert_eq!(second.t, 7);
        let mut tcp = Tcp::new(pid);
        let grown = tcp.second(8);
        for name in ["retrans_segs", "listen_overflows", "tcptimeouts"] {
            assert!(grown[name].is_u64(), "{name} in {grown}");
        }
        let gone = Process::new(u32::MAX).second(9);
        assert_eq!((gone.rss_anon_bytes, gone.cpu_us), (None, None));
        assert!(MachineTimes::default().second(1).idle_us.is_some());
    }
}
