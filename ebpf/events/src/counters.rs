//! Cumulative counters, kept per CPU or in small hash maps, and the record of a loss.

use crate::{Histogram, layout};

/// Bytes of a kernel name (a thread's or an interface's), zero-terminated.
pub const NAME_LENGTH: usize = 16;

/// Interfaces told apart per CPU, over all network namespaces: 64 hosts of a run take two each.
/// Packets of further ones go into the last slot, whose interface number is 0.
pub const DEVICE_SLOTS: usize = 256;

/// Softirq vectors: ten today.
pub const SOFTIRQS: usize = 16;

/// Ends of a connection.
pub const SIDES: usize = 2;

/// Which end of a connection of the experiment's port.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end whose own port is the experiment's.
    Server = 0,
    /// The end that is connected to it.
    Client = 1,
}

/// The softirq vectors that run once per packet on loopback: transmission and reception.
pub const NET_SOFTIRQS: core::ops::RangeInclusive<u32> = 2..=3;

/// Of those, one run in so many is timed, and counts for as many: reading the clock twice a packet
/// would be a tenth of what all probes may cost.
pub const NET_SOFTIRQ_SAMPLE: u64 = 8;

/// Kinds of retransmission.
pub const RETRANSMIT_KINDS: usize = 6;

/// Why a segment was sent again.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retransmit {
    /// Duplicate or selective acknowledgements told of a loss (`TCP_CA_Recovery`).
    Fast = 0,
    /// The retransmission timer ran out (`TCP_CA_Loss`), also for what follows it.
    Timeout = 1,
    /// The tail loss probe.
    TailLoss = 2,
    /// A SYN.
    Syn = 3,
    /// A SYN-ACK.
    SynAck = 4,
    /// Anything else.
    Other = 5,
}

/// Counters of a CPU. Only ever grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CounterBlock {
    /// Segments sent again, by side and kind, as `RetransSegs` counts them.
    pub retransmits: [[u64; RETRANSMIT_KINDS]; SIDES],
    /// Attempts to send again that failed.
    pub retransmits_failed: u64,
    /// Packets of the experiment's port that were dropped.
    pub drops: u64,
    /// Those of them that lost something.
    pub drops_losing: u64,
    /// Packets of any kind that were dropped.
    pub drops_all: u64,
    /// Resets sent, by side.
    pub resets_sent: [u64; SIDES],
    /// Resets received, by side.
    pub resets_received: [u64; SIDES],
    /// Packets dropped because a receive queue was full (datagram sockets).
    pub receive_queue_full: u64,
    /// Times a socket of the experiment's port ran into a memory limit.
    pub buffer_limit: u64,
    /// Loss records that found the ring full.
    pub records_lost: u64,
    /// Threads that found no slot.
    pub threads_unwatched: u64,
    /// Threads that serve requests and found no room for a timeline.
    pub timelines_lacking: u64,
    /// Instants of a hashed flow whose entry belongs to another.
    pub flows_collided: u64,
    /// Instants of a connection outside the dense range.
    pub flows_outside: u64,
    /// Drops that found no room in the map of reasons and places.
    pub drop_places_lost: u64,
    /// Losses that found no room in the map of client addresses.
    pub peers_lost: u64,
    /// Samples of the profile without a stack or without room.
    pub samples_lost: u64,
}

/// What the server's ends took, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ServerBlock {
    /// T2 to T3.
    pub wait: Histogram,
    /// T3 to T4.
    pub service: Histogram,
}

/// Softirqs and NAPI of a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SoftirqBlock {
    /// When the vector that runs now began, 0 for none or not timed.
    pub entered_ns: [u64; SOFTIRQS],
    /// Total time per vector; of the network's, of the runs timed.
    pub time_ns: [u64; SOFTIRQS],
    /// Runs begun per vector.
    pub runs: [u64; SOFTIRQS],
    /// NAPI polls.
    pub polls: u64,
    /// Packets they handled.
    pub polled_packets: u64,
    /// Polls that used their whole budget.
    pub polls_exhausted: u64,
}

/// Packets of the experiment's port on one interface, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceEntry {
    /// The kernel's own name for the interface, 0 for a free slot.
    pub device: u64,
    /// Its number within its network namespace.
    pub ifindex: u32,
    /// The inode of its network namespace.
    pub netns: u32,
    /// Its name when first seen.
    pub name: [u8; NAME_LENGTH],
    /// Packets received, an aggregate (GRO) counting once.
    pub rx_packets: u64,
    /// Their bytes from the network header on.
    pub rx_bytes: u64,
    /// Packets handed to the driver, an aggregate (GSO) counting once.
    pub tx_packets: u64,
    /// Their bytes from the link header on.
    pub tx_bytes: u64,
}

/// Where and why packets were dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DropKey {
    /// The instruction that dropped it.
    pub location: u64,
    /// The reason's number in the running kernel.
    pub reason: u32,
    /// Unused, zero.
    pub padding: u32,
}

/// How many.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DropCount {
    /// Packets of any kind.
    pub all: u64,
    /// Packets of the experiment's port.
    pub port: u64,
    /// Those of them that lost something.
    pub lost: u64,
}

/// A client's address as 128 bits in network byte order; an IPv4 one as IPv6 writes it
/// (`::ffff:a.b.c.d`).
pub type AddressKey = [u32; 4];

/// The key of an IPv4 address in network byte order.
#[inline(always)]
#[must_use]
pub const fn address_v4(address: u32) -> AddressKey {
    [0, 0, 0xffff_u32.to_be(), address]
}

/// Losses of one client address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerLosses {
    /// Segments sent again, by kind, either way.
    pub retransmits: [u64; RETRANSMIT_KINDS],
    /// Packets dropped, either way.
    pub drops: u64,
}

/// Kinds of [`LossRecord::kind`].
pub mod loss {
    /// A packet was dropped; `detail` is the reason.
    pub const DROP: u32 = 1;
    /// A segment was sent again; `detail` is a [`super::Retransmit`].
    pub const RETRANSMIT: u32 = 2;
    /// A reset was sent; `detail` is unused.
    pub const RESET_SENT: u32 = 3;
    /// A reset was received; `detail` is unused.
    pub const RESET_RECEIVED: u32 = 4;
}

/// One loss on a connection of the experiment's port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossRecord {
    /// When.
    pub at_ns: u64,
    /// The instruction that dropped a packet, else 0.
    pub location: u64,
    /// One of [`loss`].
    pub kind: u32,
    /// By kind.
    pub detail: u32,
    /// The client's address.
    pub client: AddressKey,
    /// Unused, zero.
    pub padding: u32,
    /// The client's port.
    pub client_port: u16,
    /// The [`Side`] that sent it (drops: 0 when it came from the server).
    pub side: u16,
    /// The first byte of the segment, where known.
    pub sequence: u32,
    /// Segments, or packets.
    pub count: u32,
}

/// One stack seen by the profile.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StackKey {
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Which program the process was: [`program_of_stack`], 0 where that is not known.
    pub program: u32,
    /// Number of the kernel's stack, negative for none.
    pub kernel: i32,
    /// Number of the user's stack, negative for none.
    pub user: i32,
}

/// Tells the programs apart that a process was one after the other, by where its stack began
/// (`startstack` of `/proc/PID/stat`), which `exec` chooses anew.
#[inline(always)]
#[must_use]
pub const fn program_of_stack(start_stack: u64) -> u32 {
    // Stacks begin at multiples of 16, below 2^48.
    (start_stack >> 4) as u32
}

/// Samples of one stack.
pub type StackCount = u64;

layout!(CounterBlock, 240, retransmits at 0, drops at 104, records_lost at 176,
    samples_lost at 232);
layout!(ServerBlock, 4160, wait at 0, service at 2080);
layout!(SoftirqBlock, 408, entered_ns at 0, time_ns at 128, runs at 256, polls at 384);
layout!(DeviceEntry, 64, device at 0, ifindex at 8, name at 16, rx_packets at 32, tx_bytes at 56);
layout!(DropKey, 16, location at 0, reason at 8);
layout!(DropCount, 24, all at 0, port at 8, lost at 16);
layout!(PeerLosses, 56, retransmits at 0, drops at 48);
layout!(LossRecord, 56, at_ns at 0, kind at 16, client at 24, client_port at 44, count at 52);
layout!(StackKey, 20, tid at 0, program at 8, kernel at 12);
