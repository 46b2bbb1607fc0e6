//! How an agent learns what it must know of its programs' lines, which it hands on unread: the
//! caller of [`run`](super::run) says what a line announces and which line stops a program.

use std::net::SocketAddrV4;

use host::program::Who;
use serde_json::Value;

/// A line of a program after which its agent does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// The program is ready.
    Ready {
        /// Its shards' threads, which may have pinned themselves to CPUs.
        threads: Vec<i32>,
        /// Where it listens, if it is a server.
        listens: Option<SocketAddrV4>,
    },
    /// The program has told the last of its figures.
    Ended,
}

/// What programs and their agent tell each other over the pipe between them.
#[derive(Clone, Copy, Debug)]
pub struct PipeProtocol {
    /// The milestone that a line announces; `None` for all others.
    pub milestone: fn(Who, &str) -> Option<Milestone>,
    /// The address that a program with this configuration sends its load to, if it sends any; a
    /// sentence when that cannot be told.
    pub target: fn(Who, &Value) -> Result<Option<SocketAddrV4>, String>,
    /// The line that has a program stop at once; `None` when closing its input does.
    pub stop_line: fn(Who) -> Option<String>,
}
