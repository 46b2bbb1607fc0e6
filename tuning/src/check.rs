//! How a machine stands to a profile, setting by setting. Changes nothing; what `check` and `diff`
//! show and `apply` sets out from.

use std::io;

use crate::facts::Facts;
use crate::profile::{Effect, Key, Place, Placed, Profile, Scope};
use crate::resolve::{Resolved, Target, resolve};
use crate::system::{At, System, may_raise_limits};
use crate::value::to_write;
use crate::why::Why;

/// How a machine stands to one thing that a profile sets.
#[derive(Debug)]
pub struct Finding {
    /// The key of the setting.
    pub key: Key,
    /// The key, and of what it is when there are several.
    pub name: String,
    /// Where the profile says so.
    pub place: Place,
    /// Of what it is a setting.
    pub scope: Scope,
    /// The present value; `None` when it cannot be read.
    pub now: Option<String>,
    /// The value that it must have; `None` when that cannot be told.
    pub then: Option<String>,
    /// What comes of it.
    pub state: State,
    pub(crate) at: Option<At>,
}

/// What comes of a comparison.
#[derive(Debug)]
pub enum State {
    /// It is so.
    Holds,
    /// It is not.
    Differs,
    /// It is set, and takes effect later.
    Pending(String),
    /// This machine cannot have it.
    NotPossible(String),
    /// The machine lacks it, and the profile says that this is fine; or there is nothing to set.
    Skipped(String),
    /// It cannot be told, or not be set.
    Faulty(Why),
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
                let then = self.then.as_deref().unwrap_or("-");
                write!(f, "differs       {}: {now}, not {then} ({})", self.name, self.place)
            }
            State::Pending(why) => {
                write!(f, "pending       {}: {why} ({})", self.name, self.place)
            }
            State::NotPossible(why) => {
                write!(f, "not possible  {}: {why} ({})", self.name, self.place)
            }
            State::Skipped(why) => write!(f, "skipped       {}: {why}", self.name),
            State::Faulty(why) => write!(f, "FAULTY        {}: {}: {why}", self.place, self.name),
        }
    }
}

/// Holds a machine against a profile, as the calling thread's network namespace has it.
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
            then: None,
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
            Ok(Resolved::Nothing(why)) => {
                findings.push(finding(State::Skipped(why.to_owned()), name));
            }
            Ok(Resolved::Missing(what)) if placed.setting.optional => {
                findings.push(finding(State::Skipped(what), name));
            }
            Ok(Resolved::Missing(what)) => {
                findings.push(finding(State::Faulty(Why::NotThere { what }), name));
            }
            Ok(Resolved::Senseless(why)) => {
                findings.push(finding(State::Faulty(Why::Senseless(why)), name));
            }
            Err(source) => {
                let why = Why::Failed { what: "read", source };
                findings.push(finding(State::Faulty(why), name));
            }
        }
    }
    Ok(findings)
}

/// One thing.
fn examine(placed: &Placed, target: Target, system: &System, facts: &Facts) -> Finding {
    let setting = &placed.setting;
    let Target { name, at, relation, wanted } = target;
    let mut finding = Finding {
        key: setting.key.clone(),
        name,
        place: placed.place.clone(),
        scope: setting.scope,
        now: None,
        then: None,
        state: State::Holds,
        at: Some(at.clone()),
    };
    let now = match system.read(&at) {
        Ok(now) => now,
        Err(error) => {
            let why = Why::of_read(error, setting, &at, facts, system);
            finding.state = if setting.optional && why.is_missing() {
                State::Skipped(why.to_string())
            } else {
                State::Faulty(why)
            };
            return finding;
        }
    };
    let then = match to_write(relation, setting.rounding, &now, &wanted) {
        Ok(then) => then,
        Err(why) => {
            finding.now = Some(now);
            finding.state = State::Faulty(Why::Senseless(why));
            return finding;
        }
    };
    finding.state = state(&now, &then, &at, system);
    if let Effect::NewNamespace { shown_by } = &setting.effect {
        finding.state = of_new_namespaces(finding.state, shown_by, &then, system);
    }
    finding.now = Some(now);
    finding.then = Some(then);
    finding
}

fn state(now: &str, then: &str, at: &At, system: &System) -> State {
    if now == then {
        return State::Holds;
    }
    if let At::Limit(resource) = at {
        let name = resource.name();
        return if may_raise_limits() {
            State::Pending(format!(
                "{now} here; the lab's own children get {then}, others with a new login when \
                 limits.d says so: lab tune script PROFILE --limits limits-d"
            ))
        } else {
            State::NotPossible(format!(
                "the hard limit of {name} is {now}, not {then}, and this process may not raise it \
                 (CAP_SYS_RESOURCE)"
            ))
        };
    }
    if let Ok(Some(most)) = system.most(at)
        && then.parse::<u32>().is_ok_and(|then| then > most)
    {
        // As far as it goes is not what was asked for, but nobody can do more.
        return State::NotPossible(format!("{now}, and the driver's most is {most}, not {then}"));
    }
    State::Differs
}

/// What is set for new namespaces holds when the present one has it already; otherwise it is
/// pending once it is set.
fn of_new_namespaces(state: State, shown_by: &str, then: &str, system: &System) -> State {
    let shown = system.read(&At::Sysctl(shown_by.replace('.', "/")));
    let shown = shown.ok().and_then(|text| text.parse::<i64>().ok());
    // Below zero: the table is shared with the machine's namespace.
    let has = shown.map_or(0, i64::unsigned_abs);
    let enough = then.parse::<u64>().is_ok_and(|then| has >= then);
    match state {
        State::Holds | State::Differs if enough => State::Holds,
        State::Holds => State::Pending(format!(
            "set, for network namespaces that are made from now on; this one has {has} \
             ({shown_by})"
        )),
        other => other,
    }
}
