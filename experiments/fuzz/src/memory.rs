//! An allocator with a bound: memory that a length field asks for is a finding, and not a slow
//! machine. Without a sanitizer, libFuzzer cannot see allocations by itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Everything that is allocated at a time. An input has 64 KiB at most, the fixed parts (histograms
/// of three digits, the small run of `base/`) take under 8 MiB.
pub const LARGEST_BYTES: usize = 128 << 20;

/// The system's allocator, which ends the process beyond [`LARGEST_BYTES`].
#[derive(Debug)]
pub struct Bounded;

static USED: AtomicUsize = AtomicUsize::new(0);

fn take(bytes: usize) {
    if USED.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > LARGEST_BYTES {
        // No message can be formatted here, as that may allocate.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"an input asks for more memory than any needs\n",
        );
        std::process::abort();
    }
}

// SAFETY: each call is handed on unchanged; the count beside it touches no memory of the caller.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise is this call's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise is this call's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is this call's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is this call's.
        unsafe { System.realloc(memory, layout, size) }
    }
}
