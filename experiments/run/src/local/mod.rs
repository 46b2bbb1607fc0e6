//! A run on this machine: its network namespaces, tuning, probes, profiles and faults, and what
//! `/proc` says of its programs.

pub(crate) mod news;
pub(crate) mod place;
pub(crate) mod profiles;
mod rights;
pub(crate) mod start;
