//! The tuning profile of a run: in its namespaces, for its programs and, when told so, on the
//! machine, which is put back at the end. Must not know: how settings are read and written.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use tuning::profile::{Key, Scope};
use tuning::{
    Applied, ApplyError, ApplyOptions, Directory, Failure, JournalError, Limit, Lock, Owner,
    Profile, Selection, SettingError,
};

use crate::links::Namespaces;
use host::namespace::Netns;
use spec::Experiment;

/// The sysctl that sizes the tables of namespaces that are made after it was set.
const SOCKET_TABLE: &str = "net.ipv4.tcp_child_ehash_entries";

/// The sysctl that a namespace may be forbidden to set, and sockets are not.
const CONGESTION: &str = "net.ipv4.tcp_congestion_control";

/// What a run has of its profile.
#[derive(Debug, Default)]
pub(super) struct Tuned {
    profile: Option<Profile>,
    machine: Option<TunedMachine>,
    /// Where what was applied.
    applied: Vec<Value>,
    /// What is pending, not possible, skipped, or left as it is.
    not_applied: Vec<String>,
    limits: Vec<Limit>,
}

/// A machine that goes back to what it was when this is dropped.
#[derive(Debug)]
struct TunedMachine {
    directory: Directory,
    lock: Lock,
    journal: Option<u32>,
}

impl Tuned {
    /// Puts right what a run that was killed has left, reads the profile of an experiment, and
    /// applies it to the machine if it is to be tuned, too. `own` says whether the run will have
    /// network namespaces of its own.
    ///
    /// # Errors
    /// A profile that makes no sense, or a setting of the machine that cannot be set: nothing is
    /// changed then.
    pub(super) fn start(
        experiment: &Experiment,
        host: bool,
        journals: Option<&Path>,
        own: bool,
    ) -> anyhow::Result<Self> {
        let directory = journals.map_or_else(Directory::default, Directory::new);
        let lock = if host { Some(recover(&directory)?) } else { repair(&directory) };
        let Some(spec) = &experiment.tuning else {
            anyhow::ensure!(!host, "--tune-host: the experiment names no tuning profile");
            return Ok(Self::default());
        };
        let profile = Profile::load(&spec.profile)?;
        let profile = profile.without(&spec.without).map_err(anyhow::Error::msg)?;
        let limits = tuning::limits(&profile)?;
        let mut tuned = Self { limits, ..Self::default() };
        let mut of_machine = profile.clone();
        of_machine.settings.retain(|it| match it.setting.scope {
            Scope::Machine => true,
            Scope::Namespace => !own,
            Scope::Process => false,
        });
        if !host {
            for placed in &of_machine.settings {
                let key = &placed.setting.key;
                tuned.not_applied.push(format!("{key}: of the machine, and without --tune-host"));
            }
        } else if let Some(lock) = lock {
            let options = ApplyOptions { owner: Owner::Run, keep_going: false };
            let applied = tuning::apply(&of_machine, &directory, options, &lock);
            let applied = none_failed("the machine", applied)?;
            tuned.machine = Some(TunedMachine { directory, lock, journal: applied.journal });
            tuned.add("machine", &applied);
        }
        tuned.profile = Some(profile);
        Ok(tuned)
    }

    /// Makes the namespaces of a run and applies the profile to them. The experiment says then what
    /// they were made with.
    ///
    /// # Errors
    /// When they cannot be made, or a setting cannot be set there.
    pub(super) fn namespaces(
        &mut self,
        experiment: &mut Experiment,
        own: bool,
    ) -> anyhow::Result<Namespaces> {
        // The table is made with the namespace.
        if let (true, None, Some(profile)) = (own, experiment.network.socket_table, &self.profile) {
            let buckets = tuning::socket_table(profile);
            experiment.network.socket_table = buckets.and_then(|it| u32::try_from(it).ok());
            if let Some(buckets) = experiment.network.socket_table {
                self.applied.push(json!({
                    "in": "namespaces of the run, when they are made",
                    "name": SOCKET_TABLE, "before": null, "after": buckets.to_string(),
                }));
            }
        }
        let namespaces = Namespaces::make(experiment, own)
            .context("the run cannot have network namespaces of its own")?;
        self.apply_to(&namespaces, experiment)?;
        if let Some(line) = self.line() {
            text::say!("{line}");
        }
        Ok(namespaces)
    }

    /// The value that the profile gives a sysctl here.
    fn value_of(&self, sysctl: &str) -> anyhow::Result<Option<String>> {
        let is_it = |key: &Key| matches!(key, Key::Sysctl(name) if name == sysctl);
        let settings = self.profile.iter().flat_map(|it| &it.settings);
        let Some(placed) = settings.into_iter().find(|it| is_it(&it.setting.key)) else {
            return Ok(None);
        };
        let facts = tuning::Facts::of_this_machine()?;
        let value = placed.setting.value.text().on(&facts);
        value.map(Some).map_err(|why| anyhow::anyhow!("{}: {why}", placed.place))
    }

    /// Applies the profile to the namespaces of the run. A congestion control that they may not
    /// have as their default goes to the sockets instead.
    fn apply_to(
        &mut self,
        namespaces: &Namespaces,
        experiment: &mut Experiment,
    ) -> anyhow::Result<()> {
        let Some(profile) = self.profile.clone() else { return Ok(()) };
        let named = namespaces.clients.iter().enumerate();
        let named = named.map(|(number, it)| (format!("clients {number}"), it.clone()));
        let server = namespaces.server.iter().map(|it| ("server".to_owned(), it.clone()));
        for (name, namespace) in server.chain(named) {
            let (applied, by_sockets) = apply_inside(&profile, &namespace)?;
            let applied = none_failed(&format!("the namespace of the {name}"), applied)?;
            self.add(&name, &applied);
            if by_sockets && experiment.network.congestion.is_none() {
                experiment.network.congestion = self.value_of(CONGESTION)?;
                self.not_applied.push(format!("{CONGESTION}: set by routes or sockets"));
            }
        }
        Ok(())
    }

    fn add(&mut self, place: &str, applied: &Applied) {
        for change in &applied.changes {
            self.applied.push(json!({
                "in": place, "name": change.name, "before": change.before, "after": change.after,
            }));
        }
        self.not_applied.extend(applied.others.iter().map(|it| format!("{place}: {it}")));
    }

    /// The limits of programs.
    pub(super) fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// What there is to know, for the manifest: also every setting that profiles know, as it is.
    pub(super) fn to_json(&self, namespaces: &Namespaces) -> anyhow::Result<Value> {
        let profile = self.profile.as_ref();
        let mut known = serde_json::Map::new();
        known.insert("machine".to_owned(), json!(tuning::present_values(profile)));
        if let Some(server) = &namespaces.server {
            known.insert(
                "server".to_owned(),
                json!(server.run(|| tuning::present_values(profile))?),
            );
        }
        for (number, it) in namespaces.clients.iter().enumerate() {
            known.insert(
                format!("clients {number}"),
                json!(it.run(|| tuning::present_values(profile))?),
            );
        }
        Ok(json!({
            "profile": profile.map(|it| &it.name),
            "machine": self.machine.is_some(),
            "applied": self.applied,
            "not_applied": self.not_applied,
            "known": known,
        }))
    }

    /// In a line, when there is a profile.
    fn line(&self) -> Option<String> {
        let (profile, applied) = (self.profile.as_ref()?, self.applied.len());
        let not = self.not_applied.len();
        Some(format!(
            "tuning {}: {applied} settings applied, {not} not (manifest.json says why)",
            profile.name
        ))
    }
}

/// Takes the lock and reverts what a run that was killed has left.
fn recover(directory: &Directory) -> Result<Lock, JournalError> {
    tuning::recover(directory, |line| text::say!("{line}"))
}

/// Without `--tune-host` a run only puts right what another one has left, if it may.
fn repair(directory: &Directory) -> Option<Lock> {
    let left = tuning::status(directory).is_ok_and(|it| !it.is_empty());
    // Another run that has tuned the machine and is not over yet has the lock.
    if left && let Err(error) = recover(directory) {
        text::say!("lab: what another run has left is not put right: {error:#}");
    }
    None
}

/// Applies what namespaces have; whether the congestion control is left to the sockets, since a
/// namespace may not make it its default.
fn apply_inside(
    profile: &Profile,
    namespace: &Netns,
) -> anyhow::Result<(Result<Applied, ApplyError>, bool)> {
    let part = |of_congestion: bool| {
        let mut part = profile.clone();
        part.settings.retain(|it| (it.setting.key.to_string() == CONGESTION) == of_congestion);
        namespace.run(|| tuning::apply_to_own_namespace(&part))
    };
    let (congestion, rest) = (part(true)?, part(false)?);
    let mut congestion = match congestion {
        Ok(congestion) => congestion,
        refused => return Ok((refused, false)),
    };
    let forbidden = |it: &Failure| matches!(it.error, SettingError::NoPrivilege { .. });
    let by_sockets = congestion.failures.iter().any(forbidden);
    congestion.failures.retain(|it| !forbidden(it));
    let both = rest.map(|mut rest| {
        rest.changes.append(&mut congestion.changes);
        rest.failures.append(&mut congestion.failures);
        rest.others.append(&mut congestion.others);
        rest
    });
    Ok((both, by_sockets))
}

fn none_failed(place: &str, applied: Result<Applied, ApplyError>) -> anyhow::Result<Applied> {
    let applied = applied.with_context(|| format!("{place} cannot be tuned"))?;
    let failures: Vec<String> = applied.failures.iter().map(ToString::to_string).collect();
    anyhow::ensure!(failures.is_empty(), "{place} cannot be tuned: {}", failures.join("; "));
    Ok(applied)
}

impl Drop for TunedMachine {
    fn drop(&mut self) {
        let Some(journal) = self.journal else { return };
        let which = Selection::Journal(journal);
        match tuning::revert(&self.directory, which, false, &self.lock) {
            Ok(reverted) => {
                let left = reverted.iter().flat_map(|it| &it.settings).filter(|it| !it.is_done());
                left.for_each(|setting| text::say!("lab: {setting}"));
            }
            Err(error) => text::say!("lab: the machine is not put back: {error}"),
        }
    }
}
