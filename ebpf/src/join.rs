//! The server's ends of requests whose clients run on other hosts, to be joined with the clients'
//! ends of them ([`attribution::ServerSide`]).
//!
//! The server's ends of one request in [`events::JOINED_ONE_IN`], chosen by a hash of connection
//! and sequence number that both ends know, are kept for a minute or so, and besides those that
//! took long at the server. Of all others the entry of a connection has the latest.

use std::{io, net::SocketAddrV4, os::fd::AsFd};

use attribution::ServerSide;
use events::{ServerPart, kept_entries, kept_slot, key_v4, request_hash};

use crate::{flows::FlowTable, mapping::SharedArray, timelines::Timelines};

/// Server's ends of the sample that are kept, a minute's worth of 60,000 requests a second: 4 MiB,
/// and 8 MiB for those that took long.
pub(crate) const KEPT_ANSWERS: u32 = 1 << 16;

impl FlowTable {
    /// The server's end of the request of a connection whose first byte has this number; `None`
    /// when it was not seen, or a later request has taken its place.
    pub(crate) fn server_side(
        &self,
        client: SocketAddrV4,
        sequence: u32,
        timelines: &Timelines,
    ) -> Option<ServerSide> {
        side_of(&self.entry(client)?.server, sequence, timelines)
    }
}

/// With what its thread did: the kernel that saw it has its timeline.
fn side_of(part: &ServerPart, sequence: u32, timelines: &Timelines) -> Option<ServerSide> {
    ServerSide::of(part, sequence, |slot, from_ns, to_ns| timelines.spent(slot, from_ns, to_ns))
}

/// The server's ends that are kept, mapped.
pub(crate) struct AnswerTable(SharedArray<ServerPart>);

impl AnswerTable {
    pub(crate) fn map(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self(SharedArray::map(fd.as_fd(), kept_entries(KEPT_ANSWERS) as usize, false)?))
    }

    /// That of the request of a connection whose first byte has this number, if it is kept.
    pub(crate) fn server_side(
        &self,
        client: SocketAddrV4,
        sequence: u32,
        timelines: &Timelines,
    ) -> Option<ServerSide> {
        let key = key_v4(u32::from(*client.ip()), client.port());
        let slot = kept_slot(request_hash(key, sequence), KEPT_ANSWERS);
        let kept = self.0.read(slot as usize)?;
        if kept.key == key { side_of(&kept, sequence, timelines) } else { None }
    }
}
