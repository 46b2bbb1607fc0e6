//! What a program makes of its connections, and what it waits for.

use crate::connections::Net;
use crate::limits::Closed;
use crate::slots::ConnId;

/// What a shard waits for, beside its sockets and its inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// For nothing else.
    Whenever,
    /// For this instant of the monotonic clock, in nanoseconds.
    By(u64),
    /// For nothing any more: the loop ends.
    Stop,
}

/// What a program makes of its connections. Every call may send, close and connect through `net`.
pub trait Handler {
    /// A peer connected to the listening socket.
    fn accepted(&mut self, net: &mut Net, id: ConnId);

    /// A connection opened with [`Net::connect`] is established.
    fn connected(&mut self, net: &mut Net, id: ConnId);

    /// Bytes are there and will be read next: a chance to prefetch the memory that
    /// [`Self::received`] is going to need.
    fn prefetch(&mut self, _id: ConnId) {}

    /// Bytes arrived, after those left over before. Returns how many are used up; the rest comes
    /// again with what follows it.
    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize;

    /// The connection is gone; the id is not valid any more.
    fn closed(&mut self, net: &mut Net, id: ConnId, why: Closed);

    /// There are messages in the shard's inbox.
    fn notified(&mut self, net: &mut Net);

    /// Everything that happened was handled. Says what the shard waits for.
    fn polled(&mut self, net: &mut Net) -> Next;
}
