//! A program that is stopped in the middle of a load: the server's standing still is in the
//! percentiles of what was due, and the client's makes them worth nothing.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Running, assert_adds_up, json, lines, number, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// 100 users at 1,000/s: whoever waits for an answer misses ten turns a second.
const EXPERIMENT: &str = "(
    name: \"stopped\",
    users: 100,
    network: (namespace: Host),
    probes: Off,
    server: (shards: 1),
    client: (shards: 1, processes: 1),
    validity: (late_us: 1000000, late_share: 1.0, client_busy_share: 1.0, because: \"stops\"),
    phases: [
        (name: \"connect\", connect: (), until: Established, longest_s: 30),
        (name: \"server\", seconds: 6, shake: Open(rate: Fixed(1000))),
        (name: \"client\", seconds: 6, shake: Open(rate: Fixed(1000))),
    ],
)";

/// Stops a program for so long, a second after a phase has begun. Returns how long it took at most.
fn stop(out: &Path, phase: &str, process: &str, duration: Duration) -> Duration {
    let began = |event: &Value| event["event"] == "phase_starts" && event["phase"] == phase;
    wait_until("the phase begins", || {
        out.join("events.jsonl").exists() && lines(out, "events.jsonl").iter().any(began)
    });
    let answers = |row: &Value| {
        row["source"] == "client" && row["phase"] == phase && row["answered"].as_u64() > Some(0)
    };
    wait_until("its shakes are answered", || lines(out, "samples.jsonl").iter().any(answers));
    let pid = number(&json(out, "manifest.json"), process);
    let pid = Pid::from_raw(i32::try_from(pid).expect("a number of a process")).expect("not 0");
    let before = Instant::now();
    kill_process(pid, Signal::STOP).expect("stopped");
    std::thread::sleep(duration);
    kill_process(pid, Signal::CONT).expect("goes on");
    before.elapsed()
}

#[test]
fn a_stopped_server_is_in_the_percentiles_and_a_stopped_client_makes_them_void() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, out) = (directory.path().join("stopped.ron"), directory.path().join("run"));
    std::fs::write(&file, EXPERIMENT).expect("written");
    let (file, to) = (file.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let running = Running::start(&["run", file, "--out", to]);
    let server = stop(&out, "server", "/server/pid", Duration::from_secs(1));
    stop(&out, "client", "/clients/0/pid", Duration::from_millis(2_200));
    assert_eq!(running.exit_code(), Some(4), "a phase is not valid");

    let summary = json(&out, "summary.json");
    assert_adds_up(&summary);
    let [_, frozen, void] = summary["phases"].as_array().expect("phases").as_slice() else {
        panic!("three phases: {summary}");
    };
    // A sixth of all was due meanwhile and waited evenly between 0 and 1 s: of 6 s, 1% and 10% are
    // 60 and 600 ms less. What else the machine does comes on top.
    assert!(number(frozen, "/shake/skipped_by/waiting") > 500, "{frozen}");
    let us = |phase: &Value, path: &str| number(phase, path) as f64 / 1e6;
    let longest = server.as_secs_f64() + 1.0;
    for (path, least) in [("/latency_us/p90", 0.3), ("/latency_us/p99", 0.88)] {
        assert!((least..longest).contains(&us(frozen, path)), "{path}: {frozen}");
    }
    assert!(us(frozen, "/latency_sent_us/p90") < us(frozen, "/latency_us/p90"), "{frozen}");
    assert_eq!(frozen["latency_at_least_us"]["p99"], Value::Null, "nothing timed out");

    // Thresholds that allow it do not make the client's standing still the server's latency.
    assert_eq!(void["percentiles_valid"]["p99"], false, "{void}");
    assert_eq!((&void["valid"], &void["load_valid"]), (&false.into(), &true.into()), "{void}");
    let because = void["invalid_because"][0].as_str().expect("a sentence");
    assert!(because.starts_with("p99 is not valid"), "{because}");
    // Every second counts, also those of which the client wrote nothing.
    let seconds = &void["answered_per_second"];
    assert!(seconds["mean"].as_f64().is_some_and(|mean| mean <= 1_000.0), "{seconds}");
    assert_eq!(seconds["min"], 0, "{seconds}");
    assert!(seconds["off"].as_u64() >= Some(2), "{seconds}");
}
