//! `lab tune ablate`: what each setting of a profile is worth. The experiment is run with the
//! profile, without it, and with each setting left out, in turns; each is then compared with the
//! whole profile. Owns: the order of the runs, and the runs. Must not know: statistics.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde_json::{Value, json};
use tuning::Profile;

use super::arms::{Arm, arms, measurable};
use super::effects::{self, Ablation};
use crate::children::Children;
use spec::{Hosts, Shake, Source};

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
    let mut children = Children::begin()?;
    let mut random = Pcg64::seed_from_u64(args.seed);
    for round in 1..=args.rounds {
        let mut order: Vec<&Arm> = arms.iter().collect();
        order.shuffle(&mut random);
        for arm in order {
            let directory = args.out.join(&arm.name).join(format!("{round:02}"));
            if is_there(&directory)? {
                continue;
            }
            text::say!("round {round} of {}: {}", args.rounds, arm.name);
            carry_out(&mut children, args, (&profile, arm), &directory, journals)?;
        }
    }
    let ablation = Ablation::of(&args.out, &arms, &phase, measurable.others)?;
    let text = effects::table(&ablation);
    let json = serde_json::to_string_pretty(&ablation)?;
    std::fs::write(args.out.join("ablation.json"), format!("{json}\n"))?;
    std::fs::write(args.out.join("ablation.txt"), &text)?;
    if args.json {
        text::tell!("{json}");
    } else {
        text::tell_words!("{text}");
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

/// Whether a run has been recorded already.
fn is_there(directory: &Path) -> anyhow::Result<bool> {
    let Ok(text) = record::read_whole(directory, "manifest.json") else { return Ok(false) };
    let manifest: Value = serde_json::from_slice(&text)?;
    let name = directory.display();
    // One that was interrupted is closed, too, and has not measured what was asked.
    let completed = manifest["outcome"] == "completed";
    anyhow::ensure!(completed, "{name} did not come to its end: remove it");
    Ok(true)
}

fn carry_out(
    children: &mut Children,
    args: &Args,
    (profile, arm): (&Profile, &Arm),
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
    let output = children.output(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    // 4: a phase is not valid, which the result says.
    anyhow::ensure!(
        matches!(output.status.code(), Some(0 | 4)),
        "lab run ended with {}: {said}",
        output.status
    );
    Ok(())
}
