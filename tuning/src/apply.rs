//! Applying a profile: originals first, then a journal of them, then the changes, each read back.

use std::io;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::along::{alias_of, along, has_no_way_back, reset_by};
use crate::check::{Finding, State, check_on};
use crate::journal::{
    Along, Directory, Entry, Journal, JournalError, Lock, Log, Owner, Record, boot,
};
use crate::namespace::NamespaceId;
use crate::originals::Outcome;
use crate::profile::{Place, Profile, Scope};
use crate::revert::{RevertedProfile, revert_journal};
use crate::setting_error::SettingError;
use crate::signals::SignalsWait;
use crate::system::{Location, System};

/// How to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Who will revert it.
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
    /// The reason.
    pub error: SettingError,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.name, self.error)
    }
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// What it is a setting of.
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

/// The result of applying a profile.
#[derive(Debug, Default)]
pub struct Applied {
    /// The journal, unless nothing had to be changed.
    pub journal: Option<u32>,
    /// What was changed.
    pub changes: Vec<Change>,
    /// What could not be. Without `keep_going`, nothing is changed then.
    pub failures: Vec<Failure>,
    /// The result of rolling back, after a failure.
    pub rolled_back: Option<RevertedProfile>,
    /// What is pending, not possible, or skipped.
    pub others: Vec<Finding>,
    /// How long all of it took.
    pub took: Duration,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The journal cannot be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The machine cannot be examined.
    #[error("this machine cannot be examined: {0}")]
    Machine(#[from] io::Error),
    /// Settings that cannot be read or written: nothing was changed.
    #[error("nothing was changed: {}", lines(.0))]
    Refused(Vec<Failure>),
}

fn lines(failures: &[Failure]) -> String {
    failures.iter().map(|it| format!("\n  {it}")).collect()
}

/// Applies the settings of a profile to the machine and to the calling thread's network namespace.
/// What an earlier process left half done must have been repaired. Signals that end a process wait
/// until all of it is written.
///
/// # Errors
/// [`ApplyError`]: nothing was changed. What fails later is in what is returned.
pub fn apply(
    profile: &Profile,
    directory: &Directory,
    options: ApplyOptions,
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
            owner: options.owner,
            boot: boot()?,
            namespace: NamespaceId::of_this_thread()?,
            written: UNIX_EPOCH.elapsed().map_or(0, |it| it.as_secs()),
            entries,
        };
        let _wait = SignalsWait::begin();
        let (journal, mut log) = directory.write(&record)?;
        applied.journal = Some(journal.number);
        let logged = change(&journal, &mut log, &system, options, &mut applied);
        let kept = applied.failures.is_empty() || options.keep_going;
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
            Err(error) => applied.failures.push(failed(entry, error)),
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
    let findings = check_on(profile, system)?;
    let unfit: Vec<Option<SettingError>> = findings.iter().map(|it| unfit(it, &findings)).collect();
    for (finding, unfit) in findings.into_iter().zip(unfit) {
        let not_writable = match &finding.state {
            State::Holds => continue,
            State::Pending(_) | State::NotPossible(_) | State::Skipped(_) => {
                others.push(finding);
                continue;
            }
            State::Differs => finding.at.as_ref().and_then(|at| system.may_write(at).err()),
            State::Faulty(_) => None,
        };
        let Finding { name, place, scope, state, at, now, target, .. } = finding;
        match (not_writable.map(SettingError::from).or(unfit), state) {
            (Some(error), _) | (None, State::Faulty(error)) => {
                refused.push(Failure { name, place, error });
            }
            _ => {
                if let (Some(at), Some(before), Some(after)) = (at, now, target) {
                    let text = system.exact(&at);
                    let along = kept(&at, system);
                    entries.push(Entry { name, place, scope, at, before, after, text, along });
                }
            }
        }
    }
    if refused.is_empty() { Ok((entries, others)) } else { Err(ApplyError::Refused(refused)) }
}

/// Why a setting that differs must not be written: nothing would bring it back, or the profile
/// sets what it resets.
fn unfit(finding: &Finding, all: &[Finding]) -> Option<SettingError> {
    let State::Differs = finding.state else { return None };
    let (at, target) = (finding.at.as_ref()?, finding.target.as_ref()?);
    if has_no_way_back(at, target) {
        let what = format!("the kernel keeps '{target}' until the next boot: set it by hand");
        return Some(SettingError::Invalid(what));
    }
    let same_number = alias_of(at)
        .and_then(|alias| all.iter().find(|it| it.at.as_ref() == Some(&alias)))
        .filter(|other| other.target.is_some() && other.target != finding.target);
    if let Some(Finding { name, place, target: Some(other), .. }) = same_number {
        let what = format!("it is another name of {name}, which {place} sets to {other}: set one");
        return Some(SettingError::Invalid(what));
    }
    let reset = reset_by(at)?;
    let other = all.iter().find(|it| it.at.as_ref() == Some(&reset))?;
    if target == "0" || other.target.as_deref().is_none_or(|it| it == "0") {
        return None;
    }
    let (name, place) = (&other.name, &other.place);
    let what = format!("it resets {name}, which {place} sets, and the other way round: set one");
    Some(SettingError::Invalid(what))
}

/// What the kernel may change along with a setting, as it is.
fn kept(at: &Location, system: &System) -> Vec<Along> {
    let keep = |at: Location| {
        let before = system.read(&at).ok()?;
        let text = system.exact(&at);
        Some(Along { at, before, text })
    };
    along(at, system).into_iter().filter_map(keep).collect()
}

fn changed(entry: &Entry, after: String) -> Change {
    Change { name: entry.name.clone(), scope: entry.scope, before: entry.before.clone(), after }
}

fn failed(entry: &Entry, error: SettingError) -> Failure {
    Failure { name: entry.name.clone(), place: entry.place.clone(), error }
}

/// Writes one setting and reads it back.
fn set(entry: &Entry, system: &System) -> Result<String, SettingError> {
    system
        .write(&entry.at, &entry.after)
        .map_err(|error| SettingError::of_write(error, &entry.after))?;
    read_back(entry, system)
}

fn read_back(entry: &Entry, system: &System) -> Result<String, SettingError> {
    let reads = system
        .read(&entry.at)
        .map_err(|source| SettingError::Failed { what: "read back", source })?;
    if reads == entry.after {
        Ok(reads)
    } else {
        Err(SettingError::NotTaken { value: entry.after.clone(), reads })
    }
}

fn change(
    journal: &Journal,
    log: &mut Log,
    system: &System,
    options: ApplyOptions,
    applied: &mut Applied,
) -> Result<(), JournalError> {
    for (number, entry) in journal.record.entries.iter().enumerate() {
        log.begin(number)?;
        let outcome = match system.write(&entry.at, &entry.after) {
            Err(error) => Err(SettingError::of_write(error, &entry.after)),
            Ok(()) => read_back(entry, system),
        };
        if let Ok(reads) | Err(SettingError::NotTaken { reads, .. }) = &outcome {
            log.reads(number, reads)?;
        }
        for (place, along) in entry.along.iter().enumerate() {
            match system.read(&along.at) {
                Ok(now) if now != along.before => log.along(number, place, &now)?,
                _ => {}
            }
        }
        match outcome {
            Ok(after) => applied.changes.push(changed(entry, after)),
            Err(error) => {
                applied.failures.push(failed(entry, error));
                if !options.keep_going {
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
    let reverted = revert_journal(directory, &journal, false)?;
    // What could not be put back is still changed.
    let still_changed = |change: &Change| {
        let outcome = reverted.settings.iter().find(|it| it.name == change.name);
        outcome.is_some_and(|it| !matches!(it.outcome, Outcome::Restored | Outcome::AsItWas))
    };
    applied.changes.retain(still_changed);
    if applied.changes.is_empty() {
        applied.journal = None;
    }
    applied.rolled_back = Some(reverted);
    Ok(())
}
