//! Probes of a fleet. Where clients have kernels of their own, requests are joined with the
//! server's ends of them, and the verdict is of both ends; where a host has no right to probes, a
//! run that requires them ends with its reason.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::path::Path;
use std::time::Duration;

use common::{assert_adds_up, json, lines, number};
use lan::{Lan, a_moment, children};
use needs::test;
use rustix::process::{Pid, Signal};

needs::main!();

/// The name of a process.
fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Requests of the accounts of causes of a phase: explained, incomplete, mixed, left out.
fn accounts(out: &Path, phase: &str) -> [u64; 4] {
    let mut sums = [0; 4];
    for line in lines(out, "samples.jsonl") {
        if line["source"] == "causes" && line["phase"] == phase {
            let names = ["/requests", "/incomplete", "/mixed", "/unsampled"];
            for (sum, name) in sums.iter_mut().zip(names) {
                *sum += number(&line, name);
            }
        }
    }
    sums
}

#[test]
fn the_verdict_of_a_fleet_knows_both_ends_of_a_sample() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(3);
    let server = lan.agent(0, "s", &["--role", "server", "--role", "probe"]);
    let client = ["--role", "client", "--role", "probe"];
    let _clients = [lan.agent_elsewhere(1, "c1", &client), lan.agent_elsewhere(2, "c2", &client)];
    lan.wait_for_agents(3);
    let text = "(name: \"x\", users: 3000, probes: Required,
        server: (shards: 1), client: (shards: 1, timeout_s: 5.0),
        validity: (late_share: 1.0, client_busy_share: 1.0, because: \"a fault is looked for\"),
        phases: [
            (name: \"connect\", connect: (rate: 3000), until: Established, longest_s: 20),
            (name: \"load\", after: Terminated(\"connect\"), seconds: 8,
             shake: Open(rate: Fixed(3000))),
        ])";
    let (mut run, out) = lan.run_text(text);
    lan.wait_for_phase(&out, "load");
    a_moment();
    // The server stands still for as long as most users want something of it.
    let of_agent: Vec<u32> = children(server.id());
    let pid = of_agent.into_iter().find(|pid| comm(*pid).starts_with("lab")).expect("a server");
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, Signal::STOP).expect("it is there");
    std::thread::sleep(Duration::from_millis(900));
    rustix::process::kill_process(pid, Signal::CONT).expect("it is there");
    let code = run.exit_code();
    assert!(matches!(code, Some(0 | 4)), "{code:?}");

    let summary = json(&out, "summary.json");
    assert_adds_up(&summary);
    let load = &summary["phases"][1];
    let answered = number(load, "/shake/answered");
    assert_eq!(answered, 24_000, "{load}");
    let [explained, incomplete, mixed, left_out] = accounts(&out, "load");
    assert_eq!(explained + mixed + left_out, answered);
    let expected = answered / u64::from(ebpf::JOINED_ONE_IN);
    // Five standard deviations of such a sample are 96.
    assert!((explained + mixed).abs_diff(expected) < 100, "{explained} of {answered}");
    // What the kernel hides from probes leaves an instant out, or the next request mixed.
    assert!((incomplete + mixed) * 100 <= explained, "{incomplete}, {mixed} of {explained}");
    assert_eq!(number(load, "/unsampled_requests"), left_out);
    let tail = &load["attribution"]["tail"];
    let stopped = tail["shares"]["server_stopped"].as_f64();
    assert!(stopped.is_some_and(|share| share > 0.9), "{tail}");
    let verdict = load["attribution"]["verdict"].as_str().expect("a sentence");
    assert!(verdict.contains("server_stopped") && verdict.contains("from a sample"), "{verdict}");
    let raw = record::Raw::read(&out).expect("the files of a run");
    for segment in ["network", "server_wait", "server_service", "client_receive_lag"] {
        assert_eq!(
            raw.histograms[&format!("load:{segment}")].len(),
            explained - incomplete,
            "{segment}"
        );
        assert!(load["segments_us"][segment]["p50"].is_u64(), "{segment}");
    }
    // The slowest are looked up, sample or not.
    let slow = lines(&out, "slow.jsonl");
    let blamed = |it: &&serde_json::Value| it["seen"]["blamed"] == "server_stopped";
    let waited = slow.iter().filter(|it| number(it, "/latency_us") > 300_000);
    assert!(waited.clone().count() > 0, "the stop was seen");
    // Of those outside of the sample a later one may have taken the place.
    let (known, all) = (waited.clone().filter(blamed).count(), waited.count());
    assert!(known * 4 >= all * 3, "{known} of {all} were joined");
}

#[test]
fn a_run_that_requires_probes_does_not_start_without_them() {
    if !lan::can_be() {
        return;
    }
    for (unable, of) in [(0, "s"), (1, "c1")] {
        let lan = Lan::new(2);
        let agents = [(0, "s", "server"), (1, "c1", "client")].map(|(host, name, role)| {
            let roles = ["--role", role, "--role", "probe"];
            match host == unable {
                true => lan.agent_without_rights(host, name, &roles),
                false => lan.agent(host, name, &roles),
            }
        });
        lan.wait_for_agents(agents.len());
        let text = "(name: \"x\", users: 100, probes: Required, phases: [
            (name: \"connect\", connect: (rate: 1000), until: Established, longest_s: 20)])";
        let code = lan.run_text(text).0.exit_code();
        assert!(code.is_some_and(|code| code != 0), "{code:?}");
        let said = lan.said("run.log");
        let words = format!("{of}: ");
        assert!(said.contains(&words) && said.contains("the experiment requires probes"), "{said}");
        assert!(said.contains("not allowed to load probes"), "{said}");
        // No host works for it any more.
        lan.wait_for_hosts(agents.len(), "all are free", |it| it["beat"]["run"].is_null());
    }
}
