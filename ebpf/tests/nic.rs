//! Interface statistics against the real kernel: a pair of virtual interfaces counts exactly what
//! is sent, and says so when it goes away.

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
};

use common::{CLIENT_ADDRESS, PATIENCE, Pair, SERVER_ADDRESS, needs, run, wait_until};
use ebpf::nic::{self, Nic, NicError, NicReading};
use needs::test;

needs::main!();

const PORT: u16 = 17_301;
const SIZE: usize = 100;
const DATAGRAMS: u64 = 1000;

/// Bytes before the data: Ethernet 14, IPv4 20, UDP 8.
const HEADERS: u64 = 42;

/// A pair without neighbour discovery: nothing but the test's own packets crosses it.
fn quiet_pair(name: &str) -> Pair {
    let pair = Pair::new(name);
    let hardware = |netns: &str| {
        let shown = run("ip", &format!("-n {netns} -brief link show veth0"));
        shown.split_whitespace().nth(2).expect("an address").to_owned()
    };
    for (netns, other, address) in
        [(&pair.server, &pair.client, CLIENT_ADDRESS), (&pair.client, &pair.server, SERVER_ADDRESS)]
    {
        let other = hardware(other);
        run("ip", &format!("-n {netns} neighbour replace {address} lladdr {other} dev veth0"));
        run("ip", &format!("-n {netns} link set veth0 addrgenmode none"));
        run("ip", &format!("-n {netns} -6 address flush dev veth0"));
        run("ip", &format!("netns exec {netns} sysctl -qw net.ipv6.conf.all.disable_ipv6=1"));
    }
    for netns in [&pair.server, &pair.client] {
        wait_until("the interface is up", || {
            let shown = run("ip", &format!("-n {netns} -brief link show veth0"));
            shown.split_whitespace().nth(1) == Some("UP")
        });
    }
    pair
}

/// In a thread of a namespace.
fn within<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            Pair::enter(netns);
            work()
        });
        thread.join().expect("the thread")
    })
}

fn link(reading: &NicReading, name: &str) -> u64 {
    reading.link[name].unwrap_or_else(|| panic!("{name} is not counted"))
}

#[test]
fn virtual_interfaces_count_exactly_what_is_sent() {
    let Some(_turn) = needs(&["root", "ip"]) else { return };
    let pair = quiet_pair("labnic");
    // Opened there, read from here.
    let mut server = within(&pair.server, || Nic::open("veth0").expect("the server's end"));
    let mut client = within(&pair.client, || Nic::open("veth0").expect("the client's end"));
    let receiver =
        within(&pair.server, || UdpSocket::bind((SERVER_ADDRESS, PORT)).expect("the port"));
    receiver.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let before = (server.read().expect("readable"), client.read().expect("readable"));
    within(&pair.client, || {
        let socket = UdpSocket::bind((CLIENT_ADDRESS, 0)).expect("a port");
        let to = SocketAddr::from((SERVER_ADDRESS, PORT));
        let mut received = [0; SIZE];
        for _ in 0..DATAGRAMS {
            socket.send_to(&[7; SIZE], to).expect("sent");
            receiver.recv(&mut received).expect("received");
        }
    });
    let after = (server.read().expect("readable"), client.read().expect("readable"));
    let (server, client) = (after.0.since(&before.0), after.1.since(&before.1));
    let bytes = DATAGRAMS * (SIZE as u64 + HEADERS);
    let counted = |reading: &NicReading, way: &str| {
        (link(reading, &format!("{way}_packets")), link(reading, &format!("{way}_bytes")))
    };
    assert_eq!(counted(&server, "rx"), (DATAGRAMS, bytes), "{server:?}");
    assert_eq!(counted(&client, "tx"), (DATAGRAMS, bytes), "{client:?}");
    assert_eq!(link(&server, "tx_packets"), 0, "{server:?}");
    assert_eq!(link(&client, "rx_packets"), 0, "{client:?}");
    for reading in [&server, &client] {
        assert_eq!(reading.driver.as_ref().map(|it| it.driver.as_str()), Some("veth"));
        let queue = &reading.queues.as_ref().expect("queues")[&0];
        assert_eq!(queue.get("rx_drops"), Some(&Some(0)), "{reading:?}");
        let losses = reading.losses();
        assert_eq!((losses.received, losses.sent), (Some(0), Some(0)), "{losses:?}");
    }
}

#[test]
fn what_a_virtual_interface_cannot_deliver_is_a_loss_at_the_card() {
    let Some(_turn) = needs(&["root", "ip"]) else { return };
    let pair = quiet_pair("labniclost");
    let mut client = within(&pair.client, || Nic::open("veth0").expect("the client's end"));
    let before = client.read().expect("readable");
    run("ip", &format!("-n {} link set veth0 down", pair.server));
    // The client's end has lost its carrier; until the kernel has heard of it, packets get as far
    // as the driver.
    let sent = within(&pair.client, || {
        let socket = UdpSocket::bind((CLIENT_ADDRESS, 0)).expect("a port");
        let to = SocketAddr::from((SERVER_ADDRESS, PORT));
        (0..DATAGRAMS).filter(|_| socket.send_to(&[7; SIZE], to).is_ok()).count() as u64
    });
    let grown = client.read().expect("readable").since(&before);
    let losses = grown.losses();
    println!("{sent} accepted; {losses:?}");
    // What got as far as the driver was lost there; what did not was not sent.
    assert_eq!(losses.sent, grown.link["tx_dropped"], "{grown:?}");
    assert!(losses.sent.is_some_and(|lost| lost <= sent), "{sent} accepted: {losses:?}");
    assert_eq!(losses.received, Some(0), "{losses:?}");
    assert_eq!(link(&grown, "tx_packets"), 0, "{grown:?}");
}

#[test]
fn an_interface_that_goes_away_is_an_error_and_stays_one() {
    let Some(_turn) = needs(&["root", "ip"]) else { return };
    let pair = quiet_pair("labnicgone");
    let mut nic = within(&pair.server, || Nic::open("veth0").expect("the server's end"));
    // As long as it is there, it counts.
    link(&nic.read().expect("readable"), "rx_packets");
    run("ip", &format!("-n {} link delete veth0", pair.client));
    let error = nic.read().expect_err("it is gone");
    assert!(matches!(&error, NicError::Gone(name) if name == "veth0"), "{error}");
    assert!(error.to_string().contains("veth0 is gone"), "{error}");
    // Another one of the same name is another one.
    run("ip", &format!("-n {} link add veth0 type veth peer name veth1", pair.server));
    assert!(matches!(nic.read(), Err(NicError::Gone(_))));
    let error = within(&pair.client, || Nic::open("veth0").err()).expect("it is gone there, too");
    assert!(matches!(error, NicError::Missing(_)), "{error}");
}

#[test]
fn the_machines_own_card_is_readable() {
    for link in nic::interfaces().expect("interfaces") {
        // Another test's may be gone by now.
        let Ok(mut nic) = Nic::open(&link) else { continue };
        let reading = nic.read().expect("readable");
        let losses = reading.losses();
        println!(
            "{link}: {:?}, {} counters, {} queues, lost {:?}",
            reading.driver.as_ref().map(|it| &it.driver),
            reading.driver_counters.as_ref().map_or(0, |all| all.len()),
            reading.queues.as_ref().map_or(0, |all| all.len()),
            losses.frames(),
        );
        assert!(reading.link["rx_packets"].is_some());
        // A driver of unknown counters has no sum.
        let known = losses.received.is_some() && losses.sent.is_some();
        assert!(known || reading.driver_counters.is_some(), "{losses:?}");
        assert!(serde_json::to_string(&reading).expect("JSON").contains("\"rx_packets\""));
    }
}
