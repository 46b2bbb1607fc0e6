//! Where a run on a fleet stands, once a second: so much is in its files, so much of each host is
//! merged, so much is ordered. A coordinator that takes over cuts the files to that length and goes
//! on from there, so that nothing is missing and nothing is there twice.

use std::collections::BTreeMap;
use std::path::Path;

use fleet::Epoch;
use fleet::link::Queue;
use record::{FileError, OpenSecond, PhaseTime, write_json};
use serde::{Deserialize, Serialize};

use super::lookups::Lookups;
use super::roster::read;
use super::state::HostState;
use crate::books::SavedBooks;
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
}
