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
    bell: OwnedFd,
    /// The bell was rung and the owner has not looked yet: no need to ring again.
    rung: AtomicBool,
}

/// The inboxes of all shards; a clone a thread that posts.
///
/// To be made before any shard gets a descriptor table of its own: the bells are rung by number.
#[derive(Debug)]
pub struct Mail<M> {
    boxes: Arc<[Inbox<M>]>,
}

impl<M> Clone for Mail<M> {
    fn clone(&self) -> Self {
        Self { boxes: Arc::clone(&self.boxes) }
    }
}

impl<M> Mail<M> {
    /// Inboxes for `shards` shards, each for at most `capacity` messages.
    ///
    /// # Errors
    /// What `eventfd` says.
    pub fn new(shards: usize, capacity: usize) -> io::Result<Self> {
        let inbox = || {
            Ok(Inbox {
                queue: ArrayQueue::new(capacity),
                bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                rung: AtomicBool::new(false),
            })
        };
        Ok(Self { boxes: (0..shards).map(|_| inbox()).collect::<io::Result<_>>()? })
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.boxes.len()
    }

    /// Whether every inbox is empty, each at the instant at which it was looked at.
    pub fn is_empty(&self) -> bool {
        self.boxes.iter().all(|inbox| inbox.queue.is_empty())
    }

    /// Puts a message into the inbox of shard `to` and rings its bell.
    ///
    /// # Errors
    /// The message, when the inbox is full.
    pub fn post(&self, to: usize, message: M) -> Result<(), M> {
        let inbox = &self.boxes[to];
        inbox.queue.push(message)?;
        if !inbox.rung.swap(true, Ordering::AcqRel) {
            // An eventfd refuses a write only when its count is at 2^64 - 2, or by EINTR never.
            let _ = rustix::io::write(&inbox.bell, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Hands out what lies in the inbox of shard `me`, at most `most` messages, oldest first.
    /// Returns whether there may be more.
    pub fn take(&self, me: usize, most: usize, mut each: impl FnMut(M)) -> bool {
        let inbox = &self.boxes[me];
        // Before the queue is read, so that a message posted behind the last one read rings again.
        inbox.rung.swap(false, Ordering::AcqRel);
        for _ in 0..most {
            match inbox.queue.pop() {
                Some(message) => each(message),
                None => return false,
            }
        }
        true
    }

    /// The descriptor that becomes readable when there is mail for shard `me`.
    pub fn bell(&self, me: usize) -> BorrowedFd<'_> {
        self.boxes[me].bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// Two writers, one reader that sleeps on the bell: nothing is lost, nothing is read twice,
    /// and each writer's messages stay in order.
    #[test]
    fn every_message_arrives_once_and_in_order() {
        const EACH: u64 = 20_000;
        let mail = Mail::new(1, 64).expect("eventfd");
        let writers: Vec<_> = (0..2u64)
            .map(|writer| {
                let mail = mail.clone();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        let mut message = (writer, number);
                        while let Err(back) = mail.post(0, message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0u64; 2];
        while next != [EACH; 2] {
            let mut ready = [PollFd::from_borrowed_fd(mail.bell(0), PollFlags::IN)];
            poll(&mut ready, None).expect("poll");
            let mut count = [0; 8];
            rustix::io::read(mail.bell(0), &mut count).expect("rung");
            while mail.take(0, 16, |(writer, number)| {
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
        let mail = Mail::new(2, 2).expect("eventfd");
        assert!(mail.is_empty());
        assert_eq!(mail.post(1, 'a'), Ok(()));
        assert!(!mail.is_empty());
        assert_eq!(mail.post(1, 'b'), Ok(()));
        assert_eq!(mail.post(1, 'c'), Err('c'));
        let mut seen = String::new();
        assert!(mail.take(1, 1, |message| seen.push(message)));
        assert!(!mail.take(1, 9, |message| seen.push(message)));
        assert_eq!(seen, "ab");
    }
}
