//! `lab nic` beside interfaces that come, go, are renamed, and carry traffic.

mod common;

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Output};

use common::{Running, assert_exit, lab, output, said};
use needs::test;
use serde_json::Value;

needs::main!();

/// Bytes of a datagram, and before them: Ethernet 14, IPv4 20, UDP 8.
const SIZE: usize = 100;
const HEADERS: u64 = 42;
const DATAGRAMS: u64 = 500;

fn can_be() -> bool {
    needs::root() && needs::program("ip", "ip")
}

fn ip(arguments: &str) -> Output {
    let output = output(Command::new("ip").args(arguments.split(' ')));
    assert!(output.status.success(), "ip {arguments}: {}", said(&output));
    output
}

/// A network namespace with a name, that is gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let name = format!("labnic-{name}-{}", std::process::id());
        ip(&format!("netns add {name}"));
        let own = Self(name);
        // No neighbour discovery: nothing but the test's own packets crosses its links.
        let quiet = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 || true";
        output(Command::new("ip").args(["netns", "exec", &own.0, "sh", "-c", quiet]));
        own
    }

    fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }

    /// `lab` there, its lines on standard error.
    fn lab(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, "sh", "-c", "exec \"$@\" >&2", "sh"]);
        command.arg(env!("CARGO_BIN_EXE_lab")).args(arguments);
        command
    }

    /// A socket there.
    fn socket(&self, address: &str) -> UdpSocket {
        let path = format!("/run/netns/{}", self.0);
        let file = OwnedFd::from(std::fs::File::open(path).expect("the namespace"));
        std::thread::scope(|scope| {
            let bound = scope.spawn(move || {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).expect("root");
                UdpSocket::bind(address).expect("its address")
            });
            bound.join().expect("a socket")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// Adds lines of JSON to `seen`, until something is so of the last one.
fn until(lab: &Running, seen: &mut Vec<Value>, so: impl Fn(&Value) -> bool) {
    while !so(next(lab, seen)) {}
}

fn next<'a>(lab: &Running, seen: &'a mut Vec<Value>) -> &'a Value {
    seen.push(serde_json::from_str(&lab.wait_for("{")).expect("JSON"));
    seen.last().expect("just pushed")
}

/// Whether a line says that this happened to the interface.
fn has(line: &Value, change: &str, nic: &str) -> bool {
    let changes = line["changes"].as_array().expect("a list");
    changes.iter().any(|it| it["change"] == change && it["nic"] == nic)
}

fn card<'a>(line: &'a Value, nic: &str) -> Option<&'a Value> {
    line["cards"].as_array().expect("a list").iter().find(|it| it["nic"] == nic)
}

/// The sum of a counter of the kernel's over all seconds, whatever the interface was called.
fn sum(seen: &[Value], names: &[&str], counter: &str) -> u64 {
    let cards = seen.iter().flat_map(|line| names.iter().filter_map(|nic| card(line, nic)));
    cards.map(|card| card["link"][counter].as_u64().expect("counted")).sum()
}

#[test]
fn interfaces_come_go_and_are_renamed_and_no_packet_is_lost_meanwhile() {
    if !can_be() {
        return;
    }
    let (here, there) = (Namespace::new("here"), Namespace::new("there"));
    let lab = Running::of(&mut here.lab(&["nic", "--json"]));
    let mut seen = Vec::new();
    until(&lab, &mut seen, |line| card(line, "lo").is_some());
    here.ip(&format!("link add veth7 type veth peer name veth8 netns {}", there.0));
    until(&lab, &mut seen, |line| has(line, "came", "veth7"));
    for (namespace, nic, own) in [(&here, "veth7", 1), (&there, "veth8", 2)] {
        namespace.ip(&format!("address add 10.253.7.{own}/24 dev {nic}"));
        // Without ARP a frame goes to its sender's own address: both ends have the same.
        namespace.ip(&format!("link set {nic} address 02:00:00:00:07:01 arp off up"));
    }
    let (from, to) = (there.socket("10.253.7.2:0"), here.socket("10.253.7.1:0"));
    let address = to.local_addr().expect("bound");
    let mut bytes = [7; SIZE];
    let mut send = |count: u64| {
        for _ in 0..count {
            from.send_to(&bytes, address).expect("sent");
            to.recv(&mut bytes).expect("received");
        }
    };
    send(DATAGRAMS);
    // Renamed under way: Linux lets an interface that is up be renamed since 6.2 only.
    here.ip("link set veth7 down");
    here.ip("link set veth7 name lan7");
    until(&lab, &mut seen, |line| has(line, "renamed", "lan7"));
    let change = seen.last().expect("it was there")["changes"][0].clone();
    assert_eq!(change["from"], "veth7", "{change}");
    here.ip("link set lan7 up");
    send(DATAGRAMS);
    let names = ["veth7", "lan7"];
    while sum(&seen, &names, "rx_packets") < 2 * DATAGRAMS {
        next(&lab, &mut seen);
    }
    next(&lab, &mut seen);
    assert_eq!(sum(&seen, &names, "rx_packets"), 2 * DATAGRAMS, "{seen:#?}");
    let all = 2 * DATAGRAMS * (SIZE as u64 + HEADERS);
    assert_eq!(sum(&seen, &names, "rx_bytes"), all, "{seen:#?}");
    let lan7 = card(seen.last().expect("a line"), "lan7").expect("it is there");
    assert_eq!((&lan7["driver"], &lan7["lost_received"]), (&"veth".into(), &0.into()), "{lan7}");
    here.ip("link delete lan7");
    until(&lab, &mut seen, |line| has(line, "gone", "lan7"));
    // Another one of the same name counts from its own beginning.
    here.ip("link add lan7 type veth peer name lan8");
    until(&lab, &mut seen, |line| has(line, "came", "lan7"));
    until(&lab, &mut seen, |line| card(line, "lan7").is_some());
    let fresh = card(seen.last().expect("a line"), "lan7").expect("it is there");
    assert_eq!((&fresh["link"]["rx_packets"], &fresh["jumped_back"]), (&0.into(), &empty()));
    let numbers = seen.iter().flat_map(|line| line["cards"].as_array().expect("a list"));
    for number in numbers.flat_map(|card| card["link"].as_object().expect("counters").values()) {
        assert!(number.as_u64().is_none_or(|number| number <= all), "{number}");
    }
    lab.signal(rustix::process::Signal::INT);
    assert_eq!(lab.exit_code(), Some(0));
}

fn empty() -> Value {
    Value::Array(Vec::new())
}

#[test]
fn a_line_a_second_is_for_people_and_a_mistaken_name_is_told() {
    let output = lab(&["nic", "lo", "--seconds", "2"]);
    assert_exit(&output, 0);
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("  lo  in ")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains(" packets ") && lines[0].contains("  lost in "), "{text}");
    let output = lab(&["nic", "loo", "--seconds", "1"]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("no interface loo"), "{}", said(&output));
    let output = lab(&["nic", "--help"]);
    assert!(said(&output).contains("What it cannot see:"), "{}", said(&output));
}
