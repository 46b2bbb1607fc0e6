//! Between the shards and all that ask: totals and snapshots.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use accounting::Ledger;
use accounting::server::{Gauges, Sample};
use control::{InboxFull, Shards, locked};
use platform::{Clock, SlowOrders, monotonic_ns};
use service::{Config, Done, MAX_GENERATORS, MAX_RATE_IN_ALL};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

use crate::generator::GeneratorSpec;
use crate::message::Message;
use crate::overload::Budget;
use crate::panel::error::CommandError;
use crate::report::{Report, Snapshot};
use crate::server::Server;

/// How long the control thread waits for a shard to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state of every shard, or the one that did not answer.
pub(super) type Snapshots = Result<Arc<[Snapshot]>, usize>;

/// A round of questions to all shards, some of which have not answered.
struct Round {
    ticket: u64,
    snapshots: Vec<Option<Snapshot>>,
}

/// The last round that is over: its ticket, and what came of it.
type Last = Option<(u64, Snapshots)>;

struct State {
    shards: Shards<Message, Report>,
    budget: Arc<Budget>,
    clock: Clock,
    users: u32,
    seed: u64,
    generators: Mutex<Generators>,
    slow: Mutex<SlowOrders>,
    packets: AtomicUsize,
    /// The ticket of the last round that was begun.
    rounds: AtomicU64,
    /// The round under way, of which there is one at most: who holds `last` has begun it.
    round: Mutex<Option<Round>>,
    answered: Notify,
    last: Arc<AsyncMutex<Last>>,
    /// Books of shards as they last reported them.
    ledgers: Mutex<Vec<Ledger>>,
}

/// The generators of a server: what their shard last said of them, and those that it had not heard
/// of then. So there are never more than counted here.
#[derive(Debug, Default)]
struct Generators {
    told: Gauges,
    /// Rates of those that the shard had not started, in the order in which it starts them.
    starting: VecDeque<u32>,
}

impl Generators {
    /// How many were ever started.
    fn begun(&self) -> u64 {
        self.told.generators_begun + self.starting.len() as u64
    }

    fn told(&mut self, gauges: &Gauges) {
        let started = gauges.generators_begun - self.told.generators_begun;
        let started = usize::try_from(started).unwrap_or(usize::MAX).min(self.starting.len());
        self.starting.drain(..started);
        self.told = *gauges;
    }

    /// Whether one more may be started.
    fn check_room(&self, rate: u32) -> Result<(), CommandError> {
        let running = self.told.generators as usize + self.starting.len();
        if running >= MAX_GENERATORS {
            return Err(CommandError::Invalid(format!(
                "{running} generators run, and {MAX_GENERATORS} is the most: stop one, or wait a \
                 second after one has ended"
            )));
        }
        let starting: u64 = self.starting.iter().copied().map(u64::from).sum();
        let in_all = self.told.generators_rate + starting;
        if in_all + u64::from(rate) > MAX_RATE_IN_ALL {
            return Err(CommandError::Invalid(format!(
                "rate {rate}: generators make {in_all} packets a second already, and \
                 {MAX_RATE_IN_ALL} in all is the most"
            )));
        }
        Ok(())
    }
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
            generators: Mutex::default(),
            slow: Mutex::default(),
            packets: AtomicUsize::new(0),
            rounds: AtomicU64::new(0),
            round: Mutex::default(),
            answered: Notify::new(),
            last: Arc::default(),
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

    /// The second that it is.
    pub(super) fn unix_second(&self) -> u64 {
        self.0.clock.unix_second(monotonic_ns())
    }

    /// Starts a generator of so many packets a second, if there is room for one.
    pub(super) fn begin_generator(
        &self,
        rate: u32,
        spec: impl FnOnce(u64) -> GeneratorSpec,
    ) -> Result<Done, CommandError> {
        let mut generators = locked(&self.0.generators);
        generators.check_room(rate)?;
        let id = generators.begun() + 1;
        self.post(0, Message::Start(spec(id)))?;
        generators.starting.push_back(rate);
        Ok(Done { generator: Some(id) })
    }

    /// The faults on purpose in force.
    pub(super) fn slow_orders(&self) -> MutexGuard<'_, SlowOrders> {
        locked(&self.0.slow)
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

    /// The state of every shard, later than this was asked. All who ask while a round of questions
    /// is under way share the next one; nobody who goes away leaves anything behind.
    ///
    /// # Errors
    /// The shard that did not answer within two seconds.
    pub(super) async fn snapshots(&self) -> Snapshots {
        let asked = self.0.rounds.load(Ordering::Relaxed);
        let last = Arc::clone(&self.0.last).lock_owned().await;
        match &*last {
            Some((ticket, snapshots)) if *ticket > asked => snapshots.clone(),
            // The round goes on when the one who asks hangs up: others may wait for it.
            _ => tokio::spawn(self.clone().ask_all(last)).await.unwrap_or(Err(0)),
        }
    }

    async fn ask_all(self, mut last: OwnedMutexGuard<Last>) -> Snapshots {
        let ticket = self.0.rounds.fetch_add(1, Ordering::Relaxed) + 1;
        let snapshots = vec![None; self.0.shards.count()];
        *locked(&self.0.round) = Some(Round { ticket, snapshots });
        let posted = self.0.shards.post_all(|| Message::Snapshot { ticket });
        if posted.is_ok() {
            // Whether in time shows in what is missing.
            let _ = tokio::time::timeout(PATIENCE, self.all_answered()).await;
        }
        let round = locked(&self.0.round).take();
        let snapshots = round.map(|round| round.snapshots).unwrap_or_default();
        let snapshots = match (posted, snapshots.iter().position(Option::is_none)) {
            (Err(InboxFull(shard)), _) | (Ok(()), Some(shard)) => Err(shard),
            (Ok(()), None) => Ok(snapshots.into_iter().flatten().collect()),
        };
        *last = Some((ticket, snapshots.clone()));
        snapshots
    }

    async fn all_answered(&self) {
        loop {
            let answered = self.0.answered.notified();
            let round = |round: &Round| round.snapshots.iter().all(Option::is_some);
            if locked(&self.0.round).as_ref().is_some_and(round) {
                return;
            }
            answered.await;
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
        // The shard that generators run on.
        if sample.shard == 0 {
            locked(&self.0.generators).told(&sample.gauges);
        }
        locked(&self.0.ledgers)[sample.shard] = sample.ledger;
    }

    /// A shard has answered a round of questions.
    pub(super) fn answered(&self, ticket: u64, snapshot: Snapshot) {
        let mut round = locked(&self.0.round);
        // One that is late has nobody who waits for it.
        let Some(round) = round.as_mut().filter(|round| round.ticket == ticket) else { return };
        let shard = snapshot.shard;
        round.snapshots[shard] = Some(snapshot);
        self.0.answered.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(generators: &mut Generators, rate: u32) -> Result<(), String> {
        generators.check_room(rate).map_err(|error| error.to_string())?;
        generators.starting.push_back(rate);
        Ok(())
    }

    #[test]
    fn generators_have_a_bound_in_number_and_in_rate() {
        let mut generators = Generators::default();
        for _ in 0..4 {
            assert_eq!(starts(&mut generators, 1_000_000), Ok(()));
        }
        let refused = starts(&mut generators, 1).expect_err("the most in all");
        assert!(refused.contains("make 4000000 packets a second already"), "{refused}");
        // The shard has started three and ended one of them.
        let told = Gauges {
            generators: 2,
            generators_begun: 3,
            generators_rate: 2_000_000,
            ..Gauges::default()
        };
        generators.told(&told);
        assert_eq!(generators.begun(), 4);
        assert_eq!(starts(&mut generators, 1_000_000), Ok(()));
        assert!(starts(&mut generators, 1).is_err());
        generators.told(&Gauges { generators_begun: 5, ..told });
        generators.told.generators_rate = 0;
        for _ in 2..MAX_GENERATORS {
            assert_eq!(starts(&mut generators, 1), Ok(()));
        }
        let refused = starts(&mut generators, 1).expect_err("too many");
        assert!(refused.contains("64 generators run"), "{refused}");
        assert_eq!(generators.begun(), 5 + MAX_GENERATORS as u64 - 2);
    }
}
