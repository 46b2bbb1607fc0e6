//! How a run ended, in a word.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All phases were carried out.
    Completed,
    /// A condition of the experiment ended it.
    Aborted,
    /// A person ended it.
    Interrupted,
    /// It was killed and never said how it ended, or said it in a word of a newer version.
    #[serde(other)]
    Incomplete,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Interrupted => "interrupted",
            Self::Incomplete => "incomplete",
        })
    }
}
