//! The durable ledger: what a shard writes down of its money, and how a restart reads it.
//!
//! Owns: records, their framing and checksums, the files of a directory, rotation with a snapshot,
//! recovery and the audit; the format is in docs/ledger.md. Must not know: threads, sockets,
//! users' connections, which shard is the home of what.
//!
//! Read it from the inside out: a [`Record`] changes a [`State`]; `frame` puts records into
//! checksummed batches; a [`Writer`] makes batches durable through a [`Storage`]; [`recover`] and
//! [`audit`](audit()) read what is there.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod audit;
mod directory;
mod frame;
mod lives;
mod names;
mod record;
mod recovery;
mod simulated;
mod state;
mod storage;
mod writer;

pub use audit::{Audit, audit};
pub use directory::{Directory, OpenError};
pub use frame::{Batch, Ending, Header, Kind, read_file};
pub use record::Record;
pub use recovery::{Found, JournalError, Recovered, begin, recover};
pub use simulated::{Failure, SimulatedDisk};
pub use state::{Contradiction, OpenPacket, SetState, State};
pub use storage::Storage;
pub use writer::{CommitError, Limits, Writer};
