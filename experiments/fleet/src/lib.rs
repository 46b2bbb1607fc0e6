//! One server and many client machines: what agents and the coordinator of a run say to each other
//! over NATS, and who does what.
//!
//! The coordinator is `lab run --nats`, with everything it does on one machine; only its programs
//! are elsewhere. An agent starts them, hands their lines on, and adds what its own machine says.
//! Must not know: what the lines mean (that is [`run`]).

pub mod access;
pub mod agent;
pub mod assign;
pub mod clock;
pub mod hosts;
pub mod link;
pub mod protocol;
mod spool;

pub use access::Access;

/// Why a fleet cannot be used as it was asked for: nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(pub String);

impl Mistake {
    /// A mistake as an error of any kind.
    pub fn error(what: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self(what.into()))
    }
}

/// Why a run does not fit its hosts, as a table.
#[derive(Debug, thiserror::Error)]
#[error("the run does not fit its hosts\n{0}")]
pub struct DoesNotFit(pub String);

/// How to run on a fleet.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where NATS is.
    pub access: Access,
    /// Go on whatever the clocks of the hosts say.
    pub allow_clock_offset: bool,
}
