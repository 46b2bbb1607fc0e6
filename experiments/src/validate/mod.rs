//! `lab validate`: the proof that verdicts are right, on faults whose size is known.
//!
//! First the machine itself: a run without faults shows how late an answer is here for no reason,
//! and slow means half as much again from then on. Then each case is a run of its own with seeded
//! sizes. What must be blamed is computed from the truth that the injectors wrote (`expected`), and
//! compared with what the summary says; drops and retransmissions must be exact (`counts`). Faults
//! from outside, by the system's own means, follow (`outside`, `outside_cases`).
//!
//! Of a full proof only the first try of a case counts; one that is tried again is a row of its
//! own.

mod bound;
mod cases;
mod counts;
mod expected;
mod files;
mod outside;
mod outside_cases;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

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
use outside::bursts::Account;
use outside_cases::{OutsideCase, make_beside, outside_cases};

/// The share of first tries with the right dominant cause that must be reached, as the lower bound
/// of a confidence of 95%. 59 of 59 reach it.
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

/// The exit status of a run of which something is not valid (docs/commands.md).
const NOT_VALID: i32 = 4;

/// What to validate.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What the sizes of the faults come from
    #[arg(long, default_value_t = 2015)]
    seed: u64,
    /// Rounds of all kinds of faults; a round takes eight minutes, and the bound needs 59 tries
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Only the cases of these names, for instance: quiet,network_loss,network_loss+server_busy
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Each case once, and only whether it was right
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
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
    /// Which try of the case it was: it is tried again when the kernel hid events from the probes,
    /// or a CPU stood still for long enough to matter.
    attempt: usize,
    /// Whether it counts: the first try does, and of chosen cases or with `--quick` the last one.
    counts_as_try: bool,
    /// What an injector from outside did, by its own account or the kernel's.
    account: Option<Account>,
    /// The longest time for which a CPU stood still meanwhile, in microseconds;
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
    /// First tries with faults whose dominant cause was right, and all of them.
    right: usize,
    of: usize,
    /// The share of right ones that is reached with a confidence of 95%; null of a few cases.
    right_at_least: Option<f64>,
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
    let rounds = if args.quick { 1 } else { args.rounds };
    let tried = choose(cases(args.seed, rounds, slow_us), rounds, slow_us, &args.only)?;
    // Of cases that were chosen there are too few for the bound: all must be right in the end.
    let few = args.quick || !args.only.is_empty();
    let mut outcomes = Vec::new();
    for (number, tried) in tried.iter().enumerate() {
        let tries = match tried {
            Tried::Inside(case) => prove(&mut children, (number, case), slow_us, keep),
            Tried::Outside(case) => prove_outside(&mut children, (number, case), keep),
        };
        let tries = tries.with_context(|| format!("case {}", tried.name()))?;
        let counted = if few { tries.len() } else { 1 };
        for mut outcome in tries {
            outcome.counts_as_try = outcome.attempt == counted;
            if !args.json {
                text::tell_words!("{}", line(&outcome));
            }
            outcomes.push(outcome);
        }
    }
    let counted = || outcomes.iter().filter(|it: &&Outcome| it.counts_as_try);
    let faulty = || counted().filter(|it| !it.injected.is_empty());
    let (right, of) = (faulty().filter(|it| it.right).count(), faulty().count());
    let sound = counted().all(|it| it.wrong.is_empty());
    let right_at_least = (!few).then(|| bound::lower(right, of));
    let passed = sound && right_at_least.map_or(right == of, |least| least >= RIGHT);
    let proof =
        Proof { seed: args.seed, noise_us, slow_us, outcomes, right, of, right_at_least, passed };
    if args.json {
        text::tell!("{}", serde_json::to_string_pretty(&proof)?);
    } else {
        text::tell_words!("{}", matrix(&proof));
    }
    Ok(passed)
}

/// A case of either kind.
enum Tried {
    Inside(Case),
    Outside(OutsideCase),
}

impl Tried {
    fn name(&self) -> &str {
        match self {
            Self::Inside(case) => &case.name,
            Self::Outside(case) => &case.name,
        }
    }
}

/// The cases that are to be tried, in order; all when none is named.
fn choose(
    inside: Vec<Case>,
    rounds: usize,
    slow_us: u64,
    only: &[String],
) -> anyhow::Result<Vec<Tried>> {
    let outside = (0..rounds).flat_map(|_| outside_cases(slow_us)).map(Tried::Outside);
    let mut all: Vec<Tried> = inside.into_iter().map(Tried::Inside).chain(outside).collect();
    if let Some(unknown) = only.iter().find(|name| all.iter().all(|it| it.name() != **name)) {
        let mut names: Vec<&str> = all.iter().map(Tried::name).collect();
        names.dedup();
        anyhow::bail!("there is no case {unknown:?}; there are {}", names.join(", "));
    }
    all.retain(|it| only.is_empty() || only.iter().any(|name| name == it.name()));
    Ok(all)
}

/// How long the slowest answer takes without any fault, in microseconds.
fn noise(children: &mut Children, keep: Option<&Path>) -> anyhow::Result<u64> {
    let mut least_us = u64::MAX;
    for look in 0..LOOKS {
        let directory = tempfile::tempdir()?;
        let name = format!("noise-{look}");
        let out = carry_out(children, &measuring().text, &place(directory.path(), keep, &name))?;
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

/// Runs a case until the probes were shown all of it, and judges each try.
fn prove(
    children: &mut Children,
    (number, case): (usize, &Case),
    slow_us: u64,
    keep: Option<&Path>,
) -> anyhow::Result<Vec<Outcome>> {
    let mut tries = Vec::new();
    loop {
        let attempt = tries.len() + 1;
        let directory = tempfile::tempdir()?;
        let name = format!("{number}-{}-{attempt}", case.name);
        let mut stalls = StallWatch::start(&[PLACES.server_cpu, PLACES.client_cpu])?;
        let out = carry_out(children, &case.text, &place(directory.path(), keep, &name))?;
        let stalled_us = stalls.longest_us();
        let counts = if case.only_loses() { Some(Counts::read(&out)?) } else { None };
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
        // A machine that stood still is no injected fault, and hidden events are none of the
        // probes: once more, if that can have mattered.
        let is_wrong = !outcome.right || !outcome.wrong.is_empty();
        let disturbed = counts.is_some_and(|it| it.hidden())
            || is_wrong && stalled_us.is_some_and(|it| it >= slow_us / 2);
        tries.push(Outcome { counts, attempt, stalled_us, ..outcome });
        if !disturbed || tries.len() == TRIES {
            return Ok(tries);
        }
    }
}

/// Runs a case beside which a fault is made from outside, and judges it.
fn prove_outside(
    children: &mut Children,
    (number, case): (usize, &OutsideCase),
    keep: Option<&Path>,
) -> anyhow::Result<Vec<Outcome>> {
    let directory = tempfile::tempdir()?;
    let place = place(directory.path(), keep, &format!("{number}-{}-1", case.name));
    let mut stalls = StallWatch::start(&[PLACES.server_cpu, PLACES.client_cpu])?;
    let over = AtomicBool::new(false);
    let (out, made) = std::thread::scope(|scope| {
        let run = place.join("run");
        let over = &over;
        let injector = scope.spawn(move || make_beside(case.means, &run, over));
        let out = carry_out(children, &case.text, &place);
        over.store(true, Ordering::Relaxed);
        let made = injector.join();
        (out, made.unwrap_or_else(|_| Err(anyhow::anyhow!("the injector panicked"))))
    });
    let summary = summary(&out?)?;
    let (right, wrong, blamed) = outside_cases::judge(case, &made, &summary, UNEXPLAINED);
    let verdict = summary.phases.last().and_then(|phase| phase.attribution.verdict.clone());
    Ok(vec![Outcome {
        case: case.name.clone(),
        injected: case.expected.clone(),
        expected: None,
        blamed,
        verdict,
        counts: None,
        attempt: 1,
        counts_as_try: true,
        account: made.ok(),
        stalled_us: stalls.longest_us(),
        wrong,
        off: None,
        right,
    }])
}

/// Runs a case into a directory, which it returns.
fn carry_out(children: &mut Children, text: &str, directory: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let file = directory.join("case.ron");
    std::fs::write(&file, text)?;
    let out = directory.join("run");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").args([&file, Path::new("--out"), &out]);
    let status = children.output(command)?;
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    // A fault at the clients makes their percentiles void, which the run's end says, too: what is
    // asked here is whether the fault is named.
    let has_carried_out = matches!(status.status.code(), Some(0 | NOT_VALID));
    anyhow::ensure!(has_carried_out, "lab run ended with {}: {said}", status.status);
    let Summary { outcome, ledger, .. } = summary(&out)?;
    anyhow::ensure!(outcome == record::Outcome::Completed, "lab run is {outcome}: {said}");
    anyhow::ensure!(ledger.balanced == Some(true), "the books do not balance: {said}");
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
        attempt: 1,
        counts_as_try: true,
        account: None,
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
    let stood_still = it.stalled_us.map_or_else(String::new, |us| {
        format!("; a CPU stood still for {:.1} ms", us as f64 / 1000.0)
    });
    let again = match (it.attempt, it.counts_as_try) {
        (1, true) => String::new(),
        (attempt, true) => format!(" (try {attempt}{stood_still})"),
        (attempt, false) => format!(" (try {attempt}, not counted{stood_still})"),
    };
    let wrong: String = it.wrong.iter().map(|why| format!("       {why}\n")).collect();
    let truth = match &it.account {
        Some(Account { bursts, held_ms }) => {
            let expected: Vec<&str> = it.injected.iter().map(|cause| cause.name()).collect();
            format!("{} ({bursts} bursts, {held_ms} ms)", expected.join(" or "))
        }
        None => shares(it.expected.as_ref()),
    };
    format!(
        "{mark}  {}{again}\n       truth:  {truth}\n       blamed: {}\n{wrong}",
        it.case,
        shares(it.blamed.as_ref()),
    )
}

/// How often each cause was blamed, by what was injected.
fn matrix(proof: &Proof) -> String {
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for it in proof.outcomes.iter().filter(|it| it.counts_as_try) {
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
    let least = proof.right_at_least.map_or_else(String::new, |least| {
        format!(", which is {:.1}% or more with a confidence of 95%", least * 100.0)
    });
    let Proof { right, of, .. } = proof;
    out + &format!("dominant cause right in {right} of {of} tries{least}: {verdict}\n")
}
