//! The `lab` command: experiment files, runs, their records and what they come to.
//!
//! Read it in the order of the data: [`experiment`] (files), [`plan`] (what programs are told),
//! [`preflight`] (whether it fits), [`run`] (carrying it out), [`record`] (what is written),
//! [`summary`] (what it came to), [`report`] (the same for people).

mod check;
pub mod cli;
pub mod compare;
pub mod experiment;
pub mod fleet;
pub mod hog;
pub mod leftover;
pub mod links;
mod listeners;
pub mod live;
pub mod machine;
pub mod namespace;
pub mod places;
pub mod plan;
pub mod preflight;
pub mod probe;
pub mod profile;
pub mod projection;
pub mod record;
pub mod report;
pub mod run;
pub mod sock_diag;
pub mod stats;
pub mod summary;
pub mod tune;
pub mod validate;

/// This program's version, and the commit it was built from when the build knew it (`LAB_COMMIT`).
pub const VERSION: &str = match option_env!("LAB_COMMIT") {
    Some(commit) => commit,
    None => env!("CARGO_PKG_VERSION"),
};
