//! Carrying an experiment out: programs are started, phases follow each other on whole seconds,
//! and everything that programs tell is recorded.
//!
//! Owns: what the outside may ask for, [`run`] and [`resume`]. The work is the coordinator's, in
//! `coordinator`. Must not know: statistics, HTML.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod books;
mod console;
mod coordinator;
mod directory;
mod ending;
mod events;
mod faults;
mod leadership;
pub mod links;
mod local;
mod messages;
mod options;
mod outcome;
mod phases;
mod place;
mod programs;
mod records;
mod remote;
mod run_control;
mod schedule;
mod tuned;
mod unreadable;
mod waiting;
mod watch;

use std::path::PathBuf;

use spec::Source;

pub use directory::default_directory;
pub use leadership::TakenOver;
pub use options::{Options, Sampling};
pub use outcome::{Ended, Ending, Unwritten};
pub use remote::checkpoint::check_checkpoint;
pub use remote::pipe::PIPE_PROTOCOL;

/// Runs an experiment, on this machine or on a fleet. The choice between the two is made here,
/// once.
///
/// # Errors
/// What keeps it from being carried out: files, programs, the machine. What happens to the load is
/// no error, but in the record.
pub async fn run(source: Source, options: Options) -> anyhow::Result<Ended> {
    let ends_within = options.ends_within;
    match options.fleet.clone() {
        Some(fleet) => {
            let coordinator = remote::start::start(source, options, &fleet).await?;
            coordinator.carry_out_to_the_end(ends_within).await
        }
        None => {
            let coordinator = local::start::start(source, options).await?;
            coordinator.carry_out_to_the_end(ends_within).await
        }
    }
}

/// Goes on with a run on a fleet whose coordinator is gone.
///
/// # Errors
/// As [`run`].
pub async fn resume(directory: PathBuf, options: Options) -> anyhow::Result<Ended> {
    let ends_within = options.ends_within;
    remote::resume::resume(directory, options).await?.carry_out_to_the_end(ends_within).await
}
