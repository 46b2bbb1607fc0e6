//! When shards that were told to stop may end: once all of them have nothing to do and no message
//! is under way. One that ended on its own would take answers along that others wait for.

use std::sync::atomic::{AtomicU64, Ordering};

use shard::Inboxes;

use crate::message::Message;

/// Bits of the shared word that count shards; the others count how often one had something to do
/// again.
const COUNT_BITS: u32 = 16;

/// What stopping shards share, and no other shard touches.
#[derive(Debug, Default)]
pub(crate) struct Quiescence {
    /// How often a shard found something to do after all, above the number of those that have
    /// nothing to do.
    word: AtomicU64,
}

impl Quiescence {
    /// A shard has nothing to do.
    pub(crate) fn enter(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
    }

    /// A shard has something to do after all; to be said before it drains its inbox.
    pub(crate) fn leave(&self) {
        self.word.fetch_add((1 << COUNT_BITS) - 1, Ordering::SeqCst);
    }

    /// Whether all shards have nothing to do and no message waits. Inboxes that were empty between
    /// two readings of a word that did not change were empty all the time: a shard that drains its
    /// inbox says so first, and one that has nothing to do posts nothing.
    pub(crate) fn is_over(&self, inboxes: &Inboxes<Message>) -> bool {
        let before = self.word.load(Ordering::SeqCst);
        before & ((1 << COUNT_BITS) - 1) == inboxes.shards() as u64
            && inboxes.is_empty()
            && self.word.load(Ordering::SeqCst) == before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_be_quiet_and_every_inbox_empty() {
        let (quiescence, inboxes) = (Quiescence::default(), Inboxes::new(2, 4).expect("eventfd"));
        quiescence.enter();
        assert!(!quiescence.is_over(&inboxes), "one of two");
        quiescence.enter();
        assert!(quiescence.is_over(&inboxes));
        inboxes.post(1, Message::Stop).expect("room");
        assert!(!quiescence.is_over(&inboxes), "a message");
        quiescence.leave();
        inboxes.drain(1, 1, drop);
        assert!(!quiescence.is_over(&inboxes), "one of two again");
        quiescence.enter();
        assert!(quiescence.is_over(&inboxes));
    }
}
