//! What server and client both count: counters that know their names, and sums of money.
//!
//! Must not know: threads, clocks, sockets, who counts.

mod counters;
mod money;

pub use money::{Money, undelivered};
