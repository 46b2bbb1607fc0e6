//! Who leads a run on a fleet: a coordinator that was stopped, a second one for the same directory,
//! and one that takes over while the first is stopped and goes on later.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{assert_adds_up, assert_exit, json, lines, number, output, said, wait_until};
use lan::{Lan, Process};
use needs::test;
use rustix::process::Signal;

needs::main!();

const SECONDS: u64 = 14;

/// Longer than a silent host has, and than an agent waits until another coordinator may come.
const STOPPED: Duration = Duration::from_secs(6);

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A fleet of three hosts in its phase of load.
fn under_way() -> (Lan, Vec<Process>, Process, PathBuf) {
    let lan = Lan::new(3);
    let agents = lan.fleet(&[]);
    let text = format!(
        "(name: \"x\", users: 2000, probes: Off,
        server: (shards: 1), client: (shards: 1),
        validity: (late_share: 1.0, client_busy_share: 1.0, because: \"counts are looked at\"),
        phases: [
            (name: \"connect\", connect: (rate: 2000), until: Established, longest_s: 20),
            (name: \"load\", after: Terminated(\"connect\"), seconds: {SECONDS},
             shake: Open(rate: Fixed(400)), packets: (rate: 10)),
        ])"
    );
    let (run, out) = lan.run_text(&text);
    lan.wait_for_phase(&out, "load");
    lan::a_moment();
    (lan, agents, run, out)
}

/// The run is there once, whole, with the users that it has.
fn assert_whole(out: &Path) {
    let summary = json(out, "summary.json");
    assert_eq!(summary["outcome"], "completed", "{summary}");
    assert_adds_up(&summary);
    let load = &summary["phases"][1];
    assert_eq!(number(load, "/shake/offered"), 400 * SECONDS, "{load}");
    assert_eq!(number(load, "/shake/answered"), 400 * SECONDS, "{load}");
    assert_eq!(number(&summary["phases"][0], "/connections/established"), 2000, "{summary}");
    let raw = record::Raw::read(out).expect("the files of a run");
    assert!(raw.damage.is_empty(), "{:?}", raw.damage);
    let mut rows: Vec<(u64, String)> = lines(out, "samples.jsonl")
        .iter()
        .filter(|row| row["source"] == "client")
        .map(|row| (number(row, "/t"), row["host"].to_string()))
        .collect();
    let all = rows.len();
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), all, "no row twice");
}

fn stop_for(process: &Process, time: Duration) {
    process.signal(Signal::STOP);
    std::thread::sleep(time);
    process.signal(Signal::CONT);
}

#[test]
fn a_coordinator_that_was_stopped_goes_on_with_its_run() {
    if !lan::can_be() {
        return;
    }
    let (_lan, _agents, mut run, out) = under_way();
    stop_for(&run, STOPPED);
    run.assert_completed();
    assert_whole(&out);
    let events = lines(&out, "events.jsonl");
    assert!(!events.iter().any(|it| it["event"] == "host_lost"), "{events:#?}");
    let told = |it: &&serde_json::Value| {
        it["what"].as_str().is_some_and(|what| what.contains("this process stood still for"))
    };
    assert!(events.iter().any(|it| told(&it)), "{events:#?}");
}

#[test]
fn one_directory_has_one_writer() {
    if !lan::can_be() {
        return;
    }
    let (lan, _agents, mut run, out) = under_way();
    run.signal(Signal::STOP);
    std::thread::sleep(STOPPED);
    let before = std::fs::metadata(out.join("samples.jsonl")).expect("there").len();
    let second = output(&mut lan.lab(None, &["run", "--resume", path(&out), "--nats", lan::URL]));
    assert_exit(&second, 2);
    let said = said(&second);
    // `ip netns exec` becomes the program.
    let holder = format!("process {} on ", run.id());
    assert!(said.contains(&holder) && said.contains(", since 2"), "{said}");
    assert_eq!(std::fs::metadata(out.join("samples.jsonl")).expect("there").len(), before);
    run.signal(Signal::CONT);
    run.assert_completed();
    assert_whole(&out);
}

#[test]
fn the_older_of_two_coordinators_says_who_took_over_and_ends() {
    if !lan::can_be() {
        return;
    }
    let (lan, _agents, mut first, out) = under_way();
    first.signal(Signal::STOP);
    // As from another machine that has a copy of the directory: no lock is between the two.
    let copy = lan.path("copy");
    let copied = output(std::process::Command::new("cp").arg("-r").arg(&out).arg(&copy));
    assert!(copied.status.success(), "{copied:?}");
    let mut second = lan.run(&["--resume", path(&copy)]);
    lan.wait_for_event(&copy, "the second leads", |it| it["event"] == "resumed");
    let files = ["samples.jsonl", "events.jsonl", "slow.jsonl", "latency.hlog", "checkpoint.json"];
    let read = || files.map(|file| std::fs::read(out.join(file)).expect("there"));
    let before = read();
    first.signal(Signal::CONT);
    assert_eq!(first.exit_code(), Some(5));
    assert!(read() == before, "the first has touched its files");
    assert!(!out.join("summary.json").exists());
    let log = lan.said("run.log");
    let taken = format!("process {} on ", second.id());
    let told = log.lines().find(|line| line.contains("has taken this run over"));
    assert!(told.is_some_and(|told| told.contains(&taken) && told.contains("since 2")), "{log}");
    second.assert_completed();
    assert_whole(&copy);
}

#[test]
fn a_local_run_has_one_writer_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let lock = record::DirectoryLock::take(directory.path(), "process 7 on a, since 2026-11-27");
    let _lock = lock.expect("free");
    let smoke = common::experiment("smoke");
    let arguments = ["run", path(&smoke), "--out", path(directory.path())];
    let second = common::lab(&arguments);
    assert_exit(&second, 2);
    let told = said(&second);
    assert!(told.contains("process 7 on a, since 2026-11-27 writes this run"), "{told}");
    let files = std::fs::read_dir(directory.path()).expect("there").count();
    assert_eq!(files, 1, "nothing but the lock is there");
    wait_until("nothing of it is left", || lan::children(std::process::id()).is_empty());
}
