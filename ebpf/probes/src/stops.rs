//! Who stops the watched programs.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use events::{PROGRAM_INTERRUPTS, PROGRAM_OTHER, STOPS, Stop, StopLog};

use crate::{
    count::fetch_add,
    flow::MMAPABLE,
    kernel::{Object, config},
    threads::program_of,
};

/// The latest signals that stop.
///
/// An array of one: a ring for the whole host, since they are rare.
#[map]
static STOP_LOG: Array<StopLog> = Array::with_max_entries(1, MMAPABLE);

/// `SIGSTOP`, `SIGTSTP`, `SIGTTIN` and `SIGTTOU`
const STOPPING: core::ops::RangeInclusive<u32> = 19..=22;

/// A signal is sent.
#[btf_tracepoint(function = "signal_generate")]
pub(crate) fn signalled(ctx: BtfTracePointContext) -> i32 {
    let signal: u32 = ctx.arg(0);
    if STOPPING.contains(&signal) {
        try_signalled(signal, Object::new(ctx.arg(2)));
    }
    0
}

#[inline(always)]
fn try_signalled(signal: u32, task: Object) -> Option<()> {
    let tgid: u32 = task.field(config!(offsets.task_tgid));
    let program = program_of(tgid);
    if program == PROGRAM_OTHER || program == PROGRAM_INTERRUPTS {
        return None;
    }
    let log = STOP_LOG.get_ptr_mut(0)?;
    let stop = Stop {
        // SAFETY: no arguments.
        at_ns: unsafe { bpf_ktime_get_ns() },
        tgid,
        signal,
        sender_tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        padding: 0,
        sender_name: bpf_get_current_comm().unwrap_or_default(),
    };
    // SAFETY: a value of the map; the mask keeps the index within the array. A reader may find a
    // place that is still to be filled: its instant is that of an older one then.
    unsafe {
        let place = fetch_add(&raw mut (*log).written) as usize & (STOPS - 1);
        (&raw mut (*log).stops).cast::<Stop>().add(place).write(stop);
    }
    Some(())
}
