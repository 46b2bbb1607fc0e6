//! The sockets of a shard against plain blocking sockets of the standard library, and two shards
//! under glommio against each other.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use platform::Placement;

use shard::{
    Closed, ConnId, ConnectOptions, Handler, Inboxes, Limits, ListenOptions, Net, Next,
    bind_listener, drive, spawn,
};

const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
/// Nothing here takes a second; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Echoes lines, and does what some lines say.
#[derive(Default)]
struct Lines {
    seen: Vec<String>,
    closed: Vec<Closed>,
    accepted: usize,
    connected: Vec<ConnId>,
}

fn send(net: &mut Net, id: ConnId, bytes: &[u8]) {
    net.send_with(id, bytes.len(), |space| space.copy_from_slice(bytes));
}

impl Handler for Lines {
    fn accepted(&mut self, _: &mut Net, _: ConnId) {
        self.accepted += 1;
    }

    fn connected(&mut self, _: &mut Net, id: ConnId) {
        self.connected.push(id);
    }

    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(end) = bytes[used..].iter().position(|byte| *byte == b'\n') {
            let line = &bytes[used..=used + end];
            used += line.len();
            let text = String::from_utf8_lossy(line).trim_end().to_owned();
            match text.as_str() {
                "flood" => {
                    for _ in 0..10_000 {
                        send(net, id, &[b'.'; 1000]);
                    }
                }
                "finish" => {
                    send(net, id, b"bye\n");
                    net.finish(id);
                }
                "close" => {
                    send(net, id, b"bye\n");
                    net.close(id);
                }
                _ => {
                    // In two pieces, to be joined.
                    send(net, id, &line[..1]);
                    send(net, id, &line[1..]);
                }
            }
            self.seen.push(text);
        }
        used
    }

    fn closed(&mut self, _: &mut Net, _: ConnId, why: Closed) {
        self.closed.push(why);
    }

    fn notified(&mut self, _: &mut Net) {}

    fn polled(&mut self, _: &mut Net) -> Next {
        Next::Whenever
    }
}

fn limits(connections: u32) -> Limits {
    let mut limits = Limits::new(connections, 3, 4096);
    limits.stall_ns = 200_000_000;
    limits
}

fn listening(limits: Limits) -> (Net, SocketAddr) {
    let socket = bind_listener(&ListenOptions {
        address: LOOPBACK,
        backlog: 64,
        cpu: None,
        congestion: None,
    })
    .expect("a free port");
    let address = rustix::net::getsockname(&socket).expect("bound").try_into().expect("an address");
    let mut net = Net::new(limits, None).expect("epoll");
    net.listen(socket).expect("listening");
    (net, address)
}

/// Polls until `until` holds. The timer keeps a poll from waiting for ever.
fn poll_until(net: &mut Net, lines: &mut Lines, until: impl Fn(&Net, &Lines) -> bool) {
    let start = Instant::now();
    while !until(net, lines) {
        assert!(start.elapsed() < PATIENCE, "seen {:?}, closed {:?}", lines.seen, lines.closed);
        let soon = net.read_clock() + 10_000_000;
        net.wake_by(soon).expect("timer");
        net.poll(lines, true).expect("poll");
    }
}

fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

#[test]
fn more_connections_than_a_ring_holds() {
    let (mut net, address) = listening(limits(10));
    let mut lines = Lines::default();
    let mut clients: Vec<_> = (0..10).map(|_| client(address)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        writeln!(client, "hello {number}").expect("sent");
    }
    poll_until(&mut net, &mut lines, |_, lines| lines.seen.len() == 10);
    for (number, client) in clients.iter_mut().enumerate() {
        let mut answer = vec![0; format!("hello {number}\n").len()];
        client.read_exact(&mut answer).expect("answered");
        assert_eq!(answer, format!("hello {number}\n").as_bytes());
    }
    assert_eq!(net.connections(), 10);
    // No slot left: the next one is told at once.
    let mut eleventh = client(address);
    poll_until(&mut net, &mut lines, |net, _| net.counters().turned_away == 1);
    assert!(eleventh.read(&mut [0; 8]).is_err(), "a reset, not silence");
    drop(clients);
    poll_until(&mut net, &mut lines, |net, _| net.connections() == 0);
    assert_eq!(lines.closed, [Closed::ByPeer; 10]);
    let mut again = client(address);
    writeln!(again, "room again").expect("sent");
    poll_until(&mut net, &mut lines, |_, lines| lines.seen.len() == 11);
    // What never was a descriptor for long is none now: the socket is closed with its slot.
    assert_eq!(net.ids().count(), 1);
}

#[test]
fn a_frame_in_pieces_and_many_in_one() {
    let (mut net, address) = listening(limits(4));
    let mut lines = Lines::default();
    let mut peer = client(address);
    let long = "x".repeat(3000);
    let text = format!("one\ntwo\n{long}\nthree\n");
    for piece in text.as_bytes().chunks(7) {
        peer.write_all(piece).expect("sent");
        net.poll(&mut lines, false).expect("poll");
    }
    poll_until(&mut net, &mut lines, |_, lines| lines.seen.len() == 4);
    assert_eq!(lines.seen, ["one", "two", long.as_str(), "three"]);
    let mut answer = vec![0; text.len()];
    peer.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, text.as_bytes());
    // Over the longest frame, and no end in sight.
    peer.write_all(&[b'y'; 5000]).expect("sent");
    poll_until(&mut net, &mut lines, |_, lines| lines.closed == [Closed::FrameTooLong]);
    assert_eq!(net.connections(), 0);
}

/// Its bytes and its end come as one event of the edge-triggered readiness set.
#[test]
fn a_peer_that_sends_its_last_and_says_so_is_seen_to_leave() {
    let (mut net, address) = listening(limits(4));
    let mut lines = Lines::default();
    for text in ["whole\n", "half"] {
        let mut peer = client(address);
        poll_until(&mut net, &mut lines, |net, _| net.connections() == 1);
        peer.write_all(text.as_bytes()).expect("sent");
        peer.shutdown(Shutdown::Write).expect("still open");
        poll_until(&mut net, &mut lines, |net, _| net.connections() == 0);
        let mut answer = String::new();
        peer.read_to_string(&mut answer).expect("an orderly end");
        assert_eq!(answer == "whole\n", text == "whole\n", "{answer}");
    }
    assert_eq!(lines.closed, [Closed::ByPeer; 2]);
}

#[test]
fn a_peer_that_never_reads_is_closed_and_costs_the_others_nothing() {
    let (mut net, address) = listening(limits(4));
    let mut lines = Lines::default();
    let mut deaf = client(address);
    let mut other = client(address);
    writeln!(deaf, "flood").expect("sent");
    writeln!(other, "hello").expect("sent");
    poll_until(&mut net, &mut lines, |_, lines| lines.closed == [Closed::NotReading]);
    poll_until(&mut net, &mut lines, |_, lines| lines.seen.len() == 2);
    other.read_exact(&mut [0; 6]).expect("answered");
    assert_eq!(net.connections(), 1);
}

/// Sends to a peer that does not read until a send was cut short; returns how many bytes.
fn fill(net: &mut Net, lines: &mut Lines, piece: &[u8]) -> usize {
    poll_until(net, lines, |net, _| net.connections() == 1);
    let id = net.ids().next().expect("one connection");
    let mut sent = 0;
    while net.counters().short_sends == 0 {
        send(net, id, piece);
        sent += piece.len();
        net.flush().expect("sent");
    }
    sent
}

#[test]
fn a_peer_whose_backlog_does_not_move_is_closed() {
    let (mut net, address) = listening(limits(4));
    let mut lines = Lines::default();
    let _deaf = client(address);
    fill(&mut net, &mut lines, &[b'z'; 1000]);
    poll_until(&mut net, &mut lines, |_, lines| lines.closed == [Closed::NotReading]);
}

#[test]
fn a_backlog_is_sent_when_the_peer_reads_again() {
    let mut patient = limits(4);
    patient.stall_ns = PATIENCE.as_nanos() as u64;
    let (mut net, address) = listening(patient);
    let mut lines = Lines::default();
    let mut slow = client(address);
    let piece: Vec<u8> = (0..1000).map(|byte| (byte % 251) as u8).collect();
    let sent = fill(&mut net, &mut lines, &piece);
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; sent];
        slow.read_exact(&mut got).expect("everything arrives");
        slow.shutdown(Shutdown::Both).expect("shutdown");
        got
    });
    poll_until(&mut net, &mut lines, |_, lines| lines.closed.len() == 1);
    let got = reader.join().expect("no panic");
    assert!(got.chunks(piece.len()).all(|part| part == piece), "order or bytes lost");
}

#[test]
fn the_last_word_arrives_though_input_is_unread() {
    let (mut net, address) = listening(limits(4));
    let mut lines = Lines::default();
    let mut peer = client(address);
    peer.write_all(b"finish\nand a rest that is not read").expect("sent");
    poll_until(&mut net, &mut lines, |_, lines| lines.seen.len() == 1);
    peer.write_all(b"more").expect("sent");
    let mut answer = String::new();
    peer.read_to_string(&mut answer).expect("an orderly end");
    assert_eq!(answer, "bye\n");
    // The peer leaves its end open: a second is all it gets.
    poll_until(&mut net, &mut lines, |net, _| net.connections() == 0);
    assert!(lines.closed.is_empty(), "the handler did it itself");

    let mut peer = client(address);
    peer.write_all(b"close\n").expect("sent");
    poll_until(&mut net, &mut lines, |net, lines| lines.seen.len() == 2 && net.connections() == 0);
    let mut answer = String::new();
    peer.read_to_string(&mut answer).expect("an orderly end");
    assert_eq!(answer, "bye\n");
}

#[test]
fn connecting() {
    let listener = TcpListener::bind(LOOPBACK).expect("a free port");
    let SocketAddr::V4(server) = listener.local_addr().expect("bound") else { panic!("IPv4") };
    let mut net = Net::new(limits(4), None).expect("epoll");
    let mut lines = Lines::default();
    let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 3, 1), 0);
    let options = ConnectOptions { source, server, congestion: None };
    let id = net.connect(options).expect("begins");
    poll_until(&mut net, &mut lines, |_, lines| lines.connected == [id]);
    let (mut accepted, from) = listener.accept().expect("accepted");
    assert_eq!(from.ip(), *source.ip());
    send(&mut net, id, b"over\n");
    net.flush().expect("sent");
    accepted.read_exact(&mut [0; 5]).expect("arrived");

    // The same address and port again: refused by the kernel at once.
    let SocketAddr::V4(used) = from else { panic!("IPv4") };
    let again = net.connect(ConnectOptions { source: used, ..options });
    assert_eq!(again.expect_err("in use").kind(), ErrorKind::AddrNotAvailable);

    drop(listener);
    net.connect(options).expect("begins");
    poll_until(&mut net, &mut lines, |_, lines| !lines.closed.is_empty());
    assert_eq!(lines.closed, [Closed::NotConnected(libc_econnrefused())]);
    // Closing resets, so that no TIME_WAIT keeps the port.
    net.close(id);
    assert!(accepted.read(&mut [0; 8]).is_err());
}

fn libc_econnrefused() -> i32 {
    rustix::io::Errno::CONNREFUSED.raw_os_error()
}

/// Under glommio: two shards pass a number to and fro by messages; between bursts they are idle
/// long enough to wait in glommio's reactor, and must wake from there too.
#[test]
fn shards_wake_each_other_from_both_kinds_of_sleep() {
    struct PingPong {
        inboxes: Inboxes<u64>,
        me: usize,
        heard: BTreeMap<u64, ()>,
        idle_until_ns: u64,
        pending: Option<u64>,
        done: bool,
    }
    const ROUNDS: u64 = 40;

    impl Handler for PingPong {
        fn accepted(&mut self, _: &mut Net, _: ConnId) {}
        fn connected(&mut self, _: &mut Net, _: ConnId) {}
        fn received(&mut self, _: &mut Net, _: ConnId, bytes: &[u8]) -> usize {
            bytes.len()
        }
        fn closed(&mut self, _: &mut Net, _: ConnId, _: Closed) {}
        fn notified(&mut self, net: &mut Net) {
            let (heard, pending) = (&mut self.heard, &mut self.pending);
            self.inboxes.drain(self.me, 64, |number| {
                heard.insert(number, ());
                *pending = Some(number + 1);
            });
            if let Some(number) = self.pending {
                self.done = number > ROUNDS;
                // Every fourth answer comes after a nap that outlasts the lingering.
                let nap = if number % 4 == 0 { 25_000_000 } else { 0 };
                self.idle_until_ns = net.now_ns() + nap;
            }
        }
        fn polled(&mut self, net: &mut Net) -> Next {
            if let Some(number) = self.pending {
                if net.now_ns() < self.idle_until_ns {
                    return Next::By(self.idle_until_ns);
                }
                self.pending = None;
                self.inboxes.post(1 - self.me, number).expect("room");
            }
            if self.done { Next::Stop } else { Next::Whenever }
        }
    }

    let inboxes = Inboxes::new(2, 8).expect("eventfd");
    let start = Instant::now();
    let shards = spawn("pingpong", 2, &Placement::Free, move |context| {
        let inboxes = inboxes.clone();
        async move {
            let mut net = Net::new(limits(1), Some(inboxes.eventfd(context.shard))).expect("epoll");
            let pending = (context.shard == 0).then_some(0);
            let mut handler = PingPong {
                inboxes: inboxes.clone(),
                me: context.shard,
                heard: BTreeMap::new(),
                idle_until_ns: 0,
                pending,
                done: false,
            };
            drive(&mut net, &mut handler).await.expect("runs");
            handler.heard.len()
        }
    })
    .expect("two shards");
    let heard: usize = shards.join().expect("no panic").into_iter().sum();
    assert_eq!(heard as u64, ROUNDS + 2, "numbers 0 to {}", ROUNDS + 1);
    assert!(start.elapsed() < PATIENCE);
}
