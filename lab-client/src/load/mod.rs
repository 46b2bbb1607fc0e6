//! The users of a shard: they log in, shake on schedule, claim, chat, and count what they
//! receive.
//!
//! Owns: users, what is under way, tallies, receipts. Must not know: sockets, threads, the real
//! clock; it acts through [`Transport`](crate::transport::Transport).

mod answers;
mod attributing;
mod closed;
mod connecting;
mod even;
mod failures;
mod handshakes;
mod punctual;
mod shaking;
mod social;
mod state;
mod tick;
mod unsent;

pub(crate) use failures::{ConnectFailures, in_all};
pub use state::{Event, LoadGenerator, Rules};
