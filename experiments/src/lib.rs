//! x
pub mod experiment;
