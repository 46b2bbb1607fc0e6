//! A shard's writer: one batch, one write, one sync; and a new segment when the last one is full or
//! has failed.
//!
//! What failed is given up and never synced again: after a failed `fdatasync` the kernel may have
//! thrown the bytes away and call the next one a success. The writer holds the state that is
//! durable and writes all of it anew, as a snapshot with a new segment behind it; then comes the
//! batch that failed.

use std::io;

use crate::frame::{Header, Kind, MOST_BATCH};
use crate::names::{UNFINISHED, name_of, place_of};
use crate::record::Record;
use crate::state::{Contradiction, State};
use crate::storage::Storage;

/// Bytes of records that a snapshot's batches have, about.
const SNAPSHOT_BATCH: usize = 1 << 20;

/// When a writer begins a new segment, and whether it keeps the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a segment before a snapshot takes its place; more when the snapshot itself is long.
    pub segment_bytes: u64,
    /// Old segments stay, for an audit of every grant.
    pub keep_history: bool,
}

impl Default for Limits {
    fn default() -> Self {
        // 3.4 million grants: 4.7 hours of 200 packets a second.
        Self { segment_bytes: 64 << 20, keep_history: false }
    }
}

/// The writer of a shard.
#[derive(Debug)]
pub struct Writer<S: Storage> {
    storage: S,
    limits: Limits,
    /// The segment, or the last one that was begun.
    place: Header,
    file: Segment<S::File>,
    /// What is durable.
    state: State,
    segment_bytes: u64,
    snapshot_bytes: u64,
}

/// A writer's segment.
#[derive(Debug)]
enum Segment<F> {
    /// Its snapshot is there, and there was no record to be written behind it: no file is open
    /// until there is one.
    Ahead,
    Open(F),
    /// The disk has failed with it.
    GivenUp,
}

/// Why records are not durable.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk failed. The same records may be tried again: in a new segment.
    #[error("the disk failed: {0}")]
    Disk(#[from] io::Error),
    /// The records contradict those before: the shard has made a mistake, and nothing that it says
    /// from here on can be written. None of them was.
    #[error("the shard's records contradict each other: {0}")]
    Contradiction(#[from] Contradiction),
}

impl<S: Storage> Writer<S> {
    /// A writer for a new epoch, with its first snapshot. Its first segment comes with its first
    /// record: an open file would be copied into the tables of descriptors of all threads that part
    /// from this one's.
    pub(crate) fn begin(
        storage: S,
        limits: Limits,
        (epoch, shard, shards): (u64, u32, u32),
        state: State,
    ) -> io::Result<Self> {
        let state = State { seq: 0, ..state };
        let place = Header { kind: Kind::Segment, epoch, shard, shards, number: 0, seq: 0 };
        let (file, segment_bytes) = (Segment::Ahead, 0);
        let mut writer =
            Self { storage, limits, place, file, state, segment_bytes, snapshot_bytes: 0 };
        writer.write_snapshot()?;
        Ok(writer)
    }

    /// What is durable.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether the segment was given up.
    pub fn has_failed(&self) -> bool {
        matches!(self.file, Segment::GivenUp)
    }

    /// Makes records durable, all or none, and returns how many the epoch has then.
    ///
    /// # Errors
    /// [`CommitError`]. After one of the disk, the same records can be tried again.
    pub fn commit(&mut self, records: &[Record]) -> Result<u64, CommitError> {
        if records.is_empty() {
            return Ok(self.state.seq);
        }
        // Before a byte is written: a restart could not read what contradicts.
        self.state.check_batch(records)?;
        self.open_segment()?;
        let (mut bytes, mut payload) = (Vec::new(), Vec::new());
        records.iter().for_each(|record| record.encode(&mut payload));
        if payload.len() > MOST_BATCH {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        self.place.batch(self.state.seq, records.len() as u32, &payload, &mut bytes);
        let Segment::Open(file) = &mut self.file else {
            return Err(io::Error::other("the segment was given up").into());
        };
        let written = self.storage.append(file, &bytes).and_then(|()| self.storage.sync(file));
        if let Err(error) = written {
            self.file = Segment::GivenUp;
            return Err(error.into());
        }
        self.segment_bytes += bytes.len() as u64;
        for record in records {
            self.state.apply(record)?;
        }
        Ok(self.state.seq)
    }

    /// Sees to it that there is a segment with room.
    fn open_segment(&mut self) -> io::Result<()> {
        match self.file {
            Segment::Open(_) if self.segment_bytes < self.most_bytes() => Ok(()),
            Segment::Ahead => self.begin_segment(),
            _ => self.next_segment(),
        }
    }

    /// So long a segment may become: with a long snapshot longer, so that a byte of records costs
    /// at most one of a snapshot.
    fn most_bytes(&self) -> u64 {
        self.limits.segment_bytes.max(self.snapshot_bytes)
    }

    /// Goes on in a new segment behind a snapshot of what is durable.
    fn next_segment(&mut self) -> io::Result<()> {
        self.file = Segment::GivenUp;
        // A number of its own for each try: whatever an earlier one left is not built upon.
        self.place.number += 1;
        self.write_snapshot()?;
        self.begin_segment()?;
        if !self.limits.keep_history {
            self.remove_older();
        }
        Ok(())
    }

    fn write_snapshot(&mut self) -> io::Result<()> {
        self.place.seq = self.state.seq;
        let snapshot = Header { kind: Kind::Snapshot, ..self.place };
        self.snapshot_bytes = write_whole(&self.storage, &snapshot, self.state.records())?;
        Ok(())
    }

    /// Makes the segment behind the present snapshot.
    fn begin_segment(&mut self) -> io::Result<()> {
        self.file = Segment::GivenUp;
        let name = name_of(&self.place);
        let mut file = self.storage.create(&name)?;
        let begun = self
            .storage
            .append(&mut file, &self.place.encode())
            .and_then(|()| self.storage.sync(&mut file))
            .and_then(|()| self.storage.sync_directory());
        if let Err(error) = begun {
            // It has no record. What cannot be removed now goes with the next snapshot.
            let _ = self.storage.remove(&name);
            return Err(error);
        }
        self.segment_bytes = 0;
        self.file = Segment::Open(file);
        Ok(())
    }

    /// Removes this shard's files from before the present snapshot. One that cannot be removed
    /// costs room and nothing else: the next time takes it along.
    fn remove_older(&self) {
        let own = |place: &Header| {
            (place.epoch, place.shard) == (self.place.epoch, self.place.shard)
                && place.kind != Kind::Epoch
                && place.number < self.place.number
        };
        let mut names = self.storage.list().unwrap_or_default();
        names.retain(|name| {
            let whole = name.strip_suffix(UNFINISHED).unwrap_or(name);
            place_of(whole).as_ref().is_some_and(own)
        });
        remove_in_order(&self.storage, names, Kind::Snapshot);
    }
}

/// Removes files, those of one kind first: without its snapshot a segment means nothing, and
/// without its file an epoch. So a removal that is cut short leaves nothing that looks damaged.
pub(crate) fn remove_in_order<S: Storage>(storage: &S, names: Vec<String>, first: Kind) {
    let is_first = |name: &String| place_of(name).is_some_and(|place| place.kind == first);
    let (first, others): (Vec<_>, Vec<_>) = names.into_iter().partition(is_first);
    let removed = first.iter().try_for_each(|name| storage.remove(name));
    if removed.and_then(|()| storage.sync_directory()).is_ok() {
        for name in others {
            let _ = storage.remove(&name);
        }
    }
}

/// Writes a file with all of these records, so that under its own name it is there as a whole or
/// not at all. Returns how many bytes it has.
pub(crate) fn write_whole<S: Storage>(
    storage: &S,
    header: &Header,
    records: impl Iterator<Item = Record>,
) -> io::Result<u64> {
    under_its_name(storage, &name_of(header), |file| fill(storage, header, records, file))
}

/// Writes a file anew with these bytes, as a whole or not at all.
pub(crate) fn copy_whole<S: Storage>(storage: &S, name: &str, bytes: &[u8]) -> io::Result<()> {
    under_its_name(storage, name, |file| storage.append(file, bytes))
}

/// Lets a file be filled, makes it durable, and only then gives it its name.
fn under_its_name<S: Storage, T>(
    storage: &S,
    name: &str,
    fill: impl FnOnce(&mut S::File) -> io::Result<T>,
) -> io::Result<T> {
    let unfinished = format!("{name}{UNFINISHED}");
    let mut file = storage.create(&unfinished)?;
    let filled = fill(&mut file).and_then(|filled| {
        storage.sync(&mut file)?;
        storage.rename(&unfinished, name)?;
        storage.sync_directory()?;
        Ok(filled)
    });
    if filled.is_err() {
        // A full disk needs the room back.
        let _ = storage.remove(&unfinished);
    }
    filled
}

fn fill<S: Storage>(
    storage: &S,
    header: &Header,
    records: impl Iterator<Item = Record>,
    file: &mut S::File,
) -> io::Result<u64> {
    let (mut bytes, mut payload, mut total) = (header.encode(), Vec::new(), 0);
    let (mut seq, mut count) = (header.seq, 0);
    for record in records.chain([Record::End]) {
        record.encode(&mut payload);
        count += 1;
        if payload.len() >= SNAPSHOT_BATCH || record == Record::End {
            header.batch(seq, count, &payload, &mut bytes);
            storage.append(file, &bytes)?;
            total += bytes.len() as u64;
            (seq, count) = (seq + u64::from(count), 0);
            payload.clear();
            bytes.clear();
        }
    }
    Ok(total)
}
