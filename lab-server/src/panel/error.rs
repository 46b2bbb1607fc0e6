//! Why a command was not carried out.

use control::InboxFull;
use platform::SlowError;

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A fault on purpose that would stop the server.
    #[error(transparent)]
    Slow(#[from] SlowError),
    /// An inbox is full.
    #[error(transparent)]
    InboxFull(#[from] InboxFull),
}
