//! Pushes: a payload to every connection once in an interval, spread evenly over it.

use wire::{Frame, MAX_PUSH_PAYLOAD};

use crate::io::Io;
use crate::logic::pushes::Pushes;
use crate::logic::state::Logic;
use crate::message::PushSpec;

/// Pushes in one tick at most, so that requests are answered in between: at 6 µs each 0.2 ms.
const PUSHES_PER_TICK: usize = 32;

/// What is pushed: the payload has no meaning.
static PAYLOAD: [u8; MAX_PUSH_PAYLOAD] = [b'.'; MAX_PUSH_PAYLOAD];

impl Logic {
    /// The pushes before go on until these begin, or end now with `None`.
    pub(super) fn set_pushes(&mut self, io: &mut impl Io, spec: Option<PushSpec>) {
        let Some(spec) = spec else { return self.pushes.clear() };
        let now_ns = io.now_ns();
        let start_ns = spec.from_ns.unwrap_or(now_ns);
        // Of those before, one runs; others that have not begun are replaced.
        self.pushes.retain(|before| before.spec.from_ns <= Some(now_ns.min(start_ns)));
        for before in &mut self.pushes {
            let until_ns = before.spec.until_ns.map_or(start_ns, |until| until.min(start_ns));
            before.spec.until_ns = Some(until_ns);
        }
        // Those that have nothing more to push go, and of the others all but the latest.
        self.pushes.retain(|before| !before.is_over());
        let older = self.pushes.len().saturating_sub(1);
        self.pushes.drain(..older);
        let spec = PushSpec { from_ns: Some(start_ns), ..spec };
        let slots = self.sessions.len() as u32;
        self.pushes.push(Pushes { spec, interval: 0, start_ns, slots, next_slot: 0 });
    }

    /// Pushes what is due by now.
    pub(super) fn push_due(&mut self, io: &mut impl Io) {
        let Some(pushes) = self.pushes.first_mut() else { return };
        let now_ns = io.now_ns();
        let payload = &PAYLOAD[..(pushes.spec.bytes as usize).min(MAX_PUSH_PAYLOAD)];
        self.counters.pushes_skipped += pushes.skip_arrears(now_ns);
        for _ in 0..PUSHES_PER_TICK {
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
