//! The watched threads: who is one, and how long each has waited for a CPU.

use core::hint::black_box;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::map,
    maps::Array,
};
use events::{
    CpuEntry, Histogram, Learn, PROGRAM_CLIENT_FIRST, PROGRAM_OTHER, PROGRAM_SERVER, PROGRAMS,
    Side, THREAD_SLOTS, TaskRef, ThreadEntry, ThreadState,
};

use crate::{
    count::{count, fetch_add},
    flow::MMAPABLE,
    kernel::config,
};

/// The watched threads by slot.
///
/// An array with a slot for each, because other CPUs and user space read it: task-local storage
/// could be read by neither.
#[map]
pub(crate) static THREADS: Array<ThreadEntry> =
    Array::with_max_entries(THREAD_SLOTS as u32, MMAPABLE);

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

/// Who holds each CPU.
///
/// A plain array and not a per-CPU one: other CPUs read it when data becomes ready for a thread
/// that waits there.
#[map]
pub(crate) static CPUS: Array<CpuEntry> = Array::with_max_entries(1, MMAPABLE);

/// What a thread has waited in all.
#[derive(Clone, Copy)]
pub(crate) struct Waited {
    /// While others held the CPU; lower 32 bits of nanoseconds.
    pub(crate) foreign: u32,
    /// While its own program held it.
    pub(crate) own: u32,
}

impl Waited {
    /// What was waited since `earlier`, given both are totals.
    #[inline(always)]
    pub(crate) fn since(self, earlier: (u32, u32)) -> Self {
        Self {
            foreign: self.foreign.wrapping_sub(earlier.0),
            own: self.own.wrapping_sub(earlier.1),
        }
    }
}

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
    if program == PROGRAM_OTHER {
        return TaskRef::default();
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

/// The slot of the thread that runs now.
#[inline(always)]
pub(crate) fn current() -> u16 {
    let both = bpf_get_current_pid_tgid();
    watched(both as u32, (both >> 32) as u32).slot
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

/// A slot for a thread, 0 when all are taken.
#[inline(always)]
fn assign(tid: u32, tgid: u32, program: u8) -> u16 {
    let Some(taken) = SLOTS_TAKEN.get_ptr_mut(0) else { return 0 };
    // SAFETY: an aligned value of a map.
    let slot = unsafe { fetch_add(taken) } + 1;
    if slot >= THREAD_SLOTS as u64 {
        count(|block| &mut block.threads_unwatched);
        return 0;
    }
    let Some(entry) = THREADS.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: the slot was just taken by this program alone.
    unsafe {
        (*entry).tid = tid;
        (*entry).tgid = tgid;
        (*entry).program = u32::from(program);
    }
    slot as u16
}

/// For how long a program has held a CPU, up to `now`.
#[inline(always)]
pub(crate) fn held(cpu: u32, program: u32, now: u64) -> u64 {
    let Some(entry) = CPUS.get_ptr(cpu) else { return 0 };
    // SAFETY: the map's value is a `CpuEntry`; the index is bounded by the mask.
    unsafe {
        let total = (&raw const (*entry).held_ns)
            .cast::<u64>()
            .add(program as usize & (PROGRAMS - 1))
            .read_volatile();
        if (&raw const (*entry).holder_program).read_volatile() == program {
            let since = (&raw const (*entry).since_ns).read_volatile();
            return total + now.saturating_sub(since);
        }
        total
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

/// Times an entry is read again that was being written; a write takes some 100 ns.
const TRIES: u32 = 8;

/// The totals of a thread up to `now`, with what it is waiting for at this very moment.
///
/// Read from any CPU: `None` when the entry was being written all the time, or the thread has not
/// been seen.
#[inline(always)]
pub(crate) fn waited(slot: u16, now: u64) -> Option<Waited> {
    let entry = THREADS.get_ptr(u32::from(slot))?;
    for _ in 0..TRIES {
        // SAFETY: a value of the map.
        if let Some(waited) = unsafe { waited_now(entry, now) } {
            return Some(waited);
        }
    }
    None
}

/// One try at what [`waited`] says.
///
/// # Safety
/// `entry` is a value of [`THREADS`].
#[inline(always)]
unsafe fn waited_now(entry: *const ThreadEntry, now: u64) -> Option<Waited> {
    // SAFETY: the map's value is a `ThreadEntry`; `version` tells whether it held still.
    unsafe {
        let version = (&raw const (*entry).version).read_volatile();
        let state = (&raw const (*entry).state).read_volatile();
        let mut foreign = (&raw const (*entry).wait_foreign_ns).read_volatile();
        let mut own = (&raw const (*entry).wait_own_ns).read_volatile();
        if state == ThreadState::WAITING {
            let (more_foreign, more_own) = current_wait(entry, now);
            foreign += more_foreign;
            own += more_own;
        }
        if version & 1 != 0
            || version != (&raw const (*entry).version).read_volatile()
            || state == ThreadState::UNKNOWN
        {
            return None;
        }
        Some(Waited { foreign: foreign as u32, own: own as u32 })
    }
}

/// The totals of the thread that runs now: nobody writes them meanwhile.
#[inline(always)]
pub(crate) fn waited_by_current(slot: u16) -> Option<Waited> {
    let entry = THREADS.get_ptr(u32::from(slot))?;
    // SAFETY: the map's value is a `ThreadEntry`.
    unsafe {
        if (*entry).state == ThreadState::UNKNOWN {
            return None;
        }
        Some(Waited { foreign: (*entry).wait_foreign_ns as u32, own: (*entry).wait_own_ns as u32 })
    }
}

/// How long a waiting thread has waited for the CPU it waits for now: (foreign, own).
///
/// # Safety
/// `entry` is a value of [`THREADS`].
#[inline(always)]
pub(crate) unsafe fn current_wait(entry: *const ThreadEntry, now: u64) -> (u64, u64) {
    // SAFETY: the caller vouches for the entry.
    unsafe {
        let since = (&raw const (*entry).since_ns).read_volatile();
        let cpu = (&raw const (*entry).cpu).read_volatile();
        let program = (&raw const (*entry).program).read_volatile();
        let held_at = (&raw const (*entry).held_at_ns).read_volatile();
        let elapsed = now.saturating_sub(since);
        let own = held(cpu, program, now).saturating_sub(held_at).min(elapsed);
        (elapsed - own, own)
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
}
