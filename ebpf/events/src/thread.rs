//! Threads of the watched programs, and who held each CPU.

#[cfg(doc)]
use crate::kind;
use crate::{Held, Histogram, KINDS, layout};

/// Threads that can be watched at once; slot 0 means "none". 54 shards on each side with a few
/// helpers each need about 250. Threads beyond are counted, not watched.
pub const THREAD_SLOTS: usize = 1024;

/// Clocks per CPU: one per program.
pub const PROGRAMS: usize = 16;
/// Any program that is not watched, the kernel's threads included.
pub const PROGRAM_OTHER: u8 = 0;
/// The server.
pub const PROGRAM_SERVER: u8 = 1;
/// The first client process.
pub const PROGRAM_CLIENT_FIRST: u8 = 2;
/// The last client process with a clock of its own; those after it share this one.
pub const PROGRAM_CLIENT_LAST: u8 = 13;
/// Interrupts and softirqs, in whoever's context, and the kernel's threads that do their work.
pub const PROGRAM_INTERRUPTS: u8 = 14;
/// The idle task.
pub const PROGRAM_IDLE: u8 = 15;

/// What a thread is doing, as [`ThreadHead::state`].
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

/// What a watched thread does. Written under the run queue's lock, so by one CPU at a time.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadHead {
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
    /// What being off the CPU is at present: [`kind::ASLEEP`] and the like.
    pub off_kind: u32,
    /// Its timeline's number, from 1 on; 0 for none.
    pub timeline: u32,
    /// Since when it has been in its state, or has waited for this CPU.
    pub since_ns: u64,
    /// What its CPU showed when it began to wait or to sleep.
    pub held_at: Held,
    /// How often it had left a CPU by the kernel's own count when it was last seen.
    pub switches_seen: u64,
    /// When the current wait began, on whatever CPU.
    pub wait_began_ns: u64,
    /// Switches away from it because it had nothing to do.
    pub switches_voluntary: u64,
    /// Switches away from it though it wanted to go on.
    pub switches_involuntary: u64,
    /// Moves from one CPU to another.
    pub migrations: u64,
    /// What its time went by with, up to `since_ns`.
    pub clocks_ns: [u64; KINDS],
}

/// A watched thread.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct ThreadEntry {
    /// What it does.
    pub head: ThreadHead,
    /// How long it waited for a CPU, each time.
    pub delays: Histogram,
}

/// Who holds a CPU. Written by that CPU alone, read by all.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuEntry {
    /// Since when the present holder has held it, 0 before the first switch seen.
    pub since_ns: u64,
    /// The thread.
    pub holder_tid: u32,
    /// Its program.
    pub holder_program: u32,
    /// When the send began that the thread on this CPU is in, 0 for none: the softirq that it ends
    /// with is its own work.
    pub own_send_ns: u64,
    /// When the softirq that runs now began, 0 for none.
    pub softirq_from_ns: u64,
    /// Ticks so far.
    pub ticks: u64,
    /// `ticks` when the softirq began, if it is one of the thread's own send; else the largest.
    pub own_ticks: u64,
    /// Switches.
    pub switches: u64,
    /// Times that data became ready for the server here: how many requests there are, or nearly.
    pub requests: u64,
    /// How long each program has held it, up to `since_ns`.
    pub held_ns: [u64; PROGRAMS],
}

layout!(TaskRef, 8, slot at 0, program at 2, tgid at 4);
layout!(ThreadHead, 192, version at 0, since_ns at 32, held_at at 40, clocks_ns at 104);
layout!(ThreadEntry, 2304, head at 0, delays at 192);
layout!(CpuEntry, 192, since_ns at 0, own_send_ns at 16, switches at 48, held_ns at 64);
