//! Why a command was not even begun: what was asked for is wrong, or does not fit. Must not know:
//! how it is said.

/// Why a command was not begun. Its text says what was wrong, with the flag, file or field.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Arguments, files or fields that make no sense: `lab` ends with 2.
    #[error("{0}")]
    BadInput(String),
    /// What was asked for makes sense, and does not fit: `lab` ends with 3.
    #[error("{0}")]
    Refused(String),
}

impl UsageError {
    /// Bad input, as an error of any kind.
    pub fn error(what: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self::BadInput(what.into()))
    }

    /// Bad input that another error explains, with its reasons.
    pub fn of(error: impl Into<anyhow::Error>) -> anyhow::Error {
        Self::error(format!("{:#}", error.into()))
    }
}
