//! What an agent tells of itself to who looks on: a few figures, read at any time from any thread.
//! Must not know: who looks, and how.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use async_nats::Client;
use async_nats::connection::State;

use super::sender::Backlog;
use crate::spool::Waiting;

/// An agent as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// When it was started, in Unix seconds.
    pub since: u64,
    /// Whether it has a connection to NATS.
    pub is_connected: bool,
    /// Whether it works for a run.
    pub is_working: bool,
    /// Runs of which it keeps something.
    pub kept_runs: u64,
    /// Runs that it began to work for.
    pub runs: u64,
    /// Orders that it was given for runs that it worked for.
    pub orders: u64,
    /// Requests of coordinators that it refused.
    pub refused: u64,
    /// What of its runs no coordinator has merged.
    pub waiting: Waiting,
}

/// The figures of an agent.
#[derive(Debug)]
pub struct Status {
    client: Client,
    since: u64,
    is_working: AtomicBool,
    kept_runs: AtomicU64,
    runs: AtomicU64,
    orders: AtomicU64,
    refused: AtomicU64,
    backlogs: Mutex<Vec<Backlog>>,
}

impl Status {
    /// Of an agent that has done nothing yet.
    pub(super) fn new(client: Client, since: u64) -> Self {
        Self {
            client,
            since,
            is_working: AtomicBool::new(false),
            kept_runs: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            orders: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            backlogs: Mutex::new(Vec::new()),
        }
    }

    /// It works for a run or for none, and keeps something of so many.
    pub(super) fn tell(&self, is_working: bool, kept_runs: usize) {
        self.is_working.store(is_working, Ordering::Relaxed);
        self.kept_runs.store(kept_runs as u64, Ordering::Relaxed);
    }

    /// It begins to work for a run.
    pub(super) fn begin(&self) {
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    /// It was given an order.
    pub(super) fn order(&self) {
        self.orders.fetch_add(1, Ordering::Relaxed);
    }

    /// It refuses what a coordinator asks.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks on at what waits of a run, until that is forgotten.
    pub(super) fn watch(&self, backlog: Backlog) {
        self.backlogs.lock().unwrap_or_else(PoisonError::into_inner).push(backlog);
    }

    /// The agent as it is now.
    pub fn figures(&self) -> Figures {
        let mut waiting = Waiting::default();
        self.backlogs.lock().unwrap_or_else(PoisonError::into_inner).retain(|backlog| {
            let Some(of_run) = backlog.waiting() else { return false };
            waiting.add(of_run);
            true
        });
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            since: self.since,
            is_connected: self.client.connection_state() == State::Connected,
            is_working: self.is_working.load(Ordering::Relaxed),
            kept_runs: read(&self.kept_runs),
            runs: read(&self.runs),
            orders: read(&self.orders),
            refused: read(&self.refused),
            waiting,
        }
    }
}
