//! Runs on a fleet of hosts in network namespaces: hosts cut off, healed and killed, the
//! coordinator killed, NATS started again. Nothing that was measured is lost or counted twice.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use common::{assert_adds_up, json, lines, number, output, wait_until};
use lan::{Lan, Process, a_moment, children};
use needs::test;
use rustix::process::Signal;
use serde_json::Value;

needs::main!();

/// Connects 2,000 users and then has them shake for some seconds: 400 of them in each, so that one
/// who is held up for four seconds is not yet due again.
fn experiment(lan: &Lan, seconds: u32, more: &str, next: &str) -> PathBuf {
    let file = lan.path("x.ron");
    let text = format!(
        "(name: \"x\", users: 2000, probes: Off, {more}
        server: (shards: 1), client: (shards: 1),
        validity: (late_share: 1.0, client_busy_share: 1.0, because: \"counts are looked at\"),
        phases: [
            (name: \"connect\", connect: (rate: 2000), until: Established, longest_s: 20),
            (name: \"load\", after: Terminated(\"connect\"), seconds: {seconds},
             shake: Open(rate: Fixed(400)), packets: (rate: 10)),
            {next}
        ])"
    );
    std::fs::write(&file, text).expect("written");
    file
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A fleet with a run that is in its phase of load. All ends with this.
struct UnderWay {
    run: Process,
    agents: Vec<Process>,
    file: PathBuf,
    out: PathBuf,
    lan: Lan,
}

impl UnderWay {
    /// So many hosts, whose agents are started with these arguments, and seconds of load.
    fn start(hosts: u32, arguments: &[&str], seconds: u32, more: &str) -> Self {
        Self::start_before(hosts, arguments, seconds, more, "")
    }

    /// The same with another phase after the load.
    fn start_before(hosts: u32, arguments: &[&str], seconds: u32, more: &str, next: &str) -> Self {
        let lan = Lan::new(hosts);
        let agents = lan.fleet(arguments);
        let (file, out) = (experiment(&lan, seconds, more, next), lan.path("out"));
        let run = lan.run(&[path(&file), "--out", path(&out)]);
        lan.wait_for_phase(&out, "load");
        Self { run, agents, file, out, lan }
    }

    /// Waits for an event of a host; when it was, in Unix seconds.
    fn wait_for(&self, event: &str, host: &str) -> f64 {
        let is_it = |it: &Value| it["event"] == event && it["host"] == host;
        self.lan.wait_for_event(&self.out, &format!("{event} of {host}"), is_it);
        let events = lines(&self.out, "events.jsonl");
        let found = events.iter().find(|it| is_it(it)).expect("it was there");
        found["t"].as_f64().expect("an instant")
    }

    /// A host that was silent from an instant on is missed within six seconds.
    fn assert_missed(&self, host: &str, silent: f64) {
        let after = self.wait_for("host_lost", host) - silent;
        assert!(after < 6.0, "{host} was missed after {after} s");
    }
}

/// Unix seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
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
    let raw = record::Raw::read(out).expect("the files of a run");
    assert!(raw.damage.is_empty(), "{:?}", raw.damage);
    raw.histograms["load:latency"].len()
}

/// Long enough for all that happens to the hosts; everybody shakes as often as everybody else.
const SECONDS: u32 = 30;

#[test]
fn a_host_is_cut_off_and_healed_and_another_is_killed() {
    if !lan::can_be() {
        return;
    }
    let mut fleet = UnderWay::start(5, &[], SECONDS, "on_lost_host: Continue,");
    let out = fleet.out.clone();
    wait_until("c3 has told of the load", || {
        let text = std::fs::read_to_string(out.join("samples.jsonl")).expect("there");
        let of_load = |it: &&str| it.contains("\"c3\"") && it.contains("\"load\"");
        text.lines().filter(of_load).count() > 2
    });
    let cut = now();
    fleet.lan.plugged(2, false);
    fleet.agents[3].kill();
    let killed = now();
    fleet.assert_missed("c3", killed);
    // Another process under the old name has what the old one had not sent.
    fleet.agents[3] = fleet.lan.agent(3, "c3", &["--role", "client"]);
    fleet.assert_missed("c2", cut);
    fleet.lan.plugged(2, true);
    fleet.wait_for("host_back", "c2");
    fleet.wait_for("host_gone", "c3");
    let code = fleet.run.exit_code();
    assert!(matches!(code, Some(0 | 4)), "{code:?}");

    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "completed", "{summary}");
    let of_load: Vec<u64> = phase(&out, "load").collect();
    assert_eq!(of_load.len(), SECONDS as usize);
    let by_host = seconds_of_load(&out);
    for host in ["s", "c1", "c2", "c4"] {
        assert_eq!(by_host.get(host), Some(&of_load), "{host}");
    }
    let killed = &by_host["c3"];
    assert!(!killed.is_empty() && killed.len() < of_load.len(), "{killed:?}");
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
        assert_eq!(offered, 3000, "500 users of 2,000 at 400/s for 30 s");
    }

    // What the killed one kept is merged when a coordinator asks for it.
    let resume = ["run", "--resume", path(&out), "--nats", lan::URL];
    let resumed = output(&mut fleet.lan.lab(None, &resume));
    assert!(matches!(resumed.status.code(), Some(0 | 4)), "{resumed:?}");
    let again = seconds_of_load(&out);
    assert_eq!(again["c1"], of_load);
    assert!(again["c3"].len() >= killed.len(), "{again:?}");
    fleet.lan.wait_for_hosts(5, "no host works any more", |it| {
        it["beat"]["run"].is_null() && it["kept"] == serde_json::json!([])
    });
}

#[test]
fn a_coordinator_is_killed_and_another_takes_over() {
    if !lan::can_be() {
        return;
    }
    let mut fleet = UnderWay::start(3, &[], 9, "");
    let out = fleet.out.clone();
    a_moment();
    fleet.run.kill();
    // Another run cannot have its hosts.
    let other = ["run", path(&fleet.file), "--nats", lan::URL];
    let other = output(&mut fleet.lan.lab(None, &other));
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(text.contains("works for x-"), "{text}");

    let mut resumed = fleet.lan.run(&["--resume", path(&out)]);
    resumed.assert_completed();
    assert_whole(&out, &["s", "c1", "c2"], 9);
    let events = lines(&out, "events.jsonl");
    assert!(events.iter().any(|it| it["event"] == "resumed"));
}

#[test]
fn nats_is_killed_and_started_again_in_a_phase() {
    if !lan::can_be() {
        return;
    }
    let mut fleet = UnderWay::start(3, &[], 9, "");
    let out = fleet.out.clone();
    a_moment();
    fleet.lan.kill_nats();
    a_moment();
    fleet.lan.start_nats();
    fleet.run.assert_completed();
    assert_whole(&out, &["s", "c1", "c2"], 9);
    let events = lines(&out, "events.jsonl");
    assert!(!events.iter().any(|it| it["event"] == "host_lost"), "{events:#?}");
}

#[test]
fn an_interrupt_stops_the_fleet_within_two_seconds() {
    if !lan::can_be() {
        return;
    }
    let mut fleet = UnderWay::start(3, &[], 60, "");
    let out = fleet.out.clone();
    a_moment();
    let programs = || fleet.agents.iter().map(|agent| children(agent.id()).len()).sum::<usize>();
    assert_eq!(programs(), 3);
    let interrupted = Instant::now();
    fleet.run.signal(Signal::INT);
    // When one of them was seen the last time: when this looks, too, depends on what else runs.
    let mut there = Duration::ZERO;
    wait_until("all programs have ended", || {
        let now = interrupted.elapsed();
        let gone = programs() == 0;
        there = if gone { there } else { now };
        gone
    });
    eprintln!("programs were there until {there:?} after the interrupt");
    assert!(there < Duration::from_secs(2), "{there:?}");
    assert_eq!(fleet.run.exit_code(), Some(5));
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "interrupted");
    assert_adds_up(&summary);
}

#[test]
fn a_lost_host_ends_the_run_when_the_experiment_says_so() {
    if !lan::can_be() {
        return;
    }
    let mut fleet = UnderWay::start(3, &[], 60, "");
    let out = fleet.out.clone();
    // It hangs: everything of it is there, and nothing is heard.
    fleet.agents[2].signal(Signal::STOP);
    let stopped = now();
    fleet.assert_missed("c2", stopped);
    assert_eq!(fleet.run.exit_code(), Some(5));
    fleet.agents[2].signal(Signal::CONT);
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "aborted");
    let manifest = json(&out, "manifest.json");
    let why = manifest["outcome_because"].as_str().expect("why");
    assert!(why.contains("host c2 was lost"), "{why}");
}

#[test]
fn a_host_that_is_cut_off_at_the_turn_of_a_phase_comes_into_the_next_one_late() {
    if !lan::can_be() {
        return;
    }
    let next = "(name: \"next\", after: Terminated(\"load\"), seconds: 15,
        shake: Open(rate: Fixed(400)))";
    let mut fleet = UnderWay::start_before(3, &[], 5, "on_lost_host: Continue,", next);
    let out = fleet.out.clone();
    fleet.lan.plugged(2, false);
    fleet.wait_for("host_lost", "c2");
    fleet.lan.wait_for_phase(&out, "next");
    fleet.lan.plugged(2, true);
    fleet.wait_for("host_back", "c2");
    let code = fleet.run.exit_code();
    assert!(matches!(code, Some(0 | 4)), "{code:?}");
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "completed", "{summary}");
    assert_adds_up(&summary);
    // What it measured while it was not heard is there, and what it did once it was back.
    let samples = lines(&out, "samples.jsonl");
    let offered = |phase: &str| -> u64 {
        let of_c2 = samples.iter().filter(|it| it["source"] == "client" && it["host"] == "c2");
        of_c2.filter(|it| it["phase"] == phase).map(|it| number(it, "/offered")).sum()
    };
    assert_eq!(offered("load"), 1000, "half of 400/s for 5 s");
    let next = offered("next");
    assert!(next > 0 && next <= 3000, "{next}: each of 1,000 users once in 5 s, if not skipped");
    seconds_of_load(&out);
}

#[test]
fn a_program_that_hangs_is_told_of() {
    if !lan::can_be() {
        return;
    }
    let mut fleet = UnderWay::start(2, &[], 60, "");
    let [pid] = children(fleet.agents[1].id())[..] else { panic!("one client") };
    let client = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
    rustix::process::kill_process(client, Signal::STOP).expect("it is there");
    fleet.lan.wait_for_event(&fleet.out, "it is missed", |it| {
        let what = it["what"].as_str().unwrap_or_default();
        it["event"] == "warning" && it["from"] == "c1" && what.contains("client 0 hangs")
    });
    rustix::process::kill_process(client, Signal::CONT).expect("it is there");
    fleet.run.signal(Signal::INT);
    assert_eq!(fleet.run.exit_code(), Some(5));
    // What waits for a client that hung may not have reached it by the end.
    assert_eq!(json(&fleet.out, "summary.json")["outcome"], "interrupted");
}

#[test]
fn agents_without_a_coordinator_end_by_themselves_and_keep_what_they_have() {
    if !lan::can_be() {
        return;
    }
    let mut fleet = UnderWay::start(2, &["--wait", "1"], 5, "");
    let out = fleet.out.clone();
    a_moment();
    fleet.run.kill();
    wait_until("programs end", || fleet.agents.iter().all(|it| children(it.id()).is_empty()));
    // Kept until somebody has them, over the end of an agent, too.
    let kept = |host: &Value| host["kept"].as_array().is_some_and(|it| it.len() == 1);
    fleet.lan.wait_for_hosts(2, "both have kept it", kept);
    fleet.agents.clear();
    fleet.agents = fleet.lan.fleet(&[]);
    fleet.lan.wait_for_hosts(2, "both have it still", kept);
    let mut resumed = fleet.lan.run(&["--resume", path(&out)]);
    assert_eq!(resumed.exit_code(), Some(5), "the run was not carried out to its end");
    let of_load = phase(&out, "load").start;
    let by_host = seconds_of_load(&out);
    for host in ["s", "c1"] {
        let whole: Vec<u64> = (of_load..of_load + 5).collect();
        assert_eq!(by_host[host][..5], whole[..], "{host} went on to the end of the phase");
    }
    let summary = json(&out, "summary.json");
    assert_eq!(number(&summary["phases"][1], "/shake/answered"), 2000);
    fleet
        .lan
        .wait_for_hosts(2, "nothing is kept any more", |it| it["kept"] == serde_json::json!([]));
}
