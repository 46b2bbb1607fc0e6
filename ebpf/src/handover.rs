//! Handing the arrays on to a child that maps them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use attribution::Handover;

use crate::attach::Probes;
use crate::flows::FlowTable;
use crate::sampling::SampleTable;
use crate::threads::ThreadTable;

impl Probes {
    /// The numbers for a child that gets the descriptors of [`Self::inherited`] under them.
    pub fn handover(&self) -> Handover {
        Handover {
            flows: self.flows_fd().as_raw_fd(),
            threads: self.threads_fd().as_raw_fd(),
            sampling: self.sampling_fd().as_raw_fd(),
            layout: self.layout(),
        }
    }

    /// The descriptors that a child must inherit.
    pub fn inherited(&self) -> [BorrowedFd<'_>; 3] {
        [self.flows_fd(), self.threads_fd(), self.sampling_fd()]
    }
}

/// Lets a descriptor survive `exec`. Fit for a child between fork and exec.
///
/// # Errors
/// What `fcntl` says.
pub fn keep_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

/// Maps the arrays and closes their descriptors. To be called once, by the child.
///
/// # Errors
/// When a descriptor is none, or none of such an array.
pub fn map_inherited(handover: &Handover) -> io::Result<(FlowTable, ThreadTable, SampleTable)> {
    let (flows, threads) = (owned(handover.flows)?, owned(handover.threads)?);
    let sampling = SampleTable::map(owned(handover.sampling)?)?;
    Ok((FlowTable::map(flows, handover.layout)?, ThreadTable::map(threads)?, sampling))
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    let is_map = std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .is_ok_and(|target| target.as_os_str() == "anon_inode:bpf-map");
    if !is_map {
        return Err(io::Error::other(format!("descriptor {fd} is no array of the probes")));
    }
    // SAFETY: it is open, the parent left it to this process for this purpose, and nothing else in
    // this process makes such descriptors.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
