//! What an agent takes from messages, and who may say what: the shipped configuration of NATS, and
//! names, targets and epochs that are not as they should be.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::path::Path;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt;
use lan::Lan;
use needs::test;
use serde_json::{Value, json};

needs::main!();

/// Inside a namespace, in a thread of its own.
fn inside<T: Send>(namespace: &Path, what: impl AsyncFnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(namespace).expect("the namespace");
    std::thread::scope(|scope| {
        let there = scope.spawn(move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            let namespace = std::os::fd::AsFd::as_fd(&namespace);
            rustix::thread::move_into_link_name_space(namespace, Some(kind)).expect("inside");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(what())
        });
        there.join().expect("no panic")
    })
}

/// What an agent answers.
async fn asked(client: &Client, agent: &str, question: &Value) -> Value {
    let asked = client.request(format!("lab.ask.{agent}"), question.to_string().into());
    let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
    let answer = answer.expect("an answer in time").expect("an answer");
    serde_json::from_slice(&answer.payload).expect("JSON")
}

fn lease(run: &str, epoch: u64) -> Value {
    json!({ "lease": {
        "run": run, "leader": { "epoch": epoch, "who": format!("coordinator {epoch}") },
        "version": host::VERSION, "protocol": fleet::protocol::PROTOCOL,
        "ahead_ns": 0, "machine": false, "network": false,
    }})
}

fn order(run: &str, epoch: u64, number: u64, what: &Value) -> Value {
    json!({ "order": { "run": run, "epoch": epoch, "number": number, "what": what } })
}

/// The files below a directory, with what is in them.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.path().extension().is_none_or(|it| it != "log") {
            found.push(entry.path().display().to_string());
        }
    }
    found.sort();
    found
}

#[test]
fn names_that_lead_out_of_the_state_directory_are_refused() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::with(1, "jetstream { store_dir: \"STORE\" }");
    let _agent = lan.agent(0, "a", &["--role", "client"]);
    lan.wait_for_agents(1);
    let outside = tempfile::tempdir().expect("a directory");
    std::fs::write(outside.path().join("y.spool"), "precious").expect("written");
    let before = (files(&lan.path("state-a")), files(outside.path()));
    let out = outside.path().display();
    inside(&lan.namespace(), async || {
        let client = async_nats::connect(lan::URL).await.expect("NATS");
        for run in [
            format!("{out}/x"),
            format!("{out}/y"),
            "../y".to_owned(),
            "a.b".to_owned(),
            String::new(),
        ] {
            let leader = json!({ "epoch": 9, "who": "x" });
            let resume = json!({ "resume": { "run": run, "leader": leader, "merged": 0 } });
            let forget = json!({ "forget": { "run": run, "epoch": 9 } });
            for question in
                [lease(&run, 1), resume, forget, order(&run, 9, 1, &json!({"stop": {}}))]
            {
                let answer = asked(&client, "a", &question).await;
                let why = answer["refused"]["why"].as_str().unwrap_or_default();
                assert!(why.contains("is no name of a run"), "{question}: {answer}");
            }
        }
    });
    assert_eq!((files(&lan.path("state-a")), files(outside.path())), before);
}

fn resume(epoch: u64) -> Value {
    let leader = json!({ "epoch": epoch, "who": format!("coordinator {epoch}") });
    json!({ "resume": { "run": "r", "leader": leader, "merged": 0 } })
}

/// A pulse of coordinator 7, which leads, keeps another one away; those of an older one do not, and
/// let nothing go. Ends with coordinator 8.
async fn pulses_of_the_latest_alone_count(client: &async_nats::Client, written: u64) {
    assert!(written > 0, "there are batches");
    let ask = async |question: Value| asked(client, "a", &question).await;
    let pulse = async |epoch: u64| {
        let merged = if epoch < 7 { 1_000 } else { 0 };
        let body = json!({ "run": "r", "epoch": epoch, "merged": merged });
        client.publish("lab.pulse.a", body.to_string().into()).await.expect("sent");
    };
    // Pulses and questions come by ways of their own: one that is too old tells when it is led.
    while ask(resume(6)).await["still_led"].is_null() {
        pulse(7).await;
    }
    assert!(ask(resume(8)).await["still_led"].is_object(), "it was heard a moment ago");
    let mut olders = 0;
    let taken = loop {
        pulse(5).await;
        olders += 1;
        let answer = ask(resume(8)).await;
        if answer["still_led"].is_null() {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(olders > 5, "it was led for a while");
    assert_eq!(taken["kept"]["working"], true, "{taken}");
    assert!(taken["kept"]["written"].as_u64() >= Some(written), "{taken}");
}

#[test]
fn an_agent_follows_the_latest_coordinator_alone_also_when_it_was_started_again() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(1);
    let start = || lan.agent(0, "a", &["--role", "client", "--wait", "600"]);
    let mut agent = start();
    lan.wait_for_agents(1);
    inside(&lan.namespace(), async || {
        let client = async_nats::connect(lan::URL).await.expect("NATS");
        let ask = async |question: Value| asked(&client, "a", &question).await;
        let nothing = json!({ "phase": { "start": 1, "end": null } });
        let taken_over = |answer: &Value, by: u64| {
            let leader = &answer["taken_over"]["leader"];
            assert_eq!(leader["epoch"], json!(by), "{answer}");
            assert_eq!(leader["who"], format!("coordinator {by}"), "{answer}");
        };
        assert_eq!(ask(lease("r", 5)).await, json!({ "done": {} }));
        assert_eq!(ask(lease("r", 5)).await, json!({ "done": {} }), "asked again");
        taken_over(&ask(lease("r", 6)).await, 5);
        let other = ask(lease("other", 6)).await;
        assert_eq!(other["refused"]["why"], "it works for run r", "{other}");
        assert_eq!(ask(order("r", 5, 1, &nothing)).await, json!({ "done": {} }));
        taken_over(&ask(order("r", 4, 2, &json!({ "stop": {} }))).await, 5);
        // Orders that come twice are carried out once, and none before those before it.
        assert_eq!(ask(order("r", 5, 1, &nothing)).await, json!({ "done": {} }));
        let early = ask(order("r", 5, 3, &nothing)).await;
        assert_eq!(early["refused"]["why"], "order 3 came after order 1", "{early}");

        assert!(ask(resume(7)).await["still_led"].is_object(), "it was heard a moment ago");
        let kept = loop {
            let answer = ask(resume(7)).await;
            if answer["still_led"].is_null() {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(kept["kept"]["working"], true, "{kept}");
        taken_over(&ask(order("r", 5, 2, &nothing)).await, 7);
        taken_over(&ask(resume(6)).await, 7);
        taken_over(&ask(json!({ "forget": { "run": "r", "epoch": 5 } })).await, 7);
        assert_eq!(ask(order("r", 7, 2, &nothing)).await, json!({ "done": {} }));

        let written = kept["kept"]["written"].as_u64().expect("batches");
        pulses_of_the_latest_alone_count(&client, written).await;
        taken_over(&ask(order("r", 7, 3, &nothing)).await, 8);
    });
    // What an older pulse called merged is on disk.
    let spool = std::fs::metadata(lan.path("state-a").join("r.spool")).expect("there");
    assert!(spool.len() > 0);
    agent.kill();
    let _again = start();
    lan.wait_for_agents(1);
    inside(&lan.namespace(), async || {
        let client = async_nats::connect(lan::URL).await.expect("NATS");
        let ask = async |question: Value| asked(&client, "a", &question).await;
        let answer = ask(order("r", 5, 3, &json!({ "stop": {} }))).await;
        assert_eq!(answer["taken_over"]["leader"]["who"], "coordinator 8", "{answer}");
        let answer = ask(json!({ "forget": { "run": "r", "epoch": 8 } })).await;
        assert_eq!(answer, json!({ "done": {} }));
        let answer = ask(lease("r", 8)).await;
        assert_eq!(answer["refused"]["why"], "run r is over", "a lease that came late");
    });
}

#[test]
fn an_agent_loads_what_is_on_its_list_and_nothing_else() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::new(1);
    let _agent = lan.agent(0, "a", &["--role", "client", "--allow-target", "10.91.0.77:9000"]);
    lan.wait_for_agents(1);
    let (smoke, out) = (common::experiment("smoke"), lan.path("out"));
    inside(&lan.namespace(), async || {
        let client = async_nats::connect(lan::URL).await.expect("NATS");
        assert_eq!(asked(&client, "a", &lease("r", 1)).await, json!({ "done": {} }));
        let source = spec::Source::read(&smoke, &[]).expect("an experiment");
        let mut number = 0;
        for (server, allowed) in
            [("10.91.0.77:9001", false), ("192.0.2.1:9000", false), ("127.0.0.1:9000", false)]
        {
            let mut config = spec::configure::client_config(&source.experiment, 0);
            config.server = server.parse().expect("an address");
            number += 1;
            let start =
                json!({ "start": { "who": { "client": 0 }, "config": config, "probes": null } });
            let answer = asked(&client, "a", &order("r", 1, number, &start)).await;
            let why = answer["refused"]["why"].as_str().unwrap_or_default();
            let expected = format!("this agent may not load {server}");
            assert_eq!(!allowed, why.contains(&expected), "{answer}");
        }
        let start = json!({ "start": { "who": { "client": 0 }, "config": {}, "probes": null } });
        let answer = asked(&client, "a", &order("r", 1, number + 1, &start)).await;
        let why = answer["refused"]["why"].as_str().unwrap_or_default();
        assert!(why.contains("no configuration of a client"), "{answer}");
    });
    assert!(!out.exists());
}

/// The shipped configuration, in which TLS is left out: what is looked at here are permissions.
fn shipped() -> String {
    let guide = include_str!("../fleet/nats.conf");
    let kept =
        guide.lines().filter(|line| !line.starts_with("listen:") && !line.starts_with("tls "));
    let text: Vec<&str> = kept.collect();
    assert_eq!(text.len() + 2, guide.lines().count());
    let mut text = text.join("\n").replace("/var/lib/nats/jetstream", "STORE");
    for who in ["COORDINATOR", "R2950", "VM1"] {
        text = text.replace(&format!("$LAB_{who}_PASSWORD"), who);
    }
    text
}

/// What the server says of permissions to a client that publishes or subscribes there: waits until
/// it says something, or until the client has heard itself twice.
async fn violation(user: &str, password: &str, what: &str, subject: &str) -> Option<String> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let client = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
        .event_callback(move |event| {
            let event = event.to_string();
            if event.to_lowercase().contains("permissions violation") {
                // Nobody waits for it any more when the client ends.
                let _ = tell.send(event);
            }
            async {}
        })
        .connect(lan::URL)
        .await
        .expect("NATS");
    let mut own = client.subscribe(format!("lab.beat.{user}")).await.expect("sent");
    let _subscribed = match what {
        "publish" => {
            client.publish(subject.to_owned(), "x".into()).await.expect("sent");
            None
        }
        _ => Some(client.subscribe(subject.to_owned()).await.expect("sent")),
    };
    for _ in 0..2 {
        client.publish(format!("lab.beat.{user}"), "own".into()).await.expect("sent");
        loop {
            tokio::select! {
                violation = told.recv() => return violation,
                heard = own.next() => {
                    if heard.expect("its own").payload == "own" {
                        break;
                    }
                }
            }
        }
    }
    told.try_recv().ok()
}

#[test]
fn an_agents_credential_speaks_for_itself_alone() {
    if !lan::can_be() {
        return;
    }
    let lan = Lan::with(1, &shipped());
    inside(&lan.namespace(), async || {
        for (what, subject, refused) in [
            ("publish", "lab.beat.vm1", false),
            ("publish", "lab.from.x-1-abc.vm1", false),
            ("subscribe", "lab.ask.vm1", false),
            ("subscribe", "lab.pulse.vm1", false),
            ("subscribe", "lab.who", false),
            ("subscribe", "_INBOX.lab-agent-vm1.x", false),
            // As another agent.
            ("publish", "lab.beat.r2950", true),
            ("publish", "lab.from.x-1-abc.r2950", true),
            ("publish", "_INBOX.abc.1", true),
            // As a coordinator.
            ("publish", "lab.ask.r2950", true),
            ("publish", "lab.ask.vm1", true),
            ("publish", "lab.pulse.r2950", true),
            ("publish", "lab.who", true),
            ("publish", "$JS.API.STREAM.DELETE.lab-x-1-abc", true),
            // What is said to others.
            ("subscribe", "lab.ask.r2950", true),
            ("subscribe", "lab.ask.*", true),
            ("subscribe", "lab.from.>", true),
            ("subscribe", "lab.beat.r2950", true),
            ("subscribe", "_INBOX.>", true),
            ("subscribe", "_INBOX.lab-agent-r2950.x", true),
            ("subscribe", ">", true),
        ] {
            let found = violation("vm1", "VM1", what, subject).await;
            assert_eq!(found.is_some(), refused, "{what} {subject}: {found:?}");
        }
        let wrong = ConnectOptions::with_user_and_password("vm1".to_owned(), "R2950".to_owned());
        assert!(wrong.connect(lan::URL).await.is_err(), "another's password");
    });
}
