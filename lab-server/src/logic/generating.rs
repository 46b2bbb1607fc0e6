//! The generators, which run on shard 0: what falls due is posted to the shards of its SETs.

use crate::generator::{Generator, GeneratorSpec, PacketKind};
use crate::io::Io;
use crate::logic::state::Logic;
use crate::message::Message;

impl Logic {
    pub(super) fn start_generator(&mut self, io: &mut impl Io, spec: GeneratorSpec) {
        self.generators.begun += 1;
        let generator = Generator::new(spec, io.now_ns());
        // One with nothing to make never falls due, and would stay for ever.
        if generator.is_over() {
            return;
        }
        self.generators.running.push(generator);
        if spec.kind == PacketKind::Shaken {
            self.supply(io, false);
        }
    }

    /// Makes what is due by now, within the bound of a tick: the rest is due in the next.
    pub(super) fn generate(&mut self, io: &mut impl Io) {
        let now_ns = io.now_ns();
        if self.generators.next_ns().is_none_or(|next| next > now_ns) {
            return;
        }
        self.generators.weigh();
        let mut room = self.generators.packets_per_tick();
        let mut running = std::mem::take(&mut self.generators.running);
        for generator in &mut running {
            self.counters.packets_skipped += generator.skip_arrears(now_ns);
            while room > 0 {
                let Some(amount) = generator.make(now_ns) else { break };
                room -= 1;
                let made = match generator.spec().kind {
                    PacketKind::Shaken => self.shaken_packet(io, amount),
                    PacketKind::Sent { first_user, end_user } => {
                        let users = generator.recipients(first_user, end_user);
                        Some(self.generators.sent_packet(amount, users))
                    }
                };
                if !made.is_some_and(|(shard, message)| self.post(io, shard, message)) {
                    self.counters.queue_overflow += 1;
                }
            }
        }
        let shaken = |generator: &Generator| generator.spec().kind == PacketKind::Shaken;
        let finished = running.iter().any(|one| shaken(one) && one.is_finished());
        running.retain(|generator| !generator.is_over());
        if room == 0 && !running.is_empty() {
            // Another comes first in the next tick.
            running.rotate_left(1);
        }
        if finished && !running.iter().any(shaken) {
            self.supply(io, true);
        }
        self.generators.running = running;
    }

    /// A packet for a SET. Where it begins a part of the ids, all shards are told how far they are.
    fn shaken_packet(&mut self, io: &mut impl Io, amount: u32) -> Option<(usize, Message)> {
        let (packet, reached) = self.generators.shaken_packet(amount)?;
        if let Some(reached) = reached {
            for shard in 0..self.shards {
                self.post(io, shard, reached.clone());
            }
        }
        Some(packet)
    }

    /// Tells every shard whether packets to be shaken will come.
    fn supply(&mut self, io: &mut impl Io, finished: bool) {
        for shard in 0..self.shards {
            self.post(io, shard, Message::Supply { finished });
        }
    }
}
