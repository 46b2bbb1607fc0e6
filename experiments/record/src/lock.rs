//! One directory, one writer: a file in the directory of a run that its recorder holds locked as
//! long as it lives. The system lets it go when the recorder ends, however it ends.

use std::path::{Path, PathBuf};

use platform::LockFile;

use crate::error::FileError;

/// The name of the file. It stays when the run is over: who removed it might remove another's.
const LOCK: &str = "run.lock";

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
    _file: LockFile,
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
        match LockFile::take(&path, by).map_err(|source| FileError::new(&path, "lock", source))? {
            Ok(file) => Ok(Self { directory: directory.to_owned(), _file: file }),
            Err(by) => Err(LockError::Held { directory: directory.to_owned(), by }),
        }
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

    /// The same to read all files as they are, beside others who do: nothing is written meanwhile,
    /// and nothing is by this. `None` where no run that locks its directory has been.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn share(directory: &Path) -> Result<Option<Self>, LockError> {
        let path = directory.join(LOCK);
        if !path.exists() {
            return Ok(None);
        }
        match LockFile::share(&path).map_err(|source| FileError::new(&path, "lock", source))? {
            Ok(file) => Ok(Some(Self { directory: directory.to_owned(), _file: file })),
            Err(by) => Err(LockError::Held { directory: directory.to_owned(), by }),
        }
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
        // Readers share it, and change nothing.
        let text = || std::fs::read_to_string(run.join(LOCK)).expect("there");
        let before = text();
        let readers = [(); 2].map(|()| DirectoryLock::share(&run).expect("free").expect("a lock"));
        let said = DirectoryLock::take(&run, "process 8").expect_err("read").to_string();
        assert!(said.contains("writes this run"), "{said}");
        assert_eq!(text(), before);
        drop(readers);
        let writer = DirectoryLock::take(&run, "process 9").expect("free");
        let said = DirectoryLock::share(&run).expect_err("written").to_string();
        assert!(said.contains("x: process 9 writes"), "{said}");
        drop(writer);
        let old = directory.path().join("old");
        std::fs::create_dir(&old).expect("made");
        assert!(DirectoryLock::take_again(&old, "process 8").expect("no lock").is_none());
        assert!(DirectoryLock::share(&old).expect("no lock").is_none());
        assert_eq!(std::fs::read_dir(&old).expect("there").count(), 0);
    }
}
