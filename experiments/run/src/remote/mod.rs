//! A run whose programs are on the hosts of a fleet: how hosts are found, leased and told what to
//! start, what becomes of the run when one is lost, and how another coordinator takes it over.

mod assemble;
pub(crate) mod checkpoint;
mod fleet;
mod hosts;
mod lookups;
pub(crate) mod pipe;
mod reports;
pub(crate) mod resume;
mod roster;
pub(crate) mod start;
mod state;
