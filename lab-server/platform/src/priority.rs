//! How much a thread counts beside others. Must not know: who deserves what.

use std::io;

use rustix::thread::Pid;

/// A policy of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// As any other thread.
    Normal,
    /// As much of a CPU as any other thread, and never in the place of one that runs.
    Batch,
    /// What nobody else wants, and a three-hundredth of what everybody wants.
    Idle,
    /// Before all that is not of the kernel or of a higher number (1 to 99). Needs CAP_SYS_NICE.
    RealTime(u8),
}

/// Sets the priority of a thread of this process, or of the calling one. What it starts from then
/// on has the same.
///
/// # Errors
/// What the kernel says: going back from [`Priority::Idle`] is a privilege, too.
pub fn set_priority(thread: Option<Pid>, priority: Priority) -> io::Result<()> {
    let (policy, priority) = match priority {
        Priority::Normal => (libc::SCHED_OTHER, 0),
        Priority::Batch => (libc::SCHED_BATCH, 0),
        Priority::Idle => (libc::SCHED_IDLE, 0),
        Priority::RealTime(priority) => (libc::SCHED_FIFO, priority.into()),
    };
    let parameter = libc::sched_param { sched_priority: priority };
    let thread = Pid::as_raw(thread);
    // SAFETY: a plain system call that only reads the parameter; 0 names the calling thread.
    match unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a thread of this process that is [`Priority::Idle`] may be normal again.
pub fn may_return() -> bool {
    let there_and_back = || -> io::Result<()> {
        set_priority(None, Priority::Idle)?;
        set_priority(None, Priority::Normal)
    };
    // In a thread of its own, which may have to stay where it went.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, there_and_back);
        thread.is_ok_and(|thread| thread.join().is_ok_and(|done| done.is_ok()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: a plain system call; 0 names the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    /// Each test has a thread of its own, so nothing is left behind.
    #[test]
    fn a_thread_has_the_priority_that_was_set() {
        set_priority(None, Priority::Batch).expect("everybody may");
        assert_eq!(policy(), libc::SCHED_BATCH);
        set_priority(None, Priority::Normal).expect("everybody may");
        assert_eq!(policy(), libc::SCHED_OTHER);
        let may_return = may_return();
        assert_eq!(policy(), libc::SCHED_OTHER, "asking changes nothing");
        set_priority(None, Priority::Idle).expect("everybody may");
        assert_eq!(policy(), libc::SCHED_IDLE);
        assert_eq!(set_priority(None, Priority::Normal).is_ok(), may_return);
        let expected = if may_return { libc::SCHED_OTHER } else { libc::SCHED_IDLE };
        assert_eq!(policy(), expected);
        match set_priority(None, Priority::RealTime(1)) {
            Ok(()) => assert_eq!(policy(), libc::SCHED_FIFO),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
