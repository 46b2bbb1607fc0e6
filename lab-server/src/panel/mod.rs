//! The control interface: what people and programs ask of a running server, over HTTP and over a
//! pipe, on a thread of its own.
//!
//! Owns: commands and their checks, the latest totals, waiting for snapshots. Must not know: what a
//! shard does with a message. Nothing on the data path waits for it.

mod commands;
mod error;
mod http;
mod hub;
mod lines;
mod metrics;
mod program;
mod prototype;

pub use commands::{Command, MAX_PACKET_RATE};
pub use error::{CommandError, Done};
pub use http::router;
pub use hub::Hub;
pub use lines::{Line, Ready};
