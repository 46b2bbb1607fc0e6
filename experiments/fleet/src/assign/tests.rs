//! Assignments: who is chosen, who has which users, and what is refused in words.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::protocol::{Beat, PROTOCOL};
use spec::Source;
use spec::machine::Machine;

fn card(name: &str, roles: &[Role], cpus: usize, labels: &[(&str, &str)]) -> Card {
    let last = name.bytes().fold(7_u8, |sum, it| sum.wrapping_mul(31).wrapping_add(it));
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Card {
        name: name.to_owned(),
        session: format!("session of {name}"),
        version: host::VERSION.to_owned(),
        protocol: PROTOCOL,
        roles: roles.to_vec(),
        labels: labels.collect(),
        addresses: vec![Ipv4Addr::new(10, 0, 0, last)],
        machine: Machine { cpus: (0..cpus).collect(), ports: (1024, 65_535), ..Machine::this() },
        boot: name.to_owned(),
        netns: 1,
        since: 0,
        findings: json!([]),
        privileges: json!(null),
        kept: Vec::new(),
        beat: Beat::default(),
    }
}

const BOTH: [Role; 2] = [Role::Server, Role::Client];

fn experiment(text: &str) -> Experiment {
    let text = format!("(name: \"x\", phases: [(name: \"a\", seconds: 1)], {text})");
    Source::parse(Path::new("x.ron"), text, &[]).expect("an experiment").experiment
}

fn fleet(clients: &str) -> Experiment {
    experiment(&format!(
        "users: 1000, hosts: Fleet(server: (name: \"big\", cores: 8, memory_gib: 16),
        clients: [{clients}])"
    ))
}

fn refused(experiment: &Experiment, cards: &[Card], words: &str) {
    let error = assign(experiment, cards).expect_err(words);
    assert!(error.is::<UsageError>() && error.to_string().contains(words), "{error}");
}

#[test]
fn a_fleet_is_assigned_by_name_label_and_capacity() {
    let cards = [
        card("vm10", &[Role::Client], 4, &[]),
        card("vm2", &[Role::Client], 4, &[]),
        card("other", &[Role::Client], 64, &[("kind", "fast")]),
        card("bigger", &BOTH, 64, &[]),
        card("big", &BOTH, 8, &[]),
    ];
    let vms = "(name: \"vm\", count: 2, cores: 4, memory_gib: 5, users: 600)";
    let assigned = assign(&fleet(vms), &cards).expect("assigned");
    assert_eq!((assigned.server.as_str(), assigned.address), ("big", cards[4].addresses[0]));
    let users: Vec<_> =
        assigned.clients.iter().map(|it| (it.agent.as_str(), it.users.clone())).collect();
    assert_eq!(users, [("vm2", 0..500), ("vm10", 500..1000)]);
    assert_eq!(assigned.clients[1].sources, Some(cards[0].addresses.clone()));
    assert_eq!(assigned.agents(), ["big", "vm2", "vm10"]);

    let fast = "(name: \"f\", cores: 3, memory_gib: 5, labels: {\"kind\": \"fast\"}),
        (name: \"vm2\", cores: 1, memory_gib: 5)";
    let assigned = assign(&fleet(fast), &cards).expect("assigned");
    assert_eq!(
        (assigned.clients[0].agent.as_str(), assigned.clients[0].users.clone()),
        ("other", 0..750)
    );
    assert_eq!(
        (assigned.clients[1].agent.as_str(), assigned.clients[1].users.clone()),
        ("vm2", 750..1000)
    );

    let ranges = "(name: \"vm2\", cores: 1, memory_gib: 5, range: (300, 1000)),
        (name: \"vm10\", cores: 1, memory_gib: 5, range: (0, 300))";
    let assigned = assign(&fleet(ranges), &cards).expect("assigned");
    assert_eq!(assigned.clients[0].users, 300..1000);
}

#[test]
fn an_experiment_for_one_machine_takes_who_is_there() {
    let two = [card("a", &BOTH, 2, &[]), card("b", &BOTH, 2, &[])];
    let local = experiment("users: 10, client: (processes: 2)");
    let assigned = assign(&local, &two).expect("assigned");
    assert_eq!((assigned.server.as_str(), assigned.clients.len()), ("a", 1));
    assert_eq!((assigned.clients[0].agent.as_str(), assigned.processes()), ("b", 2));
    assert_eq!(
        (assigned.users_of(0), assigned.users_of(1), assigned.users_of(2)),
        (Some(0..5), Some(5..10), None)
    );
    // Alone it is both; one that can only be the server is it.
    let assigned = assign(&local, &two[..1]).expect("assigned");
    assert_eq!((assigned.clients[0].agent.as_str(), assigned.agents()), ("a", vec!["a"]));
    let three = [two[0].clone(), two[1].clone(), card("s", &[Role::Server], 1, &[])];
    let assigned = assign(&local, &three).expect("assigned");
    assert_eq!((assigned.server.as_str(), assigned.clients.len()), ("s", 2));
    let probe = card("p", &[Role::Probe], 1, &[]);
    let assigned = assign(&local, &[two[0].clone(), probe]).expect("assigned");
    assert_eq!(assigned.watched, ["p"]);
}

#[test]
fn users_are_everywhere_once_whatever_the_weights() {
    for (users, cpus) in [(17, vec![1, 2, 3]), (1_000_000, vec![4; 17]), (10, vec![64, 1, 9])] {
        let experiment = experiment(&format!("users: {users}"));
        let mut cards = vec![card("s", &[Role::Server], 1, &[])];
        let named = cpus.iter().enumerate();
        cards.extend(named.map(|(it, cpus)| {
            let mut card = card(&format!("c{it}"), &[Role::Client], *cpus, &[]);
            card.addresses = (1..=9).map(|last| Ipv4Addr::new(10, 1, it as u8, last)).collect();
            card
        }));
        match assign(&experiment, &cards) {
            Ok(it) => {
                let users_of = |process| it.users_of(process).expect("a process");
                let all: Vec<_> = (0..it.processes()).flat_map(users_of).collect();
                assert!(all.iter().copied().eq(0..users), "{users} {cpus:?}");
            }
            // So few that a host would have nobody.
            Err(error) => {
                assert!(users == 10 && error.to_string().contains("ascending"), "{error}");
            }
        }
    }
}

#[test]
fn agents_of_one_namespace_share_its_addresses_and_ports() {
    let mut cards = [
        card("s", &[Role::Server], 1, &[]),
        card("a", &[Role::Client], 1, &[]),
        card("b", &[Role::Client], 1, &[]),
        card("c", &[Role::Client], 1, &[]),
    ];
    cards[3].boot = cards[1].boot.clone();
    let assigned = assign(&experiment("users: 300"), &cards).expect("assigned");
    // A flow is the place of a user among the addresses and ports: nobody's is another one's.
    let flows: Vec<_> = assigned
        .clients
        .iter()
        .map(|it| (it.users.start - it.first_flow..it.users.end - it.first_flow, it.flows))
        .collect();
    assert_eq!(flows, [(0..100, 200), (0..100, 100), (100..200, 200)]);
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let cards = [card("big", &[Role::Server], 8, &[]), card("vm1", &[Role::Client], 4, &[])];
    let vm = |more: &str| fleet(&format!("(name: \"vm\", cores: 1, memory_gib: 5{more})"));
    assert!(assign(&vm(""), &cards).is_ok());
    refused(&vm(""), &cards[1..], "nobody named big… can be the server; there is vm1 (client)");
    refused(&vm(""), &cards[..1], "on 1 hosts, and 0 can be that; there is big (server)");
    refused(&vm(", count: 2"), &cards, "on 2 hosts, and 1 can be that");
    refused(&vm(", labels: {\"a\": \"b\"}"), &cards, "clients labelled a=b are needed");
    refused(&vm(", users: 999"), &cards, "1000 users do not fit");
    refused(&vm(", range: (0, 999)"), &cards, "users 999..1000 are on no host");
    refused(&experiment("users: 5"), &[], "nobody can be the server; there is nobody");
    refused(&experiment("users: 5"), &cards[..1], "nobody can be a client");
    let two = [cards[0].clone(), cards[1].clone(), card("vm2", &[Role::Client], 4, &[])];
    let ranges = |first: &str, second: &str| {
        fleet(&format!(
            "(name: \"vm1\", cores: 1, memory_gib: 5{first}),
            (name: \"vm2\", cores: 1, memory_gib: 5{second})"
        ))
    };
    let overlap = ranges(", range: (0, 600)", ", range: (500, 1000)");
    refused(&overlap, &two, "users 500..600 are those of vm1 and of vm2: ranges overlap");
    refused(&ranges(", range: (0, 600)", ""), &two, "either all");
    refused(&ranges(", users: 600", ""), &two, "either all clients of a fleet have a number");
    refused(&ranges(", range: (0, 1)", ", range: (2, 1000)"), &two, "users 1..2 are on no host");
    let mut many = vm("");
    many.users = Users::try_from(100_000).expect("users");
    refused(&many, &cards, "need 2 addresses with ports 1024 to 65535, and it offers 1");
    let mut lonely = cards.clone();
    lonely[0].addresses = vec![Ipv4Addr::LOCALHOST];
    refused(&vm(""), &lonely, "vm1 cannot reach the server: big offers only 127.0.0.1");
}
