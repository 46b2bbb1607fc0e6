//! A clock on each CPU that shows when the CPU itself did not run.
//!
//! It fires in interrupt context, whatever runs: only a CPU that takes no interrupts is late.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::perf_event,
    programs::PerfEventContext,
};

use crate::threads::{CPU_LOGS, CPUS};

/// The clock of a CPU ticks.
#[perf_event]
pub(crate) fn tick(_ctx: PerfEventContext) -> u32 {
    try_tick();
    0
}

#[inline(always)]
fn try_tick() -> Option<()> {
    // SAFETY: no arguments.
    let (number, now) = unsafe { (bpf_get_smp_processor_id(), bpf_ktime_get_ns()) };
    // SAFETY: the map's value; only this CPU writes it.
    unsafe { (*CPUS.get_ptr_mut(number)?).ticks += 1 };
    // SAFETY: as above.
    unsafe { (*CPU_LOGS.get_ptr_mut(number)?).tick(now) };
    Some(())
}
