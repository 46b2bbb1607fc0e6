//! A directory of the machine as [`Storage`], for one server at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use crate::storage::Storage;

/// The file that a server locks as long as it uses the directory.
const LOCK: &str = "lock";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server uses it.
    #[error(
        "another server uses the ledger in {0}: stop it, or give this one a directory of its \
             own"
    )]
    Locked(PathBuf),
    /// What the machine says.
    #[error("cannot open the ledger in {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A directory. It stays locked until the last clone is gone.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    /// The directory itself, to be synced.
    itself: Arc<File>,
    /// Held for its lock.
    _lock: Option<Arc<File>>,
}

impl Directory {
    /// Opens a directory for a server, makes it if need be, and locks it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn lock(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        let new: Vec<_> = path.ancestors().take_while(|one| !one.is_dir()).collect();
        fs::create_dir_all(path).map_err(failed)?;
        // The names of the directories themselves must survive, too.
        for parent in new.iter().filter_map(|one| one.parent()) {
            let here = parent.as_os_str().is_empty();
            let parent = File::open(if here { Path::new(".") } else { parent }).map_err(failed)?;
            parent.sync_all().map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let lock = options.open(path.join(LOCK)).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(path.to_owned())),
            Err(error) => return Err(failed(error.into())),
        }
        let opened = Self::open(path)?;
        Ok(Self { _lock: Some(Arc::new(lock)), ..opened })
    }

    /// Opens a directory to read it, whoever uses it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        let itself = Arc::new(File::open(path).map_err(failed)?);
        Ok(Self { path: path.to_owned(), itself, _lock: None })
    }
}

/// The most that a file has, in bytes: a segment is ended at 64 MiB, and a snapshot of 100 million
/// packets takes less.
const MOST_BYTES: u64 = 1 << 30;

impl Storage for Directory {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is no text is none of the ledger's.
            names.extend(entry?.file_name().into_string().ok().filter(|name| name != LOCK));
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        platform::read_within(&self.path.join(name), MOST_BYTES)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().create_new(true).append(true).open(self.path.join(name))
    }

    fn append(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.itself.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_never_share_a_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("new/ledger");
        let first = Directory::lock(&path).expect("free");
        let clone = first.clone();
        assert!(matches!(Directory::lock(&path), Err(OpenError::Locked(_))));
        drop(first);
        assert!(matches!(Directory::lock(&path), Err(OpenError::Locked(_))), "a clone is left");
        assert!(Directory::open(&path).is_ok(), "reading is allowed");
        drop(clone);
        Directory::lock(&path).expect("free again");
    }

    #[test]
    fn files_are_made_once_appended_to_and_renamed() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = Directory::lock(root.path()).expect("free");
        let mut file = directory.create("a").expect("new");
        assert!(directory.create("a").is_err());
        directory.append(&mut file, b"one").expect("room");
        directory.append(&mut file, b"two").expect("room");
        directory.sync(&mut file).expect("synced");
        directory.rename("a", "b").expect("renamed");
        directory.sync_directory().expect("synced");
        assert_eq!(directory.list().expect("listed"), ["b"]);
        assert_eq!(directory.read("b").expect("there"), b"onetwo");
        directory.remove("b").expect("removed");
        assert!(directory.list().expect("listed").is_empty());
    }
}
