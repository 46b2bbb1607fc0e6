//! The control interface: what people and programs ask of a running server, over HTTP and over a
//! pipe, on a thread of its own.
//!
//! Owns: checking commands and carrying them out, the latest totals, waiting for snapshots. Must
//! not know: what a shard does with a message. Nothing on the data path waits for it.

mod error;
mod execute;
mod http;
mod hub;
mod metrics;
mod program;

pub use error::CommandError;
pub use http::router;
pub use hub::Hub;
