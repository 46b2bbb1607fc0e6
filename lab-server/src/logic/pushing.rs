//! Pushes: a payload to every connection once in an interval, spread evenly over it.

use wire::{Frame, MAX_PUSH_PAYLOAD};

use super::Logic;
use crate::io::Io;
use crate::message::PushOrder;

/// Pushes in one turn at most, so that requests are answered in between: at 6 µs each 1.5 ms.
const PUSHES_PER_TURN: usize = 256;

/// What is pushed: the payload has no meaning.
static PAYLOAD: [u8; MAX_PUSH_PAYLOAD] = [b'.'; MAX_PUSH_PAYLOAD];

/// A running schedule of pushes. Each slot of the shard has its instant in the interval.
#[derive(Debug)]
pub(super) struct Pushes {
    order: PushOrder,
    interval: u32,
    start_ns: u64,
    /// Slots among which this interval is divided.
    slots: u32,
    next_slot: u32,
}

impl Pushes {
    /// When the next push is due, or the next interval begins, in nanoseconds.
    pub(super) fn next_ns(&self) -> u64 {
        let every = u128::from(self.order.every_ns);
        let ahead = if self.slots == 0 {
            every
        } else {
            every * u128::from(self.next_slot) / u128::from(self.slots)
        };
        self.start_ns.saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
    }

    /// Whether nothing more is due, ever.
    fn is_over(&self) -> bool {
        self.order.until_ns.is_some_and(|until| until <= self.next_ns())
    }

    /// The slot, interval and instant of a push that is due by now; `slots` are there.
    fn due(&mut self, now_ns: u64, slots: u32) -> Option<(u32, u32, u64)> {
        let mut due_ns = self.next_ns();
        if self.next_slot >= self.slots && due_ns <= now_ns {
            self.start_ns += self.order.every_ns;
            self.interval += 1;
            self.slots = slots;
            self.next_slot = 0;
            due_ns = self.next_ns();
        }
        if due_ns > now_ns || self.slots == 0 || self.is_over() {
            return None;
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        Some((slot, self.interval, due_ns))
    }
}

impl Logic {
    /// What was told before goes on until this order begins, or ends now with `None`.
    pub(super) fn set_pushes(&mut self, io: &mut impl Io, order: Option<PushOrder>) {
        let Some(order) = order else { return self.pushes.clear() };
        let now_ns = io.now_ns();
        let start_ns = order.from_ns.unwrap_or(now_ns);
        // Of those before, one runs; others that have not begun are replaced.
        self.pushes.retain(|before| before.order.from_ns <= Some(now_ns.min(start_ns)));
        for before in &mut self.pushes {
            let until_ns = before.order.until_ns.map_or(start_ns, |until| until.min(start_ns));
            before.order.until_ns = Some(until_ns);
        }
        let order = PushOrder { from_ns: Some(start_ns), ..order };
        let slots = self.sessions.len() as u32;
        self.pushes.push(Pushes { order, interval: 0, start_ns, slots, next_slot: 0 });
    }

    /// Pushes what is due by now.
    pub(super) fn push_due(&mut self, io: &mut impl Io) {
        let Some(pushes) = self.pushes.first_mut() else { return };
        let now_ns = io.now_ns();
        let payload = &PAYLOAD[..(pushes.order.bytes as usize).min(MAX_PUSH_PAYLOAD)];
        for _ in 0..PUSHES_PER_TURN {
            let Some((slot, sequence, due_ns)) = pushes.due(now_ns, self.sessions.len() as u32)
            else {
                break;
            };
            let session = self.sessions.get(slot as usize);
            if let Some(conn) = session.and_then(|session| session.pushable(slot)) {
                self.counters.pushes += 1;
                io.send(conn, &Frame::Push { sequence, due_ns, payload });
            }
        }
        if pushes.is_over() {
            self.pushes.remove(0);
        }
    }
}
