//! Handing the arrays on to a child that maps them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use attribution::Handover;

use crate::attach::Probes;
use crate::flows::FlowTable;
use crate::sampling::SampleTable;
use crate::timelines::Timelines;

impl Probes {
    /// The numbers for a child that gets the descriptors of [`Self::inherited`] under them.
    pub fn handover(&self) -> Handover {
        let [flows, threads, timelines, cpus, logs, sampling] =
            self.inherited().map(|fd| fd.as_raw_fd());
        Handover { flows, threads, timelines, cpus, logs, sampling, layout: self.layout() }
    }

    /// The descriptors that a child must inherit, in the order of [`Handover`].
    pub fn inherited(&self) -> [BorrowedFd<'_>; 6] {
        self.arrays()
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
pub fn map_inherited(handover: &Handover) -> io::Result<(FlowTable, Timelines, SampleTable)> {
    let (flows, threads) = (owned(handover.flows)?, owned(handover.threads)?);
    let (timelines, cpus) = (owned(handover.timelines)?, owned(handover.cpus)?);
    let timelines = Timelines::map(threads, timelines, cpus, owned(handover.logs)?)?;
    let sampling = SampleTable::map(owned(handover.sampling)?)?;
    Ok((FlowTable::map(flows, handover.layout)?, timelines, sampling))
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
