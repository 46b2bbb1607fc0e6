//! When shards that were told to stop may end: once all of them have nothing to do and no mail is
//! under way. One that ended on its own would take answers along that others wait for.

use std::sync::atomic::{AtomicU64, Ordering};

use shard::Mail;

use crate::message::Message;

/// Bits of the shared word that count shards; the others count changes of mind.
const COUNT_BITS: u32 = 16;

/// What stopping shards share. Nobody touches it before.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    /// How often a shard found something to do after all, above the number of those that have
    /// nothing to do.
    word: AtomicU64,
}

impl Quiet {
    /// A shard has nothing to do.
    pub(crate) fn enter(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
    }

    /// A shard has something to do after all; to be said before it takes mail from its inbox.
    pub(crate) fn leave(&self) {
        self.word.fetch_add((1 << COUNT_BITS) - 1, Ordering::SeqCst);
    }

    /// Whether all shards have nothing to do and there is no mail. Inboxes that were empty between
    /// two looks at a word that did not change were empty all the time: whoever takes mail says so
    /// first, and whoever has nothing to do posts none.
    pub(crate) fn is_over(&self, mail: &Mail<Message>) -> bool {
        let before = self.word.load(Ordering::SeqCst);
        before & ((1 << COUNT_BITS) - 1) == mail.shards() as u64
            && mail.is_empty()
            && self.word.load(Ordering::SeqCst) == before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_be_quiet_and_every_inbox_empty() {
        let (quiet, mail) = (Quiet::default(), Mail::new(2, 4).expect("eventfd"));
        quiet.enter();
        assert!(!quiet.is_over(&mail), "one of two");
        quiet.enter();
        assert!(quiet.is_over(&mail));
        mail.post(1, Message::Stop).expect("room");
        assert!(!quiet.is_over(&mail), "mail");
        quiet.leave();
        mail.take(1, 1, drop);
        assert!(!quiet.is_over(&mail), "one of two again");
        quiet.enter();
        assert!(quiet.is_over(&mail));
    }
}
