//! Two runs, or two sets of repeated runs, compared: what differs, by how much, and whether that
//! could be chance.
//!
//! Where a side has several runs, how much runs vary is what a difference must exceed. Of one run a
//! side only the variation within it is known, by batches of its seconds: that says whether the two
//! runs differ, not whether what they were made with is the reason, and it is labelled so.
//!
//! Read it from `sets` (what is read) over `figures` (what is compared) and `verdicts` (what is
//! shown) to `comparison` (all of it). Must not know: what a run was made for.

pub(crate) mod comparison;
pub(crate) mod figures;
pub(crate) mod manifests;
pub(crate) mod sets;
#[cfg(test)]
mod simulated;
pub(crate) mod table;
pub(crate) mod verdicts;

pub use comparison::{CompareArgs, Comparison, Variation, compare};
pub use figures::Figure;
pub use manifests::Differing;
pub use table::table;
pub use verdicts::{ComparedFigure, ComparedPhase, Verdict, answer};
