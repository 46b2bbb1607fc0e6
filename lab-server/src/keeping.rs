//! The threads that write the durable ledger, one a shard, and each shard's way to its own.
//!
//! A thread takes everything that its shard has recorded since the last sync, writes it, syncs it,
//! and says so: while it waits for the disk, the next group gathers. When the disk fails no money
//! moves any more, and everything else goes on; the thread tries again in a new segment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use journal::{CommitError, Directory, Record, Writer};
use platform::Clock;
use shard::Inboxes;

use crate::holding::Holding;
use crate::message::Message;
use crate::report::Report;

/// While the disk fails, it is tried again this often.
const RETRY: Duration = Duration::from_millis(250);

/// A server that ends tries a disk that fails so many times more.
const LAST_TRIES: u32 = 4;

/// What a shard and its thread share.
#[derive(Debug, Default)]
struct Desk {
    pending: Mutex<Pending>,
    wake: Condvar,
    durable: AtomicU64,
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Pending {
    records: Vec<Record>,
    /// The shard has ended.
    over: bool,
}

/// A shard's side.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) holding: Holding,
    desk: Arc<Desk>,
    clock: Clock,
}

impl Keeping {
    /// Whether no money may move just now.
    pub(crate) fn refuses(&self) -> bool {
        self.desk.failing.load(Ordering::Relaxed) || self.holding.is_full()
    }

    /// The Unix time of an instant of the monotonic clock.
    pub(crate) fn unix_ns(&self, at_ns: u64) -> u64 {
        self.clock.unix_ns(at_ns)
    }

    /// Hands what was recorded to the thread, and learns what is durable.
    pub(crate) fn exchange(&mut self) {
        if self.holding.has_records() {
            let mut pending = self.desk.pending.lock().unwrap_or_else(PoisonError::into_inner);
            // While the thread writes it does not wait: it looks again by itself.
            let waits = pending.records.is_empty();
            self.holding.hand_over(&mut pending.records);
            drop(pending);
            if waits {
                self.desk.wake.notify_one();
            }
        }
        self.holding.set_durable(self.desk.durable.load(Ordering::Acquire));
    }
}

/// The threads of a server. Dropped without [`Self::end`], they go on until the process ends.
#[derive(Debug)]
pub(crate) struct Keepers {
    desks: Vec<Arc<Desk>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Keepers {
    /// Starts a thread for each writer.
    pub(crate) fn start(
        writers: Vec<Writer<Directory>>,
        inboxes: &Inboxes<Message>,
        reports: &Inboxes<Report>,
    ) -> std::io::Result<Self> {
        let mut all = Self { desks: Vec::new(), threads: Vec::new() };
        for (shard, writer) in writers.into_iter().enumerate() {
            let desk = Arc::<Desk>::default();
            all.desks.push(Arc::clone(&desk));
            let keeper =
                Keeper { shard, writer, desk, inboxes: inboxes.clone(), reports: reports.clone() };
            let thread = std::thread::Builder::new().name(format!("ledger-{shard}"));
            let watched =
                Watched { desk: Arc::clone(&keeper.desk), reports: reports.clone(), shard };
            all.threads.push(thread.spawn(move || {
                let _watched = watched;
                keeper.keep()
            })?);
        }
        Ok(all)
    }

    /// The side of a shard.
    pub(crate) fn of(&self, shard: usize, clock: Clock) -> Keeping {
        let desk = Arc::clone(&self.desks[shard]);
        Keeping { holding: Holding::default(), desk, clock }
    }

    /// Writes what is left, once the shards have ended.
    ///
    /// # Errors
    /// What could not be written, and why.
    pub(crate) fn end(self) -> Result<(), String> {
        for desk in &self.desks {
            desk.pending.lock().unwrap_or_else(PoisonError::into_inner).over = true;
            desk.wake.notify_one();
        }
        let mut failures = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(why)) => failures.push(why),
                Err(_) => failures.push("ledger: a thread that writes it panicked".to_owned()),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }
}

/// Stops the money of a shard whose thread panics, and says so: nothing is durable from then on.
struct Watched {
    desk: Arc<Desk>,
    reports: Inboxes<Report>,
    shard: usize,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.desk.failing.store(true, Ordering::Relaxed);
            let why = "its thread panicked; no money moves any more";
            let _ = self.reports.post(0, Report::Said(sentence(self.shard, why)));
        }
    }
}

fn sentence(shard: usize, why: &str) -> String {
    format!("ledger of shard {shard}: {why}")
}

/// The thread of a shard.
struct Keeper {
    shard: usize,
    writer: Writer<Directory>,
    desk: Arc<Desk>,
    inboxes: Inboxes<Message>,
    reports: Inboxes<Report>,
}

impl Keeper {
    fn keep(mut self) -> Result<(), String> {
        while let Some(records) = self.next() {
            self.make_durable(&records)?;
            // An inbox that is full belongs to a shard that is awake and looks by itself.
            let _ = self.inboxes.post(self.shard, Message::Recorded);
        }
        Ok(())
    }

    /// What there is to write; `None` when the shard has ended and all is written.
    fn next(&self) -> Option<Vec<Record>> {
        let mut pending = self.desk.pending.lock().unwrap_or_else(PoisonError::into_inner);
        while pending.records.is_empty() && !pending.over {
            pending = self.desk.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        (!pending.records.is_empty()).then(|| std::mem::take(&mut pending.records))
    }

    fn make_durable(&mut self, records: &[Record]) -> Result<(), String> {
        let mut tries_left = LAST_TRIES;
        loop {
            let error = match self.writer.commit(records) {
                Ok(durable) => {
                    self.desk.durable.store(durable, Ordering::Release);
                    if self.desk.failing.swap(false, Ordering::Relaxed) {
                        self.say("the disk takes it again, and money moves");
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            let first = !self.desk.failing.swap(true, Ordering::Relaxed);
            if first {
                self.say(&format!("{error}; no money moves until it is on disk"));
            }
            if matches!(error, CommitError::Contradiction(_)) {
                return Err(self.sentence(&error.to_string()));
            }
            let pending = self.desk.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.desk.wake.wait_timeout(pending, RETRY);
            let over = waited.map_or(true, |(pending, _)| pending.over);
            if over {
                tries_left -= 1;
                if tries_left == 0 {
                    let lost = records.len();
                    let why = format!("{error}; {lost} records that nobody was told of are lost");
                    return Err(self.sentence(&why));
                }
                std::thread::sleep(RETRY);
            }
        }
    }

    fn sentence(&self, why: &str) -> String {
        sentence(self.shard, why)
    }

    /// Tells the control thread. Without room for it the counters say so all the same.
    fn say(&self, what: &str) {
        let _ = self.reports.post(0, Report::Said(self.sentence(what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_stops_the_money_and_says_so() {
        let desk = Arc::<Desk>::default();
        let reports = Inboxes::new(1, 4).expect("eventfd");
        let watched = Watched { desk: Arc::clone(&desk), reports: reports.clone(), shard: 3 };
        let keeping = Keeping { holding: Holding::default(), desk, clock: Clock::read() };
        assert!(!keeping.refuses());
        let thread = std::thread::spawn(move || {
            let _watched = watched;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert!(keeping.refuses());
        let mut said = Vec::new();
        reports.drain(0, 4, |report| match report {
            Report::Said(what) => said.push(what),
            other => panic!("{other:?}"),
        });
        assert_eq!(said, ["ledger of shard 3: its thread panicked; no money moves any more"]);
    }
}
