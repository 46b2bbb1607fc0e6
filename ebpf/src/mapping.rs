//! Kernel arrays mapped into this process.
//!
//! Owns: the mappings, and the only loads from and stores to memory that the kernel shares.

use std::{
    ffi::c_void,
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// CPUs that may come online: what per-CPU maps are sized by.
pub(crate) fn cpu_count() -> usize {
    aya::util::nr_cpus().unwrap_or(1)
}

/// Types that may be read from memory that the kernel writes: any bytes are a value of them.
///
/// # Safety
/// No references, no padding that matters, no invalid bit patterns.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: made of integers only.
unsafe impl Plain for events::FlowEntry {}
// SAFETY: made of integers only.
unsafe impl Plain for events::ServerPart {}
// SAFETY: as above.
unsafe impl Plain for events::ThreadEntry {}
// SAFETY: as above.
unsafe impl Plain for events::ThreadHead {}
// SAFETY: as above.
unsafe impl Plain for events::CpuEntry {}
// SAFETY: as above.
unsafe impl Plain for events::TaskRef {}
// SAFETY: as above.
unsafe impl Plain for events::Sampling {}
// SAFETY: as above.
unsafe impl Plain for events::TimelineEntry {}
// SAFETY: as above.
unsafe impl Plain for events::CpuLog {}
// SAFETY: as above.
unsafe impl Plain for events::StopLog {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

/// An array of the kernel's, shared with it.
pub(crate) struct SharedArray<T> {
    start: NonNull<T>,
    length: usize,
    bytes: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel anyway, and every access is volatile.
unsafe impl<T: Plain> Send for SharedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for SharedArray<T> {}

impl<T: Plain> SharedArray<T> {
    /// Maps the first `length` elements.
    pub(crate) fn map(fd: BorrowedFd<'_>, length: usize, writable: bool) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let bytes = (length * size_of::<T>()).next_multiple_of(page);
        let protection =
            if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) }?;
        let start = NonNull::new(start.cast::<T>())
            .ok_or_else(|| io::Error::other("the kernel mapped an array at address 0"))?;
        Ok(Self { start, length, bytes, values: PhantomData })
    }

    /// How many elements there are.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Where an element lies.
    pub(crate) fn pointer(&self, index: usize) -> Option<*mut T> {
        // SAFETY: within the mapping.
        (index < self.length).then(|| unsafe { self.start.as_ptr().add(index) })
    }

    /// A copy of an element. The kernel may write it meanwhile: each word is whole, all of them
    /// together need not be.
    pub(crate) fn read(&self, index: usize) -> Option<T> {
        // SAFETY: within the mapping, aligned since the kernel aligns values to 8 bytes and maps
        // them from a page's beginning, and any bytes are a value.
        self.pointer(index).map(|pointer| unsafe { pointer.read_volatile() })
    }

    /// Replaces an element.
    pub(crate) fn write(&self, index: usize, value: T) {
        if let Some(pointer) = self.pointer(index) {
            // SAFETY: within the mapping; only called on writable ones.
            unsafe { pointer.write_volatile(value) };
        }
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
    }
}
