//! What a client that inherits the arrays of the probes is told about them.
//!
//! Must not know: how arrays are made and mapped.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::RawFd;

use events::{dense_index, hashed_slot, key_v4};
use serde::{Deserialize, Serialize};

/// The arrays, for a child that inherits their descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The number of the flow array's descriptor in the child.
    pub flows: RawFd,
    /// The number of the thread array's.
    pub threads: RawFd,
    /// The number of that of their timelines.
    pub timelines: RawFd,
    /// The number of the CPUs'.
    pub cpus: RawFd,
    /// The number of that of what happened on them.
    pub logs: RawFd,
    /// The number of the sampling's.
    pub sampling: RawFd,
    /// Where flows lie.
    pub layout: FlowLayout,
}

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
                client_count.saturating_mul(port_span(port_first, port_last)).max(1)
            }
            Self::Hashed { capacity } => capacity.next_power_of_two(),
        }
    }

    /// Where a client's flow lies.
    #[inline]
    pub fn index(self, client: SocketAddrV4) -> Option<u32> {
        let address = u32::from(*client.ip());
        match self {
            Self::Dense { client_first, client_count, port_first, port_last } => dense_index(
                (u32::from(client_first), client_count),
                (u32::from(port_first), port_span(port_first, port_last)),
                (address, client.port()),
            ),
            Self::Hashed { .. } => {
                Some(hashed_slot(key_v4(address, client.port()), self.entries()))
            }
        }
    }
}

/// How many ports a range has, both ends included.
pub fn port_span(first: u16, last: u16) -> u32 {
    u32::from(last).saturating_sub(u32::from(first)) + 1
}

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
