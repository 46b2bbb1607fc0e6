//! Why a command was not carried out.

use control::InboxFull;
use platform::SlowError;
use workload::PhaseError;

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum CommandError {
    /// A phase that cannot be carried out.
    #[error(transparent)]
    Phase(#[from] PhaseError),
    /// A rate and nothing that has one.
    #[error("no open load is under way whose rate could be changed")]
    NoOpenLoad,
    /// A fault on purpose that would stop the client.
    #[error(transparent)]
    Slow(#[from] SlowError),
    /// An inbox is full.
    #[error(transparent)]
    InboxFull(#[from] InboxFull),
}
