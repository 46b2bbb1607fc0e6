//! Softirq time and NAPI polls per CPU.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use events::{NET_SOFTIRQ_SAMPLE, NET_SOFTIRQS, SOFTIRQS, SoftirqBlock};

/// Softirqs of a CPU.
///
/// A per-CPU array of one: a vector begins and ends on one CPU, and none interrupts another.
#[map]
static SOFTIRQ: PerCpuArray<SoftirqBlock> = PerCpuArray::with_max_entries(1, 0);

/// A vector begins.
#[btf_tracepoint(function = "softirq_entry")]
pub(crate) fn softirq_begins(ctx: BtfTracePointContext) -> i32 {
    let vector: u32 = ctx.arg(0);
    let index = vector as usize & (SOFTIRQS - 1);
    if let Some(block) = SOFTIRQ.get_ptr_mut(0) {
        // SAFETY: a value of this CPU; the mask keeps the index within the array.
        unsafe {
            let runs = (&raw mut (*block).runs).cast::<u64>().add(index);
            let number = *runs;
            *runs = number + 1;
            if !NET_SOFTIRQS.contains(&vector) || number % NET_SOFTIRQ_SAMPLE == 0 {
                *(&raw mut (*block).entered_ns).cast::<u64>().add(index) = bpf_ktime_get_ns();
            }
        }
    }
    0
}

/// A vector ends.
#[btf_tracepoint(function = "softirq_exit")]
pub(crate) fn softirq_ends(ctx: BtfTracePointContext) -> i32 {
    let vector: u32 = ctx.arg(0);
    let index = vector as usize & (SOFTIRQS - 1);
    if let Some(block) = SOFTIRQ.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe {
            let entered = (&raw mut (*block).entered_ns).cast::<u64>().add(index);
            if *entered != 0 {
                let time = (&raw mut (*block).time_ns).cast::<u64>().add(index);
                *time += bpf_ktime_get_ns().wrapping_sub(*entered);
                *entered = 0;
            }
        }
    }
    0
}

/// A NAPI instance was polled.
#[btf_tracepoint(function = "napi_poll")]
pub(crate) fn napi_polled(ctx: BtfTracePointContext) -> i32 {
    let (work, budget): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if let Some(block) = SOFTIRQ.get_ptr_mut(0) {
        // SAFETY: a value of this CPU.
        unsafe {
            (*block).polls += 1;
            (*block).polled_packets += work.max(0).cast_unsigned() as u64;
            if work >= budget {
                (*block).polls_exhausted += 1;
            }
        }
    }
    0
}
