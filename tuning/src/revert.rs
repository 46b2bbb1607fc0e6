//! Restores the values of before: exactly, wherever a process was killed, and never over a value
//! that another program has set meanwhile. Must not know: profiles.

use serde::Serialize;

use crate::journal::{Directory, Entry, Journal, JournalError, Lock, Owner, Progress, boot};
use crate::originals::{Original, Outcome, put_back};
use crate::profile::Scope;
use crate::signals::SignalsWait;
use crate::system::System;

/// A setting of a journal, and what reverting did to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RevertedSetting {
    /// Its name.
    pub name: String,
    /// What the profile had set.
    pub ours: String,
    /// The original value.
    pub before: String,
    /// The outcome.
    pub outcome: Outcome,
}

impl RevertedSetting {
    /// Whether it is as it was before.
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Restored | Outcome::AsItWas | Outcome::Gone)
    }
}

impl std::fmt::Display for RevertedSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, ours, before, outcome } = self;
        match outcome {
            Outcome::Restored => write!(f, "restored      {name} = {before}"),
            Outcome::AsItWas => write!(f, "as it was     {name} = {before}"),
            Outcome::Gone => write!(f, "gone          {name}: nothing is left to restore"),
            Outcome::Changed { now } => write!(
                f,
                "left alone    {name}: {now}, which another program has set (this lab: {ours}, \
                 before: {before})"
            ),
            Outcome::Failed(reason) => {
                write!(f, "FAILED        {name}: {before} cannot be put back: {reason}")
            }
        }
    }
}

/// The result of reverting a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RevertedProfile {
    /// The profile.
    pub profile: String,
    /// Whether the machine was rebooted since: nothing was left to restore.
    pub rebooted: bool,
    /// Setting by setting, the last one set first.
    pub settings: Vec<RevertedSetting>,
}

impl RevertedProfile {
    /// Whether everything is as it was before.
    pub fn is_done(&self) -> bool {
        self.settings.iter().all(RevertedSetting::is_done)
    }
}

/// Which journals to revert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything, the last profile first.
    All,
    /// The profile that was applied last.
    Last,
    /// What was left half done, and what a run has left.
    Leftovers,
    /// This journal, which must be the last.
    Journal(u32),
}

/// Reverts the selected journals, the last one first. With `overwrite` also values that another
/// program has set meanwhile.
///
/// # Errors
/// When journals cannot be read or written. What could not be put back is in what is returned, and
/// stays in the journal.
pub fn revert(
    directory: &Directory,
    selection: Selection,
    overwrite: bool,
    _lock: &Lock,
) -> Result<Vec<RevertedProfile>, JournalError> {
    let mut reverted = Vec::new();
    let journals = directory.journals()?;
    let last = journals.last().map(|it| it.number);
    for journal in journals.into_iter().rev() {
        let selected = match selection {
            Selection::All => true,
            Selection::Last => Some(journal.number) == last,
            Selection::Leftovers => journal.is_left_over(),
            Selection::Journal(number) => journal.number == number,
        };
        if selected {
            reverted.push(revert_journal(directory, &journal, overwrite)?);
        }
    }
    Ok(reverted)
}

/// Removes all journals without restoring anything: the present values stay.
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
    /// Whether its process ended without reverting it. True only while the caller has the lock.
    pub(crate) fn is_left_over(&self) -> bool {
        self.record.owner == Owner::Run || !self.progress.complete
    }
}

/// Restores what a journal has, and removes the journal when all of it is restored.
pub(crate) fn revert_journal(
    directory: &Directory,
    journal: &Journal,
    overwrite: bool,
) -> Result<RevertedProfile, JournalError> {
    let record = &journal.record;
    let this_boot = boot().map_err(|source| JournalError::File {
        file: "/proc/sys/kernel/random/boot_id".into(),
        what: "read it",
        source,
    })?;
    let mut reverted =
        RevertedProfile { profile: record.profile.clone(), rebooted: false, settings: Vec::new() };
    if record.boot != this_boot {
        reverted.rebooted = true;
        directory.remove(journal.number)?;
        return Ok(reverted);
    }
    let all = |gone: bool| {
        let system = System::of_this_thread();
        // In the reverse order of setting: a later setting may depend on an earlier one.
        let entries = record.entries.iter().enumerate().rev();
        let restored = entries.flat_map(|(number, entry)| match entry.scope {
            Scope::Namespace if gone => vec![of_entry(entry, Outcome::Gone)],
            _ => restore(entry, number, &journal.progress, overwrite, &system),
        });
        restored.collect::<Vec<_>>()
    };
    let _wait = SignalsWait::begin();
    reverted.settings = match record.namespace.run(|| all(false)) {
        Ok(Some(settings)) => settings,
        // The namespace is gone, the machine is not.
        Ok(None) => all(true),
        Err(error) => {
            let reason = format!("its network namespace: {error}");
            let failed = |entry| of_entry(entry, Outcome::Failed(reason.clone()));
            record.entries.iter().rev().map(failed).collect()
        }
    };
    // Otherwise the journal stays as it is: what is restored already is as it was.
    if reverted.is_done() {
        directory.remove(journal.number)?;
    }
    Ok(reverted)
}

fn of_entry(entry: &Entry, outcome: Outcome) -> RevertedSetting {
    RevertedSetting {
        name: entry.name.clone(),
        ours: entry.after.clone(),
        before: entry.before.clone(),
        outcome,
    }
}

/// Restores a setting, and what the kernel has changed along with it.
fn restore(
    entry: &Entry,
    number: usize,
    progress: &Progress,
    overwrite: bool,
    system: &System,
) -> Vec<RevertedSetting> {
    // Killed between the write and reading it back: the kernel may have rounded the value.
    let cut_off = !progress.complete && progress.begun.last() == Some(&number);
    let read = progress.reads.get(&number).map(String::as_str);
    let mut originals = vec![Original {
        at: &entry.at,
        before: &entry.before,
        text: entry.text.as_deref(),
        ours: [Some(&entry.after), read],
        anything: overwrite || (cut_off && read.is_none()),
    }];
    originals.extend(entry.along.iter().enumerate().map(|(place, along)| Original {
        at: &along.at,
        before: &along.before,
        text: along.text.as_deref(),
        ours: [progress.along.get(&(number, place)).map(String::as_str), None],
        anything: overwrite || cut_off,
    }));
    let mut outcomes = put_back(&originals, system).into_iter();
    let mut settings = Vec::from_iter(outcomes.next().map(|outcome| of_entry(entry, outcome)));
    for (place, (outcome, along)) in outcomes.zip(&entry.along).enumerate() {
        // What did not change is no news, nor what is gone with the setting.
        if !matches!(outcome, Outcome::AsItWas | Outcome::Gone) {
            settings.push(RevertedSetting {
                name: format!("{} (along with {})", along.at, entry.name),
                ours: progress.along.get(&(number, place)).cloned().unwrap_or_default(),
                before: along.before.clone(),
                outcome,
            });
        }
    }
    settings
}
