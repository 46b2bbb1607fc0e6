//! What a directory says, and a new epoch that begins with it.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::frame::{Batch, Ending, Header, Kind, read_file};
use crate::names::{UNFINISHED, name_of, place_of};
use crate::record::Record;
use crate::state::{Contradiction, State};
use crate::storage::Storage;
use crate::writer::{Limits, Writer, copy_whole, remove_in_order, write_whole};

/// Why a ledger cannot be read or begun. Nothing in the directory was changed then, but for files
/// of an epoch that did not begin.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed.
    #[error("{name}: {source}")]
    Io {
        /// The file, or what was tried.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged where it was durable, or one is missing.
    #[error(
        "{name} is damaged at byte {at}: what follows it was acknowledged; restore the \
             directory from a copy, and see `lab ledger verify`"
    )]
    Damaged {
        /// The file.
        name: String,
        /// Where.
        at: u64,
    },
    /// A file is missing.
    #[error("{0} is missing: restore the directory from a copy")]
    Missing(String),
    /// Records contradict each other.
    #[error("{name}: {source}")]
    Contradiction {
        /// The file.
        name: String,
        /// What contradicts.
        source: Contradiction,
    },
}

/// What a restart found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The epoch that was read; 0 when the ledger is new.
    pub epoch: u64,
    /// Shards that wrote it.
    pub shards: u32,
    /// Segments that were read.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes at their ends that were not written to their end; nobody was told of them.
    pub torn_bytes: u64,
    /// Sent packets that are open.
    pub packets_open: u64,
    /// Packets that wait in queues.
    pub queued: u64,
    /// Cents that wait in both.
    pub cents_remaining: u64,
}

/// What a restart goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What all shards together had.
    pub state: State,
    /// What was found.
    pub found: Found,
}

pub(crate) fn failed(name: &str) -> impl FnOnce(io::Error) -> JournalError + '_ {
    move |source| JournalError::Io { name: name.to_owned(), source }
}

/// The files of a ledger by their place.
pub(crate) struct Files(BTreeMap<(u64, u32, Kind, u64), Header>);

impl Files {
    pub(crate) fn list(storage: &impl Storage) -> Result<Self, JournalError> {
        let names = storage.list().map_err(failed("the list of files"))?;
        let places = names.iter().filter_map(|name| place_of(name));
        let key = |place: &Header| (place.epoch, place.shard, place.kind, place.number);
        Ok(Self(places.map(|place| (key(&place), place)).collect()))
    }

    pub(crate) fn places(&self) -> impl DoubleEndedIterator<Item = &Header> {
        self.0.values()
    }

    pub(crate) fn of(&self, epoch: u64, shard: u32, kind: Kind) -> Vec<Header> {
        let range = (epoch, shard, kind, 0)..=(epoch, shard, kind, u64::MAX);
        self.0.range(range).map(|(_, place)| *place).collect()
    }

    /// The epochs that began, in order: each with its header, whose number of records is 1 when
    /// the epochs before it were to be kept.
    pub(crate) fn epochs(&self, storage: &impl Storage) -> Result<Vec<Header>, JournalError> {
        let epochs = self.places().filter(|place| place.kind == Kind::Epoch);
        epochs.map(|place| read_whole(storage, place, |_| Ok(()))).collect()
    }
}

/// Reads a file that was complete before it got its name, record by record.
pub(crate) fn read_whole(
    storage: &impl Storage,
    place: &Header,
    mut each: impl FnMut(&Record) -> Result<(), Contradiction>,
) -> Result<Header, JournalError> {
    let name = name_of(place);
    let bytes = storage.read(&name).map_err(failed(&name))?;
    let (mut contradiction, mut ended) = (None, false);
    let (header, ending) = read_file(*place, &bytes, |batch| {
        for record in &batch.records {
            if *record == Record::End {
                ended = true;
            } else if let Err(why) = each(record) {
                contradiction.get_or_insert(why);
            }
        }
    });
    if let Some(source) = contradiction {
        return Err(JournalError::Contradiction { name, source });
    }
    match (header, ending) {
        (Some(header), Ending::Whole) if ended => Ok(header),
        (_, Ending::Damaged(at)) => Err(JournalError::Damaged { name, at }),
        _ => Err(JournalError::Damaged { name, at: bytes.len() as u64 }),
    }
}

/// The state in a snapshot.
pub(crate) fn read_snapshot(storage: &impl Storage, place: &Header) -> Result<State, JournalError> {
    let mut state = State::default();
    let header = read_whole(storage, place, |record| state.load(record))?;
    state.seq = header.seq;
    let contradiction = |source| JournalError::Contradiction { name: name_of(place), source };
    state.check().map_err(contradiction)?;
    Ok(state)
}

/// What a segment did to a state.
pub(crate) struct SegmentRead {
    pub(crate) records: u64,
    pub(crate) torn_bytes: u64,
}

/// Applies the records of a segment up to the one with the number `until`, where a snapshot took
/// over. `each` sees them, too.
pub(crate) fn read_segment(
    storage: &impl Storage,
    place: &Header,
    until: u64,
    state: &mut State,
    mut each: impl FnMut(&Record),
) -> Result<SegmentRead, JournalError> {
    let name = name_of(place);
    let bytes = storage.read(&name).map_err(failed(&name))?;
    let (mut fault, mut records) = (None, 0);
    let (header, ending) = read_file(*place, &bytes, |batch: Batch| {
        if fault.is_some() || batch.seq >= until {
            return;
        }
        for record in &batch.records {
            match state.apply(record) {
                Ok(()) => each(record),
                Err(source) => {
                    fault = Some(source);
                    return;
                }
            }
            records += 1;
        }
    });
    if let Some(source) = fault {
        return Err(JournalError::Contradiction { name, source });
    }
    if header.is_some_and(|header| header.seq + records != state.seq) {
        return Err(JournalError::Damaged { name, at: 0 });
    }
    match ending {
        Ending::Whole => Ok(SegmentRead { records, torn_bytes: 0 }),
        Ending::Torn(torn_bytes) => Ok(SegmentRead { records, torn_bytes }),
        Ending::Damaged(at) => Err(JournalError::Damaged { name, at }),
    }
}

/// Reads what a restart goes on with.
///
/// # Errors
/// [`JournalError`].
pub fn recover(storage: &impl Storage) -> Result<Recovered, JournalError> {
    let files = Files::list(storage)?;
    let Some(epoch) = files.epochs(storage)?.pop() else {
        // An epoch's file comes last, before the first record: without one there may be beginnings
        // and no records.
        for place in files.places().filter(|place| place.kind == Kind::Segment) {
            let read = read_segment(storage, place, u64::MAX, &mut State::default(), |_| {});
            if !matches!(read, Ok(SegmentRead { records: 0, .. })) {
                let epoch = Header { kind: Kind::Epoch, ..*place };
                return Err(JournalError::Missing(name_of(&epoch)));
            }
        }
        return Ok(Recovered::default());
    };
    let mut state = State::default();
    let mut found = Found { epoch: epoch.epoch, shards: epoch.shards, ..Found::default() };
    for shard in 0..epoch.shards {
        let shard_state = recover_shard(storage, &files, &Header { shard, ..epoch }, &mut found)?;
        let contradiction =
            |source| JournalError::Contradiction { name: format!("shard {shard}"), source };
        shard_state.check().map_err(contradiction)?;
        state.merge(shard_state).map_err(contradiction)?;
    }
    found.packets_open = state.open.len() as u64;
    found.queued = state.queued();
    found.cents_remaining = state.ledger().remaining.amount;
    Ok(Recovered { state, found })
}

fn recover_shard(
    storage: &impl Storage,
    files: &Files,
    place: &Header,
    found: &mut Found,
) -> Result<State, JournalError> {
    let first = Header { kind: Kind::Snapshot, number: 0, ..*place };
    let snapshots = files.of(place.epoch, place.shard, Kind::Snapshot);
    let Some(snapshot) = snapshots.last() else {
        return Err(JournalError::Missing(name_of(&first)));
    };
    let mut state = read_snapshot(storage, snapshot)?;
    for segment in files.of(place.epoch, place.shard, Kind::Segment) {
        if segment.number > snapshot.number {
            let missing = Header { kind: Kind::Snapshot, ..segment };
            return Err(JournalError::Missing(name_of(&missing)));
        }
        if segment.number == snapshot.number {
            let read = read_segment(storage, &segment, u64::MAX, &mut state, |_| {})?;
            found.segments += 1;
            found.records += read.records;
            found.torn_bytes += read.torn_bytes;
        }
    }
    Ok(state)
}

/// Begins an epoch after the one that was read: a writer for each shard's share of what was
/// recovered. What an earlier epoch left is removed, unless history is kept.
///
/// # Errors
/// [`JournalError`]; the earlier epoch is the last one then, as before.
pub fn begin<S: Storage>(
    storage: &S,
    after: u64,
    shares: Vec<State>,
    limits: Limits,
) -> Result<Vec<Writer<S>>, JournalError> {
    let epoch = after + 1;
    // An epoch that did not begin, and what was not finished.
    for name in storage.list().map_err(failed("the list of files"))? {
        let stale = place_of(&name).is_some_and(|place| place.epoch > after);
        if stale || name.ends_with(UNFINISHED) {
            storage.remove(&name).map_err(failed(&name))?;
        }
    }
    storage.sync_directory().map_err(failed("the directory"))?;
    if limits.keep_history {
        settle_history(storage, after)?;
    }
    let shards = u32::try_from(shares.len()).unwrap_or(u32::MAX);
    let mut writers = Vec::new();
    for (shard, state) in (0..).zip(shares) {
        let place = (epoch, shard, shards);
        let writer = Writer::begin(storage.clone(), limits, place, state);
        writers.push(writer.map_err(failed("the first snapshot of an epoch"))?);
    }
    let seq = u64::from(limits.keep_history);
    let header = Header { kind: Kind::Epoch, epoch, shard: 0, shards, number: 0, seq };
    write_whole(storage, &header, std::iter::empty()).map_err(failed(&name_of(&header)))?;
    if !limits.keep_history {
        remove_earlier(storage, epoch);
    }
    Ok(writers)
}

/// Makes durable what was read at the ends of an epoch's segments. It may be in the page cache and
/// nowhere else: a server that was killed had not synced it, or its sync failed. The new epoch goes
/// on with it, and the history must have it, too. Written anew, because of a file whose sync has
/// failed no later sync says the truth.
fn settle_history(storage: &impl Storage, epoch: u64) -> Result<(), JournalError> {
    let files = Files::list(storage)?;
    let segments = files.places().filter(|place| {
        let is_last = || files.of(epoch, place.shard, Kind::Segment).last() == Some(place);
        place.epoch == epoch && place.kind == Kind::Segment && is_last()
    });
    for place in segments {
        let name = name_of(place);
        let bytes = storage.read(&name).map_err(failed(&name))?;
        let whole = match read_file(*place, &bytes, |_| {}) {
            (Some(_), Ending::Whole) => bytes.len(),
            (Some(_), Ending::Torn(torn)) => bytes.len() - torn as usize,
            // Without a header there is nothing to keep; damage was found before this.
            _ => continue,
        };
        let copied = copy_whole(storage, &name, &bytes[..whole]);
        copied.map_err(failed(&name))?;
    }
    Ok(())
}

/// Removes the files of earlier epochs. One that cannot be removed costs room; the next start takes
/// it along.
fn remove_earlier(storage: &impl Storage, epoch: u64) {
    let mut names = storage.list().unwrap_or_default();
    names.retain(|name| place_of(name).is_some_and(|place| place.epoch < epoch));
    remove_in_order(storage, names, Kind::Epoch);
}
