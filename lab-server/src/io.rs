//! What the logic of a shard wants from the world: sockets, messages and a clock behind one trait,
//! so that everything but the sockets runs in simulation.

use journal::Record;
use platform::Spin;

use shard::ConnId;
use wire::Frame;

use crate::directory::Address;
use crate::message::Message;

/// The world of a shard.
pub trait Io {
    /// The monotonic clock as this poll saw it, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// The Unix second of [`Self::now_ns`].
    fn unix_second(&self) -> u64;

    /// Sends a frame; nothing happens when the connection is gone.
    fn send(&mut self, conn: ConnId, frame: &Frame<'_>);

    /// Closes a connection once the peer has read what was sent.
    fn finish(&mut self, conn: ConnId);

    /// Puts a message on its way to another shard. Returns false, and counts it, when too many
    /// messages wait already.
    fn post(&mut self, shard: usize, message: Message) -> bool;

    /// Writes down what happened to money, where a durable ledger is kept.
    fn record(&mut self, _record: impl FnOnce() -> Record) {}

    /// Whether no money may move just now, because the durable ledger is behind or fails.
    fn refuses_money(&self) -> bool {
        false
    }

    /// Whether what must wait for the durable ledger still finds room.
    fn has_room(&self) -> bool {
        true
    }

    /// The Unix time of an instant of the monotonic clock, in nanoseconds.
    fn unix_ns(&self, at_ns: u64) -> u64 {
        at_ns
    }

    /// Sends a frame once everything recorded by now is durable.
    fn send_recorded(&mut self, conn: ConnId, frame: &Frame<'_>) {
        self.send(conn, frame);
    }

    /// Keeps a message for a shard until everything recorded by now is durable, and hands it back
    /// when it is already.
    fn hold(&mut self, _shard: usize, message: Message) -> Option<Message> {
        Some(message)
    }

    /// Whether shares of this connection are kept, so that refusals must wait behind them.
    fn keeps_share_of(&self, _at: Address) -> bool {
        false
    }

    /// Keeps a refusal for a shard until the shares before it have left.
    fn hold_refusal(&mut self, _shard: usize, _refusal: Message) {}

    /// Spends CPU time of the shard. In a world without a clock of its own none passes.
    fn spin(&mut self, ns: u64) -> Spin {
        let now_ns = self.now_ns();
        Spin { user: 0, t: now_ns, end_ns: now_ns, spun_ns: ns }
    }
}
