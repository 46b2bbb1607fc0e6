//! What peers that pipeline, drip or do not read may cost the others: counted in polls, so that it
//! holds on any machine.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use shard::{Closed, ConnId, Handler, Inboxes, Limits, ListenOptions, Net, Next, bind_listener};
use socket2::{Domain, Socket, Type};

/// Nothing here takes a second; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of a request, and of its answer.
const REQUEST: usize = 16;

/// The most bytes that one connection may be served in one poll: a share, and a chunk.
const MOST: usize = 256 + 1024;

/// The most bytes that those who want more than a share are served in one poll, all together: the
/// bound, and the few that are served together beyond it.
const MOST_OF_ALL: usize = (16 << 10) + 4 * 1024;

/// Answers each request with itself, and notes who was served.
#[derive(Default)]
struct Requests {
    accepted: Vec<ConnId>,
    closed: Vec<Closed>,
    notified: usize,
    /// Bytes of this poll's requests by connection, and who was served, in order.
    served: BTreeMap<u32, usize>,
    order: Vec<u32>,
    /// When the inbox had its turn: after so many.
    notified_after: usize,
    /// It costs next to nothing to be served, so that no clock ends a poll.
    cheap: bool,
    /// Asks something the next time that another is served.
    asks: Option<TcpStream>,
    /// Has asked, and bytes of others that were served since.
    asked: Option<(TcpStream, usize)>,
    /// Has its answer.
    answered: Option<TcpStream>,
    /// What others had before the answers to those that asked were there to be read.
    before_answers: Vec<usize>,
}

impl Requests {
    /// Another is served: notes what who asked in the middle of a poll waits for.
    fn watch(&mut self, bytes: usize) {
        if let Some((mut peer, before)) = self.asked.take() {
            if answered(&mut peer) {
                self.before_answers.push(before);
                self.answered = Some(peer);
            } else {
                self.asked = Some((peer, before + bytes));
            }
        }
        if let Some(mut peer) = self.asks.take() {
            peer.write_all(&[b'q'; REQUEST]).expect("room");
            self.asked = Some((peer, 0));
        }
    }
}

impl Handler for Requests {
    fn accepted(&mut self, _: &mut Net, id: ConnId) {
        self.accepted.push(id);
    }

    fn connected(&mut self, _: &mut Net, _: ConnId) {}

    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
        let whole = bytes.len() / REQUEST * REQUEST;
        if bytes[0] == b'f' {
            self.watch(whole);
        }
        let answers = if self.cheap { REQUEST } else { whole };
        for request in bytes[..answers].chunks(REQUEST) {
            net.send_with(id, REQUEST, |space| space.copy_from_slice(request));
        }
        *self.served.entry(id.slot).or_default() += whole;
        self.order.push(id.slot);
        whole
    }

    fn closed(&mut self, _: &mut Net, _: ConnId, why: Closed) {
        self.closed.push(why);
    }

    fn notified(&mut self, _: &mut Net) {
        self.notified += 1;
        self.notified_after = self.order.len();
    }

    fn polled(&mut self, _: &mut Net) -> Next {
        Next::Whenever
    }
}

/// A shard that is polled one step at a time.
struct Shard {
    net: Net,
    requests: Requests,
    address: SocketAddr,
    inboxes: Inboxes<u32>,
}

impl Shard {
    fn new() -> Self {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let options = ListenOptions { address, backlog: 512, cpu: None, congestion: None };
        let socket = bind_listener(&options).expect("a free port");
        let address =
            rustix::net::getsockname(&socket).expect("bound").try_into().expect("an address");
        let inboxes = Inboxes::new(1, 8).expect("eventfd");
        let mut limits = Limits::new(1000, 128, 4096);
        limits.stall_ns = PATIENCE.as_nanos() as u64;
        let mut net = Net::new(limits, Some(inboxes.eventfd(0))).expect("epoll");
        net.listen(socket).expect("listening");
        Self { net, requests: Requests::default(), address, inboxes }
    }

    /// One poll; returns how many things happened.
    fn poll(&mut self) -> usize {
        self.requests.served.clear();
        self.requests.order.clear();
        self.net.poll(&mut self.requests, false).expect("poll")
    }

    fn poll_until(&mut self, what: &str, until: impl Fn(&Requests) -> bool) {
        let start = Instant::now();
        while !until(&self.requests) {
            assert!(start.elapsed() < PATIENCE, "no {what}");
            self.poll();
        }
    }

    fn connect(&mut self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        self.adopt(stream)
    }

    fn adopt(&mut self, stream: TcpStream) -> TcpStream {
        stream.set_nonblocking(true).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        let wanted = self.requests.accepted.len() + 1;
        self.poll_until("newcomer", |requests| requests.accepted.len() == wanted);
        stream
    }

    /// Peers that have far more to say than a poll serves, and have been served before.
    fn flooded(&mut self, number: usize) -> Vec<TcpStream> {
        let mut peers: Vec<_> = (0..number).map(|_| self.connect()).collect();
        fill(&mut peers);
        // All of them have had a first share, and wait for more.
        for _ in 0..number.div_ceil(4) {
            self.poll();
        }
        peers
    }
}

/// Writes whole requests until each peer has 48 KiB under way, or as much as finds room.
fn fill(peers: &mut [TcpStream]) {
    let requests = vec![b'f'; 48 << 10];
    for peer in peers {
        // What it has read does not matter, only that it reads.
        let mut answers = [0; 4096];
        while peer.read(&mut answers).is_ok_and(|len| len > 0) {}
        match peer.write(&requests) {
            Ok(len) => assert_eq!(len % REQUEST, 0, "the buffer's size would matter"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn answered(peer: &mut TcpStream) -> bool {
    let mut answer = [0; REQUEST];
    matches!(peer.read(&mut answer), Ok(REQUEST)) && answer == [b'q'; REQUEST]
}

#[test]
fn whoever_was_quiet_is_answered_within_the_poll() {
    let mut shard = Shard::new();
    let mut quiet: Vec<_> = (0..3).map(|_| shard.connect()).collect();
    let mut flood = shard.flooded(300);
    let mut turns = BTreeMap::<u32, usize>::new();
    for round in 0..400 {
        if round % 20 == 0 {
            fill(&mut flood);
        }
        let asks = &mut quiet[round % 3];
        asks.write_all(&[b'q'; REQUEST]).expect("room");
        shard.poll();
        assert!(answered(asks), "round {round}: no answer");
        assert_eq!(shard.requests.order.first(), Some(&(round as u32 % 3)), "who was quiet first");
        for (slot, bytes) in &shard.requests.served {
            assert!(*bytes <= MOST, "{bytes} bytes of connection {slot} in one poll");
            *turns.entry(*slot).or_default() += 1;
        }
    }
    // The others have not starved either: they were served one after the other.
    let of_flood: Vec<usize> = turns.range(3..).map(|(_, turns)| *turns).collect();
    let (least, most) = (of_flood.iter().min(), of_flood.iter().max());
    assert_eq!(of_flood.len(), 300, "{turns:?}");
    assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 2), "{of_flood:?}");
    assert!(shard.requests.closed.is_empty());
}

/// Whoever asks in the middle of a poll waits for the rest of that, and for nobody in the next.
#[test]
fn who_was_quiet_waits_for_one_poll_of_a_bounded_size() {
    let mut shard = Shard::new();
    let asks = shard.connect();
    let mut flood = shard.flooded(300);
    shard.requests.cheap = true;
    shard.requests.asks = Some(asks);
    let mut busiest = 0;
    for _ in 0..400 {
        fill(&mut flood);
        shard.poll();
        busiest = busiest.max(shard.requests.served.range(1..).map(|(_, bytes)| bytes).sum());
        if shard.requests.asked.is_none() {
            continue;
        }
        // Its turn is the first of the next poll, and others come after it has its answer.
        shard.poll();
        assert_eq!(shard.requests.order.first(), Some(&0));
        assert!(shard.requests.order.len() > 1 && shard.requests.asked.is_none(), "no answer");
        let last = shard.requests.before_answers.last().copied();
        assert!(last.is_some_and(|before| before <= MOST_OF_ALL), "{last:?} bytes of others");
        shard.requests.asks = shard.requests.answered.take();
    }
    assert!(shard.requests.before_answers.len() > 100);
    assert!(busiest <= MOST_OF_ALL, "{busiest} bytes in one poll");
}

#[test]
fn inbox_and_listener_have_their_turn_in_every_poll() {
    let mut shard = Shard::new();
    let mut quiet = shard.connect();
    let mut flood = shard.flooded(400);
    for round in 0..20 {
        fill(&mut flood);
        shard.inboxes.post(0, round).expect("room");
        quiet.write_all(&[b'q'; REQUEST]).expect("room");
        let (notified, accepted) = (shard.requests.notified, shard.requests.accepted.len());
        let _newcomer = TcpStream::connect(shard.address).expect("connects");
        shard.poll();
        assert_eq!(shard.requests.notified, notified + 1, "round {round}");
        // Messages may be many: who was quiet does not wait for them, and those who pipeline do.
        assert_eq!((shard.requests.order[0], shard.requests.notified_after), (0, 1));
        assert!(answered(&mut quiet));
        assert_eq!(shard.requests.accepted.len(), accepted + 1, "round {round}");
        shard.inboxes.drain(0, 8, |message| assert_eq!(message, round));
    }
}

/// A peer that sends while it waits for its turn does not get a second one.
#[test]
fn a_peer_that_sends_again_waits_in_one_place() {
    let mut shard = Shard::new();
    let mut flood = shard.flooded(100);
    let mut busiest = flood.remove(0);
    let mut shares = Vec::new();
    for _ in 0..300 {
        // An event for each poll, while the others have one each in a hundred.
        let _ = busiest.write(&[b'b'; REQUEST]);
        while busiest.read(&mut [0; 4096]).is_ok_and(|len| len > 0) {}
        shard.poll();
        shares.push(shard.requests.order.iter().filter(|slot| **slot == 0).count());
    }
    assert!(shares.iter().all(|shares| *shares <= 2), "a share and a chunk: {shares:?}");
}

#[test]
fn who_drips_a_frame_waits_for_those_who_ask_at_once() {
    let mut shard = Shard::new();
    let (mut drips, mut asks) = (shard.connect(), shard.connect());
    drips.write_all(&[b'd'; 5]).expect("room");
    shard.poll_until("drop", |requests| !requests.order.is_empty());
    for _ in 0..10 {
        drips.write_all(b"d").expect("room");
        asks.write_all(&[b'q'; REQUEST]).expect("room");
        shard.poll();
        assert_eq!(shard.requests.order, [1, 0]);
        assert!(answered(&mut asks));
    }
    drips.write_all(b"d").expect("room");
    shard.poll();
    assert_eq!(drips.read(&mut [0; 64]).ok(), Some(REQUEST), "it is answered in the end");
}

#[test]
fn who_does_not_read_is_not_read_on_until_it_reads() {
    let mut shard = Shard::new();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(1).expect("a small buffer");
    socket.connect(&shard.address.into()).expect("connects");
    let mut deaf = shard.adopt(socket.into());
    // Numbered requests, until neither side takes any more.
    let mut unsent: Vec<u8> = Vec::new();
    let (mut asked, mut idle, start) = (0u128, 0, Instant::now());
    while idle < 100 {
        if unsent.is_empty() {
            unsent.extend((0..256).flat_map(|more| (asked + more).to_be_bytes()));
            asked += 256;
        }
        let sent = deaf.write(&unsent).unwrap_or(0);
        unsent.drain(..sent);
        idle = if shard.poll() + sent == 0 { idle + 1 } else { 0 };
        assert!(start.elapsed() < PATIENCE, "{asked} requests were taken");
        assert!(shard.requests.closed.is_empty(), "closed after {asked} requests");
    }
    let read = shard.net.counters().bytes_in;
    let all = asked as usize * REQUEST;
    assert!(shard.net.counters().short_sends > 0 && (read as usize) < all - unsent.len());
    // It reads: everything is answered, each with its own number.
    let (mut answers, mut chunk) = (Vec::new(), vec![0; 65_536]);
    while answers.len() < all {
        match deaf.read(&mut chunk) {
            Ok(0) => panic!("closed after {} of {all} bytes", answers.len()),
            Ok(len) => answers.extend_from_slice(&chunk[..len]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let sent = deaf.write(&unsent).unwrap_or(0);
        unsent.drain(..sent);
        shard.poll();
        assert!(start.elapsed() < 2 * PATIENCE, "{} of {all} bytes", answers.len());
    }
    for (number, answer) in answers.chunks(REQUEST).enumerate() {
        assert_eq!(answer, (number as u128).to_be_bytes(), "answer {number}");
    }
    assert!(shard.requests.closed.is_empty());
}
