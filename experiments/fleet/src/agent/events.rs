//! What an agent hears on its own host.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use host::program::{Line, Who};

/// What an agent hears on its own host.
pub(super) enum LocalEvent {
    /// A line of a program; `None` at the end of its output.
    Line(Who, Option<Line>),
    /// The server's connections by the client's address as the kernel counts them, and how many
    /// there should be.
    Kernel(io::Result<BTreeMap<IpAddr, u64>>, u64),
}
