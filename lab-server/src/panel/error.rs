//! Why a command was not carried out.

use control::InboxFull;

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// An inbox is full.
    #[error(transparent)]
    InboxFull(#[from] InboxFull),
}
