//! Sending what an agent keeps of a run: in order, some at a time, again from the first that the
//! stream has not acknowledged when something goes wrong, and again from the first that the
//! coordinator has not merged when the stream itself has lost something.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_nats::jetstream;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::names::RunName;
use crate::protocol::{Said, from};
use crate::spool::{Spool, Waiting};

/// Batches on their way at a time.
const WINDOW: usize = 64;

/// Before another attempt.
const RETRY: Duration = Duration::from_millis(200);

/// What the stream has and the coordinator has not merged in this time is sent again.
const UNMERGED: Duration = Duration::from_secs(4);

#[derive(Debug)]
struct State {
    spool: Mutex<Spool>,
    news: Notify,
}

/// A run's spool, and its way to the stream.
#[derive(Debug)]
pub struct Sending {
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// What waits of a run, seen by who must not keep it.
#[derive(Clone, Debug)]
pub(super) struct Backlog(Weak<State>);

impl Backlog {
    /// What waits now; `None` when the run is forgotten.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        Some(self.0.upgrade()?.spool().waiting())
    }
}

type Acknowledged = BoxFuture<'static, bool>;

impl State {
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far batches have come.
struct Progress {
    /// The last batch handed to NATS.
    sent: u64,
    /// The last batch that the stream has.
    stored: u64,
    on_the_way: VecDeque<(u64, Acknowledged)>,
    /// Since when the first batch that is not merged is the same.
    unmerged: (u64, Instant),
}

async fn send_all(context: jetstream::Context, subject: String, state: Arc<State>) {
    let now = Instant::now();
    let mut progress =
        Progress { sent: 0, stored: 0, on_the_way: VecDeque::new(), unmerged: (0, now) };
    loop {
        let merged = state.spool().first() - 1;
        if merged != progress.unmerged.0 || progress.stored <= merged {
            progress.unmerged = (merged, Instant::now());
        } else if progress.unmerged.1.elapsed() > UNMERGED {
            progress.unmerged.1 = Instant::now();
            (progress.sent, progress.stored) = (merged, merged);
            progress.on_the_way.clear();
        }
        progress.stored = progress.stored.max(merged);
        progress.sent = progress.sent.max(progress.stored);
        while progress.on_the_way.len() < WINDOW {
            let next = progress.sent + 1;
            let Some(batch) = state.spool().read(next) else { break };
            match context.publish(subject.clone(), batch.into()).await {
                Ok(ack) => {
                    let ack = async move { ack.await.is_ok() }.boxed();
                    progress.on_the_way.push_back((next, ack));
                    progress.sent = next;
                }
                Err(_) => break,
            }
        }
        let Some((number, ack)) = progress.on_the_way.front_mut() else {
            // Nothing to send, or no connection; what is merged moves on meanwhile.
            let _ = tokio::time::timeout(Duration::from_secs(1), state.news.notified()).await;
            continue;
        };
        let number = *number;
        tokio::select! {
            stored = ack => {
                if stored {
                    progress.on_the_way.pop_front();
                    progress.stored = number;
                } else {
                    progress.on_the_way.clear();
                    progress.sent = progress.stored;
                    tokio::time::sleep(RETRY).await;
                }
            }
            () = state.news.notified() => {}
        }
    }
}

impl Sending {
    fn start(context: &jetstream::Context, run: &RunName, agent: &str, spool: Spool) -> Self {
        let state = Arc::new(State { spool: Mutex::new(spool), news: Notify::new() });
        let sending = send_all(context.clone(), from(run, agent), Arc::clone(&state));
        Self { state, task: tokio::spawn(sending) }
    }

    /// For a run that begins.
    ///
    /// # Errors
    /// What the system says.
    pub fn of_new(
        context: &jetstream::Context,
        directory: &Path,
        run: &RunName,
        agent: &str,
    ) -> io::Result<Self> {
        Ok(Self::start(context, run, agent, Spool::create(directory, run)?))
    }

    /// For what an earlier process has kept.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn of_kept(
        context: &jetstream::Context,
        directory: &Path,
        run: &RunName,
        agent: &str,
        merged: u64,
    ) -> io::Result<Self> {
        let spool = Spool::open(directory, run, merged)?;
        Ok(Self::start(context, run, agent, spool))
    }

    /// Keeps a batch until it is merged, and sends progress. Returns what a person should know:
    /// that there is no room on disk, or that there is again.
    pub fn push(&self, said: Vec<Said>) -> Option<String> {
        let news = self.state.spool().push(said);
        self.state.news.notify_one();
        news
    }

    /// Writes what has found no room on disk, if there is some now. Returns what a person should
    /// know.
    pub(crate) fn write_waiting(&self) -> Option<String> {
        self.state.spool().write_waiting()
    }

    /// A look at what waits.
    pub(super) fn backlog(&self) -> Backlog {
        Backlog(Arc::downgrade(&self.state))
    }

    /// The number of the last batch.
    pub fn written(&self) -> u64 {
        self.state.spool().written()
    }

    /// Batches up to this one are merged. Returns whether all are.
    pub fn merged(&self, number: u64) -> bool {
        let mut spool = self.state.spool();
        spool.merged(number);
        spool.is_empty()
    }

    /// Forgets all of progress.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget(self) -> io::Result<()> {
        self.task.abort();
        self.state.spool().remove()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}
