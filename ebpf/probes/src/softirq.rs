//! Interrupts' time: what softirqs take from whoever runs, softirq time by vector, NAPI polls.
//!
//! A softirq at the end of a thread's own send (on loopback, the whole receive path) is that
//! thread's own work, and the most frequent by far: it costs no clock. Unless a tick came in
//! between: then it may be one that found other work waiting, and is timed from the send on.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use events::{
    CpuEntry, NET_SOFTIRQ_SAMPLE, NET_SOFTIRQS, SOFTIRQS, SoftirqBlock, ThreadState, Transition,
};

use crate::{
    kernel::config,
    threads::{self, CPUS, close, open, timeline},
};

/// Softirqs of a CPU.
///
/// A per-CPU array of one: a vector begins and ends on one CPU, and none interrupts another.
#[map]
static SOFTIRQ: PerCpuArray<SoftirqBlock> = PerCpuArray::with_max_entries(1, 0);

/// Shorter ones count as the time of whoever runs.
const SHORT_NS: u64 = 20_000;

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// What this CPU does.
#[inline(always)]
fn this_cpu<'a>() -> Option<&'a mut CpuEntry> {
    // SAFETY: no arguments.
    let number = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: the map's value; only this CPU writes it, and softirqs do not interrupt one another.
    CPUS.get_ptr_mut(number).map(|entry| unsafe { &mut *entry })
}

/// A vector begins.
#[btf_tracepoint(function = "softirq_entry")]
pub(crate) fn softirq_begins(ctx: BtfTracePointContext) -> i32 {
    let vector: u32 = ctx.arg(0);
    if config!(softirqs) != 0 {
        count_begin(vector);
    }
    let Some(cpu) = this_cpu() else { return 0 };
    if NET_SOFTIRQS.contains(&vector) && cpu.own_send_ns != 0 {
        (cpu.softirq_from_ns, cpu.own_ticks) = (cpu.own_send_ns, cpu.ticks);
        cpu.own_send_ns = 0;
    } else {
        (cpu.softirq_from_ns, cpu.own_ticks) = (now_ns(), u64::MAX);
    }
    0
}

/// A vector ends.
#[btf_tracepoint(function = "softirq_exit")]
pub(crate) fn softirq_ends(ctx: BtfTracePointContext) -> i32 {
    if config!(softirqs) != 0 {
        count_end(ctx.arg(0));
    }
    let Some(cpu) = this_cpu() else { return 0 };
    let from_ns = cpu.softirq_from_ns;
    cpu.softirq_from_ns = 0;
    if from_ns == 0 || cpu.own_ticks == cpu.ticks {
        return 0;
    }
    let now = now_ns();
    if now.wrapping_sub(from_ns) >= SHORT_NS {
        interrupted(cpu, from_ns, now);
    }
    0
}

/// Interrupts had this CPU: that time is taken from whoever has it.
#[inline(always)]
fn interrupted(cpu: &mut CpuEntry, from_ns: u64, now: u64) {
    cpu.interrupt(from_ns, now);
    let slot = threads::known(bpf_get_current_pid_tgid() as u32).slot;
    if slot == 0 {
        return;
    }
    let Some(entry) = threads::head(slot) else { return };
    // SAFETY: the map's value. It is the entry of the thread that runs here, so the scheduler
    // writes it on this CPU alone, with interrupts off.
    unsafe {
        if (*entry).state != ThreadState::RUNNING {
            return;
        }
        open(entry);
        let thread = &mut *entry;
        let timeline = timeline(thread.timeline);
        // It has not left this CPU.
        let switches = thread.switches_seen;
        Transition { thread, timeline, now_ns: now, switches }.was_interrupted(from_ns);
        close(entry);
    }
}

#[inline(always)]
fn count_begin(vector: u32) {
    let index = vector as usize & (SOFTIRQS - 1);
    if let Some(block) = SOFTIRQ.get_ptr_mut(0) {
        // SAFETY: a value of this CPU; the mask keeps the index within the array.
        unsafe {
            let runs = (&raw mut (*block).runs).cast::<u64>().add(index);
            let number = *runs;
            *runs = number + 1;
            if !NET_SOFTIRQS.contains(&vector) || number % NET_SOFTIRQ_SAMPLE == 0 {
                *(&raw mut (*block).entered_ns).cast::<u64>().add(index) = now_ns();
            }
        }
    }
}

#[inline(always)]
fn count_end(vector: u32) {
    let index = vector as usize & (SOFTIRQS - 1);
    if let Some(block) = SOFTIRQ.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe {
            let entered = (&raw mut (*block).entered_ns).cast::<u64>().add(index);
            if *entered != 0 {
                let time = (&raw mut (*block).time_ns).cast::<u64>().add(index);
                *time += now_ns().wrapping_sub(*entered);
                *entered = 0;
            }
        }
    }
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
