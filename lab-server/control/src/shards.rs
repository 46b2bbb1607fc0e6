//! The shards of a program, as its control thread sees them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shard::Inboxes;

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
    ended: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl<M, R> Shards<M, R> {
    /// Shards that run: their inboxes, and the one into which they report.
    pub fn new(inboxes: Inboxes<M>, reports: Inboxes<R>) -> Self {
        Self { inboxes, reports, ended: AtomicUsize::new(0), failures: Mutex::default() }
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

    /// One more shard has ended.
    pub(crate) fn add_ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether all have ended.
    pub(crate) fn have_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) == self.count()
    }

    pub(crate) fn add_failure(&self, failure: String) {
        locked(&self.failures).push(failure);
    }

    /// What the shards that could not go on said, once.
    pub fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.failures))
    }
}
