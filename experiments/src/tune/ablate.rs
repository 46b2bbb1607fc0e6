//! `lab tune ablate`: what each setting of a profile is worth. The experiment is run with the
//! profile, without it, and with each setting left out, in turns; each is then compared with the
//! whole profile. Owns: arms, their order, their runs. Must not know: statistics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde_json::{Value, json};
use tuning::profile::Scope;
use tuning::{Finding, Profile, State};

use super::effects::{self, Ablation};
use run::links::Namespaces;
use spec::machine::Machine;
use spec::preflight::own_namespace;
use spec::{Hosts, Shake, Source, TuningSpec};

/// What to ablate.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// The experiment file
    experiment: PathBuf,
    /// A profile's name, or a file
    profile: String,
    /// The directory to write: a directory of runs for each arm. Runs that are there already are
    /// not repeated
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How often each arm is run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: u32,
    /// Leave out only this setting; may be given again
    #[arg(long, value_name = "KEY")]
    only: Vec<String>,
    /// The phase that counts [default: the last with an open load]
    #[arg(long, value_name = "NAME")]
    phase: Option<String>,
    /// Change a value of the experiment, as for lab run
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Measure the settings of the machine, too
    #[arg(long)]
    tune_host: bool,
    /// What the order of the runs comes from
    #[arg(long, default_value_t = 2015)]
    seed: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

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
struct Measurable {
    /// Keys of settings that change something.
    keys: Vec<String>,
    /// Why others do not.
    others: BTreeMap<String, String>,
}

/// Runs all arms, and says what came of it.
///
/// # Errors
/// What keeps a run from being carried out.
pub(super) fn run(args: &Args, journals: &Path) -> anyhow::Result<()> {
    let profile = Profile::load(&args.profile)?;
    let source = Source::read(&args.experiment, &args.settings)?;
    anyhow::ensure!(
        !matches!(source.experiment.hosts, Hosts::Fleet { .. }),
        "a fleet is not tuned from here: --set 'hosts=\"Local\"' measures this machine"
    );
    let phase = phase(args, &source)?;
    let measurable = measurable(&source, &profile, args.tune_host)?;
    for key in &args.only {
        anyhow::ensure!(
            measurable.keys.contains(key),
            "--only {key}: it changes nothing here, only: {}",
            measurable.keys.join(", ")
        );
    }
    anyhow::ensure!(
        !measurable.keys.is_empty(),
        "no setting of {} changes anything here: {}",
        profile.name,
        measurable.others.values().cloned().collect::<Vec<_>>().join("; ")
    );
    let arms = arms(&profile, &measurable, &args.only);
    let mut random = Pcg64::seed_from_u64(args.seed);
    for round in 1..=args.rounds {
        let mut order: Vec<&Arm> = arms.iter().collect();
        order.shuffle(&mut random);
        for arm in order {
            let directory = args.out.join(&arm.name).join(format!("{round:02}"));
            if is_there(&directory)? {
                continue;
            }
            eprintln!("round {round} of {}: {}", args.rounds, arm.name);
            carry_out(args, &profile, arm, &directory, journals)?;
        }
    }
    let ablation = Ablation::of(&args.out, &arms, &phase, measurable.others)?;
    let text = effects::table(&ablation);
    let json = serde_json::to_string_pretty(&ablation)?;
    std::fs::write(args.out.join("ablation.json"), format!("{json}\n"))?;
    std::fs::write(args.out.join("ablation.txt"), &text)?;
    if args.json {
        println!("{json}");
    } else {
        print!("{text}");
    }
    Ok(())
}

/// The phase that counts.
fn phase(args: &Args, source: &Source) -> anyhow::Result<String> {
    let phases = source.experiment.ordered_phases()?;
    let found = match &args.phase {
        Some(name) => phases.iter().find(|phase| phase.name.as_str() == name),
        None => phases.iter().rev().find(|phase| matches!(phase.shake, Some(Shake::Open { .. }))),
    };
    let found = found.context("there is no such phase, or none with an open load")?;
    Ok(found.name.to_string())
}

/// A setting can be measured when a run has another value without it: in a namespace as a run
/// makes it or, of the machine, on this one.
fn measurable(source: &Source, profile: &Profile, host: bool) -> anyhow::Result<Measurable> {
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

fn arms(profile: &Profile, measurable: &Measurable, only: &[String]) -> Vec<Arm> {
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

/// Whether a run has been recorded already.
fn is_there(directory: &Path) -> anyhow::Result<bool> {
    let Ok(text) = std::fs::read(directory.join("manifest.json")) else { return Ok(false) };
    let manifest: Value = serde_json::from_slice(&text)?;
    let name = directory.display();
    // One that was interrupted is closed, too, and has not measured what was asked.
    let completed = manifest["outcome"] == "completed";
    anyhow::ensure!(completed, "{name} did not come to its end: remove it");
    Ok(true)
}

fn carry_out(
    args: &Args,
    profile: &Profile,
    arm: &Arm,
    directory: &Path,
    journals: &Path,
) -> anyhow::Result<()> {
    let file = Path::new(&args.profile);
    let named = if file.exists() { file.canonicalize()? } else { PathBuf::from(&profile.name) };
    let tuning = json!({ "profile": named, "without": arm.without });
    if let Some(above) = directory.parent() {
        std::fs::create_dir_all(above)?;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").arg(&args.experiment).arg("--out").arg(directory);
    command.arg("--journals").arg(journals);
    // Only the profile says what the kernel is like.
    let ours = [
        "network.socket_table=null".to_owned(),
        "network.congestion=null".to_owned(),
        format!("tuning={tuning}"),
    ];
    for setting in args.settings.iter().chain(&ours) {
        command.args(["--set", setting]);
    }
    if args.tune_host {
        command.arg("--tune-host");
    }
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // 4: a phase is not valid, which the result says.
    anyhow::ensure!(
        matches!(output.status.code(), Some(0 | 4)),
        "lab run ended with {}: {said}",
        output.status
    );
    Ok(())
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
