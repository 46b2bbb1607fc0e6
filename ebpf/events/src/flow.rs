//! The latest request of a connection, one entry per flow.
//!
//! The kernel only stamps; the client's thread, which has just read an answer, finds the instants
//! of both ends here and computes the segments itself. Each end writes a cache line of its own.

use crate::layout;

/// Bits of [`ClientPart::flags`].
pub mod client {
    /// T1 is there.
    pub const SENT: u16 = 1;
    /// T5 is there.
    pub const READY: u16 = 2;
    /// T6 is there.
    pub const READ: u16 = 4;
    /// The request began while another frame was unanswered.
    pub const SHARED: u16 = 8;
    /// The answer acknowledges the first transmission of the request: what was sent again was not
    /// needed.
    pub const REQUEST_IN_TIME: u16 = 16;
    /// The answer that came is the first transmission of it.
    pub const ANSWER_IN_TIME: u16 = 32;
    /// What T5 is of came before the answer began, or this kernel does not see the server.
    pub const EARLY: u16 = 64;
}

/// Bits of [`ServerPart::flags`].
pub mod server {
    /// T2 is there.
    pub const READY: u16 = 1;
    /// T3 is there.
    pub const READ: u16 = 2;
    /// T4 is there.
    pub const ANSWERED: u16 = 4;
}

/// What the client's end saw of its latest request. Instants are CLOCK_MONOTONIC nanoseconds,
/// 0 is "not seen"; sequence numbers are those of TCP.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientPart {
    /// T1: the send began.
    pub sent_ns: u64,
    /// T5: the answer was ready.
    pub ready_ns: u64,
    /// T6: the answer was read.
    pub read_ns: u64,
    /// The request's first byte.
    pub sequence: u32,
    /// Bytes the send was asked to send.
    pub length: u32,
    /// No byte of the answer is before this one: what came before it was there already.
    pub answer: u32,
    /// The counter `losses` (lower half of it) when the send began.
    pub losses_at_send: u16,
    /// The same when the answer was ready.
    pub losses_at_ready: u16,
    /// The counter `resends` (lower half of it) when the send began.
    pub resends_at_send: u16,
    /// The same when the answer was ready.
    pub resends_at_ready: u16,
    /// TCP's clock for timestamps when the request was sent again for the first time, 0 for never.
    pub resent_stamp: u32,
    /// The timestamp of the segment when its answer was sent again for the first time, 0 for never.
    pub answer_resent_stamp: u32,
    /// The slot of the thread that last read or sent here, 0 for none.
    pub slot: u16,
    /// Bits of [`client`].
    pub flags: u16,
    /// Drops of this connection's packets, either way, ever.
    pub losses: u32,
    /// Its retransmissions, likewise.
    pub resends: u32,
}

/// What the server's end saw of the latest request.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerPart {
    /// T2: the request was ready.
    pub ready_ns: u64,
    /// T3: the request was read.
    pub read_ns: u64,
    /// T4: the answer's send began.
    pub answered_ns: u64,
    /// Whose entry this is when flows are hashed, and in what is kept for a join; 0 when flows are
    /// dense or the entry is free.
    pub key: u64,
    /// The request's first byte.
    pub sequence: u32,
    /// The first byte not read at T3.
    pub end: u32,
    /// The answer's first byte.
    pub answer: u32,
    /// The slot of the thread that last read here, 0 for none.
    pub slot: u16,
    /// Bits of [`server`].
    pub flags: u16,
    /// Unused.
    pub padding: [u32; 4],
}

impl ServerPart {
    /// Whether the bytes read at T3 begin at or before a byte of the stream and go beyond it.
    #[inline(always)]
    #[must_use]
    pub const fn has_read(&self, byte: u32) -> bool {
        self.flags & server::READ != 0
            && byte.wrapping_sub(self.sequence) < self.end.wrapping_sub(self.sequence)
    }

    /// Whether an answer to what begins at a byte of the stream has begun.
    #[inline(always)]
    #[must_use]
    pub const fn has_answered(&self, byte: u32) -> bool {
        self.flags & server::ANSWERED != 0 && self.has_read(byte)
    }
}

/// Both ends of a connection; on a host that has one end, the other part stays zero.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowEntry {
    /// The client's cache line.
    pub client: ClientPart,
    /// The server's cache line.
    pub server: ServerPart,
}

/// Which connections are stamped: those whose hash has none of the mask's bits. Written by user
/// space, read by programs and by the clients.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampling {
    /// The mask: 0 for all connections, else one less than a power of two.
    pub mask: u32,
    /// The strictest mask that a request may have met which was under way at `strict_until_ns`.
    pub strict_mask: u32,
    /// When that one was in force for the last time, CLOCK_MONOTONIC.
    pub strict_until_ns: u64,
}

/// Whether a client's connection (host byte order) is among those with a mask.
#[inline(always)]
#[must_use]
pub const fn in_sample(address: u32, port: u16, mask: u32) -> bool {
    // Fibonacci hashing: the upper bits of a product with 2^32 / phi.
    let hash = (address.rotate_left(16) ^ port as u32).wrapping_mul(0x9e37_79b1) >> 16;
    hash & mask == 0
}

/// Marks a key as taken: a key is never 0.
const KEY_TAKEN: u64 = 1 << 63;

/// The key of an IPv4 connection by the client's address and port, host byte order.
#[inline(always)]
#[must_use]
pub const fn key_v4(address: u32, port: u16) -> u64 {
    KEY_TAKEN | (address as u64) << 16 | port as u64
}

/// The key of an IPv6 connection: 63 bits that differ from each other's with all likelihood.
#[inline(always)]
#[must_use]
pub const fn key_v6(address_high: u64, address_low: u64, port: u16) -> u64 {
    let mixed = mix(address_high ^ mix(address_low ^ mix(port as u64)));
    KEY_TAKEN | mixed
}

/// Where a key's entry lies in a table of `capacity` (a power of two) entries.
#[inline(always)]
#[must_use]
pub const fn hashed_slot(key: u64, capacity: u32) -> u32 {
    mix(key) as u32 & capacity.wrapping_sub(1)
}

/// Where hosts share no kernel, one request in so many is joined: a power of two.
pub const JOINED_ONE_IN: u32 = 64;

/// A number that both ends of a connection know of a request: the key of the connection and the
/// request's first byte in the stream.
#[inline(always)]
#[must_use]
pub const fn request_hash(key: u64, sequence: u32) -> u64 {
    // The product's factor is 2^64 / phi: neighbours in a stream fall far apart.
    mix(key ^ (sequence as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Whether the request with this hash is among those that are joined.
#[inline(always)]
#[must_use]
pub const fn is_joined(hash: u64) -> bool {
    hash >> (u64::BITS - JOINED_ONE_IN.ilog2()) == 0
}

/// A request that took this long at the server is kept for a join, in the sample or not.
pub const KEPT_FROM_NS: u64 = 500_000;

/// Entries for the server's ends of requests, when `capacity` of the sample are kept: those, and
/// after them twice as many that are not of the sample and took long.
#[must_use]
pub const fn kept_entries(capacity: u32) -> u32 {
    3 * capacity
}

/// Where the server's end of a request is kept when `capacity` (a power of two) of the sample are.
#[inline(always)]
#[must_use]
pub const fn kept_slot(hash: u64, capacity: u32) -> u32 {
    let place = hash as u32;
    if is_joined(hash) {
        place & capacity.wrapping_sub(1)
    } else {
        capacity + (place & (2 * capacity).wrapping_sub(1))
    }
}

/// Finaliser of MurmurHash3.
#[inline(always)]
const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

layout!(ClientPart, 64, sent_ns at 0, sequence at 24, losses_at_send at 36, resent_stamp at 44,
    slot at 52, losses at 56);
layout!(ServerPart, 64, ready_ns at 0, key at 24, sequence at 32, slot at 44, padding at 48);
layout!(Sampling, 16, strict_mask at 4, strict_until_ns at 8);
layout!(FlowEntry, 128, client at 0, server at 64);
