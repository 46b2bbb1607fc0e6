//! Between the shards and everybody who asks: totals, snapshots, and lines for a recorder.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::{Lines, Program};
use serde::{Deserialize, Serialize};
use shard::{Clock, Mail, Spins};
use tokio::sync::Notify;

use super::commands::{Command, CommandError, Done};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::message::Message;
use crate::overload::Budget;
use crate::report::{Report, Sample, Snapshot};
use crate::server::Server;

/// How long the control thread waits for a shard to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a server says about itself when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where it listens.
    pub listen: String,
    /// Where its control interface listens.
    pub control: String,
    /// Its process.
    pub pid: u32,
    /// The threads of its shards.
    pub threads: Vec<i32>,
    /// How many SETs there are.
    pub sets: usize,
}

/// A line of JSON for a recorder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The server is ready.
    Ready(Ready),
    /// A second of a shard.
    Sample(Box<Sample>),
    /// What a fault on purpose did in a second of a shard.
    Spun {
        /// The shard.
        shard: usize,
        /// What it did.
        #[serde(flatten)]
        spins: Spins,
    },
    /// A command failed, or a shard could not go on.
    Error(String),
    /// The server has ended; the books at the end.
    Ended(Ledger),
}

struct Asked {
    snapshots: Vec<Option<Snapshot>>,
    missing: usize,
    answered: Arc<Notify>,
}

struct State {
    mail: Mail<Message>,
    reports: Mail<Report>,
    budget: Arc<Budget>,
    clock: Clock,
    users: u32,
    seed: u64,
    generators: AtomicU64,
    packets: AtomicUsize,
    tickets: AtomicU64,
    asked: Mutex<HashMap<u64, Asked>>,
    /// Books of shards as they last reported them.
    ledgers: Mutex<Vec<Ledger>>,
    ended: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// A lock that is only ever held between two awaits of the one control thread.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The control thread's view of a server. A clone is another handle to the same.
#[derive(Clone)]
pub struct Hub(Arc<State>);

impl Hub {
    /// A view of a running server.
    pub fn new(server: &Server, config: &Config) -> Self {
        Self(Arc::new(State {
            mail: server.mail().clone(),
            reports: server.reports().clone(),
            budget: Arc::clone(server.budget()),
            clock: Clock::read_ahead(config.clock_ahead_ns),
            users: config.users,
            seed: config.seed,
            generators: AtomicU64::new(0),
            packets: AtomicUsize::new(0),
            tickets: AtomicU64::new(0),
            asked: Mutex::default(),
            ledgers: Mutex::new(vec![Ledger::default(); server.shards()]),
            ended: AtomicUsize::new(0),
            failed: Mutex::default(),
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

    /// The shard whose turn it is to make a packet.
    pub(super) fn next_shard(&self) -> usize {
        self.0.packets.fetch_add(1, Ordering::Relaxed) % self.0.mail.shards()
    }

    pub(super) fn set_overload(&self, limit: Option<u64>) {
        self.0.budget.set_limit(limit);
    }

    /// Posts a message to a shard.
    ///
    /// # Errors
    /// [`CommandError::Busy`] when its inbox is full.
    pub fn post(&self, shard: usize, message: Message) -> Result<(), CommandError> {
        self.0.mail.post(shard, message).map_err(|_| CommandError::Busy(shard))
    }

    /// Posts a message to every shard.
    ///
    /// # Errors
    /// [`CommandError::Busy`] for the first whose inbox is full.
    pub fn post_all(&self, message: impl Fn() -> Message) -> Result<Done, CommandError> {
        for shard in 0..self.0.mail.shards() {
            self.post(shard, message())?;
        }
        Ok(Done::default())
    }

    /// The state of every shard.
    ///
    /// # Errors
    /// The shard that did not answer within two seconds.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, usize> {
        let ticket = self.0.tickets.fetch_add(1, Ordering::Relaxed);
        let shards = self.0.mail.shards();
        let answered = Arc::new(Notify::new());
        let asked = Asked {
            snapshots: vec![None; shards],
            missing: shards,
            answered: Arc::clone(&answered),
        };
        locked(&self.0.asked).insert(ticket, asked);
        let posted = self.post_all(|| Message::Snapshot { ticket });
        if posted.is_ok() {
            // Whether in time shows in what is missing.
            let _ = tokio::time::timeout(PATIENCE, answered.notified()).await;
        }
        let asked = locked(&self.0.asked).remove(&ticket);
        let snapshots = asked.map(|asked| asked.snapshots).unwrap_or_default();
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
        std::mem::take(&mut *locked(&self.0.failed))
    }

    fn answered(&self, ticket: u64, snapshot: Snapshot) {
        let mut asked = locked(&self.0.asked);
        let Some(asked) = asked.get_mut(&ticket) else { return };
        let shard = snapshot.shard;
        asked.missing -= usize::from(asked.snapshots[shard].is_none());
        asked.snapshots[shard] = Some(snapshot);
        if asked.missing == 0 {
            asked.answered.notify_one();
        }
    }
}

impl Program for Hub {
    type Report = Report;
    type Command = Command;
    type Line = Line;

    fn reports(&self) -> &Mail<Report> {
        &self.0.reports
    }

    fn read(&self, report: Report, lines: &Lines<Line>) -> bool {
        // Nobody may be listening to the lines; the books are kept all the same.
        match report {
            Report::Started(..) => {}
            Report::Second(sample) => {
                locked(&self.0.ledgers)[sample.shard] = sample.ledger;
                let _ = lines.send(Line::Sample(Box::new(sample)));
            }
            Report::Spun(shard, spins) => {
                let _ = lines.send(Line::Spun { shard, spins });
            }
            Report::Snapshot(ticket, snapshot) => self.answered(ticket, *snapshot),
            Report::Ended(shard, ended) => {
                self.0.ended.fetch_add(1, Ordering::Relaxed);
                if let Err(reason) = ended {
                    let failed = format!("shard {shard} ended: {reason}");
                    let _ = lines.send(Line::Error(failed.clone()));
                    locked(&self.0.failed).push(failed);
                    // The others cannot serve its users: all end.
                    self.stop();
                }
            }
        }
        self.0.ended.load(Ordering::Relaxed) == self.0.mail.shards()
    }

    fn carry_out(&self, command: Command) -> Result<(), String> {
        command.carry_out(self).map(|_| ()).map_err(|error| error.to_string())
    }

    fn stop(&self) -> bool {
        self.post_all(|| Message::Stop).is_ok()
    }

    fn error_line(&self, error: String) -> Line {
        Line::Error(error)
    }

    fn show(&self, line: &Line) {
        match line {
            Line::Ready(ready) => eprintln!(
                "lab-server: {} shards and {} SETs listen on {}, control on http://{}",
                ready.threads.len(),
                ready.sets,
                ready.listen,
                ready.control
            ),
            Line::Error(error) => eprintln!("lab-server: {error}"),
            Line::Sample(_) | Line::Spun { .. } | Line::Ended(_) => {}
        }
    }
}
