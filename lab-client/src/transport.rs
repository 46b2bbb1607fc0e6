//! What users need of the network. Kernel sockets are one such thing; a simulation is another.

use std::io;
use std::net::SocketAddrV4;

use platform::Spin;

use shard::ConnId;
use wire::Frame;

/// A way to connect, send and close, and a clock.
pub trait Transport {
    /// The monotonic clock as this poll read it, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// The monotonic clock now, in nanoseconds.
    fn read_clock(&mut self) -> u64;

    /// Begins to connect from this address.
    ///
    /// # Errors
    /// What can be known at once, above all that the address is taken.
    fn open(&mut self, from: SocketAddrV4) -> io::Result<ConnId>;

    /// Sends a frame, at the latest when [`Self::flush`] is called or the poll ends.
    fn send(&mut self, conn: ConnId, frame: &Frame<'_>);

    /// Sends what waits to be sent.
    fn flush(&mut self);

    /// Lets the other end take what was sent, if it waits for the same CPU. Never waits for it: an
    /// end that does nothing holds nobody up.
    fn give_way(&mut self);

    /// Closes a connection.
    fn close(&mut self, conn: ConnId);

    /// Spends CPU time of the shard. In a world without a clock of its own none passes.
    fn spin(&mut self, ns: u64) -> Spin {
        let now_ns = self.now_ns();
        Spin { user: 0, t: now_ns, end_ns: now_ns, spun_ns: ns }
    }
}
