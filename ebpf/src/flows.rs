//! The latest request of each connection, read by the client's own thread.
//!
//! # How a request comes about
//!
//! The design's first draft had the kernel compute segments, or pass slow requests on as records.
//! Here the kernel only stamps instants into an array that is indexed by flow, the same index on
//! both ends, and the client maps it. Right after a thread of the client has read an answer, it
//! reads the flow's entry: T6 has just been written by the same CPU, the server's line came before
//! the answer, so nothing moves any more, and no system call, record or join is needed. The client
//! knows T0 and its own latency, so it alone computes the segments, for every request and not only
//! for the slow ones.
//!
//! Owns: reading an entry. Must not know: where a flow lies ([`FlowLayout`]), which instants belong
//! to a request ([`Request`]), what is slow.

use std::{io, net::SocketAddrV4, os::fd::AsFd};

use attribution::{FlowLayout, Request};
use events::{FlowEntry, key_v4};

use crate::mapping::SharedArray;

/// The flow array, mapped.
pub struct FlowTable {
    entries: SharedArray<FlowEntry>,
    layout: FlowLayout,
}

impl FlowTable {
    /// Maps the array of a descriptor, which may be closed afterwards. Needs no privilege beyond
    /// the descriptor itself.
    ///
    /// # Errors
    /// When it is no such array.
    pub fn map(fd: impl AsFd, layout: FlowLayout) -> io::Result<Self> {
        let entries = SharedArray::map(fd.as_fd(), layout.entries() as usize, false)?;
        Ok(Self { entries, layout })
    }

    /// Where flows lie.
    pub const fn layout(&self) -> FlowLayout {
        self.layout
    }

    /// Asks for a flow's entry ahead of time: the other end's CPU wrote to it last, and by the time
    /// [`Self::request`] reads it, it can be here.
    #[inline]
    pub fn prefetch(&self, client: SocketAddrV4) {
        let index = self.layout.index(client).map(|index| index as usize);
        if let Some(entry) = index.and_then(|index| self.entries.pointer(index)) {
            prefetch(entry.cast());
            // Within the entry: its second cache line.
            prefetch(entry.wrapping_byte_add(64).cast());
        }
    }

    /// The entry of a client's flow as it is now.
    pub fn entry(&self, client: SocketAddrV4) -> Option<FlowEntry> {
        let entry = self.entries.read(self.layout.index(client)? as usize)?;
        let mine = match self.layout {
            FlowLayout::Dense { .. } => true,
            FlowLayout::Hashed { .. } => {
                entry.server.key == key_v4(u32::from(*client.ip()), client.port())
            }
        };
        mine.then_some(entry)
    }

    /// The latest request of a client's flow; `None` before its first one.
    pub fn request(&self, client: SocketAddrV4) -> Option<Request> {
        Request::of(&self.entry(client)?)
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch(line: *const i8) {
    // SAFETY: a hint that never faults.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
}

#[cfg(not(target_arch = "x86_64"))]
const fn prefetch(_: *const i8) {}
