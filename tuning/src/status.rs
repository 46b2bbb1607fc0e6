//! What is applied at present.

use crate::journal::{Directory, JournalError, Owner, boot};
use crate::system::System;

/// A profile that is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub profile: String,
    /// Who applied it.
    pub owner: Owner,
    /// When, in Unix seconds.
    pub since: u64,
    /// Whether whoever applied it came to an end.
    pub complete: bool,
    /// Whether the machine was started anew since: nothing is left to restore.
    pub rebooted: bool,
    /// Name, value before, value set, and value now, if it can be read from here.
    pub settings: Vec<(String, String, String, Option<String>)>,
}

/// What is applied, the oldest first.
///
/// # Errors
/// When journals cannot be read.
pub fn status(directory: &Directory) -> Result<Vec<Standing>, JournalError> {
    let this_boot = boot().unwrap_or_default();
    let standing = directory.journals()?.into_iter().map(|journal| {
        let record = journal.record;
        let read = || {
            let system = System::of_this_thread();
            record.entries.iter().map(|entry| system.read(&entry.at).ok()).collect::<Vec<_>>()
        };
        let now = record.namespace.run(read).ok().flatten();
        let now = now.unwrap_or_else(|| vec![None; record.entries.len()]);
        let setting = |(entry, now): (&crate::journal::Entry, Option<String>)| {
            (entry.name.clone(), entry.before.clone(), entry.after.clone(), now)
        };
        Standing {
            settings: record.entries.iter().zip(now).map(setting).collect(),
            rebooted: record.boot != this_boot,
            profile: record.profile,
            owner: record.owner,
            since: record.written,
            complete: journal.progress.complete,
        }
    });
    Ok(standing.collect())
}
