//! Whose turn it is: the connections that are ready, each waiting in one place and there once.
//!
//! Two queues. A peer that was quiet and asks goes before peers that have had a share and have
//! more, so that those who pipeline without end, or drip a frame, wait for each other and nobody
//! for them. Must not know: what a turn is spent on.

use std::collections::VecDeque;

use crate::slots::{ConnId, Slot};

/// Which of the two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Connections that were quiet, in the order in which they became ready.
    Quiet,
    /// Those that had a share and have more, go on with half a frame, or have made room for
    /// answers: one after the other, round and round.
    Busy,
}

/// The two queues. A connection that has gone leaves its id behind until that comes up, so they
/// hold at most as many as there are slots, and those that went since the last round.
#[derive(Debug)]
pub(crate) struct Turns {
    quiet: VecDeque<ConnId>,
    busy: VecDeque<ConnId>,
}

impl Turns {
    /// Empty queues that hold `capacity` each without allocating.
    pub(crate) fn new(capacity: usize) -> Self {
        let queue = || VecDeque::with_capacity(capacity);
        Self { quiet: queue(), busy: queue() }
    }

    /// Puts a connection at the end of a queue, unless it waits in one already.
    pub(crate) fn join(&mut self, queue: Queue, id: ConnId, slot: &mut Slot) {
        if !slot.waiting {
            slot.waiting = true;
            self.queue(queue).push_back(id);
        }
    }

    /// The next of a queue. It waits no more, which the caller notes in its slot.
    pub(crate) fn next(&mut self, queue: Queue) -> Option<ConnId> {
        self.queue(queue).pop_front()
    }

    /// How many wait in a queue.
    pub(crate) fn waiting(&self, queue: Queue) -> usize {
        match queue {
            Queue::Quiet => self.quiet.len(),
            Queue::Busy => self.busy.len(),
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.quiet.is_empty() && self.busy.is_empty()
    }

    fn queue(&mut self, queue: Queue) -> &mut VecDeque<ConnId> {
        match queue {
            Queue::Quiet => &mut self.quiet,
            Queue::Busy => &mut self.busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::{Slots, State};

    #[test]
    fn each_connection_waits_once() {
        let (mut turns, mut slots) = (Turns::new(4), Slots::new(2));
        let first = slots.acquire(State::Open).expect("room");
        let second = slots.acquire(State::Open).expect("room");
        for _ in 0..3 {
            for (id, queue) in [(first, Queue::Quiet), (second, Queue::Busy)] {
                turns.join(queue, id, slots.get(id).expect("open"));
                turns.join(Queue::Busy, id, slots.get(id).expect("open"));
            }
        }
        assert_eq!((turns.waiting(Queue::Quiet), turns.waiting(Queue::Busy)), (1, 1));
        assert_eq!(turns.next(Queue::Quiet), Some(first));
        slots.get(first).expect("open").waiting = false;
        turns.join(Queue::Busy, first, slots.get(first).expect("open"));
        assert_eq!(turns.next(Queue::Busy), Some(second), "who waits longer goes first");
        assert_eq!(turns.next(Queue::Busy), Some(first));
        assert!(turns.is_empty());
    }

    #[test]
    fn who_comes_into_a_slot_waits_for_itself() {
        let (mut turns, mut slots) = (Turns::new(4), Slots::new(1));
        let gone = slots.acquire(State::Open).expect("room");
        turns.join(Queue::Busy, gone, slots.get(gone).expect("open"));
        slots.release(gone);
        let next = slots.acquire(State::Open).expect("room again");
        turns.join(Queue::Quiet, next, slots.get(next).expect("open"));
        assert_eq!(turns.next(Queue::Quiet), Some(next));
        assert_eq!(turns.next(Queue::Busy).and_then(|id| slots.get(id).map(|_| ())), None);
    }
}
