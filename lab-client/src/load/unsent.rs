//! Shakes that were due and could not start, because their user still waited for an answer or was
//! not logged in: each is late from its own due instant until its user is served, or for the
//! time-out. Must not know: what serves a user.

use std::collections::VecDeque;

/// A shake that could not start.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    due_ns: u64,
    phase: u16,
    waits: bool,
    user: u32,
    /// The number of the user's one before; 0 when there is none.
    before: u64,
}

/// The shakes of a shard's users that could not start. As many as come due within a time-out at
/// most: 300,000 of 24 bytes at 60,000 a second and 5 s.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// In the order in which they were due. One that waits no more stays until it is the first.
    queue: VecDeque<Waiting>,
    /// The number of the first in the queue. The very first has 1.
    first: u64,
    /// By user, the number of the newest; 0 when there was none. All zeros come from the system
    /// untouched: a user who never has to wait takes no memory here.
    newest: Vec<u64>,
    /// How many wait, by phase.
    by_phase: Vec<u64>,
}

impl Unsent {
    pub(super) fn new(users: u32) -> Self {
        Self {
            queue: VecDeque::new(),
            first: 1,
            newest: vec![0; users as usize],
            by_phase: Vec::new(),
        }
    }

    /// A user's shake cannot start. It was due after all of those before.
    pub(super) fn push(&mut self, phase: u16, user: u32, due_ns: u64) {
        let newest = &mut self.newest[user as usize];
        self.queue.push_back(Waiting { due_ns, phase, waits: true, user, before: *newest });
        *newest = self.first + self.queue.len() as u64 - 1;
        if self.by_phase.len() <= usize::from(phase) {
            self.by_phase.resize(usize::from(phase) + 1, 0);
        }
        self.by_phase[usize::from(phase)] += 1;
    }

    /// A user is served: calls `each` with the phase and the due instant of each shake that waited
    /// for that.
    #[inline]
    pub(super) fn serve(&mut self, user: u32, each: impl FnMut(u16, u64)) {
        if !self.queue.is_empty() {
            self.serve_waiting(user, each);
        }
    }

    fn serve_waiting(&mut self, user: u32, mut each: impl FnMut(u16, u64)) {
        let mut number = std::mem::take(&mut self.newest[user as usize]);
        // What is no more in the queue has a lower number than the first, and so has 0.
        while let Some(place) = number.checked_sub(self.first) {
            let waiting = &mut self.queue[place as usize];
            waiting.waits = false;
            number = waiting.before;
            self.by_phase[usize::from(waiting.phase)] -= 1;
            each(waiting.phase, waiting.due_ns);
        }
        self.drop_served();
    }

    /// Calls `each` with the phase, the user and the due instant of each shake that was due until
    /// then and still waits: it does so no more.
    pub(super) fn expire(&mut self, until_ns: u64, mut each: impl FnMut(u16, u32, u64)) {
        while let Some(waiting) = self.queue.front().filter(|it| it.due_ns <= until_ns) {
            self.by_phase[usize::from(waiting.phase)] -= 1;
            each(waiting.phase, waiting.user, waiting.due_ns);
            self.queue.pop_front();
            self.first += 1;
            self.drop_served();
        }
    }

    fn drop_served(&mut self) {
        while self.queue.front().is_some_and(|it| !it.waits) {
            self.queue.pop_front();
            self.first += 1;
        }
    }

    /// When the first that waits was due, in nanoseconds.
    pub(super) fn first_due_ns(&self) -> Option<u64> {
        self.queue.front().map(|it| it.due_ns)
    }

    /// Whether a shake of a phase waits.
    pub(super) fn any_of(&self, phase: u16) -> bool {
        self.by_phase.get(usize::from(phase)).is_some_and(|waiting| *waiting > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(unsent: &mut Unsent, user: u32) -> Vec<(u16, u64)> {
        let mut all = Vec::new();
        unsent.serve(user, |phase, due_ns| all.push((phase, due_ns)));
        all.sort_unstable();
        all
    }

    fn expired(unsent: &mut Unsent, until_ns: u64) -> Vec<(u16, u32, u64)> {
        let mut all = Vec::new();
        unsent.expire(until_ns, |phase, user, due_ns| all.push((phase, user, due_ns)));
        all
    }

    #[test]
    fn each_is_served_once_or_expires() {
        let mut unsent = Unsent::new(3);
        for (phase, user, due_ns) in [(0, 1, 10), (0, 2, 20), (0, 1, 30), (1, 2, 40), (1, 1, 50)] {
            unsent.push(phase, user, due_ns);
        }
        assert_eq!(served(&mut unsent, 0), []);
        assert_eq!(served(&mut unsent, 2), [(0, 20), (1, 40)]);
        assert_eq!(served(&mut unsent, 2), []);
        assert_eq!(unsent.first_due_ns(), Some(10));
        assert_eq!(expired(&mut unsent, 29), [(0, 1, 10)]);
        // The one that was served is passed over.
        assert_eq!(unsent.first_due_ns(), Some(30));
        assert!(unsent.any_of(0) && unsent.any_of(1) && !unsent.any_of(2));
        unsent.push(1, 1, 60);
        assert_eq!(served(&mut unsent, 1), [(0, 30), (1, 50), (1, 60)]);
        assert_eq!((unsent.first_due_ns(), unsent.any_of(0)), (None, false));
        unsent.push(1, 1, 70);
        assert_eq!(expired(&mut unsent, 70), [(1, 1, 70)]);
        unsent.push(1, 1, 80);
        assert_eq!(served(&mut unsent, 1), [(1, 80)], "and not the one that expired");
        assert!(!unsent.any_of(1));
    }
}
