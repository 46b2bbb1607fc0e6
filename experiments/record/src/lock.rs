//! One directory, one writer: a file in the directory of a run that its recorder holds locked as
//! long as it lives. The system lets it go when the recorder ends, however it ends.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::FileError;

/// The name of the file. It stays when the run is over: who removed it might remove another's.
const LOCK: &str = "run.lock";

/// What is read of who holds a lock.
const LONGEST: u64 = 500;

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process writes it.
    #[error("{}: {by} writes this run, and one directory has one writer", directory.display())]
    Held {
        /// The directory.
        directory: PathBuf,
        /// Which process, on which host, and since when.
        by: String,
    },
    /// The file cannot be made or locked.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The right to write the directory of a run, until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    directory: PathBuf,
    /// Locked as long as it is open; programs do not inherit it.
    _file: File,
}

impl DirectoryLock {
    /// Takes the right to write a directory, which is made if it is not there. `by` says which
    /// process takes it, on which host, and since when.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(directory: &Path, by: &str) -> Result<Self, LockError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| FileError::new(directory, "create", source))?;
        let path = directory.join(LOCK);
        let failed = |source| FileError::new(&path, "lock", source);
        let mut options = File::options();
        // Another user may have made the directory: root follows no link out of it.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A file system that knows no locks protects nothing, and is no reason not to run.
            Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut by = String::new();
                // What cannot be read is not named.
                let _ = file.take(LONGEST).read_to_string(&mut by);
                let by = by.trim();
                let by = if by.is_empty() { "another process" } else { by }.to_owned();
                return Err(LockError::Held { directory: directory.to_owned(), by });
            }
            Err(error) => return Err(failed(error.into()).into()),
        }
        // Who holds it is for people: without room for that it is held all the same.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{by}"));
        Ok(Self { directory: directory.to_owned(), _file: file })
    }

    /// The same for a directory of which nothing is made anew but what is made from its files:
    /// `None` where no run that locks its directory has been.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take_again(directory: &Path, by: &str) -> Result<Option<Self>, LockError> {
        if !directory.join(LOCK).exists() {
            return Ok(None);
        }
        Self::take(directory, by).map(Some)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_writer_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let run = directory.path().join("results").join("x");
        let first = DirectoryLock::take(&run, "process 1 on a, since then").expect("free");
        assert_eq!(first.directory(), run);
        let second = DirectoryLock::take(&run, "process 2 on b").expect_err("held");
        let said = second.to_string();
        assert!(said.contains("results/x: process 1 on a, since then writes"), "{said}");
        drop(first);
        let third = DirectoryLock::take(&run, "process 3").expect("free again");
        let said = DirectoryLock::take(&run, "process 4").expect_err("held").to_string();
        assert!(said.contains("x: process 3 writes"), "{said}");
        let said = DirectoryLock::take_again(&run, "process 5").expect_err("held").to_string();
        assert!(said.contains("x: process 3 writes"), "{said}");
        drop(third);
        let again = DirectoryLock::take_again(&run, "process 6").expect("free").expect("a lock");
        assert!(DirectoryLock::take(&run, "process 7").is_err());
        drop(again);
        let old = directory.path().join("old");
        std::fs::create_dir(&old).expect("made");
        assert!(DirectoryLock::take_again(&old, "process 8").expect("no lock").is_none());
        assert_eq!(std::fs::read_dir(&old).expect("there").count(), 0);
    }
}
