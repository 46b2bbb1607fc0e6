//! Which network namespace a setting was set in, and the way back there.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fd::AsFd;
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

/// A network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamespaceId {
    /// The number of its file; another one may have it later.
    pub(crate) inode: u64,
    /// Its number for its sockets, which no other ever has (Linux 5.14).
    pub(crate) cookie: Option<u64>,
}

impl NamespaceId {
    /// The calling thread's.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let inode = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        Ok(Self { inode, cookie: cookie(&socket) })
    }

    /// Runs something in it, on this thread if it is there, or on another one. `None` when it is
    /// gone.
    pub(crate) fn run<T: Send>(self, act: impl FnOnce() -> T + Send) -> io::Result<Option<T>> {
        if Self::of_this_thread()? == self {
            return Ok(Some(act()));
        }
        let Some(file) = self.find()? else { return Ok(None) };
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> io::Result<Option<T>> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                // Another one may have taken its number.
                if Self::of_this_thread()? == self { Ok(Some(act())) } else { Ok(None) }
            });
            inside.join().unwrap_or_else(|_| Err(io::Error::other("panicked in a namespace")))
        })
    }

    /// It lives under a name, in a thread, or in an open file. What a process with more rights
    /// than this one alone has is not found.
    fn find(self) -> io::Result<Option<File>> {
        if let Some(found) = self.among(names(Path::new("/run/netns"))?) {
            return Ok(Some(found));
        }
        let processes: Vec<PathBuf> =
            names(Path::new("/proc"))?.into_iter().filter(|it| it.join("task").is_dir()).collect();
        // Processes and threads come and go meanwhile.
        let below = |name: &'static str| {
            processes.iter().flat_map(move |it| names(&it.join(name)).unwrap_or_default())
        };
        let in_threads = self.among(below("task").map(|it| it.join("ns/net")));
        Ok(in_threads.or_else(|| self.among(below("fd"))))
    }

    fn among(self, places: impl IntoIterator<Item = PathBuf>) -> Option<File> {
        // A link says `net:[4026531840]`; following every one would open pipes and devices.
        let wanted = format!("net:[{}]", self.inode);
        let is_it = |place: &PathBuf| match std::fs::read_link(place) {
            Ok(link) => link.to_string_lossy() == wanted,
            // A name is a file of its own.
            Err(_) => std::fs::metadata(place).is_ok_and(|it| it.ino() == self.inode),
        };
        places.into_iter().filter(is_it).find_map(|place| {
            let file = File::open(place).ok()?;
            file.metadata().is_ok_and(|it| it.ino() == self.inode).then_some(file)
        })
    }
}

fn names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => Ok(entries?.flatten().map(|entry| entry.path()).collect()),
    }
}

fn cookie(socket: impl AsFd) -> Option<u64> {
    use rustix::fd::AsRawFd;

    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into the number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    (result == 0).then_some(cookie)
}
