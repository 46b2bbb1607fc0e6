//! What a run came to, worked out from its raw files alone: at the end of a run and again on
//! request, also for a run that was killed.
//!
//! Owns: `summary.json`. Read it from `run` (all of it) over `phase` to `evidence` and `blame` (why
//! requests were slow). Must not know: how a run is carried out.

mod blame;
mod blamed;
mod counts;
mod evidence;
mod figures;
pub(crate) mod latency;
mod ledger;
mod machine;
mod off;
mod phase;
mod run;
mod seconds;
mod sentences;
mod table;

pub use blame::{CauseTotals, beyond_usual, slow_from};
pub use blamed::{Attribution, Jitter, LeftOutOfTail, Shares, Tail, Typical, dominant};
pub use figures::{
    Connections, Cpu, Kernel, Latency, Memory, PerSecond, PercentilesValid, PhaseSummary, Push,
    RunQueue, Segments, Sends, Shakes, SkippedBy, TwoPercentiles,
};
pub use ledger::{LedgerSummary, losses};
pub use machine::{LabShare, LongestStall, MachineStalls};
pub use run::{Summary, of, write};
pub use table::table;

pub(crate) use seconds::answered_by_clock as seconds_by_clock;
