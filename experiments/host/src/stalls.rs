//! CPUs that stand still, seen without probes and without root: on each a thread asks to wake once
//! a millisecond, and looks how late it was.
//!
//! Of that lateness the part in which the thread was runnable and waited is no stall: the kernel
//! ran, and something else had the CPU. The rest is one: the timer, or the CPU, came late. A
//! hypervisor that takes a CPU away need not say so in the kernel's steal time, which stands beside
//! it as a hint. Owns: those threads. Must not know: what else runs, and what a stall excuses.

use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use attribution::Stalls;
use platform::{Priority, SchedStat, ThreadTimes, monotonic_ns, pin_to, set_priority};
use rustix::time::{ClockId, Timespec};
use serde_json::{Value, json};

use crate::surroundings::SampleRow;

/// How often a thread wants to run.
const STEP_NS: u64 = 1_000_000;

/// The least time that counts as a stall. Timers and wake-ups of an idle virtual CPU take 0.1 ms at
/// most but for one in fifty; beyond a quarter of a millisecond an idle CPU is late no more often
/// than one that never sleeps and reads its clock all the time, so that it is not the idle state
/// (decision 45 has the figures).
const LEAST_NS: u64 = 500_000;

/// A thread that woke later than this asks the kernel how long it waited; so it does every so many
/// steps, for what it waited in between.
const ASK_NS: u64 = 100_000;
const STEPS_UNASKED: u64 = 16;

/// Above all other programs, below the kernel's own threads of the highest priority.
const PRIORITY: u8 = 50;

/// Stalls of one CPU and second that are kept one by one.
const KEPT: usize = 32;

/// Buckets of lateness: below 1 µs, and one for each power of two from there on.
const BUCKETS: usize = 28;

/// Threads that watch, until this is dropped.
#[derive(Debug)]
pub struct StallWatch {
    stop: Arc<AtomicBool>,
    cpus: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    cpu: usize,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
    /// The longest stall of all seconds so far.
    longest_ns: u64,
}

impl StallWatch {
    /// Watches these CPUs. Returns when each of the threads watches, or was refused.
    ///
    /// # Errors
    /// What the system says when it refuses a thread.
    pub fn start(cpus: &[usize]) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = Self { stop, cpus: Vec::new() };
        // Nothing is sent: all have begun when the last sender is gone.
        let (beginning, begun) = mpsc::channel::<()>();
        for &cpu in cpus {
            let seen = Arc::new(Mutex::new(Seen::new(cpu)));
            let (stop, told) = (Arc::clone(&watch.stop), Arc::clone(&seen));
            let beginning = beginning.clone();
            let thread = std::thread::Builder::new().name(format!("lab-stalls-{cpu}"));
            let thread = thread.spawn(move || {
                if let Err(error) = observe(cpu, &stop, &told, beginning) {
                    locked(&told).missing = Some(error.to_string());
                }
            })?;
            watch.cpus.push(Watched { cpu, seen, thread: Some(thread), longest_ns: 0 });
        }
        drop(beginning);
        let _ = begun.recv();
        Ok(watch)
    }

    /// What was seen since this was asked the last time, as the second `t`: a row for each CPU.
    pub fn second(&mut self, t: u64) -> Vec<SampleRow> {
        let row = |watched: &mut Watched| {
            let of = vec![("cpu", json!(watched.cpu))];
            SampleRow { source: "stalls", of, values: watched.take().to_json(t, watched.cpu) }
        };
        self.cpus.iter_mut().map(row).collect()
    }

    /// The longest time for which a CPU stood still since the beginning, in microseconds; `None`
    /// when one could not be watched.
    pub fn longest_us(&mut self) -> Option<u64> {
        let longest = |watched: &mut Watched| {
            let seen = watched.take();
            (seen.missing.is_none() && seen.steps > 0).then_some(watched.longest_ns / 1000)
        };
        let longest: Option<Vec<u64>> = self.cpus.iter_mut().map(longest).collect();
        longest?.into_iter().max()
    }
}

impl Watched {
    fn take(&mut self) -> Seen {
        let mut seen = locked(&self.seen);
        let (real_time, missing) = (seen.real_time, seen.missing.clone());
        let next = Seen { real_time, missing, ..Seen::new(self.cpu) };
        let seen = std::mem::replace(&mut *seen, next);
        self.longest_ns = self.longest_ns.max(seen.longest_ns);
        seen
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.cpus.iter_mut().filter_map(|watched| watched.thread.take()) {
            // What went wrong there was noted.
            let _ = thread.join();
        }
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes again and again on a CPU, and notes how late. Lets go of `beginning` when the instant of
/// the first wake-up stands fast.
fn observe(
    cpu: usize,
    stop: &AtomicBool,
    told: &Mutex<Seen>,
    beginning: mpsc::Sender<()>,
) -> io::Result<()> {
    pin_to(cpu)?;
    let real_time = set_priority(None, Priority::RealTime(PRIORITY)).is_ok();
    if !real_time {
        // From a thread in the background it would be there, too.
        let _ = set_priority(None, Priority::Normal);
    }
    locked(told).real_time = real_time;
    // Its lateness would have the slack in it: 50 µs unless it is a real-time thread's.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let account = SchedStat::of_this_thread();
    let no_account = || io::Error::other("the kernel keeps no accounts of threads");
    let mut before = account.read().ok_or_else(no_account)?;
    let mut steps = 0;
    let mut due_ns = monotonic_ns() + STEP_NS;
    drop(beginning);
    while !stop.load(Ordering::Relaxed) {
        sleep_until(due_ns)?;
        let woke_ns = monotonic_ns();
        steps += 1;
        let late_ns = woke_ns.saturating_sub(due_ns);
        let mut wake = Wake { due_ns, woke_ns, waited_ns: 0, was_stopped: false };
        if late_ns >= ASK_NS || steps >= STEPS_UNASKED {
            let now = account.read().ok_or_else(no_account)?;
            (wake.waited_ns, wake.was_stopped) = since(before, now, steps);
            (before, steps) = (now, 0);
        }
        locked(told).add(wake);
        due_ns = monotonic_ns() + STEP_NS;
    }
    Ok(())
}

fn sleep_until(at_ns: u64) -> io::Result<()> {
    let at = Timespec {
        tv_sec: (at_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (at_ns % 1_000_000_000).cast_signed(),
    };
    loop {
        match rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &at) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// How long a thread waited for its CPU in so many steps, all of which is taken for the last one's,
/// and whether it had its CPU more often than the steps explain: a signal or a freezer stopped it,
/// or it was driven away.
fn since(before: ThreadTimes, now: ThreadTimes, steps: u64) -> (u64, bool) {
    (now.waited_ns.saturating_sub(before.waited_ns), now.turns.saturating_sub(before.turns) > steps)
}

/// One waking of a thread.
#[derive(Clone, Copy, Debug)]
struct Wake {
    due_ns: u64,
    woke_ns: u64,
    /// How long something else had the CPU meanwhile, at most.
    waited_ns: u64,
    /// The thread itself was stopped meanwhile, which says nothing of the CPU.
    was_stopped: bool,
}

impl Wake {
    /// When the CPU stood still, if it did: before it took the timer's interrupt, and so before
    /// anything else kept the thread waiting.
    fn stall(&self) -> Option<(u64, u64)> {
        let until_ns = self.woke_ns.saturating_sub(self.waited_ns);
        let is_stall = !self.was_stopped && until_ns.saturating_sub(self.due_ns) >= LEAST_NS;
        is_stall.then_some((self.due_ns, until_ns))
    }
}

/// What was seen of a CPU in a second.
#[derive(Debug)]
struct Seen {
    cpu: u32,
    real_time: bool,
    steps: u64,
    /// Wakings by the power of two of their lateness in microseconds.
    late: [u64; BUCKETS],
    longest_late_ns: u64,
    waited_ns: u64,
    stalls: u64,
    stalled_ns: u64,
    longest_ns: u64,
    kept: Stalls,
    missing: Option<String>,
}

impl Seen {
    fn new(cpu: usize) -> Self {
        Self {
            cpu: u32::try_from(cpu).unwrap_or(u32::MAX),
            real_time: false,
            steps: 0,
            late: [0; BUCKETS],
            longest_late_ns: 0,
            waited_ns: 0,
            stalls: 0,
            stalled_ns: 0,
            longest_ns: 0,
            kept: Stalls::new(KEPT),
            missing: None,
        }
    }

    fn add(&mut self, wake: Wake) {
        self.steps += 1;
        let late_ns = wake.woke_ns.saturating_sub(wake.due_ns);
        self.late[bucket(late_ns / 1000)] += 1;
        self.longest_late_ns = self.longest_late_ns.max(late_ns);
        self.waited_ns += wake.waited_ns.min(late_ns);
        if let Some(stall) = wake.stall() {
            let stalled_ns = stall.1 - stall.0;
            self.stalls += 1;
            self.stalled_ns += stalled_ns;
            self.longest_ns = self.longest_ns.max(stalled_ns);
            self.kept.add(self.cpu, stall);
        }
    }

    fn to_json(&self, t: u64, cpu: usize) -> Value {
        if let Some(why) = &self.missing {
            return json!({ "t": t, "cpu": cpu, "stalls": null, "missing": why });
        }
        let late = self.late.iter().enumerate().filter(|(_, count)| **count > 0);
        let late: Vec<(u64, u64)> = late.map(|(place, count)| (least_us(place), *count)).collect();
        json!({
            "t": t,
            "cpu": cpu,
            "real_time": self.real_time,
            "step_us": STEP_NS / 1000,
            "steps": self.steps,
            "late_buckets_us": late,
            "longest_late_us": self.longest_late_ns / 1000,
            "waited_us": self.waited_ns / 1000,
            "stalls": self.stalls,
            "stalled_us": self.stalled_ns / 1000,
            "longest_us": self.longest_ns / 1000,
            "intervals_ns": self.kept.of(self.cpu),
            "not_kept": self.kept.forgotten(),
        })
    }
}

/// The bucket of a lateness.
fn bucket(us: u64) -> usize {
    us.checked_ilog2().map_or(0, |power| (power as usize + 1).min(BUCKETS - 1))
}

/// The least lateness in a bucket, in microseconds.
const fn least_us(bucket: usize) -> u64 {
    if bucket == 0 { 0 } else { 1 << (bucket - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn waiting_for_a_cpu_is_no_stall() {
        let wake = |late_ns, waited_ns, was_stopped| Wake {
            due_ns: 5 * MS,
            woke_ns: 5 * MS + late_ns,
            waited_ns,
            was_stopped,
        };
        for (wake, expected) in [
            (wake(MS / 10, 0, false), None),
            (wake(3 * MS, 0, false), Some((5 * MS, 8 * MS))),
            // It stood still first, and then something else had it.
            (wake(3 * MS, MS, false), Some((5 * MS, 7 * MS))),
            (wake(3 * MS, 2_700_000, false), None),
            (wake(3 * MS, 9 * MS, false), None),
            (wake(300 * MS, 0, true), None),
        ] {
            assert_eq!(wake.stall(), expected, "{wake:?}");
        }
        let times = |waited_ns, turns| ThreadTimes { ran_ns: 0, waited_ns, turns };
        assert_eq!(since(times(MS, 10), times(3 * MS, 14), 4), (2 * MS, false));
        assert_eq!(since(times(MS, 10), times(3 * MS, 15), 4), (2 * MS, true));
    }

    #[test]
    fn a_second_adds_up() {
        let mut seen = Seen::new(2);
        for (at, late_ns, waited_ns) in [(1, 5_000, 0), (2, 70_000, 0), (3, 4 * MS, MS), (9, MS, 0)]
        {
            let due_ns = at * MS;
            let woke_ns = due_ns + late_ns;
            seen.add(Wake { due_ns, woke_ns, waited_ns, was_stopped: false });
        }
        let row = seen.to_json(7, 2);
        assert_eq!(row["late_buckets_us"], json!([[4, 1], [64, 1], [512, 1], [2048, 1]]));
        assert_eq!((&row["steps"], &row["stalls"]), (&json!(4), &json!(2)));
        assert_eq!((&row["stalled_us"], &row["longest_us"]), (&json!(4000), &json!(3000)));
        assert_eq!((&row["waited_us"], &row["longest_late_us"]), (&json!(1000), &json!(4000)));
        assert_eq!(row["intervals_ns"], json!([[3 * MS, 6 * MS], [9 * MS, 10 * MS]]));
        let missing = Seen { missing: Some("why".to_owned()), ..Seen::new(2) }.to_json(7, 2);
        assert_eq!((&missing["stalls"], &missing["missing"]), (&Value::Null, &json!("why")));
    }

    /// A thread that has the CPU before the watch: the watch is late, and it was no stall.
    #[test]
    fn a_cpu_that_something_else_has_does_not_stand_still() {
        let cpu = platform::cpus_allowed().expect("CPUs")[0];
        let mut stalls = StallWatch::start(&[cpu]).expect("a thread");
        let hog = std::thread::spawn(move || {
            pin_to(cpu)?;
            set_priority(None, Priority::RealTime(PRIORITY + 1))?;
            let end = monotonic_ns() + 40 * MS;
            while monotonic_ns() < end {
                std::hint::spin_loop();
            }
            io::Result::Ok(())
        });
        let is_root = match hog.join().expect("a thread") {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
            Err(error) => panic!("{error}"),
        };
        // What it has by now, and what it says when it has woken once more: before the other thread
        // began it may have woken, too.
        let (mut looks, mut waited_us, mut longest_us) = (0, 0, 0);
        let rows = loop {
            let rows = stalls.second(1);
            let row = &rows[0].values;
            waited_us += row["waited_us"].as_u64().expect("a number");
            longest_us = longest_us.max(row["longest_us"].as_u64().expect("a number"));
            looks += 1;
            if looks > 1 && row["steps"].as_u64() > Some(0) {
                break rows;
            }
            std::thread::yield_now();
        };
        let row = &rows[0].values;
        assert_eq!((rows.len(), rows[0].source), (1, "stalls"));
        assert_eq!(row["real_time"], is_root);
        if needs::can("real-time priority", is_root) {
            assert!(waited_us >= 30_000, "{waited_us}");
            assert!(longest_us < 20_000, "what waited is no stall: {longest_us}");
        }
    }

    #[test]
    fn a_cpu_that_there_is_not_has_no_figures() {
        let mut stalls = StallWatch::start(&[1000]).expect("a thread");
        let mut seen = || stalls.second(1)[0].values["missing"].is_string();
        while !seen() {
            std::thread::yield_now();
        }
        assert_eq!(stalls.longest_us(), None);
    }
}
