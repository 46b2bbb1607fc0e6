//! What server and client both count: counters that know their names, and sums of money; and what
//! the server counts of them, for the programs that read its results.
//!
//! Must not know: threads, clocks, sockets, who counts.

mod counters;
mod ledger;
mod losses;
mod money;
pub mod server;
mod tail;

pub use ledger::Ledger;
pub use losses::{LastAnswers, Losses, Unexplained};
pub use money::Money;
pub use tail::Tail;
