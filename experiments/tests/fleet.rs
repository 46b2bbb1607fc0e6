//! Runs on a fleet of hosts in network namespaces: hosts cut off, healed and killed, the
//! coordinator killed, NATS started again. Nothing that was measured is lost or counted twice.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{assert_adds_up, json, lines, number, wait_until};
use lan::{Lan, a_moment, children};
use rustix::process::Signal;
use serde_json::Value;

/// Connects 400 users and then has them shake for some seconds.
fn experiment(lan: &Lan, seconds: u32, more: &str) -> PathBuf {
    let file = lan.path("x.ron");
    let text = format!(
        "(name: \"x\", users: 400, probes: Off, {more}
        server: (shards: 1), client: (shards: 1, timeout_s: 1.0),
        validity: (late_share: 1.0, client_busy_share: 1.0, because: \"counts are looked at\"),
        phases: [
            (name: \"connect\", connect: (rate: 2000), until: Established, longest_s: 20),
            (name: \"load\", after: Terminated(\"connect\"), seconds: {seconds},
             shake: Open(rate: Fixed(400)), packets: (rate: 10)),
        ])"
    );
    std::fs::write(&file, text).expect("written");
    file
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn is_start_of_load(event: &Value) -> bool {
    event["event"] == "phase_starts" && event["phase"] == "load"
}

/// What tells a sample from all others.
fn key(line: &Value) -> String {
    let names = ["t", "host", "source", "of", "client", "shard", "phase", "nic", "namespace"];
    names.map(|name| line[name].to_string()).join(" ")
}

/// No sample is there twice; the seconds of each client and of the server in the phase of load.
fn seconds_of_load(out: &Path) -> BTreeMap<String, Vec<u64>> {
    let samples = lines(out, "samples.jsonl");
    let mut keys = BTreeSet::new();
    let mut seconds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in &samples {
        assert!(line["host"].is_string(), "every row has its host: {line}");
        if line["source"] == "client" || line["source"] == "server" {
            assert!(keys.insert(key(line)), "twice: {line}");
            if line["phase"] == "load" {
                let host = line["host"].as_str().expect("a name").to_owned();
                seconds.entry(host).or_default().push(number(line, "/t"));
            }
        }
    }
    assert!(!keys.is_empty());
    seconds.values_mut().for_each(|seconds| seconds.sort_unstable());
    seconds
}

/// The seconds of a phase.
fn phase(out: &Path, name: &str) -> std::ops::Range<u64> {
    let events = lines(out, "events.jsonl");
    let at = |what: &str| {
        let it = events.iter().find(|it| it["event"] == what && it["phase"] == name);
        it.and_then(|it| it["t"].as_f64()).expect("it was") as u64
    };
    at("phase_starts")..at("phase_ends")
}

/// Whether a run came out as if nothing had happened to it.
fn assert_whole(out: &Path, hosts: &[&str], seconds: u64) {
    let summary = json(out, "summary.json");
    assert_eq!(summary["outcome"], "completed", "{summary}");
    assert_adds_up(&summary);
    let load = &summary["phases"][1];
    assert_eq!(number(load, "/shake/offered"), 400 * seconds, "{load}");
    assert_eq!(number(load, "/shake/answered"), 400 * seconds, "{load}");
    assert_eq!(load["settled"], true, "{load}");
    let of_load: Vec<u64> = phase(out, "load").collect();
    assert_eq!(of_load.len() as u64, seconds);
    let by_host = seconds_of_load(out);
    for host in hosts {
        assert_eq!(by_host.get(*host), Some(&of_load), "{host}");
    }
    assert_eq!(in_histograms(out), 400 * seconds);
}

/// How many shakes of the phase of load the histograms have.
fn in_histograms(out: &Path) -> u64 {
    let raw = experiments::summary::Raw::read(out).expect("the files of a run");
    assert!(raw.damage.is_empty(), "{:?}", raw.damage);
    raw.histograms["load:latency"].len()
}

#[test]
fn a_host_is_cut_off_and_healed_and_another_is_killed() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(5);
    let mut agents = lan.fleet(&[]);
    let out = lan.path("out");
    let file = experiment(&lan, 16, "on_lost_host: Continue,");
    let mut run = lan.run(&[path(&file), "--out", path(&out)]);
    lan.wait_for_event(&out, "the load starts", is_start_of_load);
    wait_until("c3 has told of the load", || {
        let text = std::fs::read_to_string(out.join("samples.jsonl")).expect("there");
        let of_load = |it: &&str| it.contains("\"c3\"") && it.contains("\"load\"");
        text.lines().filter(of_load).count() > 2
    });
    lan.plugged(2, false);
    agents[3].kill();
    let cut = Instant::now();
    let lost = |host: &'static str, event: &'static str| {
        move |it: &Value| it["event"] == event && it["host"] == host
    };
    lan.wait_for_event(&out, "c2 is missed", lost("c2", "host_lost"));
    lan.wait_for_event(&out, "c3 is missed", lost("c3", "host_lost"));
    assert!(cut.elapsed() < Duration::from_secs(6), "{:?}", cut.elapsed());
    lan.plugged(2, true);
    lan.wait_for_event(&out, "c2 is back", lost("c2", "host_back"));
    // Another process under the old name has what the old one had not sent.
    agents[3] = lan.agent(3, "c3", &["--role", "client"]);
    lan.wait_for_event(&out, "c3 is another", lost("c3", "host_gone"));
    let code = run.exit_code();
    assert!(matches!(code, Some(0 | 4)), "{code:?}");

    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "completed", "{summary}");
    let of_load: Vec<u64> = phase(&out, "load").collect();
    assert_eq!(of_load.len(), 16);
    let by_host = seconds_of_load(&out);
    for host in ["s", "c1", "c2", "c4"] {
        assert_eq!(by_host.get(host), Some(&of_load), "{host}");
    }
    let killed = &by_host["c3"];
    assert!(!killed.is_empty() && killed.len() < 16, "{killed:?}");
    assert_eq!(killed[..], of_load[..killed.len()], "what it had measured is there, in a row");

    // The sums over the seconds are those that the clients themselves have.
    let events = lines(&out, "events.jsonl");
    for client in ["c1", "c2", "c4"] {
        let settled = events
            .iter()
            .find(|it| it["event"] == "settled" && it["phase"] == "load" && it["host"] == client);
        let tally = &settled.expect("settled")["tally"];
        let samples = lines(&out, "samples.jsonl");
        let of_client =
            samples.iter().filter(|it| it["source"] == "client" && it["host"] == client);
        let offered: u64 = of_client.map(|it| it["offered"].as_u64().unwrap_or(0)).sum();
        assert_eq!(offered, number(tally, "/offered"), "{client}");
        assert_eq!(offered, 1600, "100 users of 400 at 400/s for 16 s");
    }

    // What the killed one kept is merged by whoever asks for it.
    let resumed = lan.lab(None, &["run", "--resume", path(&out), "--nats", lan::URL]).output();
    let resumed = resumed.expect("lab");
    assert!(matches!(resumed.status.code(), Some(0 | 4)), "{resumed:?}");
    let again = seconds_of_load(&out);
    assert_eq!(again["c1"], of_load);
    assert!(again["c3"].len() >= killed.len(), "{again:?}");
    wait_until("nobody works any more", || {
        lan.hosts()
            .iter()
            .all(|it| it["beat"]["run"].is_null() && it["kept"] == serde_json::json!([]))
    });
}

#[test]
fn a_coordinator_is_killed_and_another_takes_over() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(3);
    let _agents = lan.fleet(&[]);
    let out = lan.path("out");
    let file = experiment(&lan, 9, "");
    let mut run = lan.run(&[path(&file), "--out", path(&out)]);
    lan.wait_for_event(&out, "the load starts", is_start_of_load);
    a_moment();
    run.kill();
    // Another run cannot have its hosts.
    let other = lan.lab(None, &["run", path(&file), "--nats", lan::URL]).output().expect("lab");
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(text.contains("works for x-"), "{text}");

    let mut resumed = lan.run(&["--resume", path(&out)]);
    assert_eq!(resumed.exit_code(), Some(0));
    assert_whole(&out, &["s", "c1", "c2"], 9);
    let events = lines(&out, "events.jsonl");
    assert!(events.iter().any(|it| it["event"] == "resumed"));
}

#[test]
fn nats_is_killed_and_started_again_in_a_phase() {
    if !lan::can_be() {
        return;
    }
    let mut lan = Lan::new(3);
    let _agents = lan.fleet(&[]);
    let out = lan.path("out");
    let file = experiment(&lan, 9, "");
    let mut run = lan.run(&[path(&file), "--out", path(&out)]);
    lan.wait_for_event(&out, "the load starts", is_start_of_load);
    a_moment();
    lan.kill_nats();
    a_moment();
    lan.start_nats();
    assert_eq!(run.exit_code(), Some(0));
    assert_whole(&out, &["s", "c1", "c2"], 9);
    let events = lines(&out, "events.jsonl");
    assert!(!events.iter().any(|it| it["event"] == "host_lost"), "{events:#?}");
}

#[test]
fn an_interrupt_stops_the_fleet_within_two_seconds() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(3);
    let agents = lan.fleet(&[]);
    let out = lan.path("out");
    let file = experiment(&lan, 60, "");
    let mut run = lan.run(&[path(&file), "--out", path(&out)]);
    lan.wait_for_event(&out, "the load starts", is_start_of_load);
    a_moment();
    let programs = || agents.iter().map(|agent| children(agent.id()).len()).sum::<usize>();
    assert_eq!(programs(), 3);
    run.signal(Signal::INT);
    let interrupted = Instant::now();
    wait_until("all programs have ended", || programs() == 0);
    let took = interrupted.elapsed();
    eprintln!("the fleet stopped {took:?} after the interrupt");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(run.exit_code(), Some(5));
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "interrupted");
    assert_adds_up(&summary);
}

#[test]
fn a_lost_host_ends_the_run_when_the_experiment_says_so() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(3);
    let agents = lan.fleet(&[]);
    let out = lan.path("out");
    let file = experiment(&lan, 60, "");
    let mut run = lan.run(&[path(&file), "--out", path(&out)]);
    lan.wait_for_event(&out, "the load starts", is_start_of_load);
    // It hangs: everything of it is there, and nothing is heard.
    agents[2].signal(Signal::STOP);
    let stopped = Instant::now();
    lan.wait_for_event(&out, "c2 is missed", |it| it["event"] == "host_lost");
    assert!(stopped.elapsed() < Duration::from_secs(6), "{:?}", stopped.elapsed());
    assert_eq!(run.exit_code(), Some(5));
    agents[2].signal(Signal::CONT);
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "aborted");
    let manifest = json(&out, "manifest.json");
    let why = manifest["outcome_because"].as_str().expect("why");
    assert!(why.contains("host c2 was lost"), "{why}");
}

#[test]
fn agents_without_a_coordinator_end_by_themselves_and_keep_what_they_have() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(2);
    let agents = lan.fleet(&["--wait", "1"]);
    let out = lan.path("out");
    let file = experiment(&lan, 5, "");
    let mut run = lan.run(&[path(&file), "--out", path(&out)]);
    lan.wait_for_event(&out, "the load starts", is_start_of_load);
    a_moment();
    run.kill();
    wait_until("programs end", || agents.iter().all(|agent| children(agent.id()).is_empty()));
    // Kept until somebody has them, over the end of an agent, too.
    let kept = |host: &Value| host["kept"].as_array().is_some_and(|it| it.len() == 1);
    assert!(lan.hosts().iter().all(kept));
    drop(agents);
    let _agents = lan.fleet(&[]);
    assert!(lan.hosts().iter().all(kept));
    let mut resumed = lan.run(&["--resume", path(&out)]);
    assert_eq!(resumed.exit_code(), Some(5), "the run was not carried out to its end");
    let of_load = phase(&out, "load").start;
    let by_host = seconds_of_load(&out);
    for host in ["s", "c1"] {
        let whole: Vec<u64> = (of_load..of_load + 5).collect();
        assert_eq!(by_host[host][..5], whole[..], "{host} went on to the end of the phase");
    }
    let summary = json(&out, "summary.json");
    assert_eq!(number(&summary["phases"][1], "/shake/answered"), 2000);
    assert!(lan.hosts().iter().all(|host| host["kept"] == serde_json::json!([])));
}
