//! What is refused before anything starts: no NATS, no JetStream, wrong credentials, and fleets
//! that do not fit together. And who may make an agent work.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_nats::Client;
use common::{assert_exit, experiment, said};
use fleet::protocol::{Answer, Ask, Beat, Card, PROTOCOL, Role, WHO, What, ask};
use futures_util::StreamExt;
use lan::{Lan, URL};
use needs::test;
use serde_json::{Value, json};
use spec::machine::Machine;

needs::main!();

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Refused with these words, and nothing was started: no directory of a run is there.
fn assert_refused(lan: &Lan, output: &Output, words: &str) {
    assert_exit(output, 2);
    assert!(said(output).contains(words), "\"{words}\" in {}", said(output));
    assert!(!lan.path("out").exists(), "nothing was started");
}

fn run(lan: &Lan, file: &Path, more: &[&str]) -> Output {
    let out = lan.path("out");
    let mut arguments = vec!["run", path(file), "--out", path(&out)];
    arguments.extend(more);
    common::output(&mut lan.lab(None, &arguments))
}

/// An agent that is not `lab agent`, beside NATS: it answers as the card says, with a clock that is
/// off, and does nothing.
fn stub(lan: &Lan, card: Card, ahead_ns: i64) {
    let nothing = |_: &Ask| Answer::Refused { why: "a stub does nothing".to_owned() };
    answering(lan, card, ahead_ns, nothing);
}

/// The same with these answers. Ends with the test's process.
fn answering(
    lan: &Lan,
    card: Card,
    ahead_ns: i64,
    mut answer: impl FnMut(&Ask) -> Answer + Send + 'static,
) {
    let namespace = std::fs::File::open(lan.namespace()).expect("the namespace");
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
            .expect("inside");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let client: Client = async_nats::connect(URL).await.expect("NATS");
            let mut whos = client.subscribe(WHO).await.expect("subscribed");
            let mut asks = client.subscribe(ask(&card.name)).await.expect("subscribed");
            client.flush().await.expect("flushed");
            ready.send(()).expect("heard");
            loop {
                let (message, answer) = tokio::select! {
                    Some(who) = whos.next() => (who, serde_json::to_vec(&card)),
                    Some(asked) = asks.next() => {
                        let now = platform::realtime_ns().saturating_add_signed(ahead_ns);
                        let answer = match serde_json::from_slice(&asked.payload) {
                            Ok(Ask::Clock {}) => Answer::Clock { came_ns: now, left_ns: now },
                            Ok(ask) => answer(&ask),
                            Err(error) => Answer::Refused { why: error.to_string() },
                        };
                        (asked, serde_json::to_vec(&answer))
                    }
                    else => return,
                };
                let to = message.reply.expect("a request");
                client.publish(to, answer.expect("JSON").into()).await.expect("NATS");
            }
        });
    });
    is_ready.recv().expect("the stub is there");
}

fn card(name: &str, role: Role) -> Card {
    Card {
        name: name.to_owned(),
        session: format!("of {name}"),
        version: host::VERSION.to_owned(),
        protocol: PROTOCOL,
        roles: vec![role],
        labels: std::collections::BTreeMap::new(),
        addresses: vec![Ipv4Addr::new(10, 91, 0, 200)],
        machine: Machine { ports: (1024, 65_535), ..Machine::this() },
        boot: "stub".to_owned(),
        netns: 0,
        since: 0,
        findings: json!([]),
        privileges: json!(null),
        kept: Vec::new(),
        beat: Beat::default(),
    }
}

#[test]
fn without_nats_or_jetstream_nothing_starts() {
    if !lan::can_be() {
        return;
    }
    let mut lan = Lan::with(0, "");
    let smoke = experiment("smoke");
    assert_refused(&lan, &run(&lan, &smoke, &["--nats", URL]), "has no JetStream");
    lan.kill_nats();
    let output = run(&lan, &smoke, &["--nats", URL]);
    assert_refused(&lan, &output, "NATS at nats://10.91.0.1:4222 cannot be reached");
    for arguments in [&["hosts", "--nats", URL][..], &["agent", "--name", "a", "--nats", URL]] {
        let output = common::output(&mut lan.lab(None, arguments));
        assert_exit(&output, 2);
        assert!(said(&output).contains("cannot be reached"), "{}", said(&output));
    }
    let output = common::output(&mut lan.lab(None, &["agent", "--name", "a.b", "--nats", URL]));
    assert_exit(&output, 2);
    let output = common::output(&mut lan.lab_as_given(None, &["hosts", "--nats", URL]));
    assert_exit(&output, 2);
    assert!(said(&output).contains("nothing protects the way there"), "{}", said(&output));
    let output = run(&lan, &experiment("r2950"), &[]);
    assert_refused(&lan, &output, "wants a fleet of machines: give --nats URL");
}

/// The stub's clock is 70 ms ahead: what was measured is that, within what it says of itself.
fn assert_near_70_ms(said: &str) {
    let measured = said.split_once("off by +").expect("a measurement").1;
    let mut numbers = measured.split(" ms ± ").map(|it| {
        let number: String = it.chars().take_while(|it| !",:".contains(*it)).collect();
        number.trim().parse::<f64>().expect("a number")
    });
    let (ms, within_ms) = (numbers.next().expect("an offset"), numbers.next().expect("its error"));
    // Both are written with three digits.
    assert!((ms - 70.0).abs() <= within_ms + 0.001, "{ms} ± {within_ms}");
}

/// An agent that was started again has opened nothing of what it keeps yet.
#[test]
fn the_state_of_an_agent_that_runs_is_nobody_elses() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(1);
    let state = lan.path("state-s");
    let kept = state.join("run-1.spool");
    std::fs::create_dir(&state).expect("made");
    std::fs::write(&kept, "{\"number\":1,\"said\":[]}\n").expect("written");
    let mut agent = lan.agent(0, "s", &[]);
    lan.wait_for_agents(1);
    let has_it = format!("{}: lab agent s, process {} has it", state.display(), agent.id());
    let journals = lan.path("journals");
    let clean = ["clean", "--remove", "--journals", path(&journals), "--state", path(&state)];
    let cleaned = common::output(&mut lan.lab(None, &clean));
    assert!(said(&cleaned).contains(&has_it), "{}", said(&cleaned));
    assert!(kept.exists(), "{}", said(&cleaned));
    let other = ["agent", "--nats", URL, "--name", "other", "--state", path(&state)];
    assert_refused(&lan, &common::output(&mut lan.lab(Some(0), &other)), &has_it);
    agent.kill();
    let cleaned = common::output(&mut lan.lab(None, &clean));
    assert!(!kept.exists(), "{}", said(&cleaned));
}

#[test]
fn a_fleet_that_does_not_fit_together_is_refused_in_words() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(1);
    let smoke = experiment("smoke");
    let on_fleet = |file: &Path, more: &[&str], words: &str| {
        let output = run(&lan, file, &[&["--nats", URL], more].concat());
        assert_refused(&lan, &output, words);
    };
    on_fleet(&smoke, &[], "nobody can be the server; there is nobody");
    on_fleet(&smoke, &["--set", "hosts={\"Namespaces\":1}"], "network.namespace");
    on_fleet(&experiment("faults"), &["--set", "hosts=\"Local\""], "needs packets that cross");
    let slow_server = lan.path("slow-server.ron");
    let text = "(name: \"x\", users: 10, phases: [
        (name: \"a\", seconds: 1, faults: [Hog(cpus: [0], busy: 0.1)])])";
    std::fs::write(&slow_server, text).expect("written");
    on_fleet(&slow_server, &[], "faults on purpose are for one machine");
    let ledger = ["--set", "server.ledger=\"ledger\""];
    on_fleet(&smoke, &ledger, "a durable ledger is for one machine");
    let tuned = ["--set", "tuning={\"profile\":\"low-latency\"}"];
    on_fleet(&smoke, &tuned, "tuned one by one");

    let _agent = lan.agent(0, "a", &["--role", "server"]);
    lan.wait_for_agents(1);
    on_fleet(&smoke, &[], "nobody can be a client; there is a (server)");
    let again = common::output(&mut lan.lab(Some(0), &["agent", "--nats", URL, "--name", "a"]));
    assert_exit(&again, 2);
    assert!(said(&again).contains("an agent named a is there already"), "{}", said(&again));

    let overlapping = lan.path("overlapping.ron");
    let text = "(name: \"x\", users: 1000, phases: [(name: \"a\", seconds: 1)], hosts: Fleet(
        server: (name: \"a\", cores: 1, memory_gib: 1), clients: [
            (name: \"b\", cores: 1, memory_gib: 1, range: (0, 600)),
            (name: \"c\", cores: 1, memory_gib: 1, range: (500, 1000))]))";
    std::fs::write(&overlapping, text).expect("written");
    stub(&lan, card("b", Role::Client), 0);
    stub(&lan, card("c", Role::Client), 70_000_000);
    on_fleet(&overlapping, &[], "users 500..600 are those of b and of c: ranges overlap");
    let output = run(&lan, &smoke, &["--nats", URL]);
    assert_refused(&lan, &output, "the clock of c is off by +");
    assert_near_70_ms(&said(&output));
    let output = run(&lan, &smoke, &["--nats", URL, "--allow-clock-offset"]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("b cannot be used: a stub does nothing"), "{}", said(&output));
    std::fs::remove_dir_all(lan.path("out")).expect("it was refused by its host, after that");

    stub(&lan, Card { version: "0.0.1".to_owned(), ..card("d", Role::Client) }, 0);
    on_fleet(&smoke, &[], &format!("d is lab 0.0.1 (protocol {PROTOCOL}), and this is lab"));
    stub(&lan, card("b", Role::Client), 0);
    on_fleet(&smoke, &[], "two agents are named b");
}

#[test]
fn a_start_that_fails_is_recorded_and_its_hosts_keep_nothing_of_it() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(1);
    let _server = lan.agent(0, "a", &["--role", "server"]);
    lan.wait_for_agents(1);
    let forgets = Arc::new(AtomicU32::new(0));
    let asked = Arc::clone(&forgets);
    // It takes the lease, and cannot start a program; that one has ended when it is asked again.
    answering(&lan, card("b", Role::Client), 0, move |ask| match ask {
        Ask::Order(order) if matches!(order.what, What::Start { .. }) => {
            Answer::Refused { why: "no such program".to_owned() }
        }
        Ask::Forget { .. } if asked.fetch_add(1, Ordering::Relaxed) == 0 => {
            Answer::Refused { why: "it still works".to_owned() }
        }
        _ => Answer::Done {},
    });
    let output = run(&lan, &experiment("smoke"), &["--nats", URL, "--set", "probes=\"Off\""]);
    assert!(said(&output).contains("b: no such program"), "{}", said(&output));
    assert_eq!(forgets.load(Ordering::Relaxed), 2, "until it has forgotten");
    let out = lan.path("out");
    let manifest = common::json(&out, "manifest.json");
    assert_eq!((&manifest["closed"], &manifest["outcome"]), (&true.into(), &"aborted".into()));
    let because = manifest["outcome_because"].as_str().expect("a reason");
    assert!(because.contains("b: no such program"), "{because}");
    let found = common::output(&mut lan.lab(None, &["hosts", "--json", "--nats", URL]));
    let hosts: Vec<Value> = serde_json::from_slice(&found.stdout).expect("JSON");
    let server = hosts.iter().find(|host| host["name"] == "a").expect("it is there");
    assert_eq!((&server["kept"], &server["beat"]["run"]), (&json!([]), &json!(null)), "{server}");
    let left = std::fs::read_dir(lan.path("state-a")).expect("a directory").flatten();
    let left: Vec<_> = left.map(|it| it.file_name()).filter(|it| is_spool(it)).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn is_spool(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|it| it == "spool")
}

/// The configuration of the guide, with another account beside the lab's.
fn accounts() -> String {
    let guide = include_str!("../fleet/nats.conf");
    // Without TLS, which `fleet_access` looks at.
    let kept = |line: &&str| !line.starts_with("listen:") && !line.starts_with("tls ");
    let guide: Vec<&str> = guide.lines().filter(kept).collect();
    let others = "  OTHERS { jetstream: enabled, users: [{ user: stranger, password: secret }] }";
    guide
        .join("\n")
        .replace("/var/lib/nats/jetstream", "STORE")
        .replace("$LAB_COORDINATOR_PASSWORD", "secret")
        .replace("$LAB_R2950_PASSWORD", "secret")
        .replace("$LAB_VM1_PASSWORD", "secret")
        .replace("accounts {", &format!("accounts {{\n{others}"))
}

#[test]
fn an_agent_works_for_its_own_account_alone() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::with(1, &accounts());
    let password: PathBuf = lan.path("password");
    std::fs::write(&password, "secret\n").expect("written");
    let as_user =
        |user: &'static str| vec!["--nats-user", user, "--nats-password-file", path(&password)];
    let hosts = |user: &'static str| {
        let mut arguments = vec!["hosts", "--json", "--nats", URL];
        arguments.extend(as_user(user));
        let found = common::output(&mut lan.lab(None, &arguments));
        let hosts = serde_json::from_slice(&found.stdout);
        let hosts: Result<Vec<serde_json::Value>, _> = hosts;
        // While it is waited for, one that could not ask is not there yet.
        found.status.success().then(|| hosts.expect("JSON").len())
    };
    let _agent = lan.agent(0, "vm1", &as_user("vm1"));
    common::wait_until("the agent is there", || hosts("coordinator") == Some(1));
    assert_eq!(hosts("stranger"), Some(0));
    let smoke = experiment("smoke");
    let mut of_stranger = vec!["--nats", URL];
    of_stranger.extend(as_user("stranger"));
    assert_refused(&lan, &run(&lan, &smoke, &of_stranger), "there is nobody");
    let nobody = ["--nats", URL];
    assert_refused(&lan, &run(&lan, &smoke, &nobody), "refuses these credentials");
    std::fs::write(&password, "wrong").expect("written");
    let mut wrong = vec!["--nats", URL];
    wrong.extend(as_user("coordinator"));
    assert_refused(&lan, &run(&lan, &smoke, &wrong), "refuses these credentials");
    std::fs::write(&password, "secret").expect("written");
    let mut right = vec!["--nats", URL, "--set", "phases.shake.seconds=1"];
    right.extend(["--set", "phases.everything.seconds=1", "--set", "probes=\"Off\""]);
    right.extend(as_user("coordinator"));
    let output = run(&lan, &smoke, &right);
    assert_exit(&output, 0);
}
