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
//! Owns: where a flow lies, and which instants belong to a request. Must not know: what is slow.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd,
};

use events::{FlowEntry, client, dense_index, hashed_slot, key_v4, server};
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

/// Time a thread waited for a CPU, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuWait {
    /// While a thread of another program held it, or it was idle.
    pub foreign_ns: u64,
    /// While a thread of its own program held it.
    pub own_ns: u64,
}

impl CpuWait {
    const fn of(foreign: u32, own: u32) -> Self {
        Self { foreign_ns: foreign as u64, own_ns: own as u64 }
    }
}

/// What the kernel saw of one request. Instants are CLOCK_MONOTONIC nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The request's first byte in the stream.
    pub sequence: u32,
    /// The exclusive end of its bytes.
    pub end: u32,
    /// The answer's first byte.
    pub answer: u32,
    /// T1: the client's send began.
    pub sent_ns: u64,
    /// T2: ready at the server.
    pub server_ready_ns: Option<u64>,
    /// T3: read by the server.
    pub server_read_ns: Option<u64>,
    /// T4: the server's send began.
    pub answered_ns: Option<u64>,
    /// T5: the answer was ready.
    pub ready_ns: Option<u64>,
    /// T6: the answer was read.
    pub read_ns: Option<u64>,
    /// Waiting for a CPU from T2 to T3, by the server's thread.
    pub server_wait: Option<CpuWait>,
    /// The same from T3 to T4.
    pub server_service: Option<CpuWait>,
    /// The same from T5 to T6, by the client's thread.
    pub client_receive: Option<CpuWait>,
    /// Retransmissions and drops of the connection, either way, from T1 to T5 (or till now).
    pub losses: u32,
    /// The request shared its stretch of the stream with something else, as far as the kernel can
    /// tell; two frames in one send, it cannot.
    pub mixed: bool,
    /// The slots of the threads, for [`crate::threads::ThreadTable`]; 0 for none.
    pub client_slot: u16,
    /// The server's thread.
    pub server_slot: u16,
    /// Totals of the client's thread at T5, while T6 is not there: as `sent_totals`.
    pub ready_totals: Option<(u32, u32)>,
    /// Totals of the client's thread at T1, lower 32 bits of nanoseconds: (foreign, own).
    pub sent_totals: Option<(u32, u32)>,
}

impl Request {
    /// Puts together what belongs together. `None` if nothing was sent yet.
    pub fn of(entry: &FlowEntry) -> Option<Self> {
        let FlowEntry { client: mine, server: theirs } = entry;
        let has = |flags: u16, bit: u16| flags & bit != 0;
        if !has(mine.flags, client::SENT) {
            return None;
        }
        let same = theirs.sequence == mine.sequence;
        let at_server = |bit: u16, ns: u64| (same && has(theirs.flags, bit)).then_some(ns);
        let at_client = |bit: u16, ns: u64| has(mine.flags, bit).then_some(ns);
        let ready = has(mine.flags, client::READY);
        let until = if ready { mine.losses_at_ready } else { mine.losses as u16 };
        Some(Self {
            sequence: mine.sequence,
            end: mine.sequence.wrapping_add(mine.length),
            answer: mine.answer,
            sent_ns: mine.sent_ns,
            server_ready_ns: at_server(server::READY, theirs.ready_ns),
            server_read_ns: at_server(server::READ, theirs.read_ns),
            answered_ns: at_server(server::ANSWERED, theirs.answered_ns),
            ready_ns: at_client(client::READY, mine.ready_ns),
            read_ns: at_client(client::READ, mine.read_ns),
            server_wait: at_server(server::WAIT_SPLIT, 0)
                .map(|_| CpuWait::of(theirs.wait_foreign, theirs.wait_own)),
            server_service: at_server(server::SERVICE_SPLIT, 0)
                .map(|_| CpuWait::of(theirs.service_foreign, theirs.service_own)),
            client_receive: at_client(client::RECEIVE_SPLIT, 0)
                .map(|_| CpuWait::of(mine.receive_foreign, mine.receive_own)),
            losses: u32::from(until.wrapping_sub(mine.losses_at_send)),
            mixed: has(mine.flags, client::SHARED) || shares_its_stretch(entry, same),
            client_slot: mine.slot,
            server_slot: theirs.slot,
            ready_totals: at_client(client::RECEIVE_BEGUN, 0)
                .map(|_| (mine.receive_foreign, mine.receive_own)),
            sent_totals: at_client(client::SENT_SPLIT, 0)
                .map(|_| (mine.sent_foreign, mine.sent_own)),
        })
    }

    /// Enters T6, by the client's own account: when its thread had read the answer, and the
    /// thread's totals then ([`crate::ThreadTable::own_totals`]).
    pub fn read_at(&mut self, now_ns: u64, totals: Option<(u32, u32)>) {
        // Beyond this the lower 32 bits of two totals cannot be told apart.
        const LIMIT_NS: u64 = 1 << 32;
        let Some(ready_ns) = self.ready_ns.filter(|_| self.read_ns.is_none()) else { return };
        self.read_ns = Some(now_ns);
        let both = totals.zip(self.ready_totals.take());
        if now_ns.saturating_sub(ready_ns) < LIMIT_NS {
            self.client_receive = both.map(|(now, then)| {
                CpuWait::of(now.0.wrapping_sub(then.0), now.1.wrapping_sub(then.1))
            });
        }
    }

    /// T1 to T6.
    pub fn instants_ns(&self) -> [Option<u64>; 6] {
        [
            Some(self.sent_ns),
            self.server_ready_ns,
            self.server_read_ns,
            self.answered_ns,
            self.ready_ns,
            self.read_ns,
        ]
    }

    /// T2 to T4 and the rest, in order; negative where clocks or the kernel's order disagree.
    pub fn segments(&self) -> Option<Segments> {
        let span = |from: u64, to: u64| to.wrapping_sub(from).cast_signed();
        let (t2, t3, t4) = (self.server_ready_ns?, self.server_read_ns?, self.answered_ns?);
        let (t5, t6) = (self.ready_ns?, self.read_ns?);
        Some(Segments {
            network_ns: span(self.sent_ns, t5) - span(t2, t4),
            server_wait_ns: span(t2, t3),
            server_service_ns: span(t3, t4),
            client_receive_lag_ns: span(t5, t6),
        })
    }
}

/// The segments of a request but the first one, T1 − T0, which takes the client's own T0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Segments {
    /// (T5 − T1) − (T4 − T2)
    pub network_ns: i64,
    /// T3 − T2
    pub server_wait_ns: i64,
    /// T4 − T3
    pub server_service_ns: i64,
    /// T6 − T5
    pub client_receive_lag_ns: i64,
}

/// Whether the two ends' stretches of the stream say that another frame was there too.
fn shares_its_stretch(entry: &FlowEntry, same: bool) -> bool {
    let FlowEntry { client: mine, server: theirs } = entry;
    if theirs.flags & server::READ == 0 {
        return false;
    }
    let mine_end = mine.sequence.wrapping_add(mine.length);
    if same {
        let answered = theirs.flags & server::ANSWERED != 0;
        return theirs.end != mine_end || (answered && theirs.answer != mine.answer);
    }
    // The server read it together with what came before it: its stretch begins earlier and ends
    // after our first byte.
    let begins_before = mine.sequence.wrapping_sub(theirs.sequence).cast_signed() > 0;
    begins_before && theirs.end.wrapping_sub(mine.sequence).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered() -> FlowEntry {
        let mut entry = FlowEntry::default();
        entry.client.flags = client::SENT | client::READY | client::READ;
        (entry.client.sequence, entry.client.length, entry.client.answer) = (u32::MAX - 3, 20, 7);
        (entry.client.sent_ns, entry.client.ready_ns, entry.client.read_ns) = (10, 60, 70);
        entry.server.flags = server::READY | server::READ | server::ANSWERED;
        (entry.server.sequence, entry.server.end, entry.server.answer) = (u32::MAX - 3, 16, 7);
        (entry.server.ready_ns, entry.server.read_ns, entry.server.answered_ns) = (20, 30, 45);
        entry
    }

    #[test]
    fn instants_of_one_request_make_its_segments() {
        let request = Request::of(&answered()).expect("sent");
        assert!(!request.mixed);
        let expected = Segments {
            network_ns: 25,
            server_wait_ns: 10,
            server_service_ns: 15,
            client_receive_lag_ns: 10,
        };
        assert_eq!(request.segments(), Some(expected));
    }

    #[test]
    fn what_belongs_to_another_request_is_left_out_or_called_mixed() {
        let check = |change: fn(&mut FlowEntry), whole: bool, mixed: bool| {
            let mut entry = answered();
            change(&mut entry);
            let request = Request::of(&entry).expect("sent");
            assert_eq!((request.segments().is_some(), request.mixed), (whole, mixed), "{entry:?}");
        };
        // An older request of the server's.
        let older = |entry: &mut FlowEntry| {
            (entry.server.sequence, entry.server.end) = (u32::MAX - 23, u32::MAX - 3);
        };
        check(older, false, false);
        // Both read at once.
        check(|entry| entry.server.sequence = u32::MAX - 23, false, true);
        // More read than was sent.
        check(|entry| entry.server.end = 36, true, true);
        // A notice before the answer.
        check(|entry| entry.server.answer = 30, true, true);
        check(|entry| entry.client.flags |= client::SHARED, true, true);
        check(|entry| entry.server.flags = 0, false, false);
        assert_eq!(Request::of(&FlowEntry::default()), None);
    }

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
