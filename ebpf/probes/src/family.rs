//! Processes that watched ones begin, and the end of processes.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Object, config},
    threads,
};

/// A task is made by another.
#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn forked(ctx: BtfTracePointContext) -> i32 {
    if config!(follow) != 0 {
        let (parent, child) = (Object::new(ctx.arg(0)), Object::new(ctx.arg(1)));
        let (tid, tgid) = numbers(child);
        // A thread belongs to its process anyway.
        if tid == tgid {
            threads::begin_process(numbers(parent).1, tgid);
        }
        // It has its slot before it runs. Its first switch may come from a task beside which the
        // kernel runs no probes, and it may end without another one.
        threads::watched(tid, tgid);
    }
    0
}

/// A task ends.
#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn exited(ctx: BtfTracePointContext) -> i32 {
    let (tid, tgid) = numbers(Object::new(ctx.arg(0)));
    // The verifier leaves this out where there is no second argument; the first thread is then
    // taken to be the last.
    let last = if config!(exit_tells_process) != 0 {
        let last: u64 = ctx.arg(1);
        last as u8 != 0
    } else {
        tid == tgid
    };
    if last {
        threads::end_process(tgid);
    }
    0
}

/// The numbers of a task: its own, and its process's.
#[inline(always)]
fn numbers(task: Object) -> (u32, u32) {
    (task.field(config!(offsets.task_pid)), task.field(config!(offsets.task_tgid)))
}
