//! What this machine tells the coordinator, beside the lines of the server and the clients.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use host::hog;
use host::program::Who;

use crate::messages::{Message, parsed};

/// News of this machine.
#[derive(Debug)]
pub(crate) enum LocalNews {
    /// A line of the hog of a fault.
    Hog(u32, hog::HogLine),
    /// The hog of a fault has ended.
    HogEnded(u32),
    /// The kernel's connections of the server, by address of the client, and how many there should
    /// be.
    Connections(io::Result<BTreeMap<IpAddr, u64>>, u64),
}

impl LocalNews {
    /// A line of the hog of a fault, or the end of its output.
    pub(crate) fn of_hog(fault: u32, line: Option<&str>) -> Message<Self> {
        let Some(line) = line else { return Message::Place(Self::HogEnded(fault)) };
        match parsed(line) {
            Some(line) => Message::Place(Self::Hog(fault, line)),
            None => Message::Unreadable(Who::Hog(fault), line.to_owned()),
        }
    }
}
