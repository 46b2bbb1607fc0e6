//! One timer descriptor a shard, in its readiness set, for everything that is due at a time.
//!
//! Programming a timer is expensive inside a virtual machine, where it leaves the guest: a timeout
//! on every wait cost 7 µs a wait (docs/decisions/0003-one-timer.md). So the timer is armed only
//! when it would otherwise expire too late, and left alone when it expires too early.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use platform::NANOS_PER_SECOND;

/// A one-shot timer on the monotonic clock.
#[derive(Debug)]
pub(crate) struct Timer {
    descriptor: OwnedFd,
    /// When it expires next; `u64::MAX` when it does not.
    armed_ns: u64,
    /// The shortest sleep that is worth a timer.
    slack_ns: u64,
}

impl Timer {
    /// A timer that expires at most once every `slack_ns`: an earlier deadline is met that much
    /// late.
    ///
    /// # Errors
    /// What `timerfd_create` says.
    pub(crate) fn new(slack_ns: u64) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { descriptor, armed_ns: u64::MAX, slack_ns })
    }

    /// Makes the timer expire at `deadline_ns`, or before.
    ///
    /// # Errors
    /// What `timerfd_settime` says.
    pub(crate) fn arm(&mut self, deadline_ns: u64, now_ns: u64) -> io::Result<()> {
        let at_ns = deadline_ns.max(now_ns.saturating_add(self.slack_ns));
        if self.armed_ns <= at_ns {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at = Timespec {
            tv_sec: (at_ns / NANOS_PER_SECOND).cast_signed(),
            tv_nsec: (at_ns % NANOS_PER_SECOND).cast_signed(),
        };
        let setting = Itimerspec { it_interval: zero, it_value: at };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::ABSTIME, &setting)?;
        self.armed_ns = at_ns;
        Ok(())
    }

    /// To be called when the descriptor was readable: the timer is disarmed and can be armed again.
    /// It need not be read, for its readiness set is edge-triggered.
    pub(crate) fn expired(&mut self) {
        self.armed_ns = u64::MAX;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
