//! What a program and the sockets of its shard are to each other: bounds, options, what comes back.

use std::net::SocketAddrV4;

use crate::connections::Net;
use crate::drive::Next;
use crate::outgoing::ARENA_BYTES;
use crate::slots::ConnId;

/// The bounds of a shard's sockets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time.
    pub connections: u32,
    /// Sockets in one ring, see [`crate::sockets_per_ring`].
    pub per_ring: u32,
    /// Bytes that wait for one peer to read, beyond what its socket buffers. A peer that lets more
    /// pile up is closed.
    pub backlog_bytes: usize,
    /// How long a peer may leave its backlog untouched before it is closed, in nanoseconds.
    pub stall_ns: u64,
    /// The longest unfinished frame that is kept for a peer.
    pub stash_bytes: usize,
    /// The shortest sleep worth a timer, see [`crate::Alarm::new`].
    pub alarm_slack_ns: u64,
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
            alarm_slack_ns: 0,
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
    /// It broke; the errno.
    Broken(i32),
    /// The peer does not read: too many bytes wait for it, or they wait too long.
    NotReading,
    /// The handler left more unfinished bytes than [`Limits::stash_bytes`].
    FrameTooLong,
}

/// What a program makes of its connections. Every call may send, close and connect through `net`.
pub trait Handler {
    /// A peer connected to the listening socket.
    fn accepted(&mut self, net: &mut Net, id: ConnId);

    /// A connection opened with [`Net::connect`] is established.
    fn connected(&mut self, net: &mut Net, id: ConnId);

    /// Bytes are there and will be read next: a chance to ask for memory that [`Self::received`] is
    /// going to need.
    fn coming(&mut self, _id: ConnId) {}

    /// Bytes arrived, behind those left over before. Returns how many are used up; the rest comes
    /// again with what follows it.
    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize;

    /// The connection is gone; the id is not valid any more.
    fn closed(&mut self, net: &mut Net, id: ConnId, why: Closed);

    /// The bell of the shard's mail was rung.
    fn rung(&mut self, net: &mut Net);

    /// Everything that happened was handled. Says what the shard waits for.
    fn turned(&mut self, net: &mut Net) -> Next;
}

/// What happened on the sockets since the shard began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away because slots, descriptors or files had run out.
    pub turned_away: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes the sockets took.
    pub bytes_out: u64,
    /// Sends that a socket cut short or refused for want of room.
    pub short_sends: u64,
    /// Turns in which something happened.
    pub turns: u64,
}

/// How to open a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions<'a> {
    /// Address and port to come from.
    pub source: SocketAddrV4,
    /// Whom to connect to.
    pub server: SocketAddrV4,
    /// Congestion control, the system's default when `None`.
    pub congestion: Option<&'a str>,
}
