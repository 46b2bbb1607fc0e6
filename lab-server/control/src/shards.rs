//! The shards of a program, as its control thread sees them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shard::Inboxes;
use tokio::sync::Notify;

/// A lock that is only ever held between two awaits of the one control thread.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inbox of a shard is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the inbox of shard {0} is full; try again")]
pub struct InboxFull(pub usize);

/// The way to the shards and back, how many have ended, and what went wrong in them.
#[derive(Debug)]
pub struct Shards<M, R> {
    inboxes: Inboxes<M>,
    reports: Inboxes<R>,
    /// Shard by shard.
    ended: Vec<AtomicBool>,
    failures: Mutex<Vec<String>>,
    failed: Notify,
}

impl<M, R> Shards<M, R> {
    /// Shards that run: their inboxes, and the one into which they report.
    pub fn new(inboxes: Inboxes<M>, reports: Inboxes<R>) -> Self {
        let ended = (0..inboxes.shards()).map(|_| AtomicBool::new(false)).collect();
        Self { inboxes, reports, ended, failures: Mutex::default(), failed: Notify::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.inboxes.shards()
    }

    /// What they report into.
    pub fn reports(&self) -> &Inboxes<R> {
        &self.reports
    }

    /// Posts a message to a shard.
    ///
    /// # Errors
    /// When its inbox is full.
    pub fn post(&self, shard: usize, message: M) -> Result<(), InboxFull> {
        self.inboxes.post(shard, message).map_err(|_| InboxFull(shard))
    }

    /// Posts a message to every shard.
    ///
    /// # Errors
    /// The first whose inbox is full.
    pub fn post_all(&self, message: impl Fn() -> M) -> Result<(), InboxFull> {
        (0..self.count()).try_for_each(|shard| self.post(shard, message()))
    }

    /// Posts a message to every shard that has not ended, also after one whose inbox is full.
    /// Returns whether all of them have it.
    pub(crate) fn post_running(&self, message: impl Fn() -> M) -> bool {
        let mut all = true;
        for shard in self.running() {
            all &= self.post(shard, message()).is_ok();
        }
        all
    }

    /// A shard has ended.
    pub(crate) fn end(&self, shard: usize) {
        self.ended[shard].store(true, Ordering::Relaxed);
    }

    /// The shards that have not ended.
    pub(crate) fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.count()).filter(|shard| !self.ended[*shard].load(Ordering::Relaxed))
    }

    pub(crate) fn add_failure(&self, failure: String) {
        locked(&self.failures).push(failure);
        self.failed.notify_one();
    }

    /// Waits until a shard could not go on.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// What the shards that could not go on said, once.
    pub fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_keeps_no_other_shard_from_its_message() {
        let inboxes = Inboxes::new(3, 1).expect("eventfd");
        let shards = Shards::new(inboxes.clone(), Inboxes::<()>::new(1, 1).expect("eventfd"));
        inboxes.post(0, 'x').expect("room");
        assert!(!shards.post_running(|| 's'), "the first is full");
        let mut got = Vec::new();
        for shard in 0..3 {
            while inboxes.drain(shard, 9, |message| got.push(message)) {}
        }
        assert_eq!(got, ['x', 's', 's']);
        inboxes.post(0, 'x').expect("room");
        shards.end(0);
        assert!(shards.post_running(|| 's'), "the full one has ended");
        assert_eq!(shards.running().collect::<Vec<_>>(), [1, 2]);
    }
}
