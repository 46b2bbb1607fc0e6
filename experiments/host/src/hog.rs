//! Threads that take the CPU from others, as a fault on purpose: a process of its own, that dies
//! with the process that started it, and says to the nanosecond when it had the CPU.
//!
//! It knows that from its own clock: a thread that reads the clock again and again sees a gap where
//! it did not run. Must not know: which programs it disturbs.

use std::io::{BufRead, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use platform::{SchedStat, monotonic_ns, pin_to};
use serde::{Deserialize, Serialize};

/// Two readings of the clock that are further apart than this had something else in between: a
/// reading takes 0.05 µs, a thread that takes the CPU keeps it for more than this, and most
/// interrupts are shorter.
const GAP_NS: u64 = 5_000;

/// Intervals of one thread and period that are kept: gaps of [`GAP_NS`] each with as much between
/// them would need 2,000 in the default period.
const INTERVALS_KEPT: usize = 4096;

/// Periods that wait to be written: ten seconds of four threads with the default period.
const PERIODS_WAITING: usize = 2048;

/// `lab hog`, which only `lab run` starts.
#[derive(Clone, Debug, clap::Args)]
pub struct HogArgs {
    /// A `HogSpec` as JSON
    #[arg(long, value_name = "JSON")]
    config: String,
}

/// When and where a hog takes the CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HogSpec {
    /// On which CPUs.
    pub cpus: Vec<usize>,
    /// Threads on each.
    pub threads: u32,
    /// How often a thread wants its CPU.
    pub period_ns: u64,
    /// For how long each time.
    pub busy_ns: u64,
    /// The nice level.
    pub nice: i8,
    /// When the first period begins on the monotonic clock.
    pub from_ns: u64,
    /// When there is nothing wanted any more.
    pub until_ns: u64,
}

/// What a hog says, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HogLine {
    /// A thread had its CPU.
    Ran(Period),
    /// It is over.
    Ended {
        /// Time on a CPU while it wanted one, of all threads.
        ran_ns: u64,
        /// The same as the kernel has it, with what it takes to sleep and to wake.
        schedstat_ns: Option<u64>,
        /// Intervals of all threads.
        intervals: u64,
        /// Those of them that were counted and not said.
        not_kept: u64,
    },
}

/// What a thread had of its CPU in one period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// The thread, among those of the hog.
    pub thread: u32,
    /// Its CPU.
    pub cpu: usize,
    /// From when until when, on the monotonic clock.
    pub intervals: Vec<(u64, u64)>,
}

/// What a thread had in all.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    ran_ns: u64,
    intervals: u64,
    not_kept: u64,
}

/// When it ends, which may still change.
struct End {
    until_ns: Mutex<u64>,
    changed: Condvar,
}

impl End {
    fn ns(&self) -> u64 {
        *self.until_ns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until_ns: u64) {
        *self.until_ns.lock().unwrap_or_else(PoisonError::into_inner) = until_ns;
        self.changed.notify_all();
    }

    /// Sleeps until an instant. Returns false when it is all over before.
    fn sleep_until(&self, at_ns: u64) -> bool {
        let mut until = self.until_ns.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now_ns = monotonic_ns();
            if *until <= at_ns {
                return false;
            }
            if now_ns >= at_ns {
                return true;
            }
            let left = Duration::from_nanos(at_ns - now_ns);
            let waited = self.changed.wait_timeout(until, left);
            until = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Takes the CPU as ordered. A line of input is another instant at which to end; the end of the
/// input is the end at once.
///
/// # Errors
/// A CPU that there is not, a nice level that is not allowed, or output that is not read.
pub fn run(args: &HogArgs) -> anyhow::Result<()> {
    let spec: HogSpec = serde_json::from_str(&args.config).context("--config")?;
    let spec = Arc::new(spec);
    let end = Arc::new(End { until_ns: Mutex::new(spec.until_ns), changed: Condvar::new() });
    listen(Arc::clone(&end));
    let (tell, periods) = sync_channel(PERIODS_WAITING);
    let mut threads = Vec::new();
    for cpu in &spec.cpus {
        for _ in 0..spec.threads {
            let (number, cpu) = (u32::try_from(threads.len())?, *cpu);
            let (spec, end, tell) = (Arc::clone(&spec), Arc::clone(&end), tell.clone());
            let thread = std::thread::Builder::new().name("lab-hog".to_owned());
            threads.push(thread.spawn(move || occupy(&spec, number, cpu, &end, &tell))?);
        }
    }
    drop(tell);
    let mut out = std::io::stdout().lock();
    let mut say = |line: &HogLine| -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    };
    for period in periods {
        say(&HogLine::Ran(period))?;
    }
    let mut all = Sum::default();
    let mut schedstat_ns = Some(0);
    for thread in threads {
        let (sum, of_kernel) =
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the hog panicked"))??;
        all.ran_ns += sum.ran_ns;
        all.intervals += sum.intervals;
        all.not_kept += sum.not_kept;
        schedstat_ns = schedstat_ns.zip(of_kernel).map(|(all, one)| all + one);
    }
    let Sum { ran_ns, intervals, not_kept } = all;
    say(&HogLine::Ended { ran_ns, schedstat_ns, intervals, not_kept })
}

/// Listens for another end, on a thread that ends with the process.
fn listen(end: Arc<End>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Ok(until_ns) = line.trim().parse() {
                end.set(until_ns);
            }
        }
        end.set(0);
    });
}

/// The life of one thread: what it had, by its own clock and by the kernel's.
fn occupy(
    spec: &HogSpec,
    thread: u32,
    cpu: usize,
    end: &End,
    tell: &SyncSender<Period>,
) -> anyhow::Result<(Sum, Option<u64>)> {
    pin_to(cpu).with_context(|| format!("a hog cannot run on CPU {cpu}"))?;
    renice(spec.nice)?;
    let stat = SchedStat::of_this_thread();
    let mut sum = Sum::default();
    let mut start_ns = spec.from_ns;
    if !end.sleep_until(start_ns) {
        return Ok((sum, Some(0)));
    }
    let before = stat.read();
    loop {
        let until_ns = (start_ns + spec.busy_ns).min(end.ns());
        let mut period = Period { thread, cpu, intervals: Vec::with_capacity(16) };
        spin(until_ns, &mut period.intervals, &mut sum);
        let kept = period.intervals.len() as u64;
        if tell.try_send(period).is_err() {
            sum.not_kept += kept;
        }
        // A period that went by while others had the CPU does not come again.
        let now_ns = monotonic_ns();
        start_ns += spec.period_ns;
        if start_ns + spec.period_ns <= now_ns {
            start_ns += (now_ns - start_ns) / spec.period_ns * spec.period_ns;
        }
        if !end.sleep_until(start_ns) {
            break;
        }
    }
    let of_kernel = before.zip(stat.read()).map(|(then, now)| now.ran_ns - then.ran_ns);
    Ok((sum, of_kernel))
}

/// Reads the clock until an instant, and records when it could not.
fn spin(until_ns: u64, intervals: &mut Vec<(u64, u64)>, sum: &mut Sum) {
    let mut keep = |from_ns: u64, to_ns: u64| {
        sum.ran_ns += to_ns - from_ns;
        sum.intervals += 1;
        if intervals.len() < INTERVALS_KEPT {
            intervals.push((from_ns, to_ns));
        } else {
            sum.not_kept += 1;
        }
    };
    let mut began_ns = monotonic_ns();
    let mut last_ns = began_ns;
    while last_ns < until_ns {
        let now_ns = monotonic_ns();
        if now_ns - last_ns > GAP_NS {
            keep(began_ns, last_ns);
            began_ns = now_ns;
        }
        last_ns = now_ns;
    }
    keep(began_ns, last_ns);
}

/// Sets the nice level of the calling thread.
fn renice(nice: i8) -> anyhow::Result<()> {
    // SAFETY: a plain system call; on Linux 0 names the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, libc::c_int::from(nice)) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(error).with_context(|| format!("a hog cannot have nice level {nice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_cover_what_was_spun_and_nothing_else() {
        let (mut intervals, mut sum) = (Vec::new(), Sum::default());
        let began_ns = monotonic_ns();
        let until_ns = began_ns + 5_000_000;
        spin(until_ns, &mut intervals, &mut sum);
        let ended_ns = monotonic_ns();
        let mut last_ns = began_ns;
        for (from_ns, to_ns) in &intervals {
            assert!(last_ns <= *from_ns && from_ns <= to_ns && *to_ns <= ended_ns);
            last_ns = *to_ns;
        }
        let total: u64 = intervals.iter().map(|(from_ns, to_ns)| to_ns - from_ns).sum();
        assert_eq!((sum.ran_ns, sum.intervals), (total, intervals.len() as u64));
        assert!(sum.ran_ns <= ended_ns - began_ns);
    }

    #[test]
    fn an_end_that_comes_earlier_ends_the_sleep() {
        let end = End { until_ns: Mutex::new(u64::MAX), changed: Condvar::new() };
        assert!(end.sleep_until(monotonic_ns() + 1_000_000));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| end.sleep_until(monotonic_ns() + 3_600_000_000_000));
            end.set(0);
            assert!(!sleeper.join().expect("no panic"));
        });
    }
}
