//! Why a fleet is not used as it was asked for: nothing was started.

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
