//! What a shard's sockets are bounded by, how they are opened, why they close, what they count.

use std::net::SocketAddrV4;

use crate::outgoing::ARENA_BYTES;

/// The bounds of a shard's sockets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time.
    pub connections: u32,
    /// Sockets in one ring, see [`platform::sockets_per_ring`].
    pub per_ring: u32,
    /// Bytes that wait for one peer to read, beyond what its socket buffers. A peer that lets more
    /// pile up is closed.
    pub backlog_bytes: usize,
    /// How long a peer may leave its backlog untouched before it is closed, in nanoseconds.
    pub stall_ns: u64,
    /// The longest unfinished frame that is kept for a peer.
    pub stash_bytes: usize,
    /// How long a socket waits, for which the kernel has no memory, before it is tried again, in
    /// nanoseconds; the next pauses double.
    pub retry_ns: u64,
    /// The shortest sleep worth a timer, see `Timer::new`.
    pub timer_slack_ns: u64,
}

impl Limits {
    /// Bounds that fit frames of at most `max_frame` bytes.
    pub fn new(connections: u32, per_ring: u32, max_frame: usize) -> Self {
        Self {
            connections,
            per_ring,
            backlog_bytes: (4 * max_frame).min(ARENA_BYTES / 4),
            stall_ns: 10_000_000_000,
            stash_bytes: max_frame,
            retry_ns: 1_000_000,
            timer_slack_ns: 0,
        }
    }
}

/// Why a connection is gone without the handler having closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer closed it in order.
    ByPeer,
    /// It could not be opened; the errno.
    NotConnected(i32),
    /// It broke, or the kernel had no memory for it for too long; the errno.
    Broken(i32),
    /// The peer does not read: too many bytes wait for it, or they wait too long.
    NotReading,
    /// The handler left more unfinished bytes than [`Limits::stash_bytes`].
    FrameTooLong,
}

/// What happened on the sockets since the shard began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away because slots, descriptors or files had run out.
    pub turned_away: u64,
    /// Those of them that found all places of the shard taken.
    pub found_full: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes the sockets took.
    pub bytes_out: u64,
    /// Sends that a socket cut short or refused for want of room.
    pub short_sends: u64,
    /// Receives and sends that the kernel had no memory for, and that are tried again later.
    pub put_off: u64,
    /// Polls in which something happened.
    pub polls: u64,
}

/// How to open a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions<'a> {
    /// Address and port to come from.
    pub source: SocketAddrV4,
    /// The address to connect to.
    pub server: SocketAddrV4,
    /// Congestion control, the system's default when `None`.
    pub congestion: Option<&'a str>,
}
