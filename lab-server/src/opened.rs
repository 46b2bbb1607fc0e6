//! A durable ledger, opened for a server that starts: read, divided among its shards, and begun
//! anew.

use std::path::Path;
use std::sync::Mutex;

use journal::{Directory, JournalError, Limits, OpenError, State, Writer, begin, recover};
use platform::Clock;
use service::DurableLedger;

use crate::keeping::{Keepers, Keeping};
use crate::restart::divide;

/// Why a server cannot go on with a ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is in it.
    #[error("the ledger in {directory}: {source}")]
    Journal {
        /// Where it is.
        directory: String,
        /// Why.
        source: JournalError,
    },
}

/// A ledger that was opened.
pub(crate) struct Opened {
    pub(crate) writers: Vec<Writer<Directory>>,
    /// For each shard what it goes on with, deadlines on the monotonic clock.
    pub(crate) shares: Vec<State>,
    pub(crate) found: DurableLedger,
}

/// Each shard's way to its ledger and what it goes on with, for the shards to take.
pub(crate) type Shares = Vec<Mutex<Option<(Keeping, State)>>>;

/// Opens a ledger for so many shards and SETs.
pub(crate) fn open(
    path: &Path,
    keep_history: bool,
    (shards, sets): (usize, usize),
    clock: Clock,
) -> Result<Opened, LedgerError> {
    let directory = path.display().to_string();
    let failed = |source| LedgerError::Journal { directory: directory.clone(), source };
    let storage = Directory::lock(path)?;
    let recovered = recover(&storage).map_err(failed)?;
    let found = DurableLedger {
        directory: directory.clone(),
        epoch: recovered.found.epoch,
        shards: recovered.found.shards,
        segments: recovered.found.segments,
        records: recovered.found.records,
        torn_bytes: recovered.found.torn_bytes,
        packets_open: recovered.found.packets_open,
        queued: recovered.found.queued,
        cents_remaining: recovered.found.cents_remaining,
    };
    let mut shares = divide(recovered.state, shards, sets);
    let limits = Limits { keep_history, ..Limits::default() };
    let writers = begin(&storage, found.epoch, shares.clone(), limits).map_err(failed)?;
    for open in shares.iter_mut().flat_map(|share| share.open.values_mut()) {
        open.deadline_ns = clock.at_unix_ns(open.deadline_ns);
    }
    Ok(Opened { writers, shares, found })
}

/// What each shard is to take.
pub(crate) fn hand_out(keepers: &Keepers, shares: Vec<State>, clock: Clock) -> Shares {
    let each = shares.into_iter().enumerate();
    each.map(|(shard, share)| Mutex::new(Some((keepers.of(shard, clock), share)))).collect()
}
