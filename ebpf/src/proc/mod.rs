//! What `/proc` says every second: the queues in front of the network stack, the counters of the
//! protocols, the times of threads and CPUs, and pressure.
//!
//! Owns: the paths, the reasons for what is absent, and differences. What the files say is read in
//! `text`, and what it comes to stands in `figures`. Must not know: which figures matter to a run.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

mod cgroup;
mod figures;
mod text;

use crate::kernel::{self, monotonic_ns};

pub use cgroup::{CgroupReading, CpuQuota};
pub use figures::{
    CpuTimes, Interrupt, MachineReading, NetworkReading, Pressure, PressureLine, Protocols,
    SoftnetCpu, ThreadTimes, ThreadsReading,
};

/// The processes that a process began, and those that they began, as `/proc` has them now.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        // The name in parentheses may have spaces and parentheses of its own.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
        if let Some(parent) = fields.and_then(|mut it| it.nth(1)?.parse().ok()) {
            parents.push((child, parent));
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let children = parents.iter().filter(|(_, parent)| *parent == found[next]);
        let children: Vec<u32> = children.map(|(child, _)| *child).collect();
        found.extend(children.into_iter().filter(|it| !found.contains(it)).collect::<Vec<_>>());
        next += 1;
    }
    found.split_off(1)
}

/// Reads `/proc`.
#[derive(Clone, Debug)]
pub struct ProcReader {
    root: PathBuf,
}

impl Default for ProcReader {
    fn default() -> Self {
        Self::at("/proc")
    }
}

/// The text of a file, or why there is none.
fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| {
        let reason = match error.raw_os_error() {
            // What /proc answers for a process that ended while its file was open.
            Some(libc::ESRCH) => "the process is gone".to_owned(),
            _ => error.to_string(),
        };
        format!("cannot read {}: {reason}", path.display())
    })
}

fn understood<T>(path: &Path, found: Option<T>) -> Result<T, String> {
    found.ok_or_else(|| format!("{} is not as this kernel's should be", path.display()))
}

/// The kernel's threads that do the work of interrupts: softirqs that were too many, and handlers
/// that have a thread of their own.
pub fn interrupt_threads() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("ksoftirqd/") || name.starts_with("irq/")
    })
    .collect()
}

impl ProcReader {
    /// Reads a `/proc` mounted elsewhere, or recorded.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn file<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let path = self.root.join(name);
        understood(&path, parse(&read(&path)?))
    }

    /// The machine: its CPUs are the same in every network namespace.
    pub fn machine(&self) -> MachineReading {
        let mut missing = BTreeMap::new();
        let us_per_tick = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let mut pressure = |name: &'static str, file: &str| {
            let found = self.file(&format!("pressure/{file}"), text::pressure);
            let needs = "Linux 4.20 with CONFIG_PSI has it; boot with psi=1";
            keep(&mut missing, name, found.map_err(|reason| format!("{reason}; {needs}")))
        };
        let pressure_cpu = pressure("pressure_cpu", "cpu");
        let pressure_memory = pressure("pressure_memory", "memory");
        let pressure_io = pressure("pressure_io", "io");
        let softnet = self
            .file("thread-self/net/softnet_stat", text::softnet)
            .or_else(|reason| self.file("net/softnet_stat", text::softnet).map_err(|_| reason));
        let memory = |name: &str| self.file("meminfo", |text| text::bytes(text, name));
        let cpus = self.file("stat", |text| text::cpus(text, us_per_tick));
        MachineReading {
            at_ns: monotonic_ns(),
            softnet: keep(&mut missing, "softnet", softnet),
            cpus: keep(&mut missing, "cpus", cpus),
            slab_bytes: keep(&mut missing, "slab_bytes", memory("Slab")),
            available_bytes: keep(&mut missing, "available_bytes", memory("MemAvailable")),
            pressure_cpu,
            pressure_memory,
            pressure_io,
            missing,
        }
    }

    /// The protocols of the network namespace that a process is in; of the calling thread's own
    /// when none is named.
    pub fn network(&self, pid: Option<u32>) -> NetworkReading {
        let process = pid.map_or_else(|| "thread-self".to_owned(), |pid| pid.to_string());
        let of = |file: &str| self.file(&format!("{process}/net/{file}"), text::protocols);
        let both = of("snmp").and_then(|mut protocols| {
            protocols.extend(of("netstat")?);
            Ok(protocols)
        });
        let mut missing = BTreeMap::new();
        NetworkReading {
            at_ns: monotonic_ns(),
            protocols: keep(&mut missing, "protocols", both),
            missing,
        }
    }

    /// The threads of a process, and its memory.
    pub fn threads(&self, pid: u32) -> ThreadsReading {
        let mut missing = BTreeMap::new();
        let memory = self.file(&format!("{pid}/status"), |text| text::bytes(text, "RssAnon"));
        ThreadsReading {
            at_ns: monotonic_ns(),
            pid,
            rss_anon_bytes: keep(&mut missing, "rss_anon_bytes", memory),
            cpu_ns: keep(&mut missing, "cpu_ns", self.cpu_ns(pid)),
            threads: keep(&mut missing, "threads", self.threads_of(pid)),
            ended: None,
            missing,
        }
    }

    fn cpu_ns(&self, pid: u32) -> Result<u64, String> {
        if self.root != Path::new("/proc") {
            return Err("only the running system's processes have a clock".to_owned());
        }
        kernel::cpu_ns(pid).map_err(|error| format!("no CPU clock of process {pid}: {error}"))
    }

    fn threads_of(&self, pid: u32) -> Result<BTreeMap<u32, ThreadTimes>, String> {
        let tasks = self.root.join(pid.to_string()).join("task");
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => format!("there is no process {pid}"),
            _ => format!("cannot read {}: {error}", tasks.display()),
        };
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(&tasks).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let Some(tid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            let statistics = path.join("schedstat");
            match read(&statistics) {
                Ok(found) => {
                    let times = understood(&statistics, text::schedstat(&found))?;
                    let name = read(&path.join("comm")).unwrap_or_default();
                    threads.insert(tid, ThreadTimes { name: name.trim().to_owned(), ..times });
                }
                // It ended just now.
                Err(_) if !path.exists() => {}
                Err(reason) => {
                    return Err(format!("{reason}; a kernel with CONFIG_SCHED_INFO has it"));
                }
            }
        }
        if threads.is_empty() { Err(format!("there is no process {pid}")) } else { Ok(threads) }
    }

    /// The interrupts whose description has one of these words: an interface's name and the place
    /// of its card on the bus ([`crate::nic::Driver::bus`]).
    ///
    /// # Errors
    /// A sentence, when they cannot be read or there is none of them.
    pub fn interrupts(&self, words: &[&str]) -> Result<Vec<Interrupt>, String> {
        let path = self.root.join("interrupts");
        let found = text::interrupts(&read(&path)?, words);
        if found.is_empty() {
            return Err(format!("{} has no line about {}", path.display(), words.join(" or ")));
        }
        Ok(found)
    }
}

/// The value, or a note why there is none.
fn keep<T>(
    missing: &mut BTreeMap<&'static str, String>,
    name: &'static str,
    found: Result<T, String>,
) -> Option<T> {
    found.map_err(|reason| missing.insert(name, reason)).ok()
}

/// Growth of a counter that the kernel keeps in 32 bits.
const fn grown_32(now: u64, then: u64) -> u64 {
    (now as u32).wrapping_sub(then as u32) as u64
}

impl SoftnetCpu {
    fn since(self, then: Self) -> Self {
        let grown = |now: Option<u64>, then: Option<u64>| Some(grown_32(now?, then?));
        Self {
            processed: grown_32(self.processed, then.processed),
            dropped: grown_32(self.dropped, then.dropped),
            time_squeeze: grown_32(self.time_squeeze, then.time_squeeze),
            received_rps: grown(self.received_rps, then.received_rps),
            flow_limit: grown(self.flow_limit, then.flow_limit),
            ..self
        }
    }
}

impl CpuTimes {
    /// The kernel lets idle time go back a little now and then.
    fn since(self, then: Self) -> Self {
        Self {
            cpu: self.cpu,
            user_us: self.user_us.saturating_sub(then.user_us),
            system_us: self.system_us.saturating_sub(then.system_us),
            idle_us: self.idle_us.saturating_sub(then.idle_us),
            interrupt_us: self.interrupt_us.saturating_sub(then.interrupt_us),
            softirq_us: self.softirq_us.saturating_sub(then.softirq_us),
            steal_us: self.steal_us.zip(then.steal_us).map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

impl PressureLine {
    fn since(self, then: Self) -> Self {
        Self { total_us: self.total_us.saturating_sub(then.total_us), ..self }
    }
}

impl Pressure {
    fn since(self, then: Self) -> Self {
        Self {
            some: self.some.since(then.some),
            full: self.full.zip(then.full).map(|(now, then)| now.since(then)),
        }
    }
}

impl MachineReading {
    /// What happened since an earlier reading; averages, memory and lengths of queues keep their
    /// value, and a CPU that was not there then is left out.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let softnet = self.softnet.as_ref().zip(before.softnet.as_ref()).map(|(now, then)| {
            let same = |now: &SoftnetCpu| then.iter().find(|then| then.cpu == now.cpu).copied();
            now.iter().filter_map(|now| Some(now.since(same(now)?))).collect()
        });
        let cpus = self.cpus.as_ref().zip(before.cpus.as_ref()).map(|(now, then)| {
            let same = |now: &CpuTimes| then.iter().find(|then| then.cpu == now.cpu).copied();
            now.iter().filter_map(|now| Some(now.since(same(now)?))).collect()
        });
        let pressure = |now: Option<Pressure>, then: Option<Pressure>| Some(now?.since(then?));
        Self {
            softnet,
            cpus,
            pressure_cpu: pressure(self.pressure_cpu, before.pressure_cpu),
            pressure_memory: pressure(self.pressure_memory, before.pressure_memory),
            pressure_io: pressure(self.pressure_io, before.pressure_io),
            missing: self.missing.clone(),
            ..*self
        }
    }
}

impl NetworkReading {
    /// What happened since an earlier reading of the same namespace.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let both = self.protocols.as_ref().zip(before.protocols.as_ref());
        Self {
            protocols: both.map(|(now, then)| text::growth(now, then)),
            at_ns: self.at_ns,
            missing: self.missing.clone(),
        }
    }
}

impl ThreadsReading {
    /// What happened since an earlier reading of the same process; a thread that began since has
    /// its whole account.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let both = self.threads.as_ref().zip(before.threads.as_ref());
        let since = |now: &ThreadTimes, then: Option<&ThreadTimes>| match then {
            // Less than before: another thread has the number now.
            Some(then) if now.ran_ns >= then.ran_ns && now.turns >= then.turns => ThreadTimes {
                name: now.name.clone(),
                ran_ns: now.ran_ns - then.ran_ns,
                wait_ns: now.wait_ns.saturating_sub(then.wait_ns),
                turns: now.turns - then.turns,
            },
            _ => now.clone(),
        };
        Self {
            threads: both.map(|(now, then)| {
                now.iter().map(|(tid, now)| (*tid, since(now, then.get(tid)))).collect()
            }),
            ended: both
                .map(|(now, then)| then.keys().filter(|tid| !now.contains_key(tid)).count() as u64),
            cpu_ns: self.cpu_ns.zip(before.cpu_ns).map(|(now, then)| now.saturating_sub(then)),
            missing: self.missing.clone(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests;
