//! `lab validate`: the proof that verdicts are right, on faults whose size is known.
//!
//! First the machine itself: a run without faults shows how late an answer is here for no reason,
//! and slow means half as much again from then on. Then each case is a run of its own with seeded
//! sizes. What must be blamed is computed from the truth that the injectors wrote (`expected`), and
//! compared with what the summary says; drops and retransmissions must be exact (`counts`).

mod cases;
mod counts;
mod expected;
mod files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use attribution::{Cause, PerCause};
use serde::Serialize;

use crate::children::Children;
use analysis::summary::{Shares, Summary, dominant};
use host::stalls::StallWatch;
use record::{SLOW_FILE, SUMMARY_FILE, SlowRow, TRUTH, TruthRow};

use cases::{Case, PLACES, cases, measuring};
use counts::{Counts, without_evidence};
use expected::{SlowRequest, Told};
use files::rows;

/// Runs with the right dominant cause, of all runs with faults.
const RIGHT: f64 = 0.95;

/// A share may be off by so much in a run with two faults.
const POINTS: f64 = 0.10;

/// The part of the excess that may stay unexplained.
const UNEXPLAINED: f64 = 0.05;

/// What counts as blamed at all: a hundredth of the excess.
const BLAMED: f64 = 0.01;

/// What the machine does by itself must be below this, or the faults would be too long for a run of
/// some seconds.
const NOISE_US: u64 = 20_000;

/// With this the machine counts as quiet; until it is, it is looked at again, so many times in all.
const QUIET_US: u64 = 8_000;
const LOOKS: usize = 8;

/// Slow is at least this.
const LEAST_SLOW_US: u64 = 6_000;

/// Runs of a case in which the kernel hid events from the probes, or a CPU stood still.
const TRIES: usize = 4;

/// What to validate.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What the sizes of the faults come from
    #[arg(long, default_value_t = 2015)]
    seed: u64,
    /// Rounds of all kinds of faults; a round takes two minutes and a half
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Only the cases of these names, for instance: quiet,network_loss,network_loss+server_busy
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Keep the runs' directories here
    #[arg(long)]
    keep: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    case: String,
    injected: Vec<Cause>,
    /// The shares that the truth gives.
    expected: Option<BTreeMap<Cause, f64>>,
    /// The shares that the summary gives; null for a quiet run.
    blamed: Option<Shares>,
    verdict: Option<String>,
    /// Drops and retransmissions, where packets were lost on purpose.
    counts: Option<Counts>,
    /// How often the case was run, since the kernel hid events from the probes, or a CPU stood
    /// still for long enough to matter.
    tries: usize,
    /// The longest time for which a CPU stood still in the last of these runs, in microseconds;
    /// null when the watch was not permitted.
    stalled_us: Option<u64>,
    /// What is wrong, in sentences.
    wrong: Vec<String>,
    /// The largest difference of a share.
    off: Option<f64>,
    right: bool,
}

/// What came of all.
#[derive(Clone, Debug, Serialize)]
struct Proof {
    seed: u64,
    /// How long the slowest answer took on this machine without any fault, in microseconds.
    noise_us: u64,
    /// From where on an answer counts as slow.
    slow_us: u64,
    outcomes: Vec<Outcome>,
    /// Runs with faults whose dominant cause was right, and all of them.
    right: usize,
    of: usize,
    passed: bool,
}

/// Runs the proof and prints it. Returns whether the marks were reached.
///
/// # Errors
/// What keeps a case from being run.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    let keep = args.keep.as_deref();
    let mut children = Children::begin()?;
    let noise_us = noise(&mut children, keep)?;
    anyhow::ensure!(
        noise_us <= NOISE_US,
        "an answer took {} ms on this machine without any fault: too noisy to prove anything",
        noise_us / 1000
    );
    let slow_us = (noise_us + noise_us / 2).max(LEAST_SLOW_US);
    if !args.json {
        text::tell!(
            "without faults the slowest answer took {:.1} ms here: slow is what takes more than \
             {:.1} ms",
            noise_us as f64 / 1000.0,
            slow_us as f64 / 1000.0
        );
    }
    let mut cases = cases(args.seed, args.rounds, slow_us);
    if let Some(unknown) = args.only.iter().find(|it| cases.iter().all(|case| case.name != **it)) {
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        anyhow::bail!("there is no case {unknown:?}; there are {}", names.join(", "));
    }
    cases.retain(|case| args.only.is_empty() || args.only.contains(&case.name));
    let mut outcomes = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let outcome = prove(&mut children, (number, case), slow_us, keep);
        let outcome = outcome.with_context(|| format!("case {}", case.name))?;
        if !args.json {
            text::tell_words!("{}", line(&outcome));
        }
        outcomes.push(outcome);
    }
    let faulty = || outcomes.iter().filter(|it| !it.injected.is_empty());
    let (right, of) = (faulty().filter(|it| it.right).count(), faulty().count());
    let sound = outcomes.iter().all(|it| it.wrong.is_empty());
    let passed = right as f64 >= RIGHT * of as f64 && sound;
    let proof = Proof { seed: args.seed, noise_us, slow_us, outcomes, right, of, passed };
    if args.json {
        text::tell!("{}", serde_json::to_string_pretty(&proof)?);
    } else {
        text::tell_words!("{}", matrix(&proof));
    }
    Ok(passed)
}

/// How long the slowest answer takes without any fault, in microseconds.
fn noise(children: &mut Children, keep: Option<&Path>) -> anyhow::Result<u64> {
    let mut least_us = u64::MAX;
    for look in 0..LOOKS {
        let directory = tempfile::tempdir()?;
        let name = format!("noise-{look}");
        let out = carry_out(children, &measuring(), &place(directory.path(), keep, &name))?;
        let load = summary(&out)?.phases.pop();
        let slowest_us =
            load.and_then(|phase| phase.latency_us.max.or(phase.latency_at_least_us.max));
        least_us = least_us.min(slowest_us.context("the run without faults has no latency")?);
        if least_us <= QUIET_US {
            break;
        }
    }
    Ok(least_us)
}

/// Where the files of a run go.
fn place(directory: &Path, keep: Option<&Path>, name: &str) -> PathBuf {
    keep.unwrap_or(directory).join(name)
}

/// Runs a case until the probes were shown all of it, and judges it.
fn prove(
    children: &mut Children,
    (number, case): (usize, &Case),
    slow_us: u64,
    keep: Option<&Path>,
) -> anyhow::Result<Outcome> {
    let mut tries = 1;
    loop {
        let directory = tempfile::tempdir()?;
        let name = format!("{number}-{}-{tries}", case.name);
        let mut stalls = StallWatch::start(&[PLACES.server_cpu, PLACES.client_cpu])?;
        let out = carry_out(children, case, &place(directory.path(), keep, &name))?;
        let stalled_us = stalls.longest_us();
        let counts = if case.only_loses() { Some(Counts::read(&out)?) } else { None };
        if counts.is_some_and(|it| it.hidden()) && tries < TRIES {
            tries += 1;
            continue;
        }
        let has_truth = !case.causes.is_empty();
        let truth = if has_truth { rows(&out, &format!("{TRUTH}.jsonl"))? } else { Vec::new() };
        let slow: Vec<SlowRow> = rows(&out, SLOW_FILE)?;
        let slow: Option<Vec<SlowRequest>> = slow.into_iter().map(SlowRequest::of).collect();
        let slow = slow.context("a slow request lacks its instants or its connection")?;
        let mut outcome = judge(case, &summary(&out)?, &truth, &slow);
        outcome.wrong.extend(counts.iter().flat_map(Counts::wrong));
        let blamed = |cause| {
            outcome.blamed.as_ref().is_some_and(|it| it.get(&cause).is_some_and(|it| *it > BLAMED))
        };
        let bare = without_evidence(&out, blamed)?;
        outcome.wrong.extend(bare);
        // A machine that stood still is no injected fault: once more, if that can have mattered.
        let is_wrong = !outcome.right || !outcome.wrong.is_empty();
        if is_wrong && stalled_us.is_some_and(|it| it >= slow_us / 2) && tries < TRIES {
            tries += 1;
            continue;
        }
        return Ok(Outcome { counts, tries, stalled_us, ..outcome });
    }
}

/// Runs a case into a directory, which it returns.
fn carry_out(children: &mut Children, case: &Case, directory: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let file = directory.join("case.ron");
    std::fs::write(&file, &case.text)?;
    let out = directory.join("run");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").args([&file, Path::new("--out"), &out]);
    let status = children.output(command)?;
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    anyhow::ensure!(status.status.success(), "lab run ended with {}: {said}", status.status);
    Ok(out)
}

fn summary(directory: &Path) -> anyhow::Result<Summary> {
    serde_json::from_slice(&std::fs::read(directory.join(SUMMARY_FILE))?).context("summary")
}

fn judge(case: &Case, summary: &Summary, truth: &[TruthRow], slow: &[SlowRequest]) -> Outcome {
    let load = summary.phases.last();
    let attribution = load.map(|phase| phase.attribution.clone()).unwrap_or_default();
    let blamed = attribution.tail.shares;
    let from_us = attribution.tail.from_us.unwrap_or(u64::MAX);
    let expected: Option<PerCause<f64>> = Told::new(truth, PLACES).shares(slow, from_us);
    let mut wrong = Vec::new();
    let mut right = false;
    let mut off = None;
    match (&blamed, expected) {
        (None, None) if case.causes.is_empty() => right = true,
        (Some(_), _) if case.causes.is_empty() => {
            wrong.push("a cause was invented in a quiet run".to_owned());
        }
        (Some(blamed), Some(expected)) => {
            let share = |cause: Cause| blamed.get(&cause).copied().unwrap_or(0.0);
            let most = Cause::ALL.into_iter().max_by(|a, b| expected[*a].total_cmp(&expected[*b]));
            right = dominant(blamed).map(|(cause, _)| cause) == most;
            let differences = Cause::ALL.map(|cause| (share(cause) - expected[cause]).abs());
            let largest = differences.into_iter().fold(0.0, f64::max);
            off = Some(largest);
            if case.causes.len() > 1 && largest > POINTS {
                wrong.push(format!("a share is off by {:.0} points", largest * 100.0));
            }
            if share(Cause::Unexplained) >= UNEXPLAINED {
                let part = share(Cause::Unexplained) * 100.0;
                wrong.push(format!("{part:.1}% of the excess is unexplained"));
            }
        }
        (None, _) => wrong.push("there is no verdict, though faults were injected".to_owned()),
        (Some(_), None) => wrong.push("the truth touches no slow request".to_owned()),
    }
    Outcome {
        case: case.name.clone(),
        injected: case.causes.clone(),
        expected: expected.map(|it| it.iter().map(|(cause, share)| (cause, *share)).collect()),
        blamed,
        verdict: attribution.verdict,
        counts: None,
        tries: 1,
        stalled_us: None,
        wrong,
        off,
        right,
    }
}

fn line(it: &Outcome) -> String {
    let percent = |shares: &BTreeMap<Cause, f64>| {
        let parts = shares.iter().filter(|(_, share)| **share >= 0.005);
        let parts: Vec<String> =
            parts.map(|(cause, share)| format!("{} {:.0}%", cause.name(), share * 100.0)).collect();
        parts.join(", ")
    };
    let shares = |shares: Option<&BTreeMap<Cause, f64>>| {
        shares.map_or_else(|| "nothing".to_owned(), percent)
    };
    let mark = if it.right && it.wrong.is_empty() { "right" } else { "WRONG" };
    let again = match (it.tries, it.stalled_us) {
        (1, _) => String::new(),
        (tries, None) => format!(" (run {tries} times)"),
        (tries, Some(us)) => {
            let ms = us as f64 / 1000.0;
            format!(" (run {tries} times; in the last one a CPU stood still for {ms:.1} ms)")
        }
    };
    let wrong: String = it.wrong.iter().map(|why| format!("       {why}\n")).collect();
    format!(
        "{mark}  {}{again}\n       truth:  {}\n       blamed: {}\n{wrong}",
        it.case,
        shares(it.expected.as_ref()),
        shares(it.blamed.as_ref()),
    )
}

/// How often each cause was blamed, by what was injected.
fn matrix(proof: &Proof) -> String {
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for it in &proof.outcomes {
        let blamed =
            it.blamed.as_ref().and_then(dominant).map_or("quiet", |(cause, _)| cause.name());
        *counts.entry(&it.case).or_default().entry(blamed).or_default() += 1;
    }
    let mut out = "\ninjected -> blamed\n".to_owned();
    for (case, blamed) in counts {
        let blamed: Vec<String> =
            blamed.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        out += &format!("  {case} -> {}\n", blamed.join(", "));
    }
    let verdict = if proof.passed { "passed" } else { "FAILED" };
    out + &format!("dominant cause right in {} of {}: {verdict}\n", proof.right, proof.of)
}
