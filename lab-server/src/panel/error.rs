//! What a command did, or why it was not carried out.

use control::InboxFull;
use serde::{Deserialize, Serialize};

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The id of the generator that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<u64>,
}

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
