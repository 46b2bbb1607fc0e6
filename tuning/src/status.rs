//! The profiles that are applied at present, as the journals have them. Changes nothing.

use crate::journal::{Directory, Entry, JournalError, Owner, boot};
use crate::system::System;

/// A profile that is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedProfile {
    /// Its name.
    pub profile: String,
    /// Its owner.
    pub owner: Owner,
    /// When, in Unix seconds.
    pub since: u64,
    /// Whether applying it was completed.
    pub complete: bool,
    /// Whether the machine was rebooted since: nothing is left to restore.
    pub rebooted: bool,
    /// Its settings, in the order in which they were set.
    pub settings: Vec<AppliedSetting>,
}

/// A setting of a profile that is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedSetting {
    /// Its name.
    pub name: String,
    /// The original value.
    pub before: String,
    /// The value that was set.
    pub set: String,
    /// The present value, if it can be read from here.
    pub now: Option<String>,
}

/// The profiles that are applied, the oldest first.
///
/// # Errors
/// When journals cannot be read.
pub fn status(directory: &Directory) -> Result<Vec<AppliedProfile>, JournalError> {
    let this_boot = boot().unwrap_or_default();
    let applied = directory.journals()?.into_iter().map(|journal| {
        let record = journal.record;
        let read = || {
            let system = System::of_this_thread();
            record.entries.iter().map(|entry| system.read(&entry.at).ok()).collect::<Vec<_>>()
        };
        let now = record.namespace.run(read).ok().flatten();
        let now = now.unwrap_or_else(|| vec![None; record.entries.len()]);
        let setting = |(entry, now): (&Entry, Option<String>)| AppliedSetting {
            name: entry.name.clone(),
            before: entry.before.clone(),
            set: entry.after.clone(),
            now,
        };
        AppliedProfile {
            settings: record.entries.iter().zip(now).map(setting).collect(),
            rebooted: record.boot != this_boot,
            profile: record.profile,
            owner: record.owner,
            since: record.written,
            complete: journal.progress.complete,
        }
    });
    Ok(applied.collect())
}
