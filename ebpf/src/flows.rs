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
//! Owns: where a flow lies. Must not know: which instants belong to a request
//! ([`attribution::Request`]), what is slow.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd,
};

use attribution::Request;
use events::{FlowEntry, dense_index, hashed_slot, key_v4};
use serde::{Deserialize, Serialize};

use crate::mapping::SharedArray;

/// Where flows lie. Passed to the clients beside the array's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowLayout {
    /// By the numbers of the client's address and port: no two flows share an entry.
    Dense {
        /// The first client address.
        client_first: Ipv4Addr,
        /// How many addresses follow one another.
        client_count: u32,
        /// The first client port.
        port_first: u16,
        /// The last client port.
        port_last: u16,
    },
    /// By a hash of both: for clients whose addresses are not known beforehand. An entry belongs
    /// to one flow at a time; what falls on another's is counted and not stamped.
    Hashed {
        /// How many entries: a power of two.
        capacity: u32,
    },
}

impl FlowLayout {
    /// The layout with every port for these client addresses.
    pub const fn all_ports(client_first: Ipv4Addr, client_count: u32) -> Self {
        Self::Dense { client_first, client_count, port_first: 1, port_last: u16::MAX }
    }

    /// How many entries the array has, 128 bytes each.
    pub fn entries(self) -> u32 {
        match self {
            Self::Dense { client_count, port_first, port_last, .. } => {
                client_count.saturating_mul(span(port_first, port_last)).max(1)
            }
            Self::Hashed { capacity } => capacity.next_power_of_two(),
        }
    }

    /// Where a client's flow lies.
    pub fn index(self, client: SocketAddrV4) -> Option<u32> {
        let address = u32::from(*client.ip());
        match self {
            Self::Dense { client_first, client_count, port_first, port_last } => dense_index(
                (u32::from(client_first), client_count),
                (u32::from(port_first), span(port_first, port_last)),
                (address, client.port()),
            ),
            Self::Hashed { .. } => {
                Some(hashed_slot(key_v4(address, client.port()), self.entries()))
            }
        }
    }
}

pub(crate) fn span(first: u16, last: u16) -> u32 {
    u32::from(last).saturating_sub(u32::from(first)) + 1
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_its_own_place() {
        let layout = FlowLayout::Dense {
            client_first: Ipv4Addr::new(127, 0, 1, 1),
            client_count: 3,
            port_first: 1024,
            port_last: 2047,
        };
        assert_eq!(layout.entries(), 3072);
        let at = |address: [u8; 4], port| layout.index(SocketAddrV4::new(address.into(), port));
        assert_eq!(at([127, 0, 1, 1], 1024), Some(0));
        assert_eq!(at([127, 0, 1, 3], 2047), Some(3071));
        assert_eq!(at([127, 0, 1, 4], 1024), None);
        assert_eq!(at([127, 0, 1, 1], 1023), None);
        assert_eq!(at([127, 0, 1, 1], 2048), None);
        assert!(FlowLayout::Hashed { capacity: 1000 }.entries() == 1024);
    }
}
