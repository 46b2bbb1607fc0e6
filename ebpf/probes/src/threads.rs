//! The watched threads: who is one, and how long each has waited for a CPU.

use core::hint::black_box;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::map,
    maps::{Array, Queue},
};
use events::{
    CpuEntry, CpuLog, Held, Histogram, Learn, PROGRAM_CLIENT_FIRST, PROGRAM_INTERRUPTS,
    PROGRAM_OTHER, PROGRAM_SERVER, Side, THREAD_SLOTS, TaskRef, ThreadEntry, ThreadHead,
    TimelineEntry,
};

use crate::{
    count::{count, fetch_add},
    flow::MMAPABLE,
    kernel::{Object, config},
};

/// The watched threads by slot.
///
/// An array with a slot for each, because other CPUs and user space read it: task-local storage
/// could be read by neither.
#[map]
static THREADS: Array<ThreadEntry> = Array::with_max_entries(THREAD_SLOTS as u32, MMAPABLE);

/// The slot of a thread by its number.
///
/// An array of `pid_max` entries (sized by the loader) and no hash map: two lookups at every
/// switch, 3 ns each instead of 30.
#[map]
static TASKS: Array<TaskRef> = Array::with_max_entries(1, MMAPABLE);

/// The watched programs by process number, in [`TaskRef::program`]; written by the loader.
///
/// An array as [`TASKS`], and for the same reason.
#[map]
static PROCESSES: Array<TaskRef> = Array::with_max_entries(1, MMAPABLE);

/// Slots given out so far, in its only element.
///
/// An array of one: shared by all CPUs, changed once per thread.
#[map]
static SLOTS_TAKEN: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// Slots of threads that have ended, which user space has read, emptied and given back.
///
/// A queue: user space gives, and whichever CPU needs one takes.
#[map]
static FREED: Queue<u32> = Queue::with_max_entries(THREAD_SLOTS as u32, 0);

/// The timelines of threads that serve requests, by number.
///
/// An array of its own: most watched threads serve none, and a timeline is large.
#[map]
static TIMELINES: Array<TimelineEntry> =
    Array::with_max_entries(events::TIMELINES as u32, MMAPABLE);

/// Timelines given out so far, in its only element.
///
/// An array of one, as [`SLOTS_TAKEN`].
#[map]
static TIMELINES_TAKEN: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// What happened on each CPU.
///
/// A plain array and not a per-CPU one: clients map it.
#[map]
pub(crate) static CPU_LOGS: Array<CpuLog> = Array::with_max_entries(1, MMAPABLE);

/// What the thread of a slot does.
#[inline(always)]
pub(crate) fn head(slot: u16) -> Option<*mut ThreadHead> {
    // SAFETY: within a value of the map.
    THREADS.get_ptr_mut(u32::from(slot)).map(|entry| unsafe { &raw mut (*entry).head })
}

/// Counts how long the thread of a slot has waited for a CPU.
#[inline(always)]
pub(crate) fn record_delay(slot: u16, ns: u64) {
    if let Some(entry) = THREADS.get_ptr_mut(u32::from(slot)) {
        // SAFETY: a value of the map, written by whoever writes the thread's head.
        unsafe { record(&raw mut (*entry).delays, ns) };
    }
}

/// How often user space has read the histograms, in its only element.
///
/// An array of one: written once a second, read with every duration.
#[map]
static READINGS: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// Who holds each CPU.
///
/// A plain array and not a per-CPU one: other CPUs read it when data becomes ready for a thread
/// that waits there.
#[map]
pub(crate) static CPUS: Array<CpuEntry> = Array::with_max_entries(1, MMAPABLE);

/// The slot and program of a thread; slot 0 if it is not watched, assigned at first sight.
#[inline(always)]
pub(crate) fn watched(tid: u32, tgid: u32) -> TaskRef {
    let Some(task) = TASKS.get_ptr_mut(tid) else { return TaskRef::default() };
    // SAFETY: the map's value is a `TaskRef`, written under the lock of the thread's run queue.
    let known = unsafe { *task };
    if known.slot != 0 {
        return known;
    }
    let program = program_of(tgid);
    if program == PROGRAM_OTHER || program == PROGRAM_INTERRUPTS {
        return TaskRef { program, ..TaskRef::default() };
    }
    let fresh = TaskRef { slot: assign(tid, tgid, program), program, padding: 0, tgid };
    // SAFETY: as above.
    unsafe { *task = fresh };
    fresh
}

/// The slot of a thread that has been seen before.
#[inline(always)]
pub(crate) fn known(tid: u32) -> TaskRef {
    // SAFETY: the map's value is a `TaskRef`.
    TASKS.get_ptr(tid).map_or(TaskRef::default(), |task| unsafe { *task })
}

/// Takes the number of a thread back: it has ended.
#[inline(always)]
pub(crate) fn forget(tid: u32) {
    if let Some(task) = TASKS.get_ptr_mut(tid) {
        // SAFETY: the map's value is a `TaskRef`.
        unsafe { *task = TaskRef::default() };
    }
}

/// The slot of the thread that runs now. It serves requests, so from here on it has a timeline, as
/// far as there is room.
#[inline(always)]
pub(crate) fn current() -> u16 {
    let both = bpf_get_current_pid_tgid();
    let slot = watched(both as u32, (both >> 32) as u32).slot;
    if slot != 0
        && let Some(entry) = head(slot)
    {
        // SAFETY: the map's value; only the thread itself gives it a timeline.
        unsafe {
            if (*entry).timeline == 0 {
                (*entry).timeline = new_timeline();
            }
        }
    }
    slot
}

/// What a thread has for a timeline when there was no room for one.
const NO_ROOM: u32 = u32::MAX;

#[inline(always)]
fn new_timeline() -> u32 {
    let Some(taken) = TIMELINES_TAKEN.get_ptr_mut(0) else { return NO_ROOM };
    // SAFETY: an aligned value of a map.
    let number = unsafe { fetch_add(taken) } + 1;
    if number < events::TIMELINES as u64 {
        return number as u32;
    }
    count(|block| &mut block.timelines_lacking);
    NO_ROOM
}

/// A thread's timeline by its number.
#[inline(always)]
pub(crate) fn timeline<'a>(number: u32) -> Option<&'a mut TimelineEntry> {
    if number == 0 {
        return None;
    }
    // SAFETY: the map's value is a `TimelineEntry`, written by whoever writes the thread's entry.
    TIMELINES.get_ptr_mut(number).map(|timeline| unsafe { &mut *timeline })
}

/// Learns that the current process is one end of the experiment, when asked to.
#[inline(always)]
pub(crate) fn learn(side: Side) {
    let (bit, program) = match side {
        Side::Server => (Learn::SERVER, PROGRAM_SERVER),
        Side::Client => (Learn::CLIENT, PROGRAM_CLIENT_FIRST),
    };
    if config!(learn) & bit == 0 {
        return;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if let Some(process) = PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: the map's value is a `TaskRef`; whoever learns it writes the same.
        unsafe {
            if (*process).program == PROGRAM_OTHER {
                (*process).program = program;
            }
        }
    }
}

/// The program of a process.
#[inline(always)]
pub(crate) fn program_of(tgid: u32) -> u8 {
    // SAFETY: the map's value is a `TaskRef`.
    PROCESSES.get_ptr(tgid).map_or(PROGRAM_OTHER, |process| unsafe { (*process).program })
}

/// Whether the process that runs now is the server.
#[inline(always)]
pub(crate) fn is_server() -> bool {
    program_of((bpf_get_current_pid_tgid() >> 32) as u32) == PROGRAM_SERVER
}

/// A process has a child: it is of the same program.
#[inline(always)]
pub(crate) fn begin_process(parent: u32, child: u32) {
    let program = program_of(parent);
    if program == PROGRAM_OTHER || program == PROGRAM_INTERRUPTS {
        return;
    }
    if let Some(process) = PROCESSES.get_ptr_mut(child) {
        // SAFETY: the map's value is a `TaskRef`, and the child has not run yet.
        unsafe { *process = TaskRef { slot: 0, program, padding: 0, tgid: child } };
    }
}

/// A process is gone: the next one with its number is somebody else.
#[inline(always)]
pub(crate) fn end_process(tgid: u32) {
    if let Some(process) = PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: the map's value is a `TaskRef`.
        unsafe { (*process).program = PROGRAM_OTHER };
    }
}

/// A slot for a thread, 0 when all are taken.
#[inline(always)]
fn assign(tid: u32, tgid: u32, program: u8) -> u16 {
    let Some(taken) = SLOTS_TAKEN.get_ptr_mut(0) else { return 0 };
    // SAFETY: an aligned value of a map.
    let mut slot = unsafe { fetch_add(taken) } + 1;
    if slot >= THREAD_SLOTS as u64 {
        slot = match FREED.pop() {
            Ok(Some(slot)) => u64::from(slot),
            _ => 0,
        };
        if slot == 0 || slot >= THREAD_SLOTS as u64 {
            count(|block| &mut block.threads_unwatched);
            return 0;
        }
    }
    let Some(entry) = head(slot as u16) else { return 0 };
    // SAFETY: the slot was just taken by this program alone.
    unsafe {
        (*entry).tid = tid;
        (*entry).tgid = tgid;
        (*entry).program = u32::from(program);
    }
    slot as u16
}

/// How often a task has left a CPU by the kernel's own count.
#[inline(always)]
pub(crate) fn switches(task: Object) -> u64 {
    let voluntary: u64 = task.field(config!(offsets.task_nvcsw));
    let involuntary: u64 = task.field(config!(offsets.task_nivcsw));
    voluntary.wrapping_add(involuntary)
}

/// Who has held a CPU up to now.
#[inline(always)]
pub(crate) fn held(cpu: u32, program: u32, now: u64) -> Held {
    // SAFETY: the map's value is a `CpuEntry`; what another CPU writes meanwhile is off by one
    // switch.
    CPUS.get_ptr(cpu).map_or(Held::default(), |entry| unsafe { (*entry).held(program, now) })
}

/// The entry is being written.
#[inline(always)]
pub(crate) unsafe fn open(entry: *mut ThreadHead) {
    // SAFETY: the caller's entry is a map's value.
    unsafe {
        let version = &raw mut (*entry).version;
        version.write_volatile(version.read_volatile() | 1);
    }
}

/// The entry is whole again.
#[inline(always)]
pub(crate) unsafe fn close(entry: *mut ThreadHead) {
    // SAFETY: the caller's entry is a map's value.
    unsafe {
        let version = &raw mut (*entry).version;
        version.write_volatile((version.read_volatile() | 1).wrapping_add(1));
    }
}

/// Counts a request on this CPU.
#[inline(always)]
pub(crate) fn count_request() {
    // SAFETY: no arguments.
    let number = unsafe { bpf_get_smp_processor_id() };
    if let Some(entry) = CPUS.get_ptr_mut(number) {
        // SAFETY: the map's value; only this CPU writes it, and not in an interrupt.
        unsafe { (*entry).requests += 1 };
    }
}

/// The thread that runs now begins to send.
#[inline(always)]
pub(crate) fn begin_own_send(now: u64) {
    // SAFETY: no arguments.
    let number = unsafe { bpf_get_smp_processor_id() };
    if let Some(entry) = CPUS.get_ptr_mut(number) {
        // SAFETY: the map's value; only this CPU writes it.
        unsafe { (*entry).own_send_ns = now };
    }
}

/// Counts a duration.
///
/// # Safety
/// `histogram` lies in a map's value.
#[inline(always)]
pub(crate) unsafe fn record(histogram: *mut Histogram, ns: u64) {
    // Opaque, or the compiler drops the mask, and the verifier does not see why it may.
    let bucket = black_box(events::bucket_of(ns)) as usize & (events::BUCKETS - 1);
    // SAFETY: the mask keeps the index within the histogram.
    unsafe { *histogram.cast::<u64>().add(bucket) += 1 };
    if let Some(reading) = READINGS.get_ptr(0) {
        // SAFETY: a value of the map, and the histogram's own place; both are whole words.
        unsafe { (*histogram).longest.record(reading.read_volatile(), ns) };
    }
}
