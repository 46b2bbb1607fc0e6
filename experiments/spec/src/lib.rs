//! What an experiment file can say. Every field but names, users and phases has a default, and
//! `lab check` prints the file with all of them written out.
//!
//! Owns: the fields, their defaults, errors with their place in the file, what the programs of a
//! run are told, and whether a run fits a machine. Must not know: processes, NATS, how a run goes
//! on.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod configure;
mod experiment;
mod fault;
mod hints;
mod hosts;
pub mod machine;
mod order;
mod phase;
pub mod places;
pub mod preflight;
mod programs;
mod read;
mod ron_value;
mod tuning;
mod usage;
mod validity;
mod values;

pub use experiment::{Experiment, Probing};
pub use fault::{Direction, FaultSpec};
pub use hosts::{HostSpec, Hosts, Namespace, Network, OnLostHost};
pub use order::OrderError;
pub use phase::{
    Abort, After, ChatSpec, ConnectSpec, ConnectUsers, PacketsSpec, PhaseSpec, PushSpec, SendsSpec,
    SentBy, Shake, Until,
};
pub use programs::{ClientSpec, ServerSpec};
pub use read::{ReadError, Source};
pub use tuning::TuningSpec;
pub use usage::UsageError;
pub use validity::{AttributionSpec, Validity};
pub use values::{Count, Micros, Name, PerSecond, Period, Seconds, Share, Users, WholePerSecond};
pub use workload::{Pacing, Rate};
