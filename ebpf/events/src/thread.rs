//! Threads of the watched programs, and who held each CPU.

use crate::{Histogram, NAME_LENGTH, layout};

/// Threads that can be watched at once; slot 0 means "none". 54 shards on each side with a few
/// helpers each need about 250. Threads beyond are counted, not watched.
pub const THREAD_SLOTS: usize = 1024;

/// Waits kept per thread: a power of two. At a wait of 50 µs and more, 64 cover at least 3 ms of
/// pure waiting, which is more than a request's T0 to T1 without it being a loss.
pub const WAITS_KEPT: usize = 64;

/// Only waits of at least this length are kept.
pub const LONG_WAIT_NS: u64 = 50_000;

/// Clocks per CPU: one per program.
pub const PROGRAMS: usize = 16;
/// Any program that is not watched, the kernel's threads included.
pub const PROGRAM_OTHER: u8 = 0;
/// The server.
pub const PROGRAM_SERVER: u8 = 1;
/// The first client process.
pub const PROGRAM_CLIENT_FIRST: u8 = 2;
/// The last client process with a clock of its own; those after it share this one.
pub const PROGRAM_CLIENT_LAST: u8 = 14;
/// The idle task.
pub const PROGRAM_IDLE: u8 = 15;

/// What a thread is doing, as [`ThreadEntry::state`].
pub struct ThreadState;

impl ThreadState {
    /// Not seen yet.
    pub const UNKNOWN: u32 = 0;
    /// On a CPU.
    pub const RUNNING: u32 = 1;
    /// Runnable, not running.
    pub const WAITING: u32 = 2;
    /// Neither.
    pub const SLEEPING: u32 = 3;
    /// Gone.
    pub const EXITED: u32 = 4;
}

/// What the kernel side knows of a task by its number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskRef {
    /// The thread's slot, 0 for none.
    pub slot: u16,
    /// The program it belongs to.
    pub program: u8,
    /// Unused.
    pub padding: u8,
    /// The process it belongs to.
    pub tgid: u32,
}

/// One wait for a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// When the thread became runnable.
    pub start_ns: u64,
    /// When it ran.
    pub end_ns: u64,
    /// For how long of it others held the CPU; the rest, its own program did.
    pub foreign_ns: u64,
    /// The thread that held it: of other programs the one with the longest hold, when those held
    /// most of the wait; else the last one.
    pub holder_tid: u32,
    /// Unused.
    pub padding: u32,
    /// Its name.
    pub holder_name: [u8; NAME_LENGTH],
}

/// A watched thread. Written under the run queue's lock, so by one CPU at a time.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct ThreadEntry {
    /// Odd while the entry is being written.
    pub version: u32,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its program.
    pub program: u32,
    /// One of [`ThreadState`].
    pub state: u32,
    /// The CPU it runs on or waits for.
    pub cpu: u32,
    /// Since when it has been in its state, or has waited for this CPU.
    pub since_ns: u64,
    /// Its program's clock on that CPU then.
    pub held_at_ns: u64,
    /// Total time runnable and not running while others held the CPU, or it was idle.
    pub wait_foreign_ns: u64,
    /// Total time runnable and not running while its own program held the CPU.
    pub wait_own_ns: u64,
    /// Total time on a CPU.
    pub ran_ns: u64,
    /// Total time neither running nor runnable.
    pub slept_ns: u64,
    /// When the current wait began, on whatever CPU.
    pub wait_began_ns: u64,
    /// `wait_foreign_ns` when the current wait began.
    pub wait_foreign_before_ns: u64,
    /// Switches away from it because it had nothing to do.
    pub switches_voluntary: u64,
    /// Switches away from it though it wanted to go on.
    pub switches_involuntary: u64,
    /// Moves from one CPU to another.
    pub migrations: u64,
    /// Waits kept so far; the next one goes to `waits[waits_kept % WAITS_KEPT]`.
    pub waits_kept: u64,
    /// Unused.
    pub padding: u64,
    /// How long it waited for a CPU, each time.
    pub delays: Histogram,
    /// The latest long waits.
    pub waits: [Wait; WAITS_KEPT],
}

/// Who holds a CPU. Written by that CPU alone, read by all.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct CpuEntry {
    /// Since when the present holder has held it, 0 before the first switch seen.
    pub since_ns: u64,
    /// The thread.
    pub holder_tid: u32,
    /// Its program.
    pub holder_program: u32,
    /// Who of no watched program held it longest since a watched thread last ran here.
    pub foreign_tid: u32,
    /// Unused.
    pub padding: u32,
    /// For how long, 0 if none did.
    pub foreign_longest_ns: u64,
    /// Its name.
    pub foreign_name: [u8; NAME_LENGTH],
    /// Switches.
    pub switches: u64,
    /// Times that data became ready for the server here: how many requests there are, or nearly.
    pub requests: u64,
    /// How long each program has held it, up to `since_ns`.
    pub held_ns: [u64; PROGRAMS],
}

layout!(TaskRef, 8, slot at 0, program at 2, tgid at 4);
layout!(Wait, 48, start_ns at 0, foreign_ns at 16, holder_tid at 24, holder_name at 32);
layout!(ThreadEntry, 5248, version at 0, since_ns at 24, wait_own_ns at 48, ran_ns at 56,
    waits_kept at 112, delays at 128, waits at 2176);
layout!(CpuEntry, 192, since_ns at 0, foreign_tid at 16, foreign_name at 32, requests at 56,
    held_ns at 64);
