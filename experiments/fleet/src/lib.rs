//! One server and many client machines: what agents and the coordinator of a run say to each other
//! over NATS, and which host does what.
//!
//! The coordinator is `lab run --nats`, with everything it does on one machine; only its programs
//! are elsewhere. An agent starts them, hands their lines on, and adds what its own machine says.
//! Must not know: what the lines mean.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod access;
pub mod agent;
pub mod assign;
pub mod clock;
mod epoch;
pub mod hosts;
pub mod link;
mod merge;
mod names;
mod news;
mod orders;
mod presence;
pub mod protocol;
mod spool;
mod state;
mod target;

pub use access::{Access, Options};
pub use epoch::{Epoch, Leader};
pub use names::RunName;
pub use spool::{SPOOL_ENDING, Waiting, remove_spool};
pub use state::StateLock;
