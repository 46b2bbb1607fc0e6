//! The outgoing messages of a shard: what finds an inbox full waits here instead of being lost.

use std::collections::VecDeque;

use shard::Inboxes;

use crate::message::Message;

/// Messages in each shard's inbox: with 60,000 claims or chats a second and two shards, a quarter
/// of a second's worth.
pub(crate) const INBOX: usize = 8192;

/// Messages that may wait for full inboxes, over all of them: another second's worth. Beyond that
/// they are dropped and counted, and the asker is told or the money is booked as undelivered.
const HELD: usize = 65_536;

/// While messages wait, they are tried again this often.
const RETRY_NS: u64 = 1_000_000;

/// A shard's way to the others.
#[derive(Debug)]
pub(crate) struct Outbox {
    inboxes: Inboxes<Message>,
    /// For each shard what waits for it, oldest first.
    held: Vec<VecDeque<Message>>,
    held_in_all: usize,
    /// Messages posted.
    pub(crate) sent: u64,
    /// Messages that had to wait.
    pub(crate) waited: u64,
    /// Messages dropped.
    pub(crate) dropped: u64,
}

impl Outbox {
    /// An outbox with nothing in it.
    pub(crate) fn new(inboxes: Inboxes<Message>) -> Self {
        let held = (0..inboxes.shards()).map(|_| VecDeque::new()).collect();
        Self { inboxes, held, held_in_all: 0, sent: 0, waited: 0, dropped: 0 }
    }

    /// Puts a message on its way; false when it was dropped.
    pub(crate) fn post(&mut self, to: usize, message: Message) -> bool {
        let refused = if self.held[to].is_empty() {
            self.inboxes.post(to, message).err()
        } else {
            Some(message)
        };
        if let Some(message) = refused {
            if self.held_in_all >= HELD {
                self.dropped += 1;
                return false;
            }
            self.held[to].push_back(message);
            self.held_in_all += 1;
            self.waited += 1;
        }
        self.sent += 1;
        true
    }

    /// Tries again what waits. Returns when to try the next time, if anything still waits.
    pub(crate) fn retry(&mut self, now_ns: u64) -> Option<u64> {
        if self.held_in_all == 0 {
            return None;
        }
        for (to, held) in self.held.iter_mut().enumerate() {
            while let Some(message) = held.pop_front() {
                if let Err(back) = self.inboxes.post(to, message) {
                    held.push_front(back);
                    break;
                }
                self.held_in_all -= 1;
            }
        }
        (self.held_in_all > 0).then_some(now_ns + RETRY_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_waits_and_keeps_its_order() {
        let inboxes = Inboxes::new(2, 2).expect("eventfd");
        let mut outbox = Outbox::new(inboxes.clone());
        let ticket = |ticket| Message::Snapshot { ticket };
        for number in 0..5 {
            assert!(outbox.post(1, ticket(number)));
        }
        assert_eq!((outbox.sent, outbox.waited, outbox.dropped), (5, 3, 0));
        let mut seen = Vec::new();
        while seen.len() < 5 {
            while inboxes.drain(1, 8, |message| seen.push(message)) {}
            outbox.retry(0);
        }
        assert_eq!(seen, (0..5).map(ticket).collect::<Vec<_>>());
        assert_eq!(outbox.retry(7), None);
        for _ in 0..HELD + 2 {
            assert!(outbox.post(0, Message::Stop));
        }
        assert!(!outbox.post(0, Message::Stop));
        assert_eq!(outbox.dropped, 1);
        assert_eq!(outbox.retry(7), Some(7 + RETRY_NS));
    }
}
