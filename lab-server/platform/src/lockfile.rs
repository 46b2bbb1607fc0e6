//! A file that one process at a time holds locked, as long as it lives: the system lets it go when
//! the process ends, however it ends.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// What is read of who holds a lock.
const LONGEST: u64 = 500;

/// A lock, until it is dropped. Its file stays: who removed it might remove another's.
#[derive(Debug)]
pub struct LockFile {
    /// Locked as long as it is open; programs do not inherit it.
    _file: File,
}

impl LockFile {
    /// Takes a lock, whose file is made if it is not there. `by` says for people who takes it. The
    /// inner error is who holds it.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn take(path: &Path, by: &str) -> io::Result<Result<Self, String>> {
        let mut options = File::options();
        // Another user may have made the directory: root follows no link out of it.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        if let Some(by) = held(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Err(by));
        }
        // Who holds it is for people: without room for that it is held all the same.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{by}"));
        Ok(Ok(Self { _file: file }))
    }

    /// Shares a lock whose file is there with others who share it, and keeps out who takes it. The
    /// file is only read. The inner error is who has taken it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn share(path: &Path) -> io::Result<Result<Self, String>> {
        let mut options = File::options();
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = options.read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        Ok(match held(&file, FlockOperation::NonBlockingLockShared)? {
            Some(by) => Err(by),
            None => Ok(Self { _file: file }),
        })
    }
}

/// Locks a file. Returns who holds it, when another does.
fn held(file: &File, operation: FlockOperation) -> io::Result<Option<String>> {
    match flock(file, operation) {
        // A file system that knows no locks protects nothing, and is no reason not to run.
        Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => Ok(None),
        Err(Errno::WOULDBLOCK) => {
            let mut by = String::new();
            // What cannot be read is not named.
            let _ = file.take(LONGEST).read_to_string(&mut by);
            let by = by.trim();
            Ok(Some(if by.is_empty() { "another process" } else { by }.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}
