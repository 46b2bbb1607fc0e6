//! Where the watched programs spend their CPU time: a stack at each tick of a clock.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_stackid},
    macros::{map, perf_event},
    maps::{HashMap, StackTrace},
    programs::PerfEventContext,
};
use events::{ABSENT, PROGRAM_OTHER, StackCount, StackKey, program_of_stack};

use crate::{
    count::{atomic_add, count},
    kernel::{Object, config},
    threads,
};

/// Stacks by number; sized by the loader, to one when no profile is wanted.
///
/// The kind that `bpf_get_stackid` demands.
#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

/// Samples by thread and stacks; sized by the loader.
///
/// A hash map: stacks are sparse, and 99 samples a second and CPU cost nothing.
#[map]
static SAMPLES: HashMap<StackKey, StackCount> = HashMap::with_max_entries(1, 0);

/// `BPF_F_USER_STACK`
const USER_STACK: u64 = 1 << 8;
/// `BPF_NOEXIST`
const NO_EXIST: u64 = 1;

/// A tick of the profile's clock.
#[perf_event]
pub(crate) fn sample(ctx: PerfEventContext) -> i32 {
    try_sample(&ctx);
    0
}

#[inline(always)]
fn try_sample(ctx: &PerfEventContext) -> Option<()> {
    let both = bpf_get_current_pid_tgid();
    let (tid, tgid) = (both as u32, (both >> 32) as u32);
    if threads::program_of(tgid) == PROGRAM_OTHER {
        return None;
    }
    let stacks = (&raw const STACKS).cast_mut().cast();
    // SAFETY: a map of the kind the helper wants, and the context it was called with.
    let kernel = unsafe { bpf_get_stackid(ctx.as_ptr(), stacks, 0) };
    // SAFETY: as above.
    let user = unsafe { bpf_get_stackid(ctx.as_ptr(), stacks, USER_STACK) };
    if kernel < 0 && user < 0 {
        count(|block| &mut block.samples_lost);
    }
    let program = program().unwrap_or_default();
    let key = StackKey { tid, tgid, program, kernel: kernel as i32, user: user as i32 };
    if SAMPLES.get_ptr(key).is_none() {
        // Another CPU may insert it first: then it is there.
        let _ = SAMPLES.insert(key, 0_u64, NO_EXIST);
    }
    let Some(samples) = SAMPLES.get_ptr_mut(key) else {
        count(|block| &mut block.samples_lost);
        return None;
    };
    // SAFETY: a value of the map.
    unsafe { atomic_add(samples, 1) };
    Some(())
}

/// Which program the process that runs now is: where its stack begins differs from one to the next.
#[inline(always)]
fn program() -> Option<u32> {
    if config!(offsets.task_mm) == ABSENT || config!(offsets.mm_start_stack) == ABSENT {
        return None;
    }
    // SAFETY: no arguments; the task that runs now lives.
    let task = unsafe { bpf_get_current_task() };
    let task = Object::new(task as *const core::ffi::c_void);
    let memory: u64 = task.copy(config!(offsets.task_mm))?;
    let memory = Object::new(memory as *const core::ffi::c_void);
    let start_stack: u64 = memory.copy(config!(offsets.mm_start_stack))?;
    Some(program_of_stack(start_stack))
}
