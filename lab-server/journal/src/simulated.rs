//! A disk in memory that loses power, tears, reorders, fills up and fails: for simulations of all
//! that is written to it.
//!
//! Bytes that were not synced survive a power loss or not, sector by sector, in any combination;
//! names likewise. After a failed sync the bytes stay readable, as in the page cache, and no later
//! sync makes them durable: that is what Linux does.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;

use crate::storage::Storage;

/// What is written as a whole or not at all.
const SECTOR: usize = 512;

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No space is left: some of the bytes are there. A sync meets it, too, where space is
    /// allocated late.
    Full,
    /// The device failed.
    Broken,
    /// The power is gone: this and every operation after it.
    PowerLoss,
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// So many of them are durable, and stay.
    durable: usize,
    /// A sync has failed: no later one makes durable what is there by now.
    failed: bool,
}

/// A change of a name.
#[derive(Clone, Debug)]
enum Change {
    Link(String, usize),
    Rename(String, String),
    Unlink(String),
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names that are not durable, oldest first.
    changes: Vec<Change>,
    operations: u64,
    failures: BTreeMap<u64, Failure>,
    /// Nothing succeeds any more until the power is back.
    off: bool,
    /// No byte more finds room.
    full: bool,
}

/// A simulated disk. A clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

/// An open file of it.
#[derive(Debug)]
pub struct SimulatedFile(usize);

fn rename(names: &mut BTreeMap<String, usize>, from: &str, to: &str) {
    if let Some(inode) = names.remove(from) {
        names.insert(to.to_owned(), inode);
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Change::Rename(from, to) => rename(names, from, to),
        Change::Unlink(name) => {
            names.remove(name);
        }
    }
}

impl Disk {
    /// Counts an operation that changes something, and fails it if it is to fail.
    fn operate(&mut self) -> Result<(), Failure> {
        self.operations += 1;
        if let Some(failure) = self.failures.remove(&self.operations) {
            self.off |= failure == Failure::PowerLoss;
            return Err(failure);
        }
        if self.off { Err(Failure::PowerLoss) } else { Ok(()) }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.operate().map_err(error)?;
        apply(&mut self.names, &change);
        self.changes.push(change);
        Ok(())
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        let inode = self.names.get(name).copied();
        inode.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

fn error(failure: Failure) -> io::Error {
    match failure {
        Failure::Full => io::Error::from(io::ErrorKind::StorageFull),
        Failure::Broken => io::Error::other("input/output error"),
        Failure::PowerLoss => io::Error::other("the power is gone"),
    }
}

impl SimulatedDisk {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the operation after so many more fail.
    pub fn fail_after(&self, operations: u64, failure: Failure) {
        let mut disk = self.disk();
        let at = disk.operations + 1 + operations;
        disk.failures.insert(at, failure);
    }

    /// From now on no byte finds room, or every byte does again.
    pub fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// The processes are gone and everything they wrote is there: what SIGKILL does.
    pub fn restart(&self) {
        let mut disk = self.disk();
        (disk.off, disk.full) = (false, false);
        disk.failures.clear();
    }

    /// The power was gone and is back: of what was not durable, any part may be there.
    pub fn power_loss(&self, random: &mut impl Rng) {
        let mut disk = self.disk();
        (disk.off, disk.full) = (false, false);
        disk.failures.clear();
        for inode in &mut disk.inodes {
            lose(inode, random);
        }
        let mut names = disk.durable_names.clone();
        for change in std::mem::take(&mut disk.changes) {
            if random.random() {
                apply(&mut names, &change);
            }
        }
        disk.names = names.clone();
        disk.durable_names = names;
    }

    /// Changes a byte of a file, as a disk that rots does.
    pub fn flip(&self, name: &str, at: usize) {
        let mut disk = self.disk();
        if let Ok(inode) = disk.inode(name)
            && let Some(byte) = disk.inodes[inode].bytes.get_mut(at)
        {
            *byte ^= 0x40;
        }
    }
}

/// What a power loss leaves of a file: a length of its own, and of each sector beyond what is
/// durable all, nothing, or a part.
fn lose(inode: &mut Inode, random: &mut impl Rng) {
    let durable = inode.durable.min(inode.bytes.len());
    let end = random.random_range(durable..=inode.bytes.len());
    inode.bytes.truncate(end);
    let mut at = durable;
    while at < end {
        let next = ((at / SECTOR + 1) * SECTOR).min(end);
        match random.random_range(0..4) {
            0 => inode.bytes[at..next].fill(0),
            1 => {
                let torn = random.random_range(at..next);
                inode.bytes[torn..next].fill(0);
            }
            _ => {}
        }
        at = next;
    }
    (inode.durable, inode.failed) = (end, false);
}

impl Storage for SimulatedDisk {
    type File = SimulatedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        Ok(disk.inodes[disk.inode(name)?].bytes.clone())
    }

    fn create(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut disk = self.disk();
        if disk.names.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let inode = disk.inodes.len();
        disk.change(Change::Link(name.to_owned(), inode))?;
        disk.inodes.push(Inode::default());
        Ok(SimulatedFile(inode))
    }

    fn append(&self, file: &mut SimulatedFile, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let was_off = disk.off;
        let operated = disk.operate().and(if disk.full { Err(Failure::Full) } else { Ok(()) });
        // Half of it is there when there is no room for all, or when the power goes.
        let there = match operated {
            Ok(()) => bytes.len(),
            Err(_) if was_off => 0,
            Err(_) => bytes.len() / 2,
        };
        let inode = &mut disk.inodes[file.0];
        inode.bytes.extend_from_slice(&bytes[..there]);
        operated.map_err(error)
    }

    fn sync(&self, file: &mut SimulatedFile) -> io::Result<()> {
        let mut disk = self.disk();
        let operated = disk.operate();
        let inode = &mut disk.inodes[file.0];
        if let Err(failure) = operated {
            inode.failed = true;
            return Err(error(failure));
        }
        // Nothing behind a hole counts as durable here, although it may be on the disk.
        if !inode.failed {
            inode.durable = inode.bytes.len();
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.inode(from)?;
        disk.change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.inode(name)?;
        disk.change(Change::Unlink(name.to_owned()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate().map_err(error)?;
        disk.durable_names = disk.names.clone();
        disk.changes.clear();
        Ok(())
    }
}
