//! Applying a profile: originals first, then a journal of them, then the changes, each read back.

use std::io;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::check::{Finding, State, check_on};
use crate::journal::{Directory, Entry, Journal, JournalError, Lock, Log, Owner, Record, boot};
use crate::namespace::NamespaceId;
use crate::profile::{Place, Profile, Scope};
use crate::revert::{Outcome, Reverted, put_back};
use crate::system::{NotWritable, System};
use crate::why::Why;

/// How to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Who it is for.
    pub owner: Owner,
    /// Go on when a setting fails, instead of rolling back.
    pub keep_going: bool,
}

/// A setting that could not be set.
#[derive(Debug)]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// Where the profile has it.
    pub place: Place,
    /// Why.
    pub why: Why,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.name, self.why)
    }
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Of what it is a setting.
    pub scope: Scope,
    /// The value before.
    pub before: String,
    /// The value now.
    pub after: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} -> {}", self.name, self.before, self.after)
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Applied {
    /// The journal, unless nothing had to be changed.
    pub journal: Option<u32>,
    /// What was changed.
    pub changes: Vec<Change>,
    /// What could not be. Without `keep_going`, nothing is changed then.
    pub failures: Vec<Failure>,
    /// What rolling back came to, after a failure.
    pub rolled_back: Option<Reverted>,
    /// What is pending, not possible, or skipped.
    pub others: Vec<Finding>,
    /// How long all of it took.
    pub took: Duration,
}

/// Why nothing was tried.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The machine.
    #[error("this machine cannot be looked at: {0}")]
    Machine(#[from] io::Error),
    /// Settings that cannot be read or written: nothing was changed.
    #[error("nothing was changed: {}", lines(.0))]
    Refused(Vec<Failure>),
}

fn lines(failures: &[Failure]) -> String {
    failures.iter().map(|it| format!("\n  {it}")).collect()
}

/// Applies the settings of a profile to the machine and to the calling thread's network namespace.
/// What an earlier process left half done must have been repaired.
///
/// # Errors
/// [`ApplyError`]: nothing was changed. What fails later is in what is returned.
pub fn apply(
    profile: &Profile,
    directory: &Directory,
    manner: Manner,
    _lock: &Lock,
) -> Result<Applied, ApplyError> {
    let start = Instant::now();
    let system = System::of_this_thread();
    let (entries, others) = plan(profile, &system)?;
    let mut applied = Applied { others, ..Applied::default() };
    if !entries.is_empty() {
        let record = Record {
            format: 1,
            profile: profile.name.clone(),
            owner: manner.owner,
            boot: boot()?,
            namespace: NamespaceId::of_this_thread()?,
            written: UNIX_EPOCH.elapsed().map_or(0, |it| it.as_secs()),
            entries,
        };
        let (journal, mut log) = directory.write(&record)?;
        applied.journal = Some(journal.number);
        let logged = change(&journal, &mut log, &system, manner, &mut applied);
        let kept = applied.failures.is_empty() || manner.keep_going;
        let logged = logged.and_then(|()| if kept { log.complete() } else { Ok(()) });
        if !kept || logged.is_err() {
            roll_back(directory, journal.number, &mut applied)?;
        }
        logged?;
    }
    applied.took = start.elapsed();
    Ok(applied)
}

/// Applies the settings of network namespaces to the calling thread's, which is the caller's own:
/// nothing is left when it is gone, so there is no journal.
///
/// # Errors
/// [`ApplyError`]: nothing was changed.
pub fn apply_to_own_namespace(profile: &Profile) -> Result<Applied, ApplyError> {
    let start = Instant::now();
    let system = System::of_this_thread();
    let mut profile = profile.clone();
    profile.settings.retain(|it| it.setting.scope == Scope::Namespace);
    let (entries, others) = plan(&profile, &system)?;
    let mut applied = Applied { others, ..Applied::default() };
    for entry in &entries {
        match set(entry, &system) {
            Ok(after) => applied.changes.push(changed(entry, after)),
            Err(why) => applied.failures.push(failed(entry, why)),
        }
    }
    applied.took = start.elapsed();
    Ok(applied)
}

/// What must be changed, from originals that were all read, and what needs no change.
fn plan(profile: &Profile, system: &System) -> Result<(Vec<Entry>, Vec<Finding>), ApplyError> {
    let mut entries = Vec::new();
    let mut others = Vec::new();
    let mut refused = Vec::new();
    for finding in check_on(profile, system)? {
        let why = match &finding.state {
            State::Holds => continue,
            State::Pending(_) | State::NotPossible(_) | State::Skipped(_) => {
                others.push(finding);
                continue;
            }
            State::Differs => finding.at.as_ref().and_then(|at| system.may_write(at).err()),
            State::Faulty(_) => None,
        };
        let Finding { name, place, scope, state, at, now, then, .. } = finding;
        match (why.map(not_writable), state) {
            (Some(why), _) | (None, State::Faulty(why)) => {
                refused.push(Failure { name, place, why });
            }
            _ => {
                if let (Some(at), Some(before), Some(after)) = (at, now, then) {
                    entries.push(Entry { name, place, scope, at, before, after });
                }
            }
        }
    }
    if refused.is_empty() { Ok((entries, others)) } else { Err(ApplyError::Refused(refused)) }
}

fn not_writable(not: NotWritable) -> Why {
    match not {
        NotWritable::ReadOnly => Why::ReadOnly,
        NotWritable::NoPrivilege(source) => Why::NoPrivilege { what: "write", source },
        NotWritable::Other(source) => Why::Failed { what: "written", source },
    }
}

fn changed(entry: &Entry, after: String) -> Change {
    Change { name: entry.name.clone(), scope: entry.scope, before: entry.before.clone(), after }
}

fn failed(entry: &Entry, why: Why) -> Failure {
    Failure { name: entry.name.clone(), place: entry.place.clone(), why }
}

/// Writes one setting and reads it back.
fn set(entry: &Entry, system: &System) -> Result<String, Why> {
    system.write(&entry.at, &entry.after).map_err(|error| Why::of_write(error, &entry.after))?;
    read_back(entry, system)
}

fn read_back(entry: &Entry, system: &System) -> Result<String, Why> {
    let reads =
        system.read(&entry.at).map_err(|source| Why::Failed { what: "read back", source })?;
    if reads == entry.after {
        Ok(reads)
    } else {
        Err(Why::NotTaken { value: entry.after.clone(), reads })
    }
}

fn change(
    journal: &Journal,
    log: &mut Log,
    system: &System,
    manner: Manner,
    applied: &mut Applied,
) -> Result<(), JournalError> {
    for (number, entry) in journal.record.entries.iter().enumerate() {
        log.begin(number)?;
        let outcome = match system.write(&entry.at, &entry.after) {
            Err(error) => Err(Why::of_write(error, &entry.after)),
            Ok(()) => read_back(entry, system),
        };
        if let Ok(reads) | Err(Why::NotTaken { reads, .. }) = &outcome {
            log.reads(number, reads)?;
        }
        match outcome {
            Ok(after) => applied.changes.push(changed(entry, after)),
            Err(why) => {
                applied.failures.push(failed(entry, why));
                if !manner.keep_going {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn roll_back(directory: &Directory, number: u32, applied: &mut Applied) -> Result<(), ApplyError> {
    let journals = directory.journals()?;
    let Some(journal) = journals.into_iter().find(|it| it.number == number) else { return Ok(()) };
    let reverted = put_back(directory, &journal, false)?;
    // What could not be put back is still changed.
    let left = |change: &Change| {
        let outcome = reverted.settings.iter().find(|it| it.name == change.name);
        outcome.is_some_and(|it| !matches!(it.outcome, Outcome::Restored | Outcome::AsItWas))
    };
    applied.changes.retain(left);
    if applied.changes.is_empty() {
        applied.journal = None;
    }
    applied.rolled_back = Some(reverted);
    Ok(())
}
