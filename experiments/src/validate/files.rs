//! Reading the files of a case.

use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;

/// The text of a file of a run.
pub(super) fn text(directory: &Path, name: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(directory.join(name)).with_context(|| name.to_owned())
}

/// The rows of a file of a run.
pub(super) fn rows<T: DeserializeOwned>(directory: &Path, name: &str) -> anyhow::Result<Vec<T>> {
    let text = text(directory, name)?;
    let rows: Result<_, _> = text.lines().map(|line| record::parse(line.as_bytes())).collect();
    rows.with_context(|| name.to_owned())
}
