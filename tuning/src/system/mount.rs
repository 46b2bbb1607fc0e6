//! `/sys` as a network namespace sees it, and the names in its directories.

use std::io;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, Mode, OFlags, open as open_file, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A mounted sysfs shows the interfaces of the namespace that it was mounted in, which need not be
/// this one. So a new instance is mounted, nowhere: it is gone when its descriptor is closed. A
/// process that may not mount takes `/sys` if that shows the interfaces of its namespace.
pub(super) fn open() -> io::Result<OwnedFd> {
    let mounted = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    });
    if let Ok(mounted) = mounted {
        return Ok(mounted);
    }
    let sys = open_file("/sys", DIRECTORY, Mode::empty())?;
    let shown = entries(sys.as_fd(), "class/net")?;
    // Two lines of titles, then `  eth0: 1 2 3`.
    let there = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let there = || there.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    if !there().all(|name| shown.iter().any(|it| it == name)) {
        return Err(io::Error::other("/sys is that of another network namespace"));
    }
    Ok(sys)
}

pub(super) fn entries(sys: BorrowedFd<'_>, path: &str) -> io::Result<Vec<String>> {
    let directory = openat(sys, path, DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names)
}
