//! Putting back what was there: exactly, from whatever place a process was killed at, and never
//! over what somebody else has set meanwhile.

use std::io;

use serde::Serialize;

use crate::journal::{Directory, Entry, Journal, JournalError, Lock, Owner, Progress, boot};
use crate::profile::Scope;
use crate::system::System;

/// What became of one setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// It has the value of before again.
    Restored,
    /// It had it already.
    AsItWas,
    /// Its interface or its namespace is gone, and its value with it.
    Gone,
    /// Somebody else has set it meanwhile: it was left alone.
    Changed {
        /// What it is.
        now: String,
    },
    /// It could not be put back.
    Failed(String),
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setback {
    /// Its name.
    pub name: String,
    /// What the profile had set.
    pub ours: String,
    /// The value of before.
    pub before: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl Setback {
    /// Whether it is as it was before.
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Restored | Outcome::AsItWas | Outcome::Gone)
    }
}

impl std::fmt::Display for Setback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, ours, before, outcome } = self;
        match outcome {
            Outcome::Restored => write!(f, "restored      {name} = {before}"),
            Outcome::AsItWas => write!(f, "as it was     {name} = {before}"),
            Outcome::Gone => write!(f, "gone          {name}: nothing is left to restore"),
            Outcome::Changed { now } => write!(
                f,
                "left alone    {name}: {now}, which somebody else has set (this lab: {ours}, \
                 before: {before})"
            ),
            Outcome::Failed(why) => {
                write!(f, "FAILED        {name}: {before} cannot be put back: {why}")
            }
        }
    }
}

/// What reverting a profile came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reverted {
    /// The profile.
    pub profile: String,
    /// Whether the machine was started anew since: nothing was left to restore.
    pub rebooted: bool,
    /// Setting by setting, the last one set first.
    pub settings: Vec<Setback>,
}

impl Reverted {
    /// Whether everything is as it was before.
    pub fn is_done(&self) -> bool {
        self.settings.iter().all(Setback::is_done)
    }
}

/// What to revert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Everything, the last profile first.
    All,
    /// The profile that was applied last.
    Last,
    /// What was left half done, and what a run has left.
    Leftovers,
    /// This journal, which must be the last.
    Journal(u32),
}

/// Reverts. With `overwrite` also what somebody else has changed.
///
/// # Errors
/// When journals cannot be read or written. What could not be put back is in what is returned, and
/// stays in the journal.
pub fn revert(
    directory: &Directory,
    which: Which,
    overwrite: bool,
    _lock: &Lock,
) -> Result<Vec<Reverted>, JournalError> {
    let mut reverted = Vec::new();
    let journals = directory.journals()?;
    let last = journals.last().map(|it| it.number);
    for journal in journals.into_iter().rev() {
        let meant = match which {
            Which::All => true,
            Which::Last => Some(journal.number) == last,
            Which::Leftovers => journal.is_left_over(),
            Which::Journal(number) => journal.number == number,
        };
        if meant {
            reverted.push(put_back(directory, &journal, overwrite)?);
        }
    }
    Ok(reverted)
}

/// Drops what stands in the journals about values that somebody else has set: they stay.
///
/// # Errors
/// When journals cannot be read or written.
pub fn forget(directory: &Directory, _lock: &Lock) -> Result<usize, JournalError> {
    let mut count = 0;
    for journal in directory.journals()? {
        count += journal.record.entries.len();
        directory.remove(journal.number)?;
    }
    Ok(count)
}

impl Journal {
    /// Whether nobody will revert it who has not been killed, the lock being ours.
    pub(crate) fn is_left_over(&self) -> bool {
        self.record.owner == Owner::Run || !self.progress.complete
    }
}

pub(crate) fn put_back(
    directory: &Directory,
    journal: &Journal,
    overwrite: bool,
) -> Result<Reverted, JournalError> {
    let record = &journal.record;
    let this_boot = boot().map_err(|source| JournalError::File {
        file: "/proc/sys/kernel/random/boot_id".into(),
        what: "read it",
        source,
    })?;
    let mut reverted =
        Reverted { profile: record.profile.clone(), rebooted: false, settings: Vec::new() };
    if record.boot != this_boot {
        reverted.rebooted = true;
        directory.remove(journal.number)?;
        return Ok(reverted);
    }
    let act = || {
        let system = System::of_this_thread();
        // Settings were set one after the other, and go back the other way round.
        let entries = record.entries.iter().enumerate().rev();
        entries
            .map(|(number, entry)| restore(entry, number, &journal.progress, overwrite, &system))
            .collect::<Vec<_>>()
    };
    let outcomes: Vec<(&Entry, Outcome)> = match record.namespace.run(act) {
        Ok(Some(outcomes)) => record.entries.iter().rev().zip(outcomes).collect(),
        Ok(None) => {
            // The namespace is gone, the machine is not.
            let system = System::of_this_thread();
            let entries = record.entries.iter().enumerate().rev();
            entries
                .map(|(number, entry)| {
                    let outcome = match entry.scope {
                        Scope::Namespace => Outcome::Gone,
                        _ => restore(entry, number, &journal.progress, overwrite, &system),
                    };
                    (entry, outcome)
                })
                .collect()
        }
        Err(error) => {
            let why = format!("its network namespace: {error}");
            record.entries.iter().rev().map(|it| (it, Outcome::Failed(why.clone()))).collect()
        }
    };
    reverted.settings = outcomes
        .into_iter()
        .map(|(entry, outcome)| Setback {
            name: entry.name.clone(),
            ours: entry.after.clone(),
            before: entry.before.clone(),
            outcome,
        })
        .collect();
    // Otherwise the journal stays as it is: what is restored already is as it was.
    if reverted.is_done() {
        directory.remove(journal.number)?;
    }
    Ok(reverted)
}

fn restore(
    entry: &Entry,
    number: usize,
    progress: &Progress,
    overwrite: bool,
    system: &System,
) -> Outcome {
    let gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
    };
    let now = match system.read(&entry.at) {
        Err(error) if gone(&error) => return Outcome::Gone,
        Err(error) => return Outcome::Failed(error.to_string()),
        Ok(now) => now,
    };
    if now == entry.before {
        return Outcome::AsItWas;
    }
    let ours = match progress.reads.get(&number) {
        _ if now == entry.after => true,
        Some(read_back) => now == *read_back,
        // Killed between the write and its reading back: the kernel may have made something else
        // of the value.
        None => !progress.complete && progress.begun.last() == Some(&number),
    };
    if !ours && !overwrite {
        return Outcome::Changed { now };
    }
    match system.write(&entry.at, &entry.before).and_then(|()| system.read(&entry.at)) {
        Err(error) => Outcome::Failed(error.to_string()),
        Ok(reads) if reads == entry.before => Outcome::Restored,
        Ok(reads) => Outcome::Failed(format!("{reads} is read back")),
    }
}
