//! Why a command was not carried out.

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A value that is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// A rate and nothing that has one.
    #[error("no open load is under way whose rate could be changed")]
    NoOpenLoad,
    /// An inbox is full.
    #[error("the inbox of shard {0} is full; try again")]
    Busy(usize),
}
