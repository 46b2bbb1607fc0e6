//! Runs within namespaces that number processes or count time otherwise than the kernel does: with
//! `probes: Required` they are refused in a sentence, without they go on and say what is missing.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{assert_exit, json, output, said};
use needs::test;

needs::main!();

/// A load of a second.
const EXPERIMENT: &str = r#"(
    name: "namespaces",
    users: 20,
    server: (shards: 1),
    client: (shards: 1),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "only the probes matter"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 20),
        (name: "load", after: Terminated("connect"), seconds: 1, shake: Open(rate: Fixed(50))),
    ],
)"#;

/// `lab run` within namespaces of its own.
fn run_in(namespaces: &[&str], probes: &str, out: &Path) -> Output {
    let file = out.with_extension("ron");
    std::fs::write(&file, EXPERIMENT).expect("written");
    let mut command = Command::new("unshare");
    command.args(namespaces).arg(env!("CARGO_BIN_EXE_lab")).arg("run").arg(&file);
    command.arg("--out").arg(out).args(["--set", &format!("probes={probes}")]);
    output(&mut command)
}

/// What is said where the probes are required, and in the record where they are not.
fn check(namespaces: &[&str], words: &str) {
    if !needs::root() || !needs::program("unshare", "unshare") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let refused = run_in(namespaces, "Required", &directory.path().join("required"));
    assert_exit(&refused, 1);
    let text = said(&refused);
    assert!(text.contains("the experiment requires probes") && text.contains(words), "{text}");
    assert_eq!(text.matches(words).count(), 1, "said once: {text}");

    let out = directory.path().join("wanted");
    assert_exit(&run_in(namespaces, "Auto", &out), 0);
    let because = json(&out, "manifest.json")["probes"]["because"].clone();
    assert!(because.as_str().is_some_and(|why| why.contains(words)), "{because}");
    let summary = json(&out, "summary.json");
    assert!(summary["phases"][1]["attribution"]["tail"]["shares"].is_null(), "{summary}");
    assert!(summary["missing"]["phases.attribution"].as_str().is_some_and(|it| it.contains(words)));
}

#[test]
fn within_a_pid_namespace_probes_are_refused() {
    check(&["--pid", "--fork", "--mount-proc"], "in a PID namespace of its own");
}

#[test]
fn within_a_time_namespace_with_an_offset_probes_are_refused() {
    check(&["--time", "--monotonic", "86400", "--fork"], "86400 s ahead");
}
