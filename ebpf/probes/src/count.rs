//! The counters of a CPU.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{macros::map, maps::PerCpuArray};
use events::CounterBlock;

/// One block per CPU.
///
/// A per-CPU array of one element: no atomic operation, no shared cache line, no key.
#[map]
static COUNTERS: PerCpuArray<CounterBlock> = PerCpuArray::with_max_entries(1, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(which: impl FnOnce(&mut CounterBlock) -> &mut u64) {
    add(1, which);
}

/// Adds to a counter of this CPU, atomically: a softirq may come in between, and what is counted
/// here must be exact. All of it is rare.
#[inline(always)]
pub(crate) fn add(amount: u64, which: impl FnOnce(&mut CounterBlock) -> &mut u64) {
    if let Some(block) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the map's value is a `CounterBlock`, and lives as long as the program.
        unsafe { atomic_add(which(&mut *block), amount) };
    }
}

/// One atomic instruction. The target's `AtomicU64` has no `fetch_add`, for want of a compare and
/// exchange on old kernels.
///
/// # Safety
/// The counter is a field of a map's value, aligned as such.
#[inline(always)]
pub(crate) unsafe fn atomic_add<T: Copy>(counter: *mut T, amount: T) {
    // SAFETY: the caller vouches for the pointer.
    let _ = unsafe { atomic_xadd::<T, T, { AtomicOrdering::Relaxed }>(counter, amount) };
}

/// Adds one, and returns what was there before. Not relaxed: LLVM 22 makes a relaxed addition one
/// that fetches nothing, and returns the addend for the old value.
///
/// # Safety
/// As [`atomic_add`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(counter: *mut u64) -> u64 {
    // SAFETY: the caller vouches for the pointer.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, 1) }
}
