//! The generators of a server, and where their packets go.

use std::sync::atomic::Ordering;

use crate::generator::{Generator, Spread};
use crate::message::Message;
use crate::packets::{Draft, NO_CREATOR};
use crate::sets::{Online, sets_of, shard_of};
use crate::shaken_ids::ShakenIds;

/// Packets of one tick at most, so that requests are answered in between: a tenth of a millisecond's
/// work, for which each looks at every SET ...
const PACKETS_PER_TICK: usize = 128;

/// ... so that with many SETs there are fewer.
const SETS_PER_TICK: usize = 1 << 15;

/// The generators of the server.
#[derive(Debug)]
pub(super) struct Generators {
    pub(super) running: Vec<Generator>,
    spread: Spread,
    online: Online,
    shards: usize,
    /// Generators that were ever started, those among them that had nothing to make.
    pub(super) begun: u64,
    shaken: ShakenIds,
    /// Sent packets made so far: they go round the shards, and round the SETs of each.
    sent: u64,
}

impl Generators {
    pub(super) fn new(online: Online, shards: usize) -> Self {
        let spread = Spread::new(online.len());
        let (running, shaken) = (Vec::new(), ShakenIds::new());
        Self { running, spread, online, shards, begun: 0, shaken, sent: 0 }
    }

    /// Goes on after the shaken packets that were made before the server was started again; `next`
    /// is the id after the last one, 0 when there was none.
    pub(super) fn go_on_from(&mut self, next: u32) {
        self.shaken.go_on_from(next);
    }

    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    pub(super) fn made(&self) -> u64 {
        self.shaken.given() + self.sent
    }

    /// Packets a second of all that run.
    pub(super) fn rate(&self) -> u64 {
        self.running.iter().map(|generator| u64::from(generator.spec().rate)).sum()
    }

    pub(super) fn packets_per_tick(&self) -> usize {
        (SETS_PER_TICK / self.online.len().max(1)).clamp(1, PACKETS_PER_TICK)
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.running.iter().filter_map(Generator::next_ns).min()
    }

    pub(super) fn stop(&mut self, id: Option<u64>) {
        self.running.retain(|generator| id.is_some_and(|id| generator.spec().id != id));
    }

    pub(super) fn weigh(&mut self) {
        self.spread.weigh(self.online.iter().map(|set| set.users.load(Ordering::Relaxed)));
    }

    /// A packet for the next SET, and the shard of that SET; `None` when no id is free. With it,
    /// where it begins a part of the ids, what all shards should know.
    pub(super) fn shaken_packet(
        &mut self,
        amount: u32,
    ) -> Option<((usize, Message), Option<Message>)> {
        let parts = || self.online.iter().map(|set| set.parts.load(Ordering::Relaxed));
        let taken = self.shaken.take(|| parts().fold(0, |all, one| all | one))?;
        let set = self.spread.pick();
        let shard = shard_of(set, self.shards, self.online.len());
        let packet = Message::Packet { set: set as u32, packet: taken.id, amount };
        let reached = taken.begins.then_some(Message::Reached { next: taken.id });
        Some(((shard, packet), reached))
    }

    /// A packet for three users, and the shard that is to make it.
    pub(super) fn sent_packet(&mut self, amount: u32, users: [u32; 3]) -> (usize, Message) {
        let shard = (self.sent % self.shards as u64) as usize;
        let sets = sets_of(shard, self.shards, self.online.len()).len() as u64;
        let set = (self.sent / self.shards as u64 % sets) as u16;
        self.sent += 1;
        let recipients = users.to_vec();
        let draft = Draft { amount, count: 3, recipients, creator: NO_CREATOR, set };
        (shard, Message::Send(Box::new(draft)))
    }
}
