//! Texts and packets of users at even instants.

use platform::NANOS_PER_SECOND;
use wire::MAX_CHAT_TEXT;
use workload::{Phase, Share};

/// Events at even instants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Even {
    pub(super) start_ns: u64,
    pub(super) per_second: f64,
    pub(super) done: u64,
}

impl Even {
    pub(super) fn next_ns(&self) -> Option<u64> {
        (self.per_second > 0.0)
            .then(|| self.start_ns.saturating_add(nth_ns(self.done, self.per_second)))
    }

    pub(super) fn take(&mut self, now_ns: u64) -> bool {
        let due = self.next_ns().is_some_and(|next| next <= now_ns);
        self.done += u64::from(due);
        due
    }
}

/// Claims, chats and creations under way.
#[derive(Debug, Default)]
pub(super) struct Social {
    pub(super) chats: Even,
    pub(super) bytes: usize,
    pub(super) creates: Even,
    /// Numbers for texts and packets that want an answer.
    pub(super) number: u32,
}

impl Social {
    pub(super) fn new(share: &Share, phase: &Phase, start_ns: u64) -> Self {
        let even = |rate: f64| Even { start_ns, per_second: share.of_rate(rate), done: 0 };
        Self {
            chats: phase.chat.map(|chat| even(chat.rate)).unwrap_or_default(),
            bytes: phase.chat.map_or(1, |chat| chat.bytes as usize).clamp(1, MAX_CHAT_TEXT),
            creates: phase.creates.map(|creates| even(creates.rate)).unwrap_or_default(),
            number: 0,
        }
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.chats.next_ns().into_iter().chain(self.creates.next_ns()).min()
    }
}

/// The k-th event (from 0) of so many a second is due this long after the start, in nanoseconds.
pub(super) fn nth_ns(k: u64, per_second: f64) -> u64 {
    (k as f64 / per_second * NANOS_PER_SECOND as f64).ceil() as u64
}
