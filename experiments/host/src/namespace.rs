//! A network namespace without a name: it belongs to the processes in it, and is gone with the last
//! of them, however they end.

use std::io;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::links::bring_up;
use spec::Network;

/// Connections that may wait at a listening socket of the namespace.
const SOMAXCONN: &str = "65535";

/// A network namespace.
#[derive(Debug)]
pub struct Netns(OwnedFd);

/// Sets a sysctl of the calling thread's namespace.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))
}

impl Netns {
    /// Makes a namespace with a loopback interface that is up. Needs CAP_SYS_ADMIN.
    ///
    /// The size of a namespace's socket table comes from a setting of the namespace that it is
    /// made in. So it is made in another one that is made just for that: no setting of the machine
    /// is touched, and there is nothing to put back. In a namespace that is to be `tuned`, queues
    /// stay as the kernel has them until then.
    ///
    /// # Errors
    /// What the kernel says, with what was tried.
    pub fn make(network: &Network, tuned: bool) -> io::Result<Self> {
        let network = network.clone();
        // A thread of its own: a namespace is a property of a thread, and this one goes home.
        let made = std::thread::spawn(move || -> io::Result<OwnedFd> {
            if let Some(buckets) = network.socket_table {
                unshare()?;
                write("net.ipv4.tcp_child_ehash_entries", &buckets.to_string())?;
            }
            unshare()?;
            bring_up("lo")?;
            let (first, last) = network.ports;
            write("net.ipv4.ip_local_port_range", &format!("{first} {last}"))?;
            if !tuned {
                write("net.core.somaxconn", SOMAXCONN)?;
                write("net.ipv4.tcp_max_syn_backlog", SOMAXCONN)?;
            }
            Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
        });
        made.join()
            .map_err(|_| io::Error::other("the thread that makes a namespace panicked"))?
            .map(Netns)
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        Ok(Self(std::fs::File::open(format!("/proc/{pid}/ns/net"))?.into()))
    }

    /// Its number, as the kernel knows it.
    ///
    /// # Errors
    /// What the system says.
    pub fn number(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(self.as_fd())?.st_ino)
    }

    /// Runs something on a thread in the namespace.
    ///
    /// # Errors
    /// What the kernel says when the thread enters.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(self.as_fd())?;
                Ok(act())
            });
            inside.join().unwrap_or_else(|_| Err(io::Error::other("panicked in a namespace")))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Moves the calling thread into a namespace. Fit for a child between fork and exec.
///
/// # Errors
/// What `setns` says.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

fn unshare() -> io::Result<()> {
    // SAFETY: a new network namespace changes nothing that this process's memory depends on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("a network namespace cannot be made: {error}"))
    })
}
