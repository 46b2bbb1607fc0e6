//! Why a file of a run cannot be had.

use std::path::{Path, PathBuf};

/// Why a file of a run cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {what} it", file.display())]
pub struct FileError {
    file: PathBuf,
    what: &'static str,
    source: std::io::Error,
}

impl FileError {
    pub(crate) fn new(file: &Path, what: &'static str, source: std::io::Error) -> Self {
        Self { file: file.to_owned(), what, source }
    }

    /// What the system says.
    pub(crate) fn why(&self) -> String {
        self.source.to_string()
    }
}
