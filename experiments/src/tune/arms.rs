//! The arms of an ablation: what of a profile can be measured here, and what each arm leaves out.
//! Must not know: how an arm is run, or what comes of it.

use std::collections::BTreeMap;

use run::links::Namespaces;
use spec::machine::Machine;
use spec::preflight::own_namespace;
use spec::{Source, TuningSpec};
use tuning::profile::Scope;
use tuning::{Finding, Profile, State};

/// An arm: a name, and the keys that are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arm {
    pub(super) name: String,
    pub(super) without: Vec<String>,
}

/// The arm with all of the profile.
pub(super) const WITH: &str = "with";

/// The arm with nothing of it.
pub(super) const WITHOUT: &str = "without";

/// What of a profile can be measured here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Measurable {
    /// Keys of settings that change something.
    pub(super) keys: Vec<String>,
    /// Why others do not.
    pub(super) others: BTreeMap<String, String>,
}

/// A setting can be measured when a run has another value without it: in a namespace as a run
/// makes it or, of the machine, on this one.
pub(super) fn measurable(
    source: &Source,
    profile: &Profile,
    host: bool,
) -> anyhow::Result<Measurable> {
    let own = own_namespace(&source.experiment, Machine::this().root);
    let mut bare = source.experiment.clone();
    bare.tuning = Some(TuningSpec { profile: profile.name.clone(), without: Vec::new() });
    bare.network.socket_table = None;
    let namespaces = Namespaces::make(&bare, own)?;
    let of_namespaces = match (&namespaces.server, own) {
        (Some(server), true) => server.run(|| tuning::check(profile))??,
        _ => tuning::check(profile)?,
    };
    let of_machine = tuning::check(profile)?;
    let mut measurable = Measurable::default();
    for placed in &profile.settings {
        let key = placed.setting.key.to_string();
        let inside = own && placed.setting.scope == Scope::Namespace;
        let findings = if inside { &of_namespaces } else { &of_machine };
        let findings = findings.iter().filter(|it| it.key == placed.setting.key);
        let needs_host = !inside && placed.setting.scope != Scope::Process;
        match unmeasurable(findings, needs_host && !host) {
            None => measurable.keys.push(key),
            Some(why) => {
                measurable.others.insert(key, why);
            }
        }
    }
    Ok(measurable)
}

/// Why a setting cannot be measured, if so.
fn unmeasurable<'a>(
    findings: impl Iterator<Item = &'a Finding>,
    needs_host: bool,
) -> Option<String> {
    let mut why = "nothing to set here".to_owned();
    for finding in findings {
        match &finding.state {
            // A limit that may be raised is pending, and raised for the programs of a run.
            State::Differs | State::Pending(_) if !needs_host => return None,
            State::Differs | State::Pending(_) => {
                why = "of the machine: --tune-host measures it".to_owned();
            }
            State::Holds => why = "holds already".to_owned(),
            State::NotPossible(reason) | State::Skipped(reason) => why.clone_from(reason),
            State::Faulty(reason) => why = reason.to_string(),
        }
    }
    Some(why)
}

pub(super) fn arms(profile: &Profile, measurable: &Measurable, only: &[String]) -> Vec<Arm> {
    let all = profile.settings.iter().map(|it| it.setting.key.to_string()).collect();
    let mut arms = vec![
        Arm { name: WITH.to_owned(), without: Vec::new() },
        Arm { name: WITHOUT.to_owned(), without: all },
    ];
    // Of a single setting, without it is without the profile.
    if measurable.keys.len() > 1 {
        let asked = |key: &&String| only.is_empty() || only.contains(key);
        arms.extend(
            measurable
                .keys
                .iter()
                .filter(asked)
                .map(|key| Arm { name: format!("{WITHOUT}-{key}"), without: vec![key.clone()] }),
        );
    }
    arms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_changes_something_is_left_out_once() {
        let profile = Profile::load("million-sockets").expect("embedded");
        let keys = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let some = Measurable { keys: keys(&["a", "b"]), ..Measurable::default() };
        let names = |measurable: &Measurable, only: &[String]| -> Vec<String> {
            arms(&profile, measurable, only).into_iter().map(|arm| arm.name).collect()
        };
        assert_eq!(names(&some, &[]), ["with", "without", "without-a", "without-b"]);
        assert_eq!(names(&some, &["b".to_owned()]), ["with", "without", "without-b"]);
        let one = Measurable { keys: keys(&["a"]), ..Measurable::default() };
        assert_eq!(names(&one, &[]), ["with", "without"]);
        let without = &arms(&profile, &some, &[])[1].without;
        assert_eq!(without.len(), profile.settings.len());
    }
}
