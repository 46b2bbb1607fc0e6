//! Messages of a shard to itself.
//!
//! Most are brought about by a frame each, and are handled at once: who asks more has fewer turns.
//! But one packet may name a thousand users, and the notice to each costs a send, 5 ms in all. So
//! notices wait apart, and each poll handles some. Whoever claims, logs in or writes does not wait
//! for them, and is not turned away for want of the room that they take.

use std::collections::VecDeque;

use crate::message::{Message, Parcel};

/// Messages that may wait of each kind: four times what a user's budget of mail allows in one go.
/// Beyond that they are dropped and counted, like those to other shards.
const ROOM: usize = 16_384;

/// Notices handled in one poll: at 5 µs each 0.15 ms.
const NOTICES_PER_POLL: usize = 32;

/// The messages that wait.
#[derive(Debug)]
pub(super) struct Local {
    notices: VecDeque<Message>,
    others: VecDeque<Message>,
    /// Notices that may still be handled in this poll.
    left: usize,
}

impl Default for Local {
    fn default() -> Self {
        Self { notices: VecDeque::new(), others: VecDeque::new(), left: NOTICES_PER_POLL }
    }
}

impl Local {
    /// Puts a message behind those of its kind; false when there is no room.
    pub(super) fn put(&mut self, message: Message) -> bool {
        let queue = match &message {
            Message::Forward { parcel: Parcel::Notice(_), .. } => &mut self.notices,
            _ => &mut self.others,
        };
        let room = queue.len() < ROOM;
        if room {
            queue.push_back(message);
        }
        room
    }

    /// The next one to be handled in this poll.
    pub(super) fn next(&mut self) -> Option<Message> {
        if let Some(other) = self.others.pop_front() {
            return Some(other);
        }
        let left = self.left.checked_sub(1)?;
        let notice = self.notices.pop_front()?;
        self.left = left;
        Some(notice)
    }

    /// Another poll begins.
    pub(super) fn begin_poll(&mut self) {
        self.left = NOTICES_PER_POLL;
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.others.is_empty()
    }
}
