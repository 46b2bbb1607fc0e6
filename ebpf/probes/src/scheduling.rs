//! Who runs, who waits, and who holds the CPU meanwhile.
//!
//! All of it happens under the lock of the run queue concerned, so a thread's entry has one writer
//! at a time; its version tells readers on other CPUs whether it held still.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use events::{
    CpuEntry, LONG_WAIT_NS, NAME_LENGTH, PROGRAM_IDLE, PROGRAM_OTHER, PROGRAMS, TaskRef,
    ThreadEntry, ThreadState, WAITS_KEPT, Wait,
};

use crate::{
    kernel::{Object, config},
    threads::{self, CPUS, THREADS},
};

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// A task, as far as it matters here.
#[derive(Clone, Copy)]
struct Task {
    object: Object,
    tid: u32,
    found: TaskRef,
}

impl Task {
    #[inline(always)]
    fn of(object: Object) -> Self {
        let tid: u32 = object.field(config!(offsets.task_pid));
        if tid == 0 {
            let found = TaskRef { program: PROGRAM_IDLE, ..NOBODY };
            return Self { object, tid, found };
        }
        let tgid: u32 = object.field(config!(offsets.task_tgid));
        Self { object, tid, found: threads::watched(tid, tgid) }
    }

    #[inline(always)]
    fn name(self) -> [u8; NAME_LENGTH] {
        self.object.copy(config!(offsets.task_comm)).unwrap_or_default()
    }
}

const NOBODY: TaskRef = TaskRef { slot: 0, program: PROGRAM_OTHER, padding: 0, tgid: 0 };

/// A CPU goes from one task to another.
#[btf_tracepoint(function = "sched_switch")]
pub(crate) fn switched(ctx: BtfTracePointContext) -> i32 {
    let preempted: u64 = ctx.arg(0);
    let state: u32 = ctx.arg(3);
    let leaves = if preempted as u8 != 0 || state == 0 {
        Leaves::Runnable
    } else if state & TASK_DEAD != 0 {
        Leaves::Dead
    } else {
        Leaves::Asleep
    };
    try_switched(Object::new(ctx.arg(1)), Object::new(ctx.arg(2)), leaves);
    0
}

/// The state of a task that runs no more.
const TASK_DEAD: u32 = 0x80;

/// How a task leaves the CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Runnable,
    Asleep,
    Dead,
}

#[inline(always)]
fn try_switched(previous: Object, next: Object, leaves: Leaves) -> Option<()> {
    // SAFETY: no arguments.
    let number = unsafe { bpf_get_smp_processor_id() };
    let now = now_ns();
    let (previous, next) = (Task::of(previous), Task::of(next));
    let cpu = CPUS.get_ptr_mut(number)?;
    // SAFETY: the map's value; only this CPU writes it.
    let cpu = unsafe { &mut *cpu };
    cpu_switched(cpu, previous, next, now);
    if previous.found.slot != 0
        && let Some(entry) = THREADS.get_ptr_mut(u32::from(previous.found.slot))
    {
        // SAFETY: the map's value, under the run queue's lock.
        unsafe { switched_out(entry, cpu, number, now, leaves) };
        if leaves == Leaves::Dead {
            threads::forget(previous.tid);
        }
    }
    if next.found.slot != 0
        && let Some(entry) = THREADS.get_ptr_mut(u32::from(next.found.slot))
    {
        // SAFETY: as above.
        unsafe { switched_in(entry, cpu, previous, number, now) };
        cpu.foreign_longest_ns = 0;
    }
    Some(())
}

/// Brings the CPU's clocks up to now and notes the new holder.
#[inline(always)]
fn cpu_switched(cpu: &mut CpuEntry, previous: Task, next: Task, now: u64) {
    let clock = cpu.holder_program as usize & (PROGRAMS - 1);
    if cpu.since_ns != 0 {
        // SAFETY: the mask keeps the index within the array.
        unsafe {
            *(&raw mut cpu.held_ns).cast::<u64>().add(clock) += now.saturating_sub(cpu.since_ns);
        }
    }
    let turn_ns = now.saturating_sub(cpu.since_ns);
    if previous.found.program == PROGRAM_OTHER && turn_ns > cpu.foreign_longest_ns {
        cpu.foreign_tid = previous.tid;
        cpu.foreign_longest_ns = turn_ns;
        cpu.foreign_name = previous.name();
    }
    cpu.holder_tid = next.tid;
    cpu.holder_program = u32::from(next.found.program);
    cpu.since_ns = now;
    cpu.switches += 1;
}

/// The entry is being written.
#[inline(always)]
unsafe fn open(entry: *mut ThreadEntry) {
    // SAFETY: the caller's entry is a map's value.
    unsafe {
        let version = &raw mut (*entry).version;
        version.write_volatile(version.read_volatile() | 1);
    }
}

/// The entry is whole again.
#[inline(always)]
unsafe fn close(entry: *mut ThreadEntry) {
    // SAFETY: the caller's entry is a map's value.
    unsafe {
        let version = &raw mut (*entry).version;
        version.write_volatile((version.read_volatile() | 1).wrapping_add(1));
    }
}

#[inline(always)]
unsafe fn switched_out(
    entry: *mut ThreadEntry,
    cpu: &CpuEntry,
    number: u32,
    now: u64,
    leaves: Leaves,
) {
    // SAFETY: the caller's entry is a map's value, and nobody else writes it now.
    unsafe {
        open(entry);
        let thread = &mut *entry;
        if thread.state == ThreadState::RUNNING {
            thread.ran_ns += now.saturating_sub(thread.since_ns);
        }
        if leaves == Leaves::Runnable {
            thread.switches_involuntary += 1;
            begin_wait(thread, number, held_here(cpu, thread.program), now);
        } else {
            thread.switches_voluntary += 1;
            thread.state =
                if leaves == Leaves::Dead { ThreadState::EXITED } else { ThreadState::SLEEPING };
            thread.cpu = number;
            thread.since_ns = now;
        }
        close(entry);
    }
}

/// A program's clock on the CPU whose clocks have just been brought up to now.
#[inline(always)]
unsafe fn held_here(cpu: &CpuEntry, program: u32) -> u64 {
    // SAFETY: the mask keeps the index within the array.
    unsafe { *(&raw const cpu.held_ns).cast::<u64>().add(program as usize & (PROGRAMS - 1)) }
}

#[inline(always)]
fn begin_wait(thread: &mut ThreadEntry, cpu: u32, held_ns: u64, now: u64) {
    thread.state = ThreadState::WAITING;
    thread.cpu = cpu;
    thread.since_ns = now;
    thread.held_at_ns = held_ns;
    thread.wait_began_ns = now;
    thread.wait_foreign_before_ns = thread.wait_foreign_ns;
}

#[inline(always)]
unsafe fn switched_in(
    entry: *mut ThreadEntry,
    cpu: &CpuEntry,
    previous: Task,
    number: u32,
    now: u64,
) {
    // SAFETY: the caller's entry is a map's value, and nobody else writes it now.
    unsafe {
        open(entry);
        if (*entry).state == ThreadState::WAITING {
            settle(entry, now);
            let waited = now.saturating_sub((*entry).wait_began_ns);
            threads::record(&raw mut (*entry).delays, waited);
            if waited >= LONG_WAIT_NS {
                keep(entry, cpu, previous, now);
            }
        } else if (*entry).state == ThreadState::SLEEPING {
            // Woken unseen.
            (*entry).slept_ns += now.saturating_sub((*entry).since_ns);
        }
        (*entry).state = ThreadState::RUNNING;
        (*entry).cpu = number;
        (*entry).since_ns = now;
        close(entry);
    }
}

/// Adds what a waiting thread has waited for its present CPU to its totals.
#[inline(always)]
unsafe fn settle(entry: *mut ThreadEntry, now: u64) {
    // SAFETY: the caller's entry is a map's value, and nobody else writes it now.
    unsafe {
        let (foreign, own) = threads::current_wait(entry, now);
        (*entry).wait_foreign_ns += foreign;
        (*entry).wait_own_ns += own;
    }
}

/// Keeps a long wait that has just ended.
#[inline(always)]
unsafe fn keep(entry: *mut ThreadEntry, cpu: &CpuEntry, previous: Task, now: u64) {
    // SAFETY: the caller's entry is a map's value; the mask keeps the index within the array.
    unsafe {
        let start_ns = (*entry).wait_began_ns;
        let foreign_ns = (*entry).wait_foreign_ns.wrapping_sub((*entry).wait_foreign_before_ns);
        let mostly_foreign = foreign_ns * 2 >= now.saturating_sub(start_ns);
        let (holder_tid, holder_name) = if mostly_foreign && cpu.foreign_longest_ns != 0 {
            (cpu.foreign_tid, cpu.foreign_name)
        } else {
            (previous.tid, previous.name())
        };
        let kept = (*entry).waits_kept;
        let place = (&raw mut (*entry).waits).cast::<Wait>().add(kept as usize & (WAITS_KEPT - 1));
        *place = Wait { start_ns, end_ns: now, foreign_ns, holder_tid, padding: 0, holder_name };
        (*entry).waits_kept = kept + 1;
    }
}

/// A thread becomes runnable.
#[btf_tracepoint(function = "sched_wakeup")]
pub(crate) fn woken(ctx: BtfTracePointContext) -> i32 {
    try_woken(Object::new(ctx.arg(0)));
    0
}

#[inline(always)]
fn try_woken(task: Object) -> Option<()> {
    let tid: u32 = task.field(config!(offsets.task_pid));
    let slot = threads::known(tid).slot;
    if slot == 0 {
        return None;
    }
    let entry = THREADS.get_ptr_mut(u32::from(slot))?;
    // SAFETY: the map's value, under the run queue's lock.
    unsafe {
        if (*entry).state != ThreadState::SLEEPING {
            // It had not left the CPU yet.
            return None;
        }
        let now = now_ns();
        open(entry);
        (*entry).slept_ns += now.saturating_sub((*entry).since_ns);
        // The latest move of the thread says which CPU it will run on.
        let (cpu, program) = ((*entry).cpu, (*entry).program);
        begin_wait(&mut *entry, cpu, threads::held(cpu, program, now), now);
        close(entry);
    }
    Some(())
}

/// A thread is moved to another CPU, running nowhere: while it sleeps (a waking CPU chooses), or
/// while it waits.
#[btf_tracepoint(function = "sched_migrate_task")]
pub(crate) fn migrated(ctx: BtfTracePointContext) -> i32 {
    try_migrated(Object::new(ctx.arg(0)), ctx.arg(1));
    0
}

#[inline(always)]
fn try_migrated(task: Object, cpu: u32) -> Option<()> {
    let tid: u32 = task.field(config!(offsets.task_pid));
    let slot = threads::known(tid).slot;
    if slot == 0 {
        return None;
    }
    let entry = THREADS.get_ptr_mut(u32::from(slot))?;
    // SAFETY: the map's value, under the lock that moving the task demands.
    unsafe {
        open(entry);
        (*entry).migrations += 1;
        if (*entry).state == ThreadState::WAITING {
            let now = now_ns();
            settle(entry, now);
            (*entry).since_ns = now;
            (*entry).held_at_ns = threads::held(cpu, (*entry).program, now);
        }
        (*entry).cpu = cpu;
        close(entry);
    }
    Some(())
}
