//! Sockets for which the kernel has no memory just now: when each is tried again, and when no more.
//!
//! No event tells when there is memory again, and to try in every poll would keep a shard from
//! sleeping for as long as there is none. So pauses double, and after a bounded number of attempts
//! the connection is given up. Must not know: what is tried.

use std::collections::HashMap;

use crate::slots::ConnId;
use crate::wheel::Wheel;

/// Attempts on one socket before its connection is given up: with pauses that begin at 1 ms and
/// double, 8 s in all, about as long as a peer may leave its answers unread.
pub(crate) const ATTEMPTS: u32 = 14;

/// How often a socket was tried in vain, and when it is tried next.
#[derive(Clone, Copy, Debug)]
struct Setback {
    in_vain: u32,
    due_ns: u64,
}

/// The sockets that wait. Those of a shard that has memory are none, and cost a look at that.
pub(crate) struct Setbacks {
    first_pause_ns: u64,
    waiting: HashMap<ConnId, Setback>,
    /// Those that have gone or had success meanwhile are among them.
    due: Wheel<ConnId>,
}

impl Setbacks {
    pub(crate) fn new(first_pause_ns: u64, now_ns: u64) -> Self {
        Self { first_pause_ns, waiting: HashMap::new(), due: Wheel::new(first_pause_ns, now_ns) }
    }

    /// An attempt was in vain; false when there is to be no other one. One that was made before its
    /// time, because something else happened on the socket, counts for nothing.
    pub(crate) fn add(&mut self, id: ConnId, now_ns: u64) -> bool {
        let setback = self.waiting.entry(id).or_insert(Setback { in_vain: 0, due_ns: now_ns });
        if now_ns < setback.due_ns {
            return true;
        }
        setback.in_vain += 1;
        if setback.in_vain == ATTEMPTS {
            self.waiting.remove(&id);
            return false;
        }
        setback.due_ns = now_ns + (self.first_pause_ns << (setback.in_vain - 1));
        self.due.insert(setback.due_ns, id);
        true
    }

    /// A socket is none of them any more.
    #[inline]
    pub(crate) fn remove(&mut self, id: ConnId) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&id);
        }
    }

    /// Hands out those to be tried again, at most so many.
    pub(crate) fn take_due(&mut self, most: usize, now_ns: u64, mut each: impl FnMut(ConnId)) {
        if self.due.is_empty() {
            return;
        }
        let waiting = &self.waiting;
        self.due.expire_at_most(most, now_ns, |id| {
            if waiting.get(&id).is_some_and(|setback| setback.due_ns <= now_ns) {
                each(id);
            }
        });
    }

    /// When the next one is to be tried, in nanoseconds.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.due.next_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let id = ConnId { slot: 3, generation: 1 };
        let mut setbacks = Setbacks::new(1_000_000, 0);
        let mut now_ns = 5_000_000;
        let mut pauses = Vec::new();
        while setbacks.add(id, now_ns) {
            assert!(setbacks.add(id, now_ns), "before its time it does not count");
            let due_ns = setbacks.waiting[&id].due_ns;
            pauses.push(due_ns - now_ns);
            let mut due = Vec::new();
            setbacks.take_due(9, due_ns - 1, |id| due.push(id));
            assert_eq!(due, []);
            // The wheel is looked at in between, too.
            while due.is_empty() {
                now_ns = setbacks.next_ns().expect("it waits");
                setbacks.take_due(9, now_ns, |id| due.push(id));
            }
            assert_eq!((due, now_ns), (vec![id], due_ns));
        }
        assert_eq!(pauses.len() as u32, ATTEMPTS - 1);
        assert!(pauses.windows(2).all(|two| two[1] == 2 * two[0]), "{pauses:?}");
        let all: u64 = pauses.iter().sum();
        assert!((8_000_000_000..9_000_000_000).contains(&all), "{all}");
        assert!(setbacks.waiting.is_empty());
        // Success begins it anew, and what is left in the wheel is nobody's.
        assert!(setbacks.add(id, now_ns));
        setbacks.remove(id);
        setbacks.take_due(9, now_ns + 1_000_000_000, |id| panic!("{id:?}"));
        assert_eq!(setbacks.next_ns(), None);
    }
}
