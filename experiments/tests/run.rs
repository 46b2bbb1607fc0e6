//! Experiments from beginning to end: as planned, interrupted, aborted, and killed.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::{
    Running, assert_adds_up, assert_exit, experiment, json, lab, lines, number, said, wait_until,
};
use needs::test;
use rustix::process::Signal;
use serde_json::Value;

needs::main!();

const SMOKE: [&str; 3] = ["connect", "shake", "everything"];

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn smoke_runs_from_end_to_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let output = lab(&["run", path(&experiment("smoke")), "--out", path(&out)]);
    assert_exit(&output, 0);
    let text = said(&output);
    assert!(text.contains("the books balance"), "{text}");

    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "completed");
    assert_adds_up(&summary);
    let phases = summary["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, SMOKE);
    for phase in phases {
        assert_eq!(phase["load_valid"], true, "{phase}");
        assert_eq!(number(phase, "/connections/established"), 2000);
        assert_eq!(number(phase, "/connections/lost"), 0);
    }
    // Four seconds at 1,000/s: every shake answered, and 20 packets a second for them.
    assert_eq!(number(&phases[1], "/shake/offered"), 4000);
    assert_eq!(number(&phases[1], "/shake/answered"), 4000);
    assert!(number(&phases[1], "/shake/granted") > 0);
    for side in ["server", "client"] {
        let us = &phases[1]["cpu_us_per_request"][side];
        assert!(us.as_f64().is_some_and(|us| us > 0.0), "{side}: {us}");
        let bytes = &phases[1]["memory"][format!("{side}_user_bytes_per_connection")];
        assert!(bytes.is_number(), "{side}: {bytes}");
    }
    // 10 packets a second for three users each, whose clients claim; two pushes for each user.
    let everything = &phases[2];
    assert_eq!(number(everything, "/send/packets"), 40);
    assert_eq!(number(everything, "/send/notices"), 120);
    assert_eq!(number(everything, "/push/sent"), 4000);
    assert_eq!(number(everything, "/push/received"), 4000);
    assert_eq!(number(&summary, "/ledger/created/count"), 80 + 80 + 40 * 3);

    let events = lines(&out, "events.jsonl");
    let kernel = events.iter().find(|it| it["event"] == "kernel_connections").expect("asked");
    assert_eq!((number(kernel, "/total"), number(kernel, "/wanted")), (2000, 2000));
    assert_eq!(kernel["by_address"].as_object().expect("addresses").len(), 17);
    assert_seconds_add_up(&lines(&out, "samples.jsonl"));
    assert_explained(&summary);
    for name in ["samples", "slow", "events"] {
        assert!(out.join(format!("{name}.parquet")).is_file(), "{name}");
    }
    assert_eq!(json(&out, "manifest.json")["closed"], true);

    // The summary comes from the raw files alone, and comes out the same again.
    std::fs::remove_file(out.join("summary.json")).expect("removed");
    assert_exit(&lab(&["report", path(&out)]), 0);
    assert_eq!(json(&out, "summary.json"), summary);
    // A record is never written over.
    let again = lab(&["run", path(&experiment("smoke")), "--out", path(&out)]);
    assert_exit(&again, 1);
    assert!(said(&again).contains("cannot create"), "{}", said(&again));
    assert_eq!(json(&out, "summary.json"), summary);
}

/// In every second, what was offered was sent or skipped, and what became of what was sent is
/// known.
fn assert_seconds_add_up(samples: &[Value]) {
    let mut under_way: std::collections::HashMap<(u64, u64), u64> = Default::default();
    let clients = samples.iter().filter(|line| line["source"] == "client");
    let mut seconds = 0;
    for line in clients {
        let of = |name: &str| number(line, &format!("/{name}"));
        let skipped = of("skipped_waiting") + of("skipped_offline") + of("skipped_late");
        assert_eq!(of("offered"), of("sent") + skipped, "{line}");
        assert_eq!(of("answered"), of("granted") + of("empty") + of("overloaded"), "{line}");
        let shard = under_way.entry((of("client"), of("shard"))).or_default();
        let known = *shard + of("sent");
        let gone = of("answered") + of("timed_out") + of("lost");
        assert_eq!(known - gone, of("in_flight"), "{line}");
        *shard = of("in_flight");
        seconds += 1;
    }
    assert!(seconds > 8, "{seconds} seconds of client shards");
}

/// With probes every request is explained, and without them the summary says why not.
fn assert_explained(summary: &Value) {
    if !needs::root() {
        assert!(summary["missing"]["phases.attribution"].is_string(), "{}", summary["missing"]);
        assert_eq!(summary["phases"][1]["segments_us"]["network"]["p50"], Value::Null);
        return;
    }
    let shake = &summary["phases"][1];
    // A part of a request's time is no longer than the longest request, in histograms of 0.1%.
    let longest = number(shake, "/latency_us/max");
    for segment in
        ["client_send_lag", "network", "server_wait", "server_service", "client_receive_lag"]
    {
        let part = number(shake, &format!("/segments_us/{segment}/p99"));
        assert!(part <= longest + longest / 100 + 1, "{segment}: {shake}");
    }
    // An instant is missing where a kernel keeps an event from the probes: one in a thousand here.
    let incomplete = number(shake, "/incomplete_requests");
    assert!(incomplete * 100 <= number(shake, "/shake/answered"), "{shake}");
    let drops = shake["kernel"]["drops"].as_object().expect("counted");
    let dropped: u64 = drops.values().filter_map(Value::as_u64).sum();
    // What was dropped was sent again, as the kernel counts it.
    assert!(dropped <= number(shake, "/kernel/retransmits"), "{shake}");
    let waits =
        ["p50", "p99", "max"].map(|it| number(shake, &format!("/kernel/runqueue_delay_us/{it}")));
    // No thread waited longer than the phase was, in buckets of an eighth.
    let phase_us = shake["seconds"].as_f64().expect("it was carried out") * 1e6;
    assert!(waits.is_sorted() && waits[0] > 0, "{shake}");
    assert!(waits[2] as f64 <= phase_us * 1.125, "{shake}");
    assert!(shake["attribution"]["verdict"].is_string(), "{shake}");
}

#[test]
fn an_interrupt_ends_a_run_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let longer = ["--set", "phases.shake.seconds=600"];
    let mut arguments = vec!["run", "--out", path(&out)];
    let file = experiment("smoke");
    arguments.push(path(&file));
    arguments.extend(longer);
    let running = Running::start(&arguments);
    running.wait_for("shake 2/600 s");
    running.signal(Signal::INT);
    assert_eq!(running.exit_code(), Some(5));

    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "interrupted");
    assert_adds_up(&summary);
    let phases = summary["phases"].as_array().expect("phases");
    assert!(number(&phases[1], "/shake/answered") >= 1000);
    assert_eq!(phases[1]["invalid_because"][0], "the phase was cut short");
    assert_eq!(phases[2]["invalid_because"][0], "the phase never began");
    assert_eq!(json(&out, "manifest.json")["closed"], true);
}

#[test]
fn a_killed_run_can_be_read_and_leaves_no_process_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let file = experiment("smoke");
    let arguments = ["run", path(&file), "--out", path(&out), "--set", "phases.shake.seconds=600"];
    let running = Running::start(&arguments);
    running.wait_for("shake 3/600 s");
    let manifest = json(&out, "manifest.json");
    let pids = [number(&manifest, "/server/pid"), number(&manifest, "/clients/0/pid")];
    assert!(pids.iter().all(|pid| is_lab(*pid)), "{pids:?}");
    running.signal(Signal::KILL);
    assert_eq!(running.exit_code(), None);
    wait_until("its programs are gone", || !pids.iter().any(|pid| is_lab(*pid)));

    let report = lab(&["report", path(&out)]);
    assert_exit(&report, 5);
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "incomplete");
    assert_eq!(summary["ledger"]["balanced"], Value::Null);
    assert!(summary["missing"]["ledger"].is_string(), "{}", summary["missing"]);
    // All but the last second or two, which had not been heard of yet, can be read.
    let phases = summary["phases"].as_array().expect("phases");
    assert!(number(&phases[1], "/shake/answered") >= 2000, "{}", phases[1]);
}

/// Whether this is a process of the program under test that still runs.
fn is_lab(pid: u64) -> bool {
    let running = std::fs::read_link(format!("/proc/{pid}/exe"));
    running.is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_lab")))
}

#[test]
fn a_condition_of_the_experiment_aborts_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let file = directory.path().join("abort.ron");
    let text = r#"(
        name: "abort",
        users: 100,
        network: (namespace: Host),
        phases: [
            (name: "connect", connect: (), until: Established, longest_s: 30),
            (
                name: "shake",
                seconds: 600,
                shake: Open(rate: Fixed(500)),
                abort: [P99Above(us: 0, seconds: 2)],
            ),
        ],
    )"#;
    std::fs::write(&file, text).expect("written");
    let output = lab(&["run", path(&file), "--out", path(&out)]);
    assert_exit(&output, 5);
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "aborted");
    let because = summary["outcome_because"].as_str().expect("a sentence");
    assert!(because.starts_with("phase shake: "), "{because}");
    assert_adds_up(&summary);
}

#[test]
fn a_run_in_a_namespace_of_its_own_changes_nothing_outside() {
    if !needs::root() {
        return;
    }
    let setting = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_child_ehash_entries").ok();
    let before = setting();
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let file = experiment("three-phases");
    let mut arguments = vec!["run", path(&file), "--out", path(&out)];
    let small = ["users=2000", "phases.30k.seconds=2", "phases.60k.seconds=2"];
    let rates = ["phases.30k.shake.Open.rate.Fixed=300", "phases.60k.shake.Open.rate.Fixed=600"];
    let lenient = ["validity.late_share=1.0", "network.socket_table=4096"];
    for setting in small.iter().chain(&rates).chain(&lenient) {
        arguments.extend(["--set", setting]);
    }
    let output = lab(&arguments);
    assert_exit(&output, 0);
    assert_eq!(setting(), before);
    let manifest = json(&out, "manifest.json");
    assert_eq!(manifest["own_namespace"], true);
    let summary = json(&out, "summary.json");
    assert_adds_up(&summary);
    assert_eq!(number(&summary, "/phases/2/shake/answered"), 1200);
    assert_eq!(number(&summary, "/ledger/created/count"), 800);
}

#[test]
fn fifty_shards_are_counted_and_explained_like_one() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (file, out) = (directory.path().join("fifty.ron"), directory.path().join("run"));
    let text = r#"(
        name: "fifty", users: 2000, hosts: Namespaces(1), probes: Required,
        softirqs: true, server: (shards: 50), client: (shards: 2),
        validity: (late_share: 1.0, client_busy_share: 1.0, because: "52 threads, few CPUs"),
        phases: [
            (name: "connect", connect: (), until: Established, longest_s: 60),
            (name: "load", seconds: 3, shake: Open(rate: Fixed(1000))),
        ],
    )"#;
    std::fs::write(&file, text).expect("written");
    let output = lab(&["run", path(&file), "--out", path(&out)]);
    assert_exit(&output, 0);
    let summary = json(&out, "summary.json");
    assert_adds_up(&summary);
    let load = &summary["phases"][1];
    assert_eq!(number(load, "/shake/answered"), 3000);
    for segment in ["client_send_lag", "network", "server_wait", "server_service"] {
        assert!(load["segments_us"][segment]["p99"].is_u64(), "{load}");
    }
    // An instant is missing where a kernel keeps an event from the probes: one in a thousand here.
    assert!(number(load, "/incomplete_requests") <= 30, "{load}");
    let samples = lines(&out, "samples.jsonl");
    let of = |source: &'static str| samples.iter().filter(move |line| line["source"] == source);
    let shards: BTreeSet<u64> = of("server")
        .filter(|it| number(it, "/shakes") > 0)
        .map(|it| number(it, "/shard"))
        .collect();
    assert_eq!(shards.len(), 50, "all of them answered: {shards:?}");
    let threads: BTreeSet<u64> = of("probe")
        .flat_map(|line| line["threads"].as_array().expect("threads"))
        .filter(|it| it["program"] == "server" && number(it, "/runqueue_delay_us/count") > 0)
        .map(|it| number(it, "/tid"))
        .collect();
    assert!(threads.len() >= 50, "each shard's thread was watched: {threads:?}");
    let polls = |line: &Value| line["napi"].as_array().map_or(0, Vec::len);
    assert!(of("probe").all(|line| polls(line) > 0 && line["softirq"].is_array()), "per CPU");
    // By end of the path; a line has those at which something was seen so far.
    let mut ends: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
    for end in of("probe").flat_map(|line| line["packets"].as_array().expect("packets")) {
        let sums = ends.entry(number(end, "/netns")).or_default();
        for (sum, what) in sums.iter_mut().zip(["/tx_packets", "/rx_packets"]) {
            *sum += number(end, what);
        }
    }
    let ends: Vec<[u64; 2]> = ends.into_values().collect();
    let [one, other] = ends.as_slice() else { panic!("two ends: {ends:?}") };
    // Each shake is a packet with 16 bytes to the server, and each login one.
    assert!(one[1].max(other[1]) >= 5000, "{ends:?}");
    // What leaves one end of the path enters the other; the kernel may hide one in a thousand.
    for (sent, received) in [(one[0], other[1]), (other[0], one[1])] {
        assert!(sent.abs_diff(received) <= received / 200 + 1, "{sent} sent, {received} received");
    }
}
