//! From a connection to its entry.

use aya_ebpf::{macros::map, maps::Array};
use events::{
    AddressKey, FLOW_DENSE, FlowEntry, Sampling, Side, address_v4, dense_index, hashed_slot,
    in_sample, key_v4, key_v6,
};

use crate::{
    count::count,
    kernel::{Socket, config},
};

/// `BPF_F_MMAPABLE`: the client reads its entry without a system call.
pub(crate) const MMAPABLE: u32 = 1 << 10;

/// The latest request of each connection.
///
/// An array: the index is computed, so a lookup is a multiplication and a comparison, where a hash
/// map took 0.2 µs more per event. Sized by the loader.
#[map]
static FLOWS: Array<FlowEntry> = Array::with_max_entries(1, MMAPABLE);

/// Which connections are stamped, in its only element.
///
/// An array of one: written when the rate of requests changes, read at every event.
#[map]
static SAMPLING: Array<Sampling> = Array::with_max_entries(1, MMAPABLE);

/// An entry that has not been used for this long may be taken by another connection (hashed mode).
const IDLE_NS: u64 = 1_000_000_000;

const AF_INET6: u16 = 10;
/// The third word of an IPv4 address that IPv6 has, in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// A client's address and port, as far as they name a flow.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    /// IPv4 address, host byte order; 0 for IPv6.
    pub(crate) address: u32,
    /// The port.
    pub(crate) port: u16,
    /// The key in hashed mode.
    key: u64,
    /// The IPv6 address, in network byte order; 0 for IPv4.
    v6: [u64; 2],
}

impl Peer {
    /// No client.
    pub(crate) const NOBODY: Self = Self { address: 0, port: 0, key: 0, v6: [0; 2] };

    #[inline(always)]
    pub(crate) fn v4(address: u32, port: u16) -> Self {
        Self { address, port, key: key_v4(address, port), v6: [0; 2] }
    }

    #[inline(always)]
    pub(crate) fn v6(high: u64, low: u64, port: u16) -> Self {
        Self { address: 0, port, key: key_v6(high, low, port), v6: [high, low] }
    }

    /// Its address, of whatever family.
    #[inline(always)]
    pub(crate) fn full_address(self) -> AddressKey {
        let [high, low] = self.v6;
        if high | low == 0 {
            return address_v4(self.address.to_be());
        }
        [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
    }

    /// The client of a connection, seen from either end.
    #[inline(always)]
    pub(crate) fn of_socket(socket: Socket, side: Side) -> Option<Self> {
        let port =
            if matches!(side, Side::Server) { socket.peer_port() } else { socket.own_port() };
        Self::at_port(socket, side, port)
    }

    /// The client of a connection when its port is known.
    #[inline(always)]
    pub(crate) fn at_port(socket: Socket, side: Side, port: u16) -> Option<Self> {
        let server = matches!(side, Side::Server);
        if port == 0 {
            // Listening.
            return None;
        }
        let address: u32 = if server {
            socket.0.field(config!(offsets.skc_daddr))
        } else {
            socket.0.field(config!(offsets.skc_rcv_saddr))
        };
        if config!(flow_mode) == FLOW_DENSE {
            return Some(Self { address: u32::from_be(address), port, key: 0, v6: [0; 2] });
        }
        // A socket of the other family has its true address there, whatever it has for IPv4
        // (127.0.0.6), and one that carries IPv4 has that mapped.
        let family: u16 = socket.0.field(config!(offsets.skc_family));
        if family == AF_INET6 {
            let offset = if server {
                config!(offsets.skc_v6_daddr)
            } else {
                config!(offsets.skc_v6_rcv_saddr)
            };
            let words: [u64; 2] = socket.0.copy(offset)?;
            if words[0] != 0 || words[1] as u32 != MAPPED {
                return Some(Self::v6(words[0], words[1], port));
            }
        }
        Some(Self::v4(u32::from_be(address), port))
    }

    /// Whether the requests of this connection are stamped at present.
    #[inline(always)]
    pub(crate) fn sampled(self) -> bool {
        // SAFETY: the map's value is a `Sampling`.
        let mask = SAMPLING.get_ptr(0).map_or(0, |it| unsafe { (*it).mask });
        in_sample(self.address, self.port, mask)
    }

    /// What names it in a join between hosts.
    #[inline(always)]
    pub(crate) fn join_key(self) -> u64 {
        if config!(flow_mode) == FLOW_DENSE { key_v4(self.address, self.port) } else { self.key }
    }

    /// The entry, claimed when `now` may claim it (hashed mode). A null pointer is never returned.
    #[inline(always)]
    pub(crate) fn entry(self, now: impl FnOnce() -> u64) -> Option<*mut FlowEntry> {
        if config!(flow_mode) == FLOW_DENSE {
            let Some(index) = self.dense() else {
                count(|block| &mut block.flows_outside);
                return None;
            };
            return FLOWS.get_ptr_mut(index);
        }
        let entry = FLOWS.get_ptr_mut(hashed_slot(self.key, config!(flow_capacity)))?;
        // SAFETY: the map's value is a `FlowEntry`; a torn read only costs one instant.
        unsafe {
            let key = &raw mut (*entry).server.key;
            if *key != self.key {
                let latest = (*entry).server.ready_ns.max((*entry).client.sent_ns);
                if *key != 0 && now().wrapping_sub(latest) < IDLE_NS {
                    count(|block| &mut block.flows_collided);
                    return None;
                }
                *entry = FlowEntry { ..EMPTY };
                *key = self.key;
            }
        }
        Some(entry)
    }

    /// The entry as it is, without claiming it.
    #[inline(always)]
    pub(crate) fn existing(self) -> Option<*mut FlowEntry> {
        if config!(flow_mode) == FLOW_DENSE {
            return FLOWS.get_ptr_mut(self.dense()?);
        }
        let entry = FLOWS.get_ptr_mut(hashed_slot(self.key, config!(flow_capacity)))?;
        // SAFETY: the map's value is a `FlowEntry`.
        if unsafe { (*entry).server.key } == self.key { Some(entry) } else { None }
    }

    #[inline(always)]
    fn dense(self) -> Option<u32> {
        dense_index(
            (config!(client_first), config!(client_count)),
            (config!(port_first), config!(port_span)),
            (self.address, self.port),
        )
    }
}

const EMPTY: FlowEntry = FlowEntry {
    client: events::ClientPart {
        sent_ns: 0,
        ready_ns: 0,
        read_ns: 0,
        sequence: 0,
        length: 0,
        answer: 0,
        losses_at_send: 0,
        losses_at_ready: 0,
        resends_at_send: 0,
        resends_at_ready: 0,
        resent_stamp: 0,
        answer_resent_stamp: 0,
        slot: 0,
        flags: 0,
        losses: 0,
        resends: 0,
    },
    server: events::ServerPart {
        ready_ns: 0,
        read_ns: 0,
        answered_ns: 0,
        key: 0,
        sequence: 0,
        end: 0,
        answer: 0,
        slot: 0,
        flags: 0,
        padding: [0; 4],
    },
};
