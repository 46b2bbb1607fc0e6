//! Processes held by signals and by a tracer.

use std::sync::atomic::AtomicBool;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::bursts::{Made, bursts};

/// SIGSTOP, and SIGCONT.
pub(super) fn stop(pid: Pid, over: &AtomicBool) -> Made {
    let signal = |signal: Signal| move || Ok(kill_process(pid, signal)?);
    bursts(over, signal(Signal::STOP), signal(Signal::CONT))
}

/// A tracer that holds all threads. One thread does all of it: only the tracer may let go.
pub(super) fn trace(pid: Pid, over: &AtomicBool) -> Made {
    let held = std::cell::RefCell::new(Vec::new());
    bursts(
        over,
        || {
            for thread in threads(pid)? {
                hold(thread).with_context(|| format!("cannot trace thread {thread}"))?;
                held.borrow_mut().push(thread);
            }
            Ok(())
        },
        || {
            // One that has ended is nobody's any more.
            held.borrow_mut().drain(..).for_each(release);
            Ok(())
        },
    )
}

fn threads(pid: Pid) -> anyhow::Result<Vec<libc::pid_t>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let names = tasks.map(|task| Ok(task?.file_name()));
    let names: Vec<_> = names.collect::<std::io::Result<_>>()?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Attaches to a thread and waits until it stands still.
fn hold(thread: libc::pid_t) -> std::io::Result<()> {
    request(libc::PTRACE_SEIZE, thread)?;
    let held = request(libc::PTRACE_INTERRUPT, thread).and_then(|()| {
        let mut status = 0;
        // SAFETY: the status is written to a local.
        match unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    });
    if held.is_err() {
        release(thread);
    }
    held
}

fn release(thread: libc::pid_t) {
    // A thread that has ended cannot be let go of, and need not be.
    let _ = request(libc::PTRACE_DETACH, thread);
}

fn request(what: libc::c_uint, thread: libc::pid_t) -> std::io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests read and write no memory.
    match unsafe { libc::ptrace(what, thread, nothing, nothing) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn state(pid: u32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).expect("a state")
    }

    #[test]
    fn a_process_is_held_and_let_go() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = Pid::from_child(&child);
        let account = stop(pid, &AtomicBool::new(false)).expect("stopped");
        assert_eq!(account.bursts, super::super::bursts::BURSTS);
        assert!(account.held_ms >= 1_000, "{account:?}");
        assert_eq!(state(child.id()), 'S');
        for thread in threads(pid).expect("threads") {
            hold(thread).expect("held");
            assert_eq!(state(child.id()), 't');
            release(thread);
        }
        assert_ne!(state(child.id()), 't');
        child.kill().and_then(|()| child.wait()).expect("ended");
    }
}
