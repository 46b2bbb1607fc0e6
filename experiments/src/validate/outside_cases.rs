//! The cases of faults from outside: which there are, what must be blamed for each, and how a run
//! with one is carried out. The injector's code (`outside`) knows nothing of what is expected here.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use analysis::summary::{Shares, Summary, dominant};
use anyhow::Context;
use attribution::{Cause, End};
use record::{EVENTS_FILE, EventKind, EventRow};
use rustix::process::Pid;
use serde_json::Value;

use super::cases::PLACES;
use super::outside::bursts::{Account, Made};
use super::outside::{Means, Programs};

/// The causes that are expected must together have more than this of the excess.
const EXPECTED: f64 = 0.8;

/// How long the load of a run is: a second before the first burst, and bursts.
const SECONDS: u64 = 8;

/// How often it is looked whether the load has begun.
const LOOK: Duration = Duration::from_millis(50);

/// After the load has begun, and before the fault does.
const BEFORE: Duration = Duration::from_secs(1);

/// Under which load a fault is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// 1,000/s, each end on a CPU of its own.
    Apart,
    /// 60,000/s, both ends on the same CPUs.
    Shared,
}

/// A run with a fault from outside.
#[derive(Clone, Debug)]
pub(super) struct OutsideCase {
    pub(super) name: String,
    pub(super) means: Means,
    /// What must be blamed, all together.
    pub(super) expected: Vec<Cause>,
    /// The experiment file.
    pub(super) text: String,
}

/// All cases of a round.
pub(super) fn outside_cases(slow_us: u64) -> Vec<OutsideCase> {
    let each = |load: Load| Means::all().into_iter().map(move |means| case(means, load, slow_us));
    // What a shaper lets pass is a rate, and what is done to the way needs one: apart alone.
    let shared = each(Load::Shared).filter(|case| !case.means.is_of_the_way());
    each(Load::Apart).chain(shared).collect()
}

fn case(means: Means, load: Load, slow_us: u64) -> OutsideCase {
    let (users, rate, mark) = match load {
        Load::Apart => (1_000, 1_000, ""),
        Load::Shared => (30_000, 60_000, "@60k"),
    };
    let cpus = |cpu: usize| match load {
        Load::Apart => format!(", cpus: [{cpu}]"),
        Load::Shared => String::new(),
    };
    let hosts = if means.is_of_the_way() { "Namespaces(1)" } else { "Local" };
    let (server, client) = (cpus(PLACES.server_cpu), cpus(PLACES.client_cpu));
    let text = format!(
        r#"(
    name: "validate",
    users: {users},
    hosts: {hosts},
    network: (congestion: "cubic"),
    server: (shards: 1{server}),
    client: (shards: 1{client}, slow_kept: 2000),
    probes: Required,
    attribution: (slow_us: {slow_us}),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "faults are made from outside"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 60),
        (
            name: "load",
            after: Terminated("connect"),
            seconds: {SECONDS},
            shake: Open(rate: Fixed({rate})),
        ),
    ],
)"#
    );
    OutsideCase {
        name: format!("{}{mark}", means.name()),
        means,
        expected: expected(means, load),
        text,
    }
}

/// What must be blamed.
fn expected(means: Means, load: Load) -> Vec<Cause> {
    use Cause::{
        ClientInterrupts, ClientRunqueue, ClientStopped, ClientThrottled, NetworkDelay,
        NetworkLoss, ServerInterrupts, ServerRunqueue, ServerStopped, ServerThrottled,
    };
    let of = |end: End, server: Cause, client: Cause| match end {
        End::Server => vec![server],
        End::Client => vec![client],
    };
    match (means, load) {
        (Means::Stop(end) | Means::Trace(end) | Means::Freeze(end), _) => {
            of(end, ServerStopped, ClientStopped)
        }
        (Means::Quota(end), _) => of(end, ServerThrottled, ClientThrottled),
        (Means::Flood(end), Load::Apart) => of(end, ServerInterrupts, ClientInterrupts),
        (Means::Flood(_), Load::Shared) => vec![ServerInterrupts, ClientInterrupts],
        (Means::Shaper, _) => vec![NetworkDelay],
        (Means::DropsIn | Means::DropsOut, _) => vec![NetworkLoss],
        (Means::RealTimeHog(end) | Means::Storm(end), Load::Apart) => {
            of(end, ServerRunqueue, ClientRunqueue)
        }
        // Whichever end was on that CPU.
        (Means::RealTimeHog(_) | Means::Storm(_), Load::Shared) | (Means::HogsOnBothEnds, _) => {
            vec![ServerRunqueue, ClientRunqueue]
        }
    }
}

/// Makes the fault beside a run that writes into `directory`, as soon as its load has begun.
///
/// # Errors
/// What keeps it from being made; the load has not begun before the run was over.
pub(super) fn make_beside(means: Means, directory: &Path, over: &AtomicBool) -> Made {
    while !has_load_begun(directory) {
        anyhow::ensure!(!over.load(Ordering::Relaxed), "the run was over before its load began");
        std::thread::sleep(LOOK);
    }
    std::thread::sleep(BEFORE);
    let manifest: Value = serde_json::from_slice(&std::fs::read(directory.join("manifest.json"))?)?;
    let pid = |said: &Value| {
        let pid = said["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw).context("the manifest names no process")
    };
    let programs = Programs {
        server: pid(&manifest["server"])?,
        client: pid(&manifest["clients"][0])?,
        server_cpu: PLACES.server_cpu,
        client_cpu: PLACES.client_cpu,
    };
    means.make(&programs, over)
}

fn has_load_begun(directory: &Path) -> bool {
    // It is not there yet, or its last line is half written.
    let text = std::fs::read(directory.join(EVENTS_FILE)).unwrap_or_default();
    text.split(|byte| *byte == b'\n').any(|line| {
        let row = EventRow::parse(line).ok();
        row.is_some_and(|row| match row.kind {
            EventKind::PhaseStarts { phase, .. } => phase == "load",
            _ => false,
        })
    })
}

/// What is wrong with what a run says of a fault; and whether its dominant cause is right.
pub(super) fn judge(
    case: &OutsideCase,
    made: &Made,
    summary: &Summary,
    unexplained: f64,
) -> (bool, Vec<String>, Option<Shares>) {
    let attribution = summary.phases.last().map(|phase| phase.attribution.clone());
    let shares = attribution.and_then(|it| it.tail.shares);
    let mut wrong = Vec::new();
    match made {
        Err(error) => wrong.push(format!("the fault could not be made: {error:#}")),
        Ok(Account { bursts: 0, .. } | Account { held_ms: 0, .. }) => {
            wrong.push("the fault was not made".to_owned());
        }
        Ok(_) => {}
    }
    let Some(shares) = shares else {
        wrong.push("there is no verdict, though a fault was made".to_owned());
        return (false, wrong, None);
    };
    let share = |cause: &Cause| shares.get(cause).copied().unwrap_or(0.0);
    let together: f64 = case.expected.iter().map(share).sum();
    if together <= EXPECTED {
        wrong.push(format!("what was expected has {:.0}% of the excess", together * 100.0));
    }
    if share(&Cause::Unexplained) >= unexplained {
        let part = share(&Cause::Unexplained) * 100.0;
        wrong.push(format!("{part:.1}% of the excess is unexplained"));
    }
    let right = dominant(&shares).is_some_and(|(cause, _)| case.expected.contains(&cause));
    (right, wrong, Some(shares))
}

#[cfg(test)]
mod tests {
    use spec::Source;

    use super::*;

    #[test]
    fn every_case_is_an_experiment_of_its_own_name() {
        let cases = outside_cases(6_000);
        let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!((cases.len(), names.len()), (33, 33));
        for case in &cases {
            let source = Source::parse(Path::new("case.ron"), case.text.clone(), &[]);
            source.unwrap_or_else(|error| panic!("{error}: {}", case.text));
            assert!(!case.expected.is_empty() && !case.expected.contains(&Cause::Unexplained));
        }
    }

    #[test]
    fn a_load_that_has_not_begun_is_waited_for_until_the_run_is_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let over = AtomicBool::new(true);
        let means = Means::Stop(End::Server);
        let error = make_beside(means, directory.path(), &over).expect_err("over");
        assert!(error.to_string().contains("over before"), "{error}");
        let event = r#"{"t":5.5,"event":"phase_starts","phase":"load","end":null}"#;
        std::fs::write(directory.path().join(EVENTS_FILE), format!("{event}\n{{\"t\""))
            .expect("ok");
        assert!(has_load_begun(directory.path()));
    }
}
