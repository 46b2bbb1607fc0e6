//! Messages between shards, and from the control thread to shards.
//!
//! A bounded queue a shard and an eventfd in its readiness set. Not glommio's channels: a shard
//! that is busy waits for its connections in `epoll_wait` and not in glommio's reactor
//! ([`crate::drive()`] says why), and 54 shards would need 2,916 channels where 54 queues do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io;

#[derive(Debug)]
struct Inbox<M> {
    queue: ArrayQueue<M>,
    eventfd: OwnedFd,
    /// The eventfd was written and the owner has not drained since: no need to write again.
    notified: AtomicBool,
}

/// The inboxes of all shards; a clone a thread that posts.
///
/// To be made before any shard gets a descriptor table of its own: the eventfds are written by
/// number.
#[derive(Debug)]
pub struct Inboxes<M> {
    inboxes: Arc<[Inbox<M>]>,
}

impl<M> Clone for Inboxes<M> {
    fn clone(&self) -> Self {
        Self { inboxes: Arc::clone(&self.inboxes) }
    }
}

impl<M> Inboxes<M> {
    /// Inboxes for `shards` shards, each for at most `capacity` messages.
    ///
    /// # Errors
    /// What `eventfd` says.
    pub fn new(shards: usize, capacity: usize) -> io::Result<Self> {
        let inbox = || {
            Ok(Inbox {
                queue: ArrayQueue::new(capacity),
                eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                notified: AtomicBool::new(false),
            })
        };
        Ok(Self { inboxes: (0..shards).map(|_| inbox()).collect::<io::Result<_>>()? })
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.inboxes.len()
    }

    /// Whether every inbox is empty, each at the instant at which it was looked at.
    pub fn is_empty(&self) -> bool {
        self.inboxes.iter().all(|inbox| inbox.queue.is_empty())
    }

    /// Puts a message into the inbox of shard `to` and notifies it.
    ///
    /// # Errors
    /// The message, when the inbox is full.
    pub fn post(&self, to: usize, message: M) -> Result<(), M> {
        let inbox = &self.inboxes[to];
        inbox.queue.push(message)?;
        if !inbox.notified.swap(true, Ordering::AcqRel) {
            // An eventfd refuses a write only when its count is at 2^64 - 2, or by EINTR never.
            let _ = rustix::io::write(&inbox.eventfd, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Hands out what is in the inbox of shard `me`, at most `most` messages, oldest first.
    /// Returns whether there may be more.
    pub fn drain(&self, me: usize, most: usize, mut each: impl FnMut(M)) -> bool {
        let inbox = &self.inboxes[me];
        // Before the queue is read, so that a message posted after the last one read notifies
        // again.
        inbox.notified.swap(false, Ordering::AcqRel);
        for _ in 0..most {
            match inbox.queue.pop() {
                Some(message) => each(message),
                None => return false,
            }
        }
        true
    }

    /// The descriptor that becomes readable when there are messages for shard `me`.
    pub fn eventfd(&self, me: usize) -> BorrowedFd<'_> {
        self.inboxes[me].eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// Two writers, one reader that sleeps on the eventfd: nothing is lost, nothing is read twice,
    /// and each writer's messages stay in order.
    #[test]
    fn every_message_arrives_once_and_in_order() {
        const EACH: u64 = 20_000;
        let inboxes = Inboxes::new(1, 64).expect("eventfd");
        let writers: Vec<_> = (0..2u64)
            .map(|writer| {
                let inboxes = inboxes.clone();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        let mut message = (writer, number);
                        while let Err(back) = inboxes.post(0, message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0u64; 2];
        while next != [EACH; 2] {
            let mut ready = [PollFd::from_borrowed_fd(inboxes.eventfd(0), PollFlags::IN)];
            poll(&mut ready, None).expect("poll");
            let mut count = [0; 8];
            rustix::io::read(inboxes.eventfd(0), &mut count).expect("notified");
            while inboxes.drain(0, 16, |(writer, number)| {
                assert_eq!(number, next[writer as usize]);
                next[writer as usize] += 1;
            }) {}
        }
        for writer in writers {
            writer.join().expect("writer");
        }
    }

    #[test]
    fn a_full_inbox_gives_the_message_back() {
        let inboxes = Inboxes::new(2, 2).expect("eventfd");
        assert!(inboxes.is_empty());
        assert_eq!(inboxes.post(1, 'a'), Ok(()));
        assert!(!inboxes.is_empty());
        assert_eq!(inboxes.post(1, 'b'), Ok(()));
        assert_eq!(inboxes.post(1, 'c'), Err('c'));
        let mut seen = String::new();
        assert!(inboxes.drain(1, 1, |message| seen.push(message)));
        assert!(!inboxes.drain(1, 9, |message| seen.push(message)));
        assert_eq!(seen, "ab");
    }
}
