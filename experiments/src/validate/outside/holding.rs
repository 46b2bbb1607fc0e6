//! CPUs held by other programs: by threads of this one, and by programs that end at once.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use platform::{Priority, pin_to, set_priority};

use super::bursts::{Account, BURST, BURSTS, Made, PAUSE};

/// Above every ordinary program.
const PRIORITY: u8 = 10;

/// Real-time threads leave some of each period to others, or the kernel takes it: 95% of a second.
const REAL_TIME_SLICE: Duration = Duration::from_millis(30);

/// The nice level of threads that share a CPU with an end: they have it for long stretches.
const NICE: libc::c_int = -15;

/// Programs of a storm at a time: behind one alone nobody waits for long.
const AT_A_TIME: usize = 8;

fn spin(until: Instant) {
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// On a thread of its own, so that neither its CPU nor its priority stay with the caller.
pub(super) fn apart(work: impl FnOnce() -> Made + Send) -> Made {
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        work.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that makes a fault panicked")))
    })
}

/// Bursts of so many slices with as long a rest after each.
fn slices(slice: Duration, over: &AtomicBool) -> Account {
    let mut account = Account::default();
    for _ in 0..BURSTS {
        let end = Instant::now() + BURST;
        while Instant::now() < end && !over.load(Ordering::Relaxed) {
            spin(Instant::now() + slice);
            account.held_ms += slice.as_millis() as u64;
            std::thread::sleep(slice);
        }
        account.bursts += u32::from(!over.load(Ordering::Relaxed));
        std::thread::sleep(PAUSE);
    }
    account
}

/// A thread of a real-time priority.
pub(super) fn real_time(cpu: usize, over: &AtomicBool) -> Made {
    apart(|| {
        pin_to(cpu)?;
        let refused = || "no real-time priority";
        set_priority(None, Priority::RealTime(PRIORITY)).with_context(refused)?;
        Ok(slices(REAL_TIME_SLICE, over))
    })
}

/// Threads of a higher priority than the ends', on both CPUs at once.
pub(super) fn both(cpus: [usize; 2], over: &AtomicBool) -> Made {
    let hog = |cpu: usize| {
        apart(|| {
            pin_to(cpu)?;
            // SAFETY: of the calling thread alone.
            let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
            anyhow::ensure!(set == 0, "no priority: {}", std::io::Error::last_os_error());
            Ok(slices(REAL_TIME_SLICE, over))
        })
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| hog(cpus[1]));
        let one = hog(cpus[0]);
        let panicked = |_| Err(anyhow::anyhow!("a thread that makes a fault panicked"));
        let other = other.join().unwrap_or_else(panicked)?;
        let one = one?;
        Ok(Account { bursts: one.bursts.min(other.bursts), held_ms: one.held_ms + other.held_ms })
    })
}

/// Programs that end as soon as they begin, several at a time, on the CPU: none of them holds it
/// long, and together they do.
pub(super) fn storm(cpu: usize, over: &AtomicBool) -> Made {
    let one = || {
        apart(|| {
            pin_to(cpu)?;
            // SAFETY: of the calling thread alone; its children inherit it.
            let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
            anyhow::ensure!(set == 0, "no priority: {}", std::io::Error::last_os_error());
            begin_and_end(over)
        })
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(one)).collect();
        let panicked = |_| Err(anyhow::anyhow!("a thread that makes a fault panicked"));
        // All do the same at the same time: the account of one is that of all.
        let accounts = all.into_iter().map(|one| one.join().unwrap_or_else(panicked));
        accounts.collect::<anyhow::Result<Vec<_>>>()?.pop().context("no program was begun")
    })
}

/// Begins programs that end at once, one after another, burst by burst.
fn begin_and_end(over: &AtomicBool) -> Made {
    let mut account = Account::default();
    for _ in 0..BURSTS {
        let began = Instant::now();
        while began.elapsed() < BURST && !over.load(Ordering::Relaxed) {
            let mut program = Command::new("true");
            program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            program.status().context("the program \"true\" cannot be started")?;
        }
        account.bursts += u32::from(!over.load(Ordering::Relaxed));
        account.held_ms += began.elapsed().as_millis() as u64;
        std::thread::sleep(PAUSE);
    }
    Ok(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_is_over_holds_nothing() {
        let account = slices(REAL_TIME_SLICE, &AtomicBool::new(true));
        assert_eq!(account, Account::default());
    }
}
