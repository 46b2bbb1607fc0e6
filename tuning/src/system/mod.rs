//! Reading and writing one setting. Every system call that changes something is here or in
//! the crate `ethtool`. Must not know: profiles, and why something is set.

mod files;
mod location;
mod mount;
mod sysfs;

pub(crate) use location::Location;
pub(crate) use location::{NotWritable, may_raise_limits, raise};

use std::cell::OnceCell;
use std::io;

use ethtool::Ethtool;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

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
        once(&self.sys, mount::open).map(OwnedFd::as_fd)
    }

    fn ethtool(&self) -> io::Result<&Ethtool> {
        once(&self.ethtool, Ethtool::new)
    }
}
