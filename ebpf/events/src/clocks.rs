//! What a thread's time goes by with.

use crate::layout;

/// Clocks per thread.
pub const KINDS: usize = 11;

/// What a thread's time goes by with, as indices of its clocks.
pub mod kind {
    /// On a CPU.
    pub const RUN: usize = 0;
    /// On a CPU that interrupts or softirqs had meanwhile.
    pub const INTERRUPTED: usize = 1;
    /// Runnable, its own program had the CPU.
    pub const WAIT_OWN: usize = 2;
    /// Runnable, another program had the CPU.
    pub const WAIT_OTHER: usize = 3;
    /// Runnable, the CPU was idle.
    pub const WAIT_IDLE: usize = 4;
    /// Runnable, interrupts, softirqs or the kernel's threads for them had the CPU.
    pub const WAIT_INTERRUPTS: usize = 5;
    /// Its group's quota of CPU time was used up.
    pub const THROTTLED: usize = 6;
    /// Stopped by a signal, traced, or frozen.
    pub const STOPPED: usize = 7;
    /// Asleep, and no signal can wake it: disk, page fault, reclaim, the kernel's locks.
    pub const BLOCKED: usize = 8;
    /// Asleep by its own choice.
    pub const ASLEEP: usize = 9;
    /// None of these was seen.
    pub const UNKNOWN: usize = 10;
}

/// Who has held a CPU so far, as far as it matters to a thread that waits for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The thread's own program, nanoseconds.
    pub own_ns: u64,
    /// The idle task.
    pub idle_ns: u64,
    /// Interrupts, and the kernel's threads for them.
    pub interrupts_ns: u64,
}

layout!(Held, 24, idle_ns at 8);
