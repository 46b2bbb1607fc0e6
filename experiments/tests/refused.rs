//! Connections that cannot be opened: the client says why and who, the server says when it turns
//! them away, each once.

mod common;

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};

use common::Running;
use rustix::process::Signal;

/// A port of which nobody is told.
fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("bound").port()
}

#[test]
fn a_client_says_why_it_cannot_connect_and_who_refuses() {
    let server = format!("127.0.0.1:{}", free_port());
    let users = ["--users", "0..200", "--rate", "10", "--control", "127.0.0.1:0"];
    let client = Running::start(&[&["client", "--server", &server][..], &users].concat());
    let said = client.wait_for("lab-client: ECONNREFUSED");
    assert!(said.contains(&format!("{server} refuses connections: nobody listens")), "{said}");
    client.signal(Signal::INT);
    let sum = client.wait_for("lab-client: connections that could not be opened: ");
    let count = sum.rsplit_once("ECONNREFUSED ").expect("a reason").1.trim_end_matches(')');
    assert!(count.parse::<u64>().is_ok_and(|count| count >= 200), "{sum}");
    assert!(sum.contains(&format!("{count} (ECONNREFUSED")), "one reason is the sum: {sum}");
    assert_eq!(client.exit_code(), Some(4));
}

#[test]
fn a_server_says_once_that_it_turns_connections_away_and_how_many_at_the_end() {
    const MOST: usize = 4;
    const PEERS: usize = 12;
    let address = format!("127.0.0.1:{}", free_port());
    let limit = ["--users", "10", "--connections", "4", "--control", "127.0.0.1:0"];
    let server = Running::start(&[&["server", "--listen", &address][..], &limit].concat());
    server.wait_for("lab-server: ");
    let peers: Vec<TcpStream> =
        (0..PEERS).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    // A peer that is turned away is told; the others are not.
    let gone = |mut peer: &TcpStream| {
        peer.set_nonblocking(true).expect("a socket");
        peer.read(&mut [0]).map_or_else(|error| error.kind() != ErrorKind::WouldBlock, |_| true)
    };
    common::wait_until("they are turned away", || {
        peers.iter().filter(|peer| gone(peer)).count() == PEERS - MOST
    });
    let said = server.wait_for("lab-server: turns connections away");
    assert!(said.contains("may hold 4 at a time"), "{said}");
    server.signal(Signal::INT);
    let said = server.wait_for("lab-server: turned ");
    assert_eq!(said, "lab-server: turned 8 connections away in all");
}
