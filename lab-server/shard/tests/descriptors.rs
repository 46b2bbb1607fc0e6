//! A shard whose descriptors run out. In a program of its own, for the limit is its process's.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shard::{Closed, ConnId, Handler, Limits, ListenOptions, Net, Next, bind_listener};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);

/// Says hello to every peer that connects.
#[derive(Default)]
struct Hello(usize);

impl Handler for Hello {
    fn accepted(&mut self, net: &mut Net, id: ConnId) {
        self.0 += 1;
        net.send_with(id, 5, |space| space.copy_from_slice(b"hello"));
    }
    fn connected(&mut self, _: &mut Net, _: ConnId) {}
    fn received(&mut self, _: &mut Net, _: ConnId, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn closed(&mut self, _: &mut Net, _: ConnId, _: Closed) {}
    fn notified(&mut self, _: &mut Net) {}
    fn polled(&mut self, _: &mut Net) -> Next {
        Next::Whenever
    }
}

fn poll_until(net: &mut Net, hello: &mut Hello, until: impl Fn(&Net, &Hello) -> bool) {
    let start = Instant::now();
    while !until(net, hello) {
        assert!(start.elapsed() < PATIENCE, "{:?}", net.counters());
        let soon = net.read_clock() + 10_000_000;
        net.wake_by(soon).expect("timer");
        net.poll(hello, true).expect("the shard goes on");
    }
}

/// Takes descriptors until there are none.
fn take_all() -> Vec<OwnedFd> {
    std::iter::from_fn(|| eventfd(0, EventfdFlags::CLOEXEC).ok()).collect()
}

#[test]
fn without_a_descriptor_peers_are_turned_away_and_the_shard_goes_on() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).expect("lower is allowed");
    let listener = bind_listener(&ListenOptions {
        address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
        backlog: 64,
        cpu: None,
        congestion: None,
    })
    .expect("a free port");
    let address: std::net::SocketAddr =
        rustix::net::getsockname(&listener).expect("bound").try_into().expect("an address");
    let mut net = Net::new(Limits::new(8, 2, 4096), None).expect("epoll");
    net.listen(listener).expect("listening");
    let mut hello = Hello::default();
    let client = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let mut clients = [client(), client(), client()].into_iter();
    let mut connect = || {
        let client = clients.next().expect("three");
        client.connect(&address.into()).expect("by the kernel alone");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        TcpStream::from(client)
    };

    // Not one is left: the spare one takes the peer, to close it.
    let mut taken = take_all();
    let mut first = connect();
    poll_until(&mut net, &mut hello, |net, _| net.counters().turned_away == 1);
    assert!(first.read(&mut [0; 8]).is_err(), "a reset, not silence");

    // One is left: enough to accept, not for the ring that is to hold the socket.
    taken.pop();
    let mut second = connect();
    poll_until(&mut net, &mut hello, |net, _| net.counters().turned_away == 2);
    assert!(matches!(second.read(&mut [0; 8]), Ok(0) | Err(_)), "closed, not silence");
    assert_eq!((net.connections(), hello.0), (0, 0));

    taken.truncate(taken.len() - 4);
    let mut third = connect();
    poll_until(&mut net, &mut hello, |_, hello| hello.0 == 1);
    let mut said = [0; 5];
    third.read_exact(&mut said).expect("room again");
    assert_eq!(&said, b"hello");
    assert_eq!(net.counters().turned_away, 2);
    drop(taken);
    setrlimit(Resource::Nofile, limit).expect("as before");
}
