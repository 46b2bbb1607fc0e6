//! Compares a machine with a profile, setting by setting. Changes nothing; `check` and `diff` show
//! it, and `apply` starts from it.

use std::io;

use crate::facts::Facts;
use crate::profile::{Effect, Key, Place, PlacedSetting, Profile, Scope};
use crate::resolve::{Resolved, Target, resolve};
use crate::setting_error::SettingError;
use crate::system::{Location, System, may_raise_limits};
use crate::value::to_write;

/// One thing that a profile sets, compared with the machine.
#[derive(Debug)]
pub struct Finding {
    /// The key of the setting.
    pub key: Key,
    /// The key, and of what it is when there are several.
    pub name: String,
    /// Where the profile says so.
    pub place: Place,
    /// What it is a setting of.
    pub scope: Scope,
    /// The present value; `None` when it cannot be read.
    pub now: Option<String>,
    /// The value that it must have; `None` when it cannot be computed.
    pub target: Option<String>,
    /// The result of the comparison.
    pub state: State,
    pub(crate) at: Option<Location>,
}

/// The result of a comparison.
#[derive(Debug)]
pub enum State {
    /// The machine has the value.
    Holds,
    /// The machine has another value.
    Differs,
    /// It is set, and takes effect later; the reason.
    Pending(String),
    /// This machine cannot have it; the reason.
    NotPossible(String),
    /// The machine lacks it, and the profile says that this is fine; or there is nothing to set.
    Skipped(String),
    /// It cannot be read, or not be set.
    Faulty(SettingError),
}

impl Finding {
    /// Whether `check` counts it as a difference.
    pub fn is_difference(&self, strict: bool) -> bool {
        match self.state {
            State::Differs | State::Faulty(_) => true,
            State::Pending(_) | State::NotPossible(_) => strict,
            State::Holds | State::Skipped(_) => false,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let now = self.now.as_deref().unwrap_or("-");
        match &self.state {
            State::Holds => write!(f, "holds         {} = {now}", self.name),
            State::Differs => {
                let target = self.target.as_deref().unwrap_or("-");
                write!(f, "differs       {}: {now}, not {target} ({})", self.name, self.place)
            }
            State::Pending(reason) => {
                write!(f, "pending       {}: {reason} ({})", self.name, self.place)
            }
            State::NotPossible(reason) => {
                write!(f, "not possible  {}: {reason} ({})", self.name, self.place)
            }
            State::Skipped(reason) => write!(f, "skipped       {}: {reason}", self.name),
            State::Faulty(error) => {
                write!(f, "FAULTY        {}: {}: {error}", self.place, self.name)
            }
        }
    }
}

/// Compares a machine with a profile, as the calling thread's network namespace has it.
///
/// # Errors
/// When `/proc` or `/sys` cannot be read at all.
pub fn check(profile: &Profile) -> io::Result<Vec<Finding>> {
    check_on(profile, &System::of_this_thread())
}

pub(crate) fn check_on(profile: &Profile, system: &System) -> io::Result<Vec<Finding>> {
    let facts = Facts::of_this_machine()?;
    let mut findings = Vec::new();
    for placed in &profile.settings {
        let finding = |state, name: String| Finding {
            key: placed.setting.key.clone(),
            name,
            place: placed.place.clone(),
            scope: placed.setting.scope,
            now: None,
            target: None,
            state,
            at: None,
        };
        let name = placed.setting.key.to_string();
        match resolve(&placed.setting, system, &facts) {
            Ok(Resolved::Targets(targets)) => {
                for target in targets {
                    findings.push(examine(placed, target, system, &facts));
                }
            }
            Ok(Resolved::Nothing(reason)) => {
                findings.push(finding(State::Skipped(reason.to_owned()), name));
            }
            Ok(Resolved::Missing(what)) if placed.setting.optional => {
                findings.push(finding(State::Skipped(what), name));
            }
            Ok(Resolved::Missing(what)) => {
                findings.push(finding(State::Faulty(SettingError::NotThere { what }), name));
            }
            Ok(Resolved::Invalid(reason)) => {
                findings.push(finding(State::Faulty(SettingError::Invalid(reason)), name));
            }
            Err(source) => {
                let error = SettingError::Failed { what: "read", source };
                findings.push(finding(State::Faulty(error), name));
            }
        }
    }
    Ok(findings)
}

/// Compares one thing.
fn examine(placed: &PlacedSetting, target: Target, system: &System, facts: &Facts) -> Finding {
    let setting = &placed.setting;
    let Target { name, at, relation, wanted } = target;
    let mut finding = Finding {
        key: setting.key.clone(),
        name,
        place: placed.place.clone(),
        scope: setting.scope,
        now: None,
        target: None,
        state: State::Holds,
        at: Some(at.clone()),
    };
    let now = match system.read(&at) {
        Ok(now) => now,
        Err(error) => {
            let error = SettingError::of_read(error, setting, &at, facts, system);
            finding.state = if setting.optional && error.is_missing() {
                State::Skipped(error.to_string())
            } else {
                State::Faulty(error)
            };
            return finding;
        }
    };
    let target = match to_write(at.format(), relation, setting.rounding, &now, &wanted) {
        Ok(target) => target,
        Err(reason) => {
            finding.now = Some(now);
            finding.state = State::Faulty(SettingError::Invalid(reason));
            return finding;
        }
    };
    finding.state = state(&now, &target, &at, system);
    if let Effect::NewNamespace { shown_by } = &setting.effect {
        finding.state = of_new_namespaces(finding.state, shown_by, &target, system);
    }
    finding.now = Some(now);
    finding.target = Some(target);
    finding
}

fn state(now: &str, target: &str, at: &Location, system: &System) -> State {
    if now == target {
        return State::Holds;
    }
    if let Location::Limit(resource) = at {
        let name = resource.name();
        return if may_raise_limits() {
            State::Pending(format!(
                "{now} here; the lab's own children get {target}, others with a new login when \
                 limits.d says so: lab tune script PROFILE --limits limits-d"
            ))
        } else {
            State::NotPossible(format!(
                "the hard limit of {name} is {now}, not {target}, and this process may not raise \
                 it (CAP_SYS_RESOURCE)"
            ))
        };
    }
    if let Ok(Some(most)) = system.most(at)
        && target.parse::<u32>().is_ok_and(|target| target > most)
    {
        // The most is less than what was asked for, and the driver allows no more.
        return State::NotPossible(format!("{now}, and the driver's most is {most}, not {target}"));
    }
    State::Differs
}

/// What is set for new namespaces holds when the present one has it already; otherwise it is
/// pending once it is set.
fn of_new_namespaces(state: State, shown_by: &str, target: &str, system: &System) -> State {
    let shown = system.read(&Location::Sysctl(shown_by.replace('.', "/")));
    let shown = shown.ok().and_then(|text| text.parse::<i64>().ok());
    // Below zero: the table is shared with the machine's namespace.
    let has = shown.map_or(0, i64::unsigned_abs);
    let enough = target.parse::<u64>().is_ok_and(|target| has >= target);
    match state {
        State::Holds | State::Differs if enough => State::Holds,
        State::Holds => State::Pending(format!(
            "set, for network namespaces that are made from now on; this one has {has} \
             ({shown_by})"
        )),
        other => other,
    }
}
