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
    ABSENT, CpuEntry, Holder, LONG_NS, NAME_LENGTH, PROGRAM_IDLE, PROGRAM_OTHER, TaskRef,
    ThreadHead, ThreadState, Transition, kind,
};

use crate::{
    kernel::{Object, config},
    threads::{self, CPU_LOGS, CPUS, close, open, timeline},
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
    tgid: u32,
    found: TaskRef,
}

impl Task {
    #[inline(always)]
    fn of(object: Object) -> Self {
        let tid: u32 = object.field(config!(offsets.task_pid));
        if tid == 0 {
            let found = TaskRef { program: PROGRAM_IDLE, ..NOBODY };
            return Self { object, tid, tgid: 0, found };
        }
        let tgid: u32 = object.field(config!(offsets.task_tgid));
        Self { object, tid, tgid, found: threads::watched(tid, tgid) }
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
    let state: u32 = if preempted as u8 == 0 { ctx.arg(3) } else { 0 };
    try_switched(Object::new(ctx.arg(1)), Object::new(ctx.arg(2)), state);
    0
}

/// `TASK_UNINTERRUPTIBLE`
const UNINTERRUPTIBLE: u32 = 0x2;
/// `__TASK_STOPPED`, `__TASK_TRACED` and `TASK_FROZEN`
const STOPPED: u32 = 0x4 | 0x8 | 0x8000;
/// `TASK_DEAD`
const DEAD: u32 = 0x80;
/// `TASK_NOLOAD`: uninterruptible, and idle.
const NO_LOAD: u32 = 0x400;
/// `JOBCTL_TRAP_FREEZE`: a frozen group of the second version sleeps.
const TRAP_FREEZE: u64 = 1 << 23;

/// How a task leaves the CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Runnable,
    /// And what its time goes by with until it comes back.
    Off(usize),
    Dead,
}

impl Leaves {
    #[inline(always)]
    fn of(task: Object, state: u32) -> Self {
        if state == 0 {
            return if is_throttled(task) { Self::Off(kind::THROTTLED) } else { Self::Runnable };
        }
        if state & DEAD != 0 {
            return Self::Dead;
        }
        Self::Off(if state & STOPPED != 0 || is_frozen(task) {
            kind::STOPPED
        } else if state & UNINTERRUPTIBLE != 0 && state & NO_LOAD == 0 {
            kind::BLOCKED
        } else {
            kind::ASLEEP
        })
    }
}

/// Whether the quota of a task's group is used up.
#[inline(always)]
fn is_throttled(task: Object) -> bool {
    if config!(offsets.task_throttled) != ABSENT {
        return task.field::<u8>(config!(offsets.task_throttled)) != 0;
    }
    if config!(offsets.task_cfs_rq) != ABSENT && config!(offsets.throttle_count) != ABSENT {
        let queue = task.object(config!(offsets.task_cfs_rq));
        return queue.field::<u32>(config!(offsets.throttle_count)) != 0;
    }
    false
}

#[inline(always)]
fn is_frozen(task: Object) -> bool {
    config!(offsets.task_jobctl) != ABSENT
        && task.field::<u64>(config!(offsets.task_jobctl)) & TRAP_FREEZE != 0
}

#[inline(always)]
fn try_switched(previous: Object, next: Object, state: u32) -> Option<()> {
    // SAFETY: no arguments.
    let number = unsafe { bpf_get_smp_processor_id() };
    let now = now_ns();
    let (previous, next) = (Task::of(previous), Task::of(next));
    let cpu = CPUS.get_ptr_mut(number)?;
    // SAFETY: the map's value; only this CPU writes it.
    let cpu = unsafe { &mut *cpu };
    cpu_switched(cpu, number, previous, next, now);
    if previous.found.slot != 0
        && let Some(entry) = threads::head(previous.found.slot)
    {
        let leaves = Leaves::of(previous.object, state);
        // SAFETY: the map's value, under the run queue's lock.
        unsafe { switched_out(entry, cpu, number, (now, previous.object), leaves) };
        if leaves == Leaves::Dead {
            threads::forget(previous.tid);
        }
    }
    if next.found.slot != 0
        && let Some(entry) = threads::head(next.found.slot)
    {
        // SAFETY: as above.
        let waited_ns = unsafe { switched_in(entry, number, (now, next.object)) };
        if let Some(waited_ns) = waited_ns {
            threads::record_delay(next.found.slot, waited_ns);
        }
    }
    Some(())
}

/// Brings the CPU's clocks up to now and notes the new holder.
#[inline(always)]
fn cpu_switched(cpu: &mut CpuEntry, number: u32, previous: Task, next: Task, now: u64) {
    let from_ns = cpu.since_ns;
    cpu.switch(next.tid, next.found.program, now);
    if previous.tid != 0
        && from_ns != 0
        && now.wrapping_sub(from_ns) >= LONG_NS
        && let Some(log) = CPU_LOGS.get_ptr_mut(number)
    {
        let (tid, tgid, name) = (previous.tid, previous.tgid, previous.name());
        let program = u32::from(previous.found.program);
        let turn = Holder { from_ns, until_ns: now, tid, tgid, program, padding: 0, name };
        // SAFETY: the map's value; only this CPU writes it.
        unsafe { (*log).held(turn) };
    }
}

/// What happens to a thread now.
#[inline(always)]
unsafe fn transition<'a>(entry: *mut ThreadHead, task: Object, now_ns: u64) -> Transition<'a> {
    // SAFETY: the caller's entry is a map's value, and nobody else writes it now.
    let thread = unsafe { &mut *entry };
    let timeline = timeline(thread.timeline);
    Transition { thread, timeline, now_ns, switches: threads::switches(task) }
}

#[inline(always)]
unsafe fn switched_out(
    entry: *mut ThreadHead,
    cpu: &CpuEntry,
    number: u32,
    (now, task): (u64, Object),
    leaves: Leaves,
) {
    // SAFETY: the caller's entry is a map's value, and nobody else writes it now.
    unsafe {
        open(entry);
        let it = transition(entry, task, now);
        match leaves {
            Leaves::Runnable => {
                let held = cpu.held(it.thread.program, now);
                it.made_to_go(number, held);
            }
            Leaves::Off(kind) => it.goes(number, kind),
            Leaves::Dead => it.ends(number),
        }
        close(entry);
    }
}

#[inline(always)]
unsafe fn switched_in(
    entry: *mut ThreadHead,
    number: u32,
    (now, task): (u64, Object),
) -> Option<u64> {
    // SAFETY: the caller's entry is a map's value, and nobody else writes it now.
    unsafe {
        open(entry);
        let it = transition(entry, task, now);
        let held = threads::held(it.thread.cpu, it.thread.program, now);
        let waited_ns = it.comes(number, held);
        close(entry);
        waited_ns
    }
}

/// A thread is about to become runnable. On which CPU, a later move says.
#[btf_tracepoint(function = "sched_waking")]
pub(crate) fn waking(ctx: BtfTracePointContext) -> i32 {
    try_woken(Object::new(ctx.arg(0)));
    0
}

/// A thread becomes runnable. It has been on its way since [`waking`], unless it had not left its
/// CPU yet then.
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
    let entry = threads::head(slot)?;
    // SAFETY: the map's value. The thread sleeps, so no run queue's lock protects it, but the one
    // that all who wake it take; while it is on its way to sleep its version is odd.
    unsafe {
        if (*entry).state != ThreadState::SLEEPING || (*entry).version & 1 != 0 {
            // It had not left the CPU yet.
            return None;
        }
        let now = now_ns();
        open(entry);
        let it = transition(entry, task, now);
        // The latest move of the thread says which CPU it will run on.
        let held = threads::held(it.thread.cpu, it.thread.program, now);
        it.wakes(held);
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
    let entry = threads::head(slot)?;
    // SAFETY: the map's value, under the lock that moving the task demands.
    unsafe {
        let now = now_ns();
        open(entry);
        let it = transition(entry, task, now);
        let program = it.thread.program;
        let from = threads::held(it.thread.cpu, program, now);
        it.moves(cpu, from, threads::held(cpu, program, now));
        close(entry);
    }
    Some(())
}
