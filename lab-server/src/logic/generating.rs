//! The generators, which run on shard 0: what falls due is posted to the shards of its SETs.

use std::sync::atomic::Ordering;

use super::Logic;
use crate::generator::{Generator, Kind, Order, Spread};
use crate::io::Io;
use crate::message::Message;
use crate::packets::{Draft, NOBODY};
use crate::sets::{Online, sets_of, shard_of};

/// Ids of shaken packets begin where those of the prototype do.
const FIRST_SHAKEN: u32 = 0x0010_0000;

/// The generators of the server.
#[derive(Debug)]
pub(super) struct Generators {
    running: Vec<Generator>,
    spread: Spread,
    online: Online,
    shards: usize,
    /// Shaken packets made so far: the id of the next one.
    shaken: u32,
    /// Sent packets made so far: they go to the shards in turn, and to the SETs of each in turn.
    sent: u64,
}

impl Generators {
    pub(super) fn new(online: Online, shards: usize) -> Self {
        let spread = Spread::new(online.len());
        Self { running: Vec::new(), spread, online, shards, shaken: 0, sent: 0 }
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn made(&self) -> u64 {
        u64::from(self.shaken) + self.sent
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.running.iter().filter_map(Generator::next_ns).min()
    }

    pub(super) fn stop(&mut self, id: Option<u64>) {
        self.running.retain(|generator| id.is_some_and(|id| generator.order().id != id));
    }

    fn weigh(&mut self) {
        self.spread.weigh(self.online.iter().map(|users| users.load(Ordering::Relaxed)));
    }

    /// A packet for the SET whose turn it is, and the shard of that SET.
    fn shaken_packet(&mut self, amount: u32) -> (usize, Message) {
        let set = self.spread.pick();
        let packet = FIRST_SHAKEN.wrapping_add(self.shaken);
        self.shaken = self.shaken.wrapping_add(1);
        let shard = shard_of(set, self.shards, self.online.len());
        (shard, Message::Packet { set: set as u32, packet, amount })
    }

    /// A packet for three users, and the shard that is to make it.
    fn sent_packet(&mut self, amount: u32, users: [u32; 3]) -> (usize, Message) {
        let shard = (self.sent % self.shards as u64) as usize;
        let sets = sets_of(shard, self.shards, self.online.len()).len() as u64;
        let set = (self.sent / self.shards as u64 % sets) as u16;
        self.sent += 1;
        let recipients = users.to_vec();
        let draft = Draft { amount, count: 3, recipients, creator: NOBODY, set };
        (shard, Message::Send(Box::new(draft)))
    }
}

impl Logic {
    pub(super) fn start_generator(&mut self, io: &mut impl Io, order: Order) {
        let generator = Generator::new(order, io.now_ns());
        // One with nothing to make never falls due, and would stay for ever.
        if generator.is_over() {
            return;
        }
        self.generators.running.push(generator);
        if order.kind == Kind::Shaken {
            self.supply(io, false);
        }
    }

    /// Makes what is due by now.
    pub(super) fn generate(&mut self, io: &mut impl Io) {
        let now_ns = io.now_ns();
        if self.generators.next_ns().is_none_or(|next| next > now_ns) {
            return;
        }
        self.generators.weigh();
        let mut running = std::mem::take(&mut self.generators.running);
        for generator in &mut running {
            while let Some(amount) = generator.make(now_ns) {
                let (shard, message) = match generator.order().kind {
                    Kind::Shaken => self.generators.shaken_packet(amount),
                    Kind::Sent { first_user, end_user } => {
                        let users = generator.recipients(first_user, end_user);
                        self.generators.sent_packet(amount, users)
                    }
                };
                if !self.post(io, shard, message) {
                    self.counters.queue_overflow += 1;
                }
            }
        }
        let shaken = |generator: &Generator| generator.order().kind == Kind::Shaken;
        let finished = running.iter().any(|one| shaken(one) && one.is_finished());
        running.retain(|generator| !generator.is_over());
        if finished && !running.iter().any(shaken) {
            self.supply(io, true);
        }
        self.generators.running = running;
    }

    /// Tells every shard whether packets to be shaken will come.
    fn supply(&mut self, io: &mut impl Io, finished: bool) {
        for shard in 0..self.shards {
            self.post(io, shard, Message::Supply { finished });
        }
    }
}
