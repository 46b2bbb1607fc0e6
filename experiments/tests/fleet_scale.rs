//! The same schedule on one machine and on a fleet.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::path::Path;

use common::{assert_exit, experiment, json, lab, lines, number, said};
use lan::{Lan, URL};
use needs::test;

needs::main!();

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// What the clients say in the end of a phase: how many shakes were due, over all of them. They are
/// counted by when they were due; those of a second are counted when the client came to send them.
fn offered(out: &Path, phase: &str) -> u64 {
    let events = lines(out, "events.jsonl");
    let settled = events.iter().filter(|it| it["event"] == "settled" && it["phase"] == phase);
    settled.map(|it| number(it, "/tally/offered")).sum()
}

#[test]
fn the_same_seed_is_the_same_schedule_on_one_machine_and_on_a_fleet() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(4);
    let _agents = lan.fleet(&[]);
    let (here, there) = (lan.path("here"), lan.path("there"));
    let smoke = experiment("smoke");
    let short = ["--set", "phases.shake.seconds=1", "--set", "probes=\"Off\""];
    let mut arguments = vec!["run", path(&smoke), "--out", path(&here)];
    arguments.extend(short);
    assert_exit(&lab(&arguments), 0);
    let mut arguments = vec!["run", path(&smoke), "--out", path(&there), "--nats", URL];
    arguments.extend(short);
    let output = common::output(&mut lan.lab(None, &arguments));
    assert_exit(&output, 0);
    assert!(said(&output).contains("the books balance"));
    // Poisson arrivals: how many depends on the seed and on nothing else. That users and instants
    // are the same, too, is held in lab-client/tests/fleet_schedule.rs.
    for phase in ["shake", "everything"] {
        assert_eq!(offered(&here, phase), offered(&there, phase), "{phase}");
    }
    // Four seconds at 2,000/s: five standard deviations.
    let all = offered(&here, "everything");
    assert!(all.abs_diff(8_000) < 450, "{all}");
    assert_eq!(offered(&here, "shake"), 1_000);
    let hosts = json(&there, "manifest.json")["hosts"].as_array().map(Vec::len);
    assert_eq!(hosts, Some(4));
    // A run of a fleet is a run: what reads one reads the other.
    assert_exit(&lab(&["report", path(&there)]), 0);
    assert_exit(&lab(&["compare", path(&here), path(&there), "--force"]), 0);
}
