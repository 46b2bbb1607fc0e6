//! Stalls of a CPU, seen without the probes: on each CPU a thread of a real-time priority wakes
//! once a millisecond. No other program can hold it up; when it is late all the same, the machine
//! stood still, and everything that ran there was late for no injected cause. A hypervisor that
//! takes a CPU away need not say so in the kernel's steal time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use platform::monotonic_ns;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, Timespec};

/// How often a thread wants to run.
const STEP_NS: u64 = 1_000_000;

/// Above all other programs, below the kernel's own threads of the highest priority.
const PRIORITY: libc::c_int = 50;

/// Threads that watch, until [`StallWatch::longest_us`] is asked.
pub(super) struct StallWatch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<u64>>>,
}

impl StallWatch {
    /// Watches these CPUs. Returns when each of the threads watches, or was refused.
    pub(super) fn start(cpus: &[usize]) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        // Nothing is sent: all have begun when the last sender is gone.
        let (beginning, begun) = mpsc::channel::<()>();
        let threads = cpus.iter().map(|&cpu| {
            let (stop, beginning) = (Arc::clone(&stop), beginning.clone());
            std::thread::Builder::new().name("stalls".to_owned()).spawn(move || {
                pin(cpu)?;
                take_priority(PRIORITY)?;
                let next_ns = monotonic_ns() + STEP_NS;
                drop(beginning);
                watch(&stop, next_ns)
            })
        });
        let threads = threads.collect::<io::Result<_>>()?;
        drop(beginning);
        let _ = begun.recv();
        Ok(Self { stop, threads })
    }

    /// The longest time for which a CPU stood still, in microseconds; `None` when a thread was not
    /// allowed to watch.
    pub(super) fn longest_us(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.threads.into_iter().map(|thread| thread.join().ok()?.ok());
        longest.collect::<Option<Vec<u64>>>()?.into_iter().max().map(|ns| ns / 1000)
    }
}

/// How late the latest wake-up was, in nanoseconds, when the first is due at `next_ns`.
fn watch(stop: &AtomicBool, mut next_ns: u64) -> io::Result<u64> {
    let mut longest_ns = 0;
    while !stop.load(Ordering::Relaxed) {
        let next = Timespec {
            tv_sec: (next_ns / 1_000_000_000).cast_signed(),
            tv_nsec: (next_ns % 1_000_000_000).cast_signed(),
        };
        match rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &next) {
            Ok(()) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let now_ns = monotonic_ns();
        longest_ns = longest_ns.max(now_ns - next_ns);
        next_ns = now_ns + STEP_NS;
    }
    Ok(longest_ns)
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

fn take_priority(priority: libc::c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: of the calling thread, and the kernel only reads the parameter.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_stands_still_is_noticed() {
        let stalls = StallWatch::start(&[0]).expect("a thread");
        // Only what has a higher priority still is like a machine that stands still.
        let stall = std::thread::spawn(|| {
            pin(0)?;
            take_priority(PRIORITY + 1)?;
            let end = monotonic_ns() + 20_000_000;
            while monotonic_ns() < end {
                std::hint::spin_loop();
            }
            io::Result::Ok(())
        });
        match stall.join().expect("a thread") {
            Ok(()) => {
                let longest_us = stalls.longest_us().expect("it may watch");
                // The watch may have woken a step before.
                assert!(longest_us >= 18_000, "{longest_us}");
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("no real-time priority without root");
                assert_eq!(stalls.longest_us(), None);
            }
            Err(error) => panic!("{error}"),
        }
    }
}
