//! `lab run --repeat` and `lab compare`: sets against themselves, what is refused, what is said of
//! input that is wrong.

mod common;

use std::path::{Path, PathBuf};

use common::{assert_exit, experiment, json, lab, said};
use serde_json::Value;

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Two short runs of the smoke experiment.
fn set(directory: &Path, name: &str, settings: &[&str]) -> PathBuf {
    let out = directory.join(name);
    let file = experiment("smoke");
    let mut arguments = vec!["run", path(&file), "--out", path(&out), "--repeat", "2"];
    for setting in ["phases.shake.seconds=2", "phases.everything.seconds=2"].iter().chain(settings)
    {
        arguments.extend(["--set", setting]);
    }
    assert_exit(&lab(&arguments), 0);
    out
}

fn compared(arguments: &[&str]) -> Value {
    let output = lab(&[&["compare", "--json"], arguments].concat());
    assert_exit(&output, 0);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Whether a figure is a percentile of clients that were late, which other work on the machine can
/// make them: nothing is said of such a one.
fn is_marked(figure: &Value) -> bool {
    let because = figure["because"].as_str();
    figure["verdict"] == "unknown" && because.is_some_and(|it| it.starts_with("not valid: "))
}

fn figures(comparison: &Value) -> impl Iterator<Item = &Value> {
    let phases = comparison["phases"].as_array().expect("phases");
    phases.iter().flat_map(|phase| phase["figures"].as_array().expect("figures"))
}

#[test]
fn repeated_runs_are_compared() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = set(directory.path(), "first", &[]);
    for run in ["1", "2"] {
        assert_eq!(json(&first.join(run), "summary.json")["outcome"], "completed");
    }

    // A set and itself.
    let same = compared(&[path(&first), path(&first)]);
    assert_eq!(same["variation"], "between_runs");
    assert_eq!(same["first"].as_array().map(Vec::len), Some(2));
    let mut seen = 0;
    for figure in figures(&same) {
        assert_eq!(figure["estimate"], 0.0, "{figure}");
        seen += 1;
        if !is_marked(figure) {
            assert_eq!(figure["verdict"], "not_shown", "{figure}");
            assert_eq!(figure["p_adjusted"], 1.0, "{figure}");
        }
    }
    assert!(seen >= 18, "{seen} figures");
    let text = said(&lab(&["compare", path(&first), path(&first)]));
    assert!(text.contains("\nno difference shown\n"), "{text}");
    assert!(!text.contains("DIFFERENCE SHOWN"), "{text}");

    // The values are those of the summaries: the mean of rates of equal length, and the percentile
    // of merged histograms, which lies between those of the runs.
    let summaries = ["1", "2"].map(|run| json(&first.join(run), "summary.json"));
    let of = |pointer: &str| {
        summaries.each_ref().map(|it| it.pointer(pointer).and_then(Value::as_f64).expect(pointer))
    };
    let find = |name: &str| {
        let phase = &same["phases"][1]["figures"];
        let found = phase.as_array().expect("figures").iter().find(|it| it["figure"] == name);
        found.and_then(|it| it["first"].as_f64()).expect("a value")
    };
    let answered = of("/phases/1/shake/answered");
    assert!((find("rate") - (answered[0] + answered[1]) / 4.0).abs() < 1e-6);
    let p99 = of("/phases/1/latency_us/p99");
    let merged = find("p99");
    assert!(p99[0].min(p99[1]) <= merged && merged <= p99[0].max(p99[1]), "{p99:?} {merged}");

    // One run against itself: within-run variation, and labelled so.
    let run = first.join("1");
    let within = compared(&[path(&run), path(&run), "--phase", "shake"]);
    assert_eq!(within["variation"], "within_runs");
    assert!(within["caveats"][0].as_str().is_some_and(|it| it.contains("within each run only")));
    assert_eq!(within["phases"].as_array().map(Vec::len), Some(1));
    assert!(figures(&within).all(|it| it["verdict"] == "not_shown" || is_marked(it)), "{within}");

    // Half the rate is another workload; forced, the difference is found.
    let other = set(directory.path(), "other", &["phases.shake.shake.Open.rate.Fixed=500"]);
    let refused = lab(&["compare", path(&first), path(&other)]);
    assert_exit(&refused, 3);
    let text = said(&refused);
    assert!(text.contains("the workload differs: experiment.phases.shake.shake.Open"), "{text}");
    assert!(text.contains("--force"), "{text}");
    let arguments = [path(&first), path(&other), "--force", "--phase", "shake", "--figure", "rate"];
    let forced = compared(&arguments);
    assert_eq!(forced["objections"].as_array().map(Vec::len), Some(1), "{forced}");
    let rate = figures(&forced).next().expect("the rate");
    assert_eq!(rate["verdict"], "shown", "{rate}");
    assert!((rate["estimate"].as_f64().expect("a share") + 0.5).abs() < 0.01, "{rate}");
    let text = said(&lab(&[&["compare"], &arguments[..]].concat()));
    assert!(text.contains("forced, although the workload differs"), "{text}");
    assert!(text.contains("all runs of one side were before"), "{text}");
}

#[test]
fn what_differs_beside_the_load_is_named_and_invalid_phases_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = set(directory.path(), "first", &[]);
    let second = set(directory.path(), "second", &["server.sets=16"]);
    // As if it had been run elsewhere.
    for run in ["1", "2"] {
        let file = second.join(run).join("manifest.json");
        let mut manifest = json(&second.join(run), "manifest.json");
        manifest["hosts"][0]["kernel"] = "7.0.1".into();
        manifest["tuning"]["profile"] = "million".into();
        std::fs::write(&file, manifest.to_string()).expect("written");
    }
    let it = compared(&[path(&first), path(&second)]);
    let differing: Vec<&str> = it["differing"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|it| it["field"].as_str())
        .collect();
    assert_eq!(differing, ["experiment.server.sets", "hosts.0.kernel", "tuning.profile"]);
    let text = said(&lab(&["compare", path(&first), path(&second)]));
    assert!(text.contains("differs: experiment.server.sets: 256 and 16"), "{text}");
    assert!(text.contains("differs: tuning.profile: absent and million"), "{text}");

    // A phase whose limits its load did not keep.
    let file = second.join("2").join("manifest.json");
    let mut manifest = json(&second.join("2"), "manifest.json");
    manifest["experiment"]["validity"]["late_us"] = 0.into();
    manifest["experiment"]["validity"]["late_share"] = 0.0.into();
    manifest["experiment"]["validity"]["client_busy_share"] = 0.0.into();
    std::fs::write(&file, manifest.to_string()).expect("written");
    let refused = lab(&["compare", path(&first), path(&second)]);
    assert_exit(&refused, 3);
    assert!(said(&refused).contains("phase shake is not valid: "), "{}", said(&refused));
}

#[test]
fn what_is_no_run_is_told_in_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    let empty = path(directory.path());
    let cases = [
        (vec!["compare", "/no/such/place", empty], "/no/such/place: cannot read it"),
        (vec!["compare", empty, empty], "no run, and no directory of runs"),
    ];
    for (arguments, expected) in cases {
        let output = lab(&arguments);
        assert_exit(&output, 2);
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    std::fs::write(directory.path().join("manifest.json"), "{").expect("written");
    let output = lab(&["compare", empty, empty]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("manifest.json"), "{}", said(&output));
    assert_exit(&lab(&["run", path(&experiment("smoke")), "--repeat", "0"]), 2);
}

#[test]
fn a_run_is_projected() {
    let directory = tempfile::tempdir().expect("a directory");
    let runs = set(directory.path(), "runs", &[]);
    let output = lab(&["plan", path(&runs), "--phase", "shake", "--json"]);
    assert_exit(&output, 0);
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |pointer: &str| plan.pointer(pointer).and_then(Value::as_f64).expect(pointer);
    assert_eq!(number("/measured/runs"), 2.0);
    assert_eq!(number("/measured/rate/value"), 1000.0);
    assert!(plan["measured"]["server_us"]["interval"].is_array(), "{plan}");
    // Two bare packets and an acknowledgement at least, in both directions together.
    let wire = number("/measured/wire/to_server") + number("/measured/wire/to_client");
    assert!((200.0..2000.0).contains(&wire), "{wire} bytes a request");
    let servers = number("/as_measured/servers/value");
    assert!((servers - 1e10 / 420.0 / 1000.0).abs() < 1.0, "{servers}");
    let text = said(&lab(&["plan", path(&runs)]));
    assert!(text.contains("servers for 7 min 00 s") && text.contains("with 600 servers"), "{text}");

    // Input that does not do is told in a sentence.
    let none = lab(&["plan", path(&runs), "--phase", "connect"]);
    assert_exit(&none, 2);
    assert!(said(&none).contains("connect: no shakes"), "{}", said(&none));
    assert_exit(&lab(&["plan", "/no/such/place"]), 2);
}
