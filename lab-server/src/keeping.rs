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

/// What of a disk that fails and a mistake of the server is said.
const UNTIL_ON_DISK: &str = "no money moves until it is on disk";
const NO_MORE: &str = "no money moves any more; start the server again, and it goes on with what \
                       is on disk, which is all that users were told";

/// The threads of a server. Dropped without [`Self::end`], they go on until the process ends.
#[derive(Debug)]
pub(crate) struct Keepers {
    desks: Vec<Arc<Desk>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Keepers {
    /// Those of so many shards, before they are started.
    pub(crate) fn new(shards: usize) -> Self {
        Self { desks: (0..shards).map(|_| Arc::default()).collect(), threads: Vec::new() }
    }

    /// Starts a thread for each writer, once the shards have tables of descriptors of their own:
    /// none of these has the files that a thread opens from here on.
    pub(crate) fn start(
        &mut self,
        writers: Vec<Writer<Directory>>,
        inboxes: &Inboxes<Message>,
        reports: &Inboxes<Report>,
    ) -> std::io::Result<()> {
        for (shard, (writer, desk)) in writers.into_iter().zip(&self.desks).enumerate() {
            let (inboxes, reports) = (inboxes.clone(), reports.clone());
            let keeper = Keeper { shard, writer, desk: Arc::clone(desk), inboxes, reports };
            let thread = std::thread::Builder::new().name(format!("lab-server-l{shard}"));
            self.threads.push(thread.spawn(move || keeper.keep())?);
        }
        Ok(())
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

/// The thread of a shard.
struct Keeper {
    shard: usize,
    writer: Writer<Directory>,
    desk: Arc<Desk>,
    inboxes: Inboxes<Message>,
    reports: Inboxes<Report>,
}

impl Drop for Keeper {
    /// Stops the money of a shard whose thread panics, and says so: nothing is durable from then
    /// on.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.desk.failing.store(true, Ordering::Relaxed);
            self.say(&format!("its thread panicked; {NO_MORE}"));
        }
    }
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
            if matches!(error, CommitError::Contradiction(_)) {
                self.say(&format!("{error}; {NO_MORE}"));
                return Err(self.sentence(&error.to_string()));
            }
            if first {
                self.say(&format!("{error}; {UNTIL_ON_DISK}"));
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
        format!("ledger of shard {}: {why}", self.shard)
    }

    /// Tells the control thread. Without room for it the counters say so all the same.
    fn say(&self, what: &str) {
        let _ = self.reports.post(0, Report::Said(self.sentence(what)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use journal::{Limits, State, begin, recover};

    use super::*;

    /// Shard 0 of a ledger that begins, and what is said.
    struct Case {
        directory: tempfile::TempDir,
        keepers: Keepers,
        keeping: Keeping,
        writers: Vec<Writer<Directory>>,
        inboxes: Inboxes<Message>,
        reports: Inboxes<Report>,
    }

    fn case() -> Case {
        let directory = tempfile::tempdir().expect("a directory");
        let storage = Directory::lock(directory.path()).expect("free");
        let writers = begin(&storage, 0, vec![State::default()], Limits::default()).expect("new");
        let keepers = Keepers::new(1);
        let keeping = keepers.of(0, Clock::read());
        let inboxes = Inboxes::new(1, 4).expect("eventfd");
        let reports = Inboxes::new(1, 4).expect("eventfd");
        Case { directory, keepers, keeping, writers, inboxes, reports }
    }

    fn said(reports: &Inboxes<Report>) -> Vec<String> {
        let mut said = Vec::new();
        reports.drain(0, 4, |report| match report {
            Report::Said(what) => said.push(what),
            other => panic!("{other:?}"),
        });
        said
    }

    #[test]
    fn a_thread_that_panics_stops_the_money_and_says_so() {
        let Case { directory: _directory, keeping, mut writers, inboxes, reports, .. } = case();
        let desk = Arc::clone(&keeping.desk);
        let writer = writers.pop().expect("one");
        let keeper = Keeper { shard: 3, writer, desk, inboxes, reports: reports.clone() };
        assert!(!keeping.refuses());
        let thread = std::thread::spawn(move || {
            let _keeper = keeper;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert!(keeping.refuses());
        let said = said(&reports);
        let begins = "ledger of shard 3: its thread panicked; no money moves any more";
        assert!(said.len() == 1 && said[0].starts_with(begins), "{said:?}");
    }

    #[test]
    fn records_that_contradict_stop_the_money_and_a_restart_goes_on_before_them() {
        let Case { directory, mut keepers, mut keeping, writers, inboxes, reports } = case();
        keepers.start(writers, &inboxes, &reports).expect("a thread");
        let patience = Instant::now() + Duration::from_secs(20);
        let exchange_until = |keeping: &mut Keeping, wanted: fn(&Keeping) -> bool| {
            while !wanted(keeping) {
                keeping.exchange();
                assert!(Instant::now() < patience);
                std::thread::yield_now();
            }
        };
        keeping.holding.record(Record::Created { set: 0, packet: 1, amount: 5 });
        exchange_until(&mut keeping, |it| it.holding.is_settled());
        keeping.holding.record(Record::Created { set: 0, packet: 2, amount: 5 });
        keeping.holding.record(Record::Granted { set: 0, packet: 2, amount: 5, user: 1 });
        exchange_until(&mut keeping, Keeping::refuses);
        keeping.exchange();
        assert!(keeping.holding.is_behind(), "nobody is told");
        let ended = keepers.end().expect_err("it could not be written");
        assert!(ended.contains("packet 2 was granted from SET 0"), "{ended}");
        let said = said(&reports);
        assert!(said.len() == 1 && said[0].contains("start the server again"), "{said:?}");
        let storage = Directory::lock(directory.path()).expect("free again");
        let found = recover(&storage).expect("readable");
        assert_eq!((found.state.queued(), found.found.records), (1, 1));
    }
}
