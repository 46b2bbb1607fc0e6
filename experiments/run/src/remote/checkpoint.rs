//! Where a run on a fleet stands, once a second: so much is in its files, so much of each host is
//! merged, so much is ordered. A coordinator that takes over cuts the files to that length and goes
//! on from there, so that nothing is missing and nothing is there twice.

use std::collections::BTreeMap;
use std::path::Path;

use fleet::Epoch;
use fleet::link::{Orders, Queue};
use fleet::protocol::What;
use host::program::Who;
use record::{FileError, OpenSecond, PhaseTime, Seconds, write_json};
use serde::{Deserialize, Serialize};

use super::lookups::Lookups;
use super::roster::read;
use super::state::HostState;
use crate::books::{Books, SavedBooks};
use crate::outcome::Ending;
use crate::place::Position;

/// The name of its file.
const CHECKPOINT: &str = "checkpoint.json";

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The epoch of the coordinator that wrote it.
    pub(super) epoch: Epoch,
    /// The lengths of its files.
    pub(super) lengths: [u64; 4],
    pub(super) phases: Vec<PhaseTime>,
    pub(super) hosts: BTreeMap<String, HostState>,
    /// The place in the stream of the last batch that is merged.
    pub(super) place: u64,
    /// What is on its way to each host.
    pub(super) orders: BTreeMap<String, Queue>,
    pub(super) position: Option<Position>,
    /// How the run ends, once that is known.
    pub(super) ending: Option<Ending>,
    pub(super) books: SavedBooks,
    /// Seconds that are being put together.
    pub(super) open: Vec<OpenSecond>,
    pub(super) newest: u64,
    pub(super) complete_until: u64,
    pub(super) lookups: Lookups,
}

impl Checkpoint {
    pub(super) fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_json(directory, CHECKPOINT, self)
    }

    /// # Errors
    /// A mistake of the person who asks for it: see [`read`].
    pub(super) fn read(directory: &Path) -> anyhow::Result<Self> {
        read(directory, CHECKPOINT)
    }

    /// The orders that hosts, of which so much is known now, have not carried out.
    pub(super) fn orders(&self, hosts: &BTreeMap<String, HostState>) -> BTreeMap<String, Orders> {
        let restored = self.orders.iter().map(|(host, queue)| {
            let mut queue = queue.clone();
            let last = hosts.get(host).map_or(0, |state| state.carried_out);
            queue.waiting.retain(|(number, _)| *number > last);
            if self.position.is_none_or(|position| position.begun) {
                queue.number = queue.number.max(last);
            }
            (host.clone(), Orders::restore(queue))
        });
        restored.collect()
    }
}

/// Whether a run can go on from where its checkpoint says, as far as that can be told without its
/// hosts.
///
/// # Errors
/// What is wrong with the checkpoint.
pub fn check_checkpoint(directory: &Path) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::read(directory)?;
    let restored = |(name, state): (&String, &HostState)| (name.clone(), state.clone().restore());
    let orders = checkpoint.orders(&checkpoint.hosts.iter().map(restored).collect());
    // What is given next has the next number.
    orders.values().for_each(|orders| orders.give(What::Close { who: Who::Server }));
    let Checkpoint { epoch, mut lookups, books, open, newest, complete_until, .. } = checkpoint;
    anyhow::ensure!(epoch.next(0) >= epoch, "no epoch comes after {epoch:?}");
    Books::restore(books)?;
    let mut seconds = Seconds::restore(open, newest, complete_until);
    while seconds.next(false).or_else(|| seconds.next(true)).is_some() {}
    lookups.put_off(1);
    while lookups.take_old(newest).is_some() {}
    Ok(())
}
