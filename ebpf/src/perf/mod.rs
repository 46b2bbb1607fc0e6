//! Counters of threads by perf events: CPU time, switches, migrations and faults everywhere,
//! cycles, instructions and cache misses where the hardware has them.
//!
//! Owns: opening them per thread, reading them, and the reason for each that cannot be had. Must
//! not know: which threads matter.
//!
//! Software events count always, each on its own. Crate perf-event makes groups only of counters
//! of the calling thread, so the three hardware events are opened one by one, too: that many fit
//! at once on any PMU, and where others use it they are scaled and the share is given.

use std::{collections::BTreeMap, io};

use perf_event::{
    Builder, Counter,
    events::{Event, Hardware, Software},
};
use serde::Serialize;

use crate::kernel::monotonic_ns;

/// Threads of a process that are counted: seven descriptors each, out of the same table as the
/// rest of the program's. Servers and clients of this lab have under 60.
pub(crate) const MOST_THREADS: usize = 512;

/// The counters, in the order of a reading's fields; the last three are the hardware's.
const KINDS: [(&str, Event); 7] = [
    ("task_clock_ns", Event::Software(Software::TASK_CLOCK)),
    ("context_switches", Event::Software(Software::CONTEXT_SWITCHES)),
    ("migrations", Event::Software(Software::CPU_MIGRATIONS)),
    ("page_faults", Event::Software(Software::PAGE_FAULTS)),
    ("cycles", Event::Hardware(Hardware::CPU_CYCLES)),
    ("instructions", Event::Hardware(Hardware::INSTRUCTIONS)),
    ("cache_misses", Event::Hardware(Hardware::CACHE_MISSES)),
];

const HARDWARE: std::ops::Range<usize> = 4..7;

/// A count, and for how much of the time it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RawCount {
    count: u64,
    enabled_ns: u64,
    running_ns: u64,
}

impl RawCount {
    fn since(self, then: Self) -> Option<Self> {
        Some(Self {
            count: self.count.checked_sub(then.count)?,
            enabled_ns: self.enabled_ns.checked_sub(then.enabled_ns)?,
            running_ns: self.running_ns.checked_sub(then.running_ns)?,
        })
    }

    /// The count of the whole time; `None` when it was never counted though there was time.
    fn scaled(self) -> Option<u64> {
        match (self.enabled_ns, self.running_ns) {
            (0, _) => Some(self.count),
            (_, 0) => None,
            (enabled, running) if running >= enabled => Some(self.count),
            (enabled, running) => {
                let scaled = u128::from(self.count) * u128::from(enabled) / u128::from(running);
                u64::try_from(scaled).ok()
            }
        }
    }
}

/// What a thread did since its counters were opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PerfReading {
    /// The thread.
    pub tid: u32,
    /// Time on a CPU, with the interrupts that came and what the hypervisor took meanwhile, and
    /// without the switches themselves (1 to 3 µs each). With the scheduler's own account
    /// ([`crate::proc::ThreadTimes::ran_ns`]) it is the other way round.
    pub task_clock_ns: Option<u64>,
    /// Switches away from it.
    pub context_switches: Option<u64>,
    /// Moves from one CPU to another.
    pub migrations: Option<u64>,
    /// Page faults, with and without a disk.
    pub page_faults: Option<u64>,
    /// Cycles, in user space and in the kernel.
    pub cycles: Option<u64>,
    /// Instructions, likewise.
    pub instructions: Option<u64>,
    /// Misses of the last cache, likewise.
    pub cache_misses: Option<u64>,
    /// For what share of its time on a CPU the hardware counted: under 1 when others use the
    /// counters, too, and the figures are scaled up. `None` without hardware counters.
    pub hardware_share: Option<f64>,
    /// Why something above is absent.
    pub missing: BTreeMap<&'static str, String>,
    #[serde(skip)]
    raw: [Option<RawCount>; KINDS.len()],
}

impl PerfReading {
    fn of(
        tid: u32,
        raw: [Option<RawCount>; KINDS.len()],
        mut missing: BTreeMap<&'static str, String>,
    ) -> Self {
        let mut values = [None; KINDS.len()];
        for (place, (name, _)) in KINDS.iter().enumerate() {
            values[place] = raw[place].and_then(RawCount::scaled);
            if values[place].is_none() {
                let reason = "others had the hardware counters all the time";
                missing.entry(name).or_insert_with(|| reason.to_owned());
            }
        }
        let shares = raw[HARDWARE].iter().flatten().filter(|raw| raw.enabled_ns > 0);
        let [task_clock_ns, context_switches, migrations, page_faults, ..] = values;
        let [.., cycles, instructions, cache_misses] = values;
        Self {
            tid,
            task_clock_ns,
            context_switches,
            migrations,
            page_faults,
            cycles,
            instructions,
            cache_misses,
            hardware_share: shares
                .map(|raw| raw.running_ns as f64 / raw.enabled_ns as f64)
                .reduce(f64::min),
            missing,
            raw,
        }
    }

    /// What the thread did since an earlier reading of the same counters.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut raw = [None; KINDS.len()];
        for (place, raw) in raw.iter_mut().enumerate() {
            let both = self.raw[place].zip(before.raw[place]);
            *raw = both.and_then(|(now, then)| now.since(then));
        }
        Self::of(self.tid, raw, self.missing.clone())
    }
}

/// The counters of a thread.
pub struct ThreadCounters {
    tid: u32,
    counters: [Result<Counter, String>; KINDS.len()],
}

impl ThreadCounters {
    /// Opens what can be had; what cannot is `None` in each reading, with the reason.
    ///
    /// # Errors
    /// A sentence, when there is no such thread.
    pub fn open(tid: u32) -> Result<Self, String> {
        let mut gone = false;
        let counters = KINDS.map(|(name, event)| {
            open(tid, event).map_err(|error| {
                gone |= error.raw_os_error() == Some(libc::ESRCH);
                reason(name, &error).to_string()
            })
        });
        if gone { Err(format!("there is no thread {tid}")) } else { Ok(Self { tid, counters }) }
    }

    /// The counts so far; a thread that has ended keeps its last.
    pub fn read(&mut self) -> PerfReading {
        let mut missing = BTreeMap::new();
        let mut raw = [None; KINDS.len()];
        for (place, counter) in self.counters.iter_mut().enumerate() {
            let name = KINDS[place].0;
            match counter {
                Ok(counter) => match counter.read_count_and_time() {
                    Ok(found) => {
                        raw[place] = Some(RawCount {
                            count: found.count,
                            enabled_ns: found.time_enabled,
                            running_ns: found.time_running,
                        });
                    }
                    Err(error) => {
                        missing.insert(name, reason(name, &error).to_string());
                    }
                },
                Err(reason) => {
                    missing.insert(name, reason.clone());
                }
            }
        }
        PerfReading::of(self.tid, raw, missing)
    }
}

fn open(tid: u32, event: Event) -> io::Result<Counter> {
    let of_time = event == Event::Software(Software::TASK_CLOCK);
    let mut builder = Builder::new().observe_pid(tid.cast_signed()).kind(event);
    // What the kernel counts happens in the kernel: without it switches are all 0. Time on a CPU
    // is the same either way, and may be asked for with less permission.
    builder.exclude_kernel(of_time);
    let mut counter = builder.build()?;
    counter.enable()?;
    Ok(counter)
}

/// Why a counter cannot be had, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CounterError {
    /// There is no such hardware counter here.
    #[error("not supported: no such hardware counter, or the hypervisor keeps it to itself")]
    NotSupported,
    /// This process may not count it.
    #[error(
        "not permitted: needs CAP_PERFMON (Linux 5.8), or kernel.perf_event_paranoid at most 1"
    )]
    NotPermitted,
    /// The kernel cannot count anything.
    #[error("the kernel was built without CONFIG_PERF_EVENTS")]
    NoPerfEvents,
    /// The process has as many files open as it may.
    #[error("too many open files: raise `ulimit -n`")]
    TooManyFiles,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Why a counter cannot be had.
fn reason(name: &str, error: &io::Error) -> CounterError {
    let hardware = KINDS[HARDWARE].iter().any(|(hardware, _)| *hardware == name);
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) if hardware => {
            CounterError::NotSupported
        }
        Some(libc::EACCES | libc::EPERM) => CounterError::NotPermitted,
        Some(libc::ENOSYS) => CounterError::NoPerfEvents,
        Some(libc::EMFILE) => CounterError::TooManyFiles,
        _ => CounterError::Other(error.to_string()),
    }
}

/// Whether hardware counters can be had here, or why not.
pub(crate) fn hardware() -> Result<(), CounterError> {
    try_own(HARDWARE.start)
}

/// Whether software counters can be had here, or why not.
pub(crate) fn software() -> Result<(), CounterError> {
    // Not the time on a CPU, which needs less permission than the others.
    try_own(1)
}

fn try_own(place: usize) -> Result<(), CounterError> {
    let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    let (name, event) = KINDS[place].clone();
    open(own, event).map(drop).map_err(|error| reason(name, &error))
}

/// What the threads of a process did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProcessPerf {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The process.
    pub pid: u32,
    /// Its threads, and for a last time those that have ended since the reading before.
    pub threads: BTreeMap<u32, PerfReading>,
    /// Threads beyond `MOST_THREADS`, which are not counted.
    pub not_counted: u64,
}

impl ProcessPerf {
    /// What the threads did since an earlier reading; one that was found since has its whole
    /// account.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let since = |tid: &u32, now: &PerfReading| {
            before.threads.get(tid).map_or_else(|| now.clone(), |then| now.since(then))
        };
        let threads = self.threads.iter().map(|(tid, now)| (*tid, since(tid, now)));
        Self { threads: threads.collect(), ..self.clone() }
    }
}

/// The counters of all threads of a process: those it has and those it will have.
pub struct ProcessCounters {
    pid: u32,
    threads: BTreeMap<u32, ThreadCounters>,
}

impl ProcessCounters {
    /// Opens the counters of the threads that the process has.
    ///
    /// # Errors
    /// A sentence, when there is no such process.
    pub fn open(pid: u32) -> Result<Self, String> {
        let mut process = Self { pid, threads: BTreeMap::new() };
        process.find(&tids(pid)?);
        Ok(process)
    }

    /// Opens the counters of threads that have none yet; how many are left out.
    fn find(&mut self, tids: &[u32]) -> u64 {
        let mut left_out = 0;
        for tid in tids {
            if self.threads.contains_key(tid) {
                continue;
            }
            if self.threads.len() >= MOST_THREADS {
                left_out += 1;
            } else if let Ok(counters) = ThreadCounters::open(*tid) {
                self.threads.insert(*tid, counters);
            }
        }
        left_out
    }

    /// The counts so far. A thread that began since the last reading counts from now on.
    ///
    /// # Errors
    /// A sentence, when the process is gone.
    pub fn read(&mut self) -> Result<ProcessPerf, String> {
        let tids = tids(self.pid)?;
        let not_counted = self.find(&tids);
        let readings = self.threads.iter_mut().map(|(tid, counters)| (*tid, counters.read()));
        let reading = ProcessPerf {
            at_ns: monotonic_ns(),
            pid: self.pid,
            threads: readings.collect(),
            not_counted,
        };
        self.threads.retain(|tid, _| tids.contains(tid));
        Ok(reading)
    }
}

fn tids(pid: u32) -> Result<Vec<u32>, String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|_| format!("there is no process {pid}"))?;
    let of_entry = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let tids: Vec<u32> = entries.flatten().filter_map(of_entry).collect();
    if tids.is_empty() { Err(format!("there is no process {pid}")) } else { Ok(tids) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(count: u64, enabled_ns: u64, running_ns: u64) -> RawCount {
        RawCount { count, enabled_ns, running_ns }
    }

    #[test]
    fn shared_counters_are_scaled_and_starved_ones_unknown() {
        assert_eq!(raw(100, 1000, 1000).scaled(), Some(100));
        assert_eq!(raw(100, 1000, 250).scaled(), Some(400));
        assert_eq!(raw(0, 1000, 0).scaled(), None);
        assert_eq!(raw(0, 0, 0).scaled(), Some(0), "the thread has not run");
        assert_eq!(raw(u64::MAX, u64::MAX, 1).scaled(), None);
        assert_eq!(raw(5, 9, 9).since(raw(6, 8, 8)), None);
    }

    #[test]
    fn differences_are_scaled_by_their_own_time() {
        let reading = |cycles: RawCount| {
            let mut all = [Some(raw(1, 10, 10)); KINDS.len()];
            all[4] = Some(cycles);
            PerfReading::of(7, all, BTreeMap::new())
        };
        let (then, now) = (reading(raw(1000, 1000, 1000)), reading(raw(1100, 2000, 1500)));
        let grown = now.since(&then);
        assert_eq!((grown.cycles, grown.hardware_share), (Some(200), Some(0.5)));
        assert_eq!((grown.context_switches, grown.instructions), (Some(0), Some(0)));
        let starved = reading(raw(1100, 3000, 1500)).since(&now);
        assert_eq!(starved.cycles, None);
        assert!(starved.missing["cycles"].contains("others"), "{starved:?}");
    }

    #[test]
    fn reasons_name_the_way_out() {
        let check = |name: &str, errno: i32, part: &str| {
            let message = reason(name, &io::Error::from_raw_os_error(errno)).to_string();
            assert!(message.contains(part), "{message}");
        };
        check("cycles", libc::ENOENT, "not supported");
        check("cycles", libc::EACCES, "perf_event_paranoid at most 1");
        check("migrations", libc::EPERM, "CAP_PERFMON");
        check("migrations", libc::EMFILE, "ulimit -n");
        check("page_faults", libc::ENOSYS, "CONFIG_PERF_EVENTS");
    }

    #[test]
    fn no_such_thread_or_process_is_an_error() {
        // Beyond the highest number that a kernel can give.
        let error = ThreadCounters::open(0x7fff_fff0).err().expect("no such thread");
        assert_eq!(error, format!("there is no thread {}", 0x7fff_fff0));
        let error = ProcessCounters::open(0x7fff_fff0).err().expect("no such process");
        assert_eq!(error, format!("there is no process {}", 0x7fff_fff0));
    }
}
