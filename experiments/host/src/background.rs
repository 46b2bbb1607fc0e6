//! This process in the background of the programs under test: its working thread takes no CPU that
//! one of them wants.
//!
//! Owns: the priority of that thread, and that it does not starve: at idle priority it would, on a
//! busy machine, and then no order would be given and no signal heard. Must not know: what the
//! thread works on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use platform::{Priority, SchedStat, may_return, monotonic_ns, set_priority};
use rustix::thread::{Pid, gettid};

/// The guard looks this often. A thread that starves is helped after two looks.
const LOOK: Duration = Duration::from_millis(100);

/// A thread that was helped is left alone until it had nothing to do at so many looks.
const CALM: u32 = 50;

/// The calling thread in the background, until this is dropped by the same thread.
#[derive(Debug)]
pub struct Background {
    /// Of a thread at idle priority.
    guard: Option<Guard>,
    has_yielded: bool,
}

#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: Mutex<bool>,
    changed: Condvar,
    is_idle: AtomicBool,
    helped: AtomicU64,
}

impl Background {
    /// Nothing is in the background yet.
    pub fn none() -> Self {
        Self { guard: None, has_yielded: false }
    }

    /// Puts the calling thread there: at idle priority where it may come back from that, and else
    /// behind every thread that runs. What it starts from now on is there, too.
    pub fn enter() -> Self {
        if may_return()
            && let Ok(guard) = Guard::start()
        {
            return Self { guard: Some(guard), has_yielded: true };
        }
        Self { guard: None, has_yielded: set_priority(None, Priority::Batch).is_ok() }
    }

    /// The priority of the thread as a word.
    pub fn priority(&self) -> &'static str {
        match &self.guard {
            Some(guard) if guard.shared.is_idle.load(Ordering::Relaxed) => "idle",
            None if self.has_yielded => "batch",
            _ => "normal",
        }
    }

    /// How often the thread would have starved.
    pub fn helped(&self) -> u64 {
        self.guard.as_ref().map_or(0, |guard| guard.shared.helped.load(Ordering::Relaxed))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Ended before the thread is made normal, or it would change that.
        drop(self.guard.take());
        if self.has_yielded {
            // It may return: that was tried.
            let _ = set_priority(None, Priority::Normal);
        }
    }
}

impl Guard {
    /// Guards the calling thread, and gives it idle priority.
    fn start() -> io::Result<Self> {
        let guarded = Guarded::this_thread()?;
        let shared = Arc::new(Shared { is_idle: AtomicBool::new(true), ..Shared::default() });
        let guards = Arc::clone(&shared);
        // Before the thread is idle: the guard is not.
        let thread = std::thread::Builder::new()
            .name("lab-guard".to_owned())
            .spawn(move || guarded.guard(&guards))?;
        let guard = Self { shared, thread: Some(thread) };
        set_priority(None, Priority::Idle)?;
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

/// A thread that is looked at from another one.
struct Guarded {
    thread: Pid,
    stat: File,
    times: SchedStat,
}

impl Guarded {
    fn this_thread() -> io::Result<Self> {
        let stat = File::open("/proc/thread-self/stat")?;
        let guarded = Self { thread: gettid(), stat, times: SchedStat::of_this_thread() };
        // A kernel that keeps no accounts of threads does not say who starves.
        guarded.look().map(|_| guarded).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// How the thread stands; `None` when the kernel does not say.
    fn look(&self) -> Option<Look> {
        let mut text = [0; 256];
        let len = self.stat.read_at(&mut text, 0).ok()?;
        // The name before may have any characters.
        let after_name = text[..len].rsplit(|byte| *byte == b')').next()?;
        let wants_cpu = after_name.get(1) == Some(&b'R');
        Some(Look { at_ns: monotonic_ns(), ran_ns: self.times.read()?.ran_ns, wants_cpu })
    }

    fn guard(&self, shared: &Shared) {
        let mut watch = Watch::default();
        let mut stopped = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let waited = shared.changed.wait_timeout_while(stopped, LOOK, |stopped| !*stopped);
            stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *stopped {
                return;
            }
            let is_idle = match self.look().and_then(|look| watch.look(look)) {
                Some(is_idle) => is_idle,
                None => continue,
            };
            let priority = if is_idle { Priority::Idle } else { Priority::Normal };
            if set_priority(Some(self.thread), priority).is_ok() {
                shared.helped.fetch_add(u64::from(!is_idle), Ordering::Relaxed);
                shared.is_idle.store(is_idle, Ordering::Relaxed);
            }
        }
    }
}

/// A look at a thread.
#[derive(Clone, Copy, Debug)]
struct Look {
    at_ns: u64,
    /// How long it has run in all.
    ran_ns: u64,
    /// It runs, or waits for a CPU.
    wants_cpu: bool,
}

/// What was seen of a thread so far.
#[derive(Debug, Default)]
struct Watch {
    last: Option<Look>,
    is_helped: bool,
    /// Looks at which it had nothing to do, since it was helped.
    calm: u32,
}

impl Watch {
    /// Takes in a look. Returns whether the thread is to be idle from now on, when that changes.
    fn look(&mut self, look: Look) -> Option<bool> {
        let last = self.last.replace(look)?;
        if self.is_helped {
            self.calm += u32::from(!look.wants_cpu);
            if self.calm < CALM {
                return None;
            }
            (self.is_helped, self.calm) = (false, 0);
            return Some(true);
        }
        // Between both looks it had less than half of a CPU.
        let elapsed_ns = look.at_ns - last.at_ns;
        let starves = last.wants_cpu && look.wants_cpu;
        self.is_helped = starves && look.ran_ns.saturating_sub(last.ran_ns) < elapsed_ns / 2;
        self.is_helped.then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_thread_that_wants_to_run_and_does_not_is_helped_for_a_while() {
        let mut watch = Watch::default();
        let mut at_ns = 0;
        let mut look = |wants_cpu, ran_ns| {
            at_ns += 100 * MS;
            watch.look(Look { at_ns, ran_ns, wants_cpu })
        };
        assert_eq!(look(true, 0), None, "one look says nothing");
        assert_eq!(look(false, 0), None, "it had what it wanted");
        assert_eq!(look(true, MS), None);
        assert_eq!(look(true, 90 * MS), None, "it works, and is not kept from it");
        assert_eq!(look(true, 120 * MS), Some(false), "30 ms of 100");
        for _ in 0..2 * CALM {
            assert_eq!(look(true, 120 * MS), None, "it is helped as long as it has work");
        }
        for _ in 1..CALM {
            assert_eq!(look(false, 120 * MS), None);
        }
        assert_eq!(look(false, 120 * MS), Some(true));
        assert_eq!(look(true, 120 * MS), None);
        assert_eq!(look(true, 120 * MS), Some(false), "and again");
    }

    #[test]
    fn a_thread_comes_back_as_it_was() {
        let expected = if may_return() { "idle" } else { "batch" };
        // One that the guard had to help, because other tests had the CPUs, shows nothing.
        let background = loop {
            let background = Background::enter();
            let priority = background.priority();
            if background.helped() == 0 {
                assert_eq!(priority, expected);
                break background;
            }
        };
        drop(background);
        // SAFETY: a plain system call; 0 names the calling thread.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_OTHER);
        assert_eq!(Background::none().priority(), "normal");
    }

    /// Threads of normal priority have every CPU; the one in the background works all the same.
    #[test]
    fn a_thread_in_the_background_of_a_busy_machine_is_helped() {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 * std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let background = Background::enter();
            let began = std::time::Instant::now();
            let is_idle = background.priority() == "idle";
            // At idle priority the others leave it a three-hundredth, which would take a minute.
            let times = SchedStat::of_this_thread();
            let ran = || times.read().map(|it| it.ran_ns);
            let enough = ran().map(|ns| ns + 200 * MS);
            while ran() < enough && began.elapsed() < Duration::from_secs(30) {
                std::hint::black_box((0..10_000_u64).sum::<u64>());
            }
            over.store(true, Ordering::Relaxed);
            assert!(ran() >= enough, "{:?} of {enough:?} after {:?}", ran(), began.elapsed());
            assert!(!is_idle || background.helped() > 0, "it was not noticed");
        });
    }
}
