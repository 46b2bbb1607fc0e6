//! Reading and writing one setting. Every system call that changes something is here or in
//! the crate `ethtool`. Must not know: profiles, and why something is set.

mod location;
mod sysfs;

pub(crate) use location::Location;
pub(crate) use location::{NotWritable, may_raise_limits, raise};

use std::cell::OnceCell;
use std::io;

use ethtool::Ethtool;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};

/// The machine as the calling thread's network namespace has it. What it opens, it opens when it
/// is needed.
#[derive(Debug, Default)]
pub(crate) struct System {
    proc: OnceCell<OwnedFd>,
    sys: OnceCell<OwnedFd>,
    ethtool: OnceCell<Ethtool>,
}

/// Like `OnceCell::get_or_try_init`, which is not stable.
fn once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> io::Result<T>) -> io::Result<&T> {
    match cell.get() {
        Some(there) => Ok(there),
        None => make().map(|made| cell.get_or_init(|| made)),
    }
}

impl System {
    /// The calling thread's.
    pub(crate) fn of_this_thread() -> Self {
        Self::default()
    }

    fn proc(&self) -> io::Result<BorrowedFd<'_>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || Ok(rustix::fs::open("/proc/sys", flags, Mode::empty())?);
        once(&self.proc, open).map(OwnedFd::as_fd)
    }

    /// `/sys`, in which the interfaces are those of the thread's network namespace.
    fn sys(&self) -> io::Result<BorrowedFd<'_>> {
        once(&self.sys, sysfs::open).map(OwnedFd::as_fd)
    }

    fn ethtool(&self) -> io::Result<&Ethtool> {
        once(&self.ethtool, Ethtool::new)
    }
}

/// The text of a file.
fn read_at(directory: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let file = openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    // One read gives all of a setting; a second one its end.
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(&file, &mut buffer)? {
            0 => break,
            some => text.extend_from_slice(&buffer[..some]),
        }
    }
    String::from_utf8(text).map_err(|_| io::Error::other("it is not text"))
}

/// Writes a file that exists, in one call.
fn write_at(directory: BorrowedFd<'_>, path: &str, text: &str) -> io::Result<()> {
    let file = openat(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let line = format!("{text}\n");
    let written = rustix::io::write(&file, line.as_bytes())?;
    if written < text.len() {
        let part = "it takes a part of it only";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, part));
    }
    Ok(())
}
