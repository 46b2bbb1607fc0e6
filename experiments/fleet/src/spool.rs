//! What an agent has said of a run, on disk until the coordinator has merged it. A killed process
//! loses nothing that was handed to the system; a last line that was cut off is no batch yet.
//!
//! A disk that is full is no reason to end: batches wait in memory until there is room, and are
//! sent from there. What is merged leaves the disk: its blocks are given back, and nothing is
//! copied, for an agent has no time to wait for a disk. What nobody asks for leaves it after a
//! while. Must not know: how batches are sent.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FallocateFlags, fallocate, seek};
use serde::Deserialize;

use crate::names::RunName;
use crate::protocol::{Batch, Said};

/// The ending of a spool's file.
pub const SPOOL_ENDING: &str = "spool";

/// That of the file beside it, which says who leads its run.
pub(crate) const LEADER_ENDING: &str = "leader";

/// Batches that wait in memory for room on disk, in bytes: ten minutes of a host that says 50 KiB a
/// second, which is one of many users with probes.
const MOST_IN_MEMORY: usize = 32 << 20;

/// A spool is written to this length at most, in bytes: a day of such a host is 4 GiB, and nobody
/// has merged any of it for six hours then.
const MOST_ON_DISK: u64 = 1 << 30;

/// Blocks of merged batches are given back when they are this long together, in bytes.
const CUT: u64 = 1 << 20;

/// No batch is longer, in bytes: what NATS carries in one message is 1 MiB.
const LONGEST: u64 = 16 << 20;

/// The unit in which the system tells of the room that a file takes, in bytes.
const BLOCK: u64 = 512;

/// What nobody has asked for in this time goes: so long the stream of the run would keep it.
const KEEP: Duration = Duration::from_secs(7 * 86_400);

/// All spools together, in bytes: beyond it the oldest go.
const KEEP_BYTES: u64 = 4 << 30;

/// That there is no room is told once in this time: merged batches leave a little of it.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Where a batch is.
#[derive(Debug)]
enum Place {
    /// In the file: where it begins, and its length without the end of line.
    Disk { at: u64, length: usize },
    /// In memory, with the end of line, until there is room.
    Memory(Vec<u8>),
}

/// How much of runs waits until a coordinator has merged it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Batches.
    pub batches: u64,
    /// The room that they take on disk and in memory, in bytes.
    pub bytes: u64,
    /// Items that had no room anywhere, and are lost.
    pub lost: u64,
}

impl Waiting {
    /// Adds that of another run.
    pub(crate) fn add(&mut self, other: Self) {
        self.batches += other.batches;
        self.bytes += other.bytes;
        self.lost += other.lost;
    }
}

/// The batches of a run that may have to be sent (again).
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    file: File,
    /// The batches: those on disk, then those in memory.
    batches: VecDeque<Place>,
    /// How many of them are on disk.
    on_disk: usize,
    /// The number of the first of them.
    first: u64,
    /// Up to where the blocks of the file are given back.
    begin: u64,
    /// Where the file ends, but for what an interrupted write left.
    end: u64,
    /// Whether something may be behind that.
    torn: bool,
    /// Bytes in memory.
    in_memory: usize,
    /// Whether it was told that nothing can be written, and not yet that it can be again.
    is_told: bool,
    /// When that was told last.
    told: Option<Instant>,
    /// Items that had no room anywhere.
    lost: u64,
    most_in_memory: usize,
}

/// As much of a batch as tells its number.
#[derive(Deserialize)]
struct Numbered {
    number: u64,
}

fn path(directory: &Path, run: &RunName) -> PathBuf {
    directory.join(format!("{run}.{SPOOL_ENDING}"))
}

/// Removes the spool of an agent that is gone, with what is beside it.
///
/// # Errors
/// What the system says.
pub fn remove_spool(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file.with_extension(LEADER_ENDING)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::remove_file(file)
}

impl Spool {
    fn new(path: PathBuf, file: File) -> Self {
        Self {
            path,
            file,
            batches: VecDeque::new(),
            on_disk: 0,
            first: 1,
            begin: 0,
            end: 0,
            torn: false,
            in_memory: 0,
            is_told: false,
            told: None,
            lost: 0,
            most_in_memory: MOST_IN_MEMORY,
        }
    }

    /// An empty one for a run.
    ///
    /// # Errors
    /// What the system says, or that there is one already.
    pub(crate) fn create(directory: &Path, run: &RunName) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = path(directory, run);
        let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
        Ok(Self::new(path, file))
    }

    /// What is there of a run of which so much is merged.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(directory: &Path, run: &RunName, merged: u64) -> io::Result<Self> {
        let path = path(directory, run);
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        let mut spool = Self::new(path, file);
        spool.read_file()?;
        spool.file.set_len(spool.end)?;
        spool.merged(merged);
        if spool.batches.is_empty() {
            spool.first = spool.first.max(merged.saturating_add(1));
        }
        Ok(spool)
    }

    /// Finds the batches of the file. Numbers have a gap where batches were merged before there was
    /// room for them: then all before it were merged, too.
    fn read_file(&mut self) -> io::Result<()> {
        self.begin = first_byte(&self.file)?;
        self.end = self.begin;
        let mut lines = BufReader::new(self.file.try_clone()?);
        lines.seek(SeekFrom::Start(self.begin))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = lines.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            let Ok(Numbered { number }) = serde_json::from_slice(&line) else { return Ok(()) };
            if number != self.written() + 1 {
                if number <= self.written() {
                    return Ok(());
                }
                self.batches.clear();
                self.first = number;
            }
            self.batches.push_back(Place::Disk { at: self.end, length: length - 1 });
            self.on_disk = self.batches.len();
            self.end += length as u64;
        }
    }

    /// The runs of which something is kept.
    pub(crate) fn kept(directory: &Path) -> Vec<RunName> {
        let mut runs: Vec<RunName> = files(directory).into_iter().map(|(run, ..)| run).collect();
        runs.sort();
        runs
    }

    /// Removes what nobody has asked for in [`KEEP`], and of the rest the oldest beyond
    /// [`KEEP_BYTES`], but for runs that are in use. Returns which, with a sentence for people.
    pub(crate) fn expire(
        directory: &Path,
        is_in_use: impl Fn(&RunName) -> bool,
        now: SystemTime,
    ) -> Vec<(RunName, String)> {
        let mut found = files(directory);
        found.sort_by_key(|(_, _, changed)| *changed);
        let mut left: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
        let mut gone = Vec::new();
        for (run, bytes, changed) in found.into_iter().filter(|(run, ..)| !is_in_use(run)) {
            let age = now.duration_since(changed).unwrap_or_default();
            let path = path(directory, &run);
            if (age > KEEP || left > KEEP_BYTES) && std::fs::remove_file(&path).is_ok() {
                left -= bytes;
                let hours = age.as_secs() / 3600;
                let what = format!(
                    "{}: removed {bytes} bytes that nobody has asked for in {hours} h",
                    path.display()
                );
                gone.push((run, what));
            }
        }
        gone
    }

    /// Keeps a batch. Returns what a person should know of it: that there is no room on disk, or
    /// that there is again.
    pub(crate) fn push(&mut self, said: Vec<Said>) -> Option<String> {
        let (number, items) = (self.written() + 1, said.len() as u64);
        // What the agent itself has put together is always JSON.
        let mut line = serde_json::to_vec(&Batch { number, said }).ok()?;
        line.push(b'\n');
        self.in_memory += line.len();
        self.batches.push_back(Place::Memory(line));
        let news = self.write_waiting();
        if self.in_memory <= self.most_in_memory {
            return news;
        }
        if let Some(Place::Memory(line)) = self.batches.pop_back() {
            self.in_memory -= line.len();
        }
        let first = self.lost == 0;
        self.lost += items;
        let (path, most) = (self.path.display(), self.most_in_memory >> 20);
        let full = format!("{path}: {most} MiB wait in memory, and what comes now is lost");
        news.or(first.then_some(full))
    }

    /// Writes what waits in memory, if there is room for it now. Returns what a person should know.
    pub(crate) fn write_waiting(&mut self) -> Option<String> {
        let path = self.path.display().to_string();
        match self.write_as_much_as_fits() {
            Ok(()) => {
                if !std::mem::take(&mut self.is_told) {
                    return None;
                }
                let lost = match std::mem::take(&mut self.lost) {
                    0 => String::new(),
                    lost => format!("; {lost} items had no room in memory and are lost"),
                };
                Some(format!("{path}: there is room again{lost}"))
            }
            Err(error) => {
                if self.is_told || self.told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
                    return None;
                }
                (self.is_told, self.told) = (true, Some(Instant::now()));
                let most = self.most_in_memory >> 20;
                let kept = format!("what this host says waits in memory, up to {most} MiB");
                Some(format!("{path}: {error}; {kept}"))
            }
        }
    }

    fn write_as_much_as_fits(&mut self) -> io::Result<()> {
        while let Some(Place::Memory(line)) = self.batches.get(self.on_disk) {
            if self.torn {
                self.file.set_len(self.end)?;
                self.torn = false;
            }
            let length = line.len() as u64;
            if self.end - self.begin + length > MOST_ON_DISK {
                return Err(io::Error::other("1 GiB of it waits for a coordinator"));
            }
            if let Err(error) = self.file.write_all(line) {
                self.torn = true;
                return Err(error);
            }
            self.in_memory -= line.len();
            let written = Place::Disk { at: self.end, length: line.len() - 1 };
            self.batches[self.on_disk] = written;
            self.on_disk += 1;
            self.end += length;
        }
        Ok(())
    }

    /// What waits, and what is lost.
    pub(crate) fn waiting(&self) -> Waiting {
        let on_disk = self.end.saturating_sub(self.begin);
        Waiting {
            batches: self.batches.len() as u64,
            bytes: on_disk + self.in_memory as u64,
            lost: self.lost,
        }
    }

    /// The number of the last batch.
    pub(crate) fn written(&self) -> u64 {
        self.first + self.batches.len() as u64 - 1
    }

    /// A batch as it is sent; `None` when it is not there, yet or any more.
    pub(crate) fn read(&self, number: u64) -> Option<Vec<u8>> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        match self.batches.get(place)? {
            Place::Disk { at, length } => {
                let mut bytes = vec![0; *length];
                self.file.read_exact_at(&mut bytes, *at).ok()?;
                Some(bytes)
            }
            Place::Memory(line) => Some(line[..line.len() - 1].to_vec()),
        }
    }

    /// Batches up to this one are not needed any more.
    pub(crate) fn merged(&mut self, number: u64) {
        while self.first <= number {
            match self.batches.pop_front() {
                Some(Place::Disk { .. }) => self.on_disk -= 1,
                Some(Place::Memory(line)) => self.in_memory -= line.len(),
                None => break,
            }
            self.first += 1;
        }
        // A file that cannot be cut stays as it is: nothing of it is needed before its place.
        let _ = self.cut();
    }

    /// Gives back the disk that merged batches have.
    fn cut(&mut self) -> io::Result<()> {
        let begin = match self.batches.front() {
            Some(Place::Disk { at, .. }) => *at,
            _ => self.end,
        };
        if begin == self.end && self.end > 0 {
            self.file.set_len(0)?;
            (self.begin, self.end, self.torn) = (0, 0, false);
            return Ok(());
        }
        if begin - self.begin < CUT {
            return Ok(());
        }
        // Where that cannot be, all goes at once, when all is merged.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, hole, self.begin, begin - self.begin)?;
        self.begin = begin;
        Ok(())
    }

    /// Whether all is merged.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The number of the first batch that is not merged, which may not be there yet.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Takes it off the disk.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Where the batches of a file begin, behind what was given back of it.
fn first_byte(file: &File) -> io::Result<u64> {
    let mut at = match seek(file, rustix::fs::SeekFrom::Data(0)) {
        Ok(at) => at,
        // It has none.
        Err(rustix::io::Errno::NXIO) => return Ok(0),
        // It knows no holes: they read as zeros.
        Err(_) => 0,
    };
    // The block in which batches begin is there whole.
    let mut block = vec![0; 64 << 10];
    loop {
        let read = file.read_at(&mut block, at)?;
        match block[..read].iter().position(|byte| *byte != 0) {
            Some(before) => return Ok(at + before as u64),
            None if read == 0 => return Ok(at),
            None => at += read as u64,
        }
    }
}

/// The spools of a directory: run, bytes, and when each was written to.
fn files(directory: &Path) -> Vec<(RunName, u64, SystemTime)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let spool = |path: PathBuf| {
        path.extension().filter(|ending| *ending == SPOOL_ENDING)?;
        // Another file that happens to be here is left alone.
        let run = RunName::try_from(path.file_stem()?.to_str()?.to_owned()).ok()?;
        let metadata = path.metadata().ok()?;
        Some((run, metadata.blocks() * BLOCK, metadata.modified().ok()?))
    };
    entries.flatten().filter_map(|entry| spool(entry.path())).collect()
}

#[cfg(test)]
mod tests;
