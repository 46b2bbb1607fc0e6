//! Between the shards and all that ask: totals and snapshots.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use accounting::Ledger;
use accounting::server::Sample;
use control::{Shards, locked};
use platform::Clock;
use service::{Config, Done};
use tokio::sync::Notify;

use crate::message::Message;
use crate::overload::Budget;
use crate::panel::error::CommandError;
use crate::report::{Report, Snapshot};
use crate::server::Server;

/// How long the control thread waits for a shard to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request for snapshots, some of which have not come.
struct PendingSnapshots {
    snapshots: Vec<Option<Snapshot>>,
    missing: usize,
    answered: Arc<Notify>,
}

struct State {
    shards: Shards<Message, Report>,
    budget: Arc<Budget>,
    clock: Clock,
    users: u32,
    seed: u64,
    generators: AtomicU64,
    packets: AtomicUsize,
    tickets: AtomicU64,
    pending: Mutex<HashMap<u64, PendingSnapshots>>,
    /// Books of shards as they last reported them.
    ledgers: Mutex<Vec<Ledger>>,
}

/// The control thread's view of a server. A clone is another handle to the same.
#[derive(Clone)]
pub struct Hub(Arc<State>);

impl Hub {
    /// A view of a running server.
    pub fn new(server: &Server, config: &Config) -> Self {
        Self(Arc::new(State {
            shards: Shards::new(server.inboxes().clone(), server.reports().clone()),
            budget: Arc::clone(server.budget()),
            clock: Clock::read_ahead(config.clock_ahead_ns),
            users: config.users,
            seed: config.seed,
            generators: AtomicU64::new(0),
            packets: AtomicUsize::new(0),
            tickets: AtomicU64::new(0),
            pending: Mutex::default(),
            ledgers: Mutex::new(vec![Ledger::default(); server.shards()]),
        }))
    }

    /// Users are `0..users`.
    pub fn users(&self) -> u32 {
        self.0.users
    }

    pub(super) fn seed(&self) -> u64 {
        self.0.seed
    }

    pub(super) fn start_of(&self, second: u64) -> u64 {
        self.0.clock.start_of(second)
    }

    pub(super) fn new_generator_id(&self) -> u64 {
        self.0.generators.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The shard that makes the next packet: round robin.
    pub(super) fn next_shard(&self) -> usize {
        self.0.packets.fetch_add(1, Ordering::Relaxed) % self.0.shards.count()
    }

    pub(super) fn set_overload(&self, limit: Option<u64>) {
        self.0.budget.set_limit(limit);
    }

    /// Posts a message to a shard.
    ///
    /// # Errors
    /// [`CommandError::InboxFull`].
    pub(super) fn post(&self, shard: usize, message: Message) -> Result<(), CommandError> {
        Ok(self.0.shards.post(shard, message)?)
    }

    /// Posts a message to every shard.
    ///
    /// # Errors
    /// [`CommandError::InboxFull`] for the first whose inbox is full.
    pub(super) fn post_all(&self, message: impl Fn() -> Message) -> Result<Done, CommandError> {
        self.0.shards.post_all(message)?;
        Ok(Done::default())
    }

    /// The state of every shard.
    ///
    /// # Errors
    /// The shard that did not answer within two seconds.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, usize> {
        let ticket = self.0.tickets.fetch_add(1, Ordering::Relaxed);
        let shards = self.0.shards.count();
        let answered = Arc::new(Notify::new());
        let pending = PendingSnapshots {
            snapshots: vec![None; shards],
            missing: shards,
            answered: Arc::clone(&answered),
        };
        locked(&self.0.pending).insert(ticket, pending);
        let posted = self.post_all(|| Message::Snapshot { ticket });
        if posted.is_ok() {
            // Whether in time shows in what is missing.
            let _ = tokio::time::timeout(PATIENCE, answered.notified()).await;
        }
        let pending = locked(&self.0.pending).remove(&ticket);
        let snapshots = pending.map(|pending| pending.snapshots).unwrap_or_default();
        match snapshots.iter().position(Option::is_none) {
            Some(missing) => Err(missing),
            None => Ok(snapshots.into_iter().flatten().collect()),
        }
    }

    /// The books of all shards as they last reported them.
    pub fn ledger(&self) -> Ledger {
        locked(&self.0.ledgers).iter().sum()
    }

    /// What shards that could not go on said.
    pub fn failures(&self) -> Vec<String> {
        self.0.shards.take_failures()
    }

    pub(super) fn shards(&self) -> &Shards<Message, Report> {
        &self.0.shards
    }

    /// Keeps the books of a shard's last second.
    pub(super) fn record(&self, sample: &Sample) {
        locked(&self.0.ledgers)[sample.shard] = sample.ledger;
    }

    /// A shard has answered a request for snapshots.
    pub(super) fn answered(&self, ticket: u64, snapshot: Snapshot) {
        let mut pending = locked(&self.0.pending);
        let Some(pending) = pending.get_mut(&ticket) else { return };
        let shard = snapshot.shard;
        pending.missing -= usize::from(pending.snapshots[shard].is_none());
        pending.snapshots[shard] = Some(snapshot);
        if pending.missing == 0 {
            pending.answered.notify_one();
        }
    }
}
