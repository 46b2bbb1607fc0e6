//! The client's users against the server's logic in one simulated world: connections break, answers
//! take longer than users wait, messages between shards are late. The ledger and the receipts must
//! agree.

mod latencies;
#[path = "../../lab-server/tests/sim/mod.rs"]
mod sim;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use accounting::{LastAnswers, Losses, Money};
use attribution::Tally;
use lab_client::load::{Event, LoadGenerator, Rules};
use workload::{Chat, Connect, Creates, Flows, Load, Pacing, Phase, Rate, Receipts, Share};

use accounting::server::Counters;
use lab_client::transport::Transport;
use lab_server::directory::Address;
use lab_server::generator::{GeneratorSpec, PacketKind};
use lab_server::logic::Logic;
use lab_server::message::Message;
use platform::{Clock, NANOS_PER_SECOND};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use service::Notices;
use shard::{Closed, ConnId};
use wire::{CreateResult, Decoded, Frame, ShakeResult, decode};

use sim::{Cluster, Out, START_NS, rules};

const SEEDS: u64 = 40;
const USERS: u32 = 60;
const CLIENT_SHARDS: usize = 2;
const MILLISECOND: u64 = 1_000_000;
/// The load begins a second after the world, and is over this many seconds later.
const LOADED: u64 = 12;
/// Seconds after which everything has come to its end: timeouts, handshakes, stalls.
const ALL: u64 = LOADED + 14;

/// Something on its way over a connection.
enum Moving {
    Connect,
    Connected,
    Bytes(Vec<u8>),
    End,
}

/// A connection between a client's user and the server.
#[derive(Default)]
struct Link {
    generation: u32,
    /// The client has not closed it, nor been told that it is closed.
    open: bool,
    server: Option<Address>,
    up: VecDeque<(u64, Moving)>,
    down: VecDeque<(u64, Moving)>,
    /// Nothing that is sent to the client arrives before.
    stalled_until: u64,
}

/// What broken connections swallowed, and what arrived.
#[derive(Default)]
struct Swallowed {
    granted: Money,
    claimed: Money,
    created: Money,
    refunded: Money,
    answers_delivered: u64,
    shakes_sent: u64,
}

impl Swallowed {
    /// A frame from the server will not arrive.
    fn lose(&mut self, bytes: &[u8]) {
        match frame_of(bytes) {
            Frame::ShakeResponse { result, amount, .. }
                if result == ShakeResult::Granted as u32 =>
            {
                self.granted += Money::share(amount);
            }
            Frame::ClaimResponse { amount: amount @ 1.., .. } => {
                self.claimed += Money::share(amount);
            }
            Frame::CreatePacketResponse { request, result, .. }
                if result == CreateResult::Ok.code() =>
            {
                self.created += Money::shares(request & 0xff, request >> 8);
            }
            Frame::PacketRefund { amount, shares, .. } => {
                self.refunded += Money::shares(shares, amount);
            }
            _ => {}
        }
    }
}

fn frame_of(bytes: &[u8]) -> Frame<'_> {
    match decode(bytes) {
        Decoded::Frame { frame, length, .. } if length == bytes.len() => frame,
        other => panic!("{other:?}"),
    }
}

/// What has arrived by now, oldest first.
fn arrived(queue: &mut VecDeque<(u64, Moving)>, now_ns: u64) -> Option<Moving> {
    queue.front().filter(|(at, _)| *at <= now_ns)?;
    queue.pop_front().map(|(_, event)| event)
}

/// All connections, by shard of the client and slot.
struct Links {
    now_ns: u64,
    links: Vec<Vec<Link>>,
    swallowed: Swallowed,
    random: Pcg64Mcg,
}

impl Links {
    fn delay(&mut self) -> u64 {
        self.random.random_range(MILLISECOND / 10..3 * MILLISECOND)
    }

    fn link(&mut self, shard: usize, conn: ConnId) -> Option<&mut Link> {
        let link = self.links[shard].get_mut(conn.slot as usize)?;
        (link.generation == conn.generation && link.open).then_some(link)
    }

    fn send_up(&mut self, shard: usize, conn: ConnId, event: Moving) {
        let at = self.now_ns + self.delay();
        if let Some(link) = self.link(shard, conn) {
            // In order: nothing overtakes what was sent before.
            let at = link.up.back().map_or(at, |(before, _)| at.max(*before));
            link.up.push_back((at, event));
        }
    }

    fn send_down(&mut self, shard: usize, slot: usize, event: Moving) {
        let at = self.now_ns + self.delay();
        let link = &mut self.links[shard][slot];
        if link.open {
            let at = link.down.back().map_or(at, |(before, _)| at.max(*before));
            link.down.push_back((at.max(link.stalled_until), event));
        } else if let Moving::Bytes(bytes) = event {
            self.swallowed.lose(&bytes);
        }
    }

    /// Nothing more arrives at the client.
    fn cut_down(&mut self, shard: usize, slot: usize) {
        for (_, event) in std::mem::take(&mut self.links[shard][slot].down) {
            if let Moving::Bytes(bytes) = event {
                self.swallowed.lose(&bytes);
            }
        }
    }
}

/// The network of one shard of the client.
struct Port<'a> {
    links: &'a mut Links,
    shard: usize,
}

impl Transport for Port<'_> {
    fn now_ns(&self) -> u64 {
        self.links.now_ns
    }

    fn read_clock(&mut self) -> u64 {
        self.links.now_ns
    }

    fn open(&mut self, _: SocketAddrV4) -> std::io::Result<ConnId> {
        let links = &mut self.links.links[self.shard];
        let free = links.iter().position(|link| !link.open && link.up.is_empty());
        let slot = free.unwrap_or_else(|| {
            links.push(Link::default());
            links.len() - 1
        });
        let generation = links[slot].generation + 1;
        links[slot] = Link { generation, open: true, ..Link::default() };
        let conn = ConnId { slot: slot as u32, generation };
        self.links.send_up(self.shard, conn, Moving::Connect);
        Ok(conn)
    }

    fn send(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let mut bytes = vec![0; frame.encoded_len()];
        frame.encode(0, &mut bytes).expect("fits");
        let shake = matches!(frame, Frame::ShakeRequest { .. });
        self.links.swallowed.shakes_sent += u64::from(shake);
        self.links.send_up(self.shard, conn, Moving::Bytes(bytes));
    }

    fn flush(&mut self) {}

    fn give_way(&mut self) {}

    fn close(&mut self, conn: ConnId) {
        self.links.send_up(self.shard, conn, Moving::End);
        if let Some(link) = self.links.link(self.shard, conn) {
            link.open = false;
            self.links.cut_down(self.shard, conn.slot as usize);
        }
    }
}

/// Client, server and what is between them.
struct World {
    cluster: Cluster,
    generators: Vec<LoadGenerator>,
    links: Links,
    /// The connection of each server's address.
    by_server: HashMap<(u16, ConnId), (usize, usize)>,
    notices: Notices,
    settled: Vec<Tally>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let shards = random.random_range(2..=4);
        let limit = (seed % 5 == 4).then_some(40);
        let notices = if seed % 4 == 3 { Notices::Answer } else { Notices::Push };
        let mut cluster = Cluster::new(shards, 2 * shards, limit, rules(USERS, notices, seed));
        let (total, from_ns, until_ns) = (None, None, None);
        let order = GeneratorSpec {
            id: 1,
            kind: PacketKind::Shaken,
            rate: 50,
            total,
            seed,
            from_ns,
            until_ns,
        };
        cluster.tell(0, Message::Start(order));
        let flows = Flows {
            sources: vec![Ipv4Addr::LOCALHOST],
            first_port: 1024,
            last_port: 60_000,
            but: 0,
        };
        let rules = Arc::new(Rules {
            seed,
            timeout_ns: 5 * NANOS_PER_SECOND,
            late_ns: 10 * MILLISECOND,
            notices,
            own_commands: true,
            flows,
            first_flow: 0,
            reconnect: true,
            slow_kept: 8,
            join: false,
        });
        let generator = |shard| {
            let (total_users, first, end, shards) = (USERS, 0, USERS, CLIENT_SHARDS);
            let share = Share { total_users, first, end, shard, shards };
            let mut generator =
                LoadGenerator::new(share, Arc::clone(&rules), Clock::with_offset(0), START_NS);
            phases().into_iter().for_each(|phase| generator.add_phase(phase));
            generator
        };
        let links = Links {
            now_ns: START_NS,
            links: (0..CLIENT_SHARDS).map(|_| Vec::new()).collect(),
            swallowed: Swallowed::default(),
            random,
        };
        let generators = (0..CLIENT_SHARDS).map(generator).collect();
        let by_server = HashMap::new();
        Self { cluster, generators, links, by_server, notices, settled: Vec::new() }
    }

    fn with_generator<T>(
        &mut self,
        shard: usize,
        act: impl FnOnce(&mut LoadGenerator, &mut Port<'_>) -> T,
    ) -> T {
        let mut port = Port { links: &mut self.links, shard };
        act(&mut self.generators[shard], &mut port)
    }

    /// What the server did goes on its way to the clients.
    fn read_server(&mut self) {
        while let Some(out) = self.cluster.take_out() {
            match out {
                Out::Frame(at, bytes) => match self.by_server.get(&(at.shard, at.conn)) {
                    Some((shard, slot)) => {
                        self.links.send_down(*shard, *slot, Moving::Bytes(bytes));
                    }
                    None => self.links.swallowed.lose(&bytes),
                },
                Out::Closed(at) => {
                    if let Some((shard, slot)) = self.by_server.remove(&(at.shard, at.conn)) {
                        self.links.links[shard][slot].server = None;
                        self.links.send_down(shard, slot, Moving::End);
                    }
                }
            }
        }
    }

    /// What has arrived at the server by now.
    fn arrive_up(&mut self, shard: usize, slot: usize) {
        let now_ns = self.links.now_ns;
        while let Some(event) = arrived(&mut self.links.links[shard][slot].up, now_ns) {
            match (event, self.links.links[shard][slot].server) {
                (Moving::Connect, _) => {
                    let to = self.links.random.random_range(0..self.cluster.shards.len());
                    let at = self.cluster.connect(to);
                    self.by_server.insert((at.shard, at.conn), (shard, slot));
                    self.links.links[shard][slot].server = Some(at);
                    self.links.send_down(shard, slot, Moving::Connected);
                }
                (Moving::Bytes(bytes), Some(at)) => {
                    let half = self.links.random.random_range(0..=bytes.len());
                    self.cluster.receive(at, &bytes[..half]);
                    self.cluster.receive(at, &bytes[half..]);
                }
                (Moving::End, Some(at)) => self.leave_server(at),
                _ => {}
            }
            self.read_server();
        }
    }

    fn leave_server(&mut self, at: Address) {
        if let Some((shard, slot)) = self.by_server.remove(&(at.shard, at.conn)) {
            self.links.links[shard][slot].server = None;
        }
        self.cluster.disconnect(at);
        self.read_server();
    }

    /// What has arrived at the client by now.
    fn arrive_down(&mut self, shard: usize, slot: usize) {
        let now_ns = self.links.now_ns;
        loop {
            let link = &mut self.links.links[shard][slot];
            let conn = ConnId { slot: slot as u32, generation: link.generation };
            let Some(event) = arrived(&mut link.down, now_ns) else { return };
            match event {
                Moving::Connected => {
                    self.with_generator(shard, |generator, port| generator.connected(port, conn));
                }
                Moving::Bytes(bytes) => self.hand_over(shard, conn, &bytes),
                Moving::End => {
                    link.open = false;
                    self.with_generator(shard, |generator, port| {
                        generator.closed(port, conn, Closed::ByPeer);
                    });
                }
                Moving::Connect => unreachable!("that goes up"),
            }
        }
    }

    /// In two pieces, of which the first may be half a frame.
    fn hand_over(&mut self, shard: usize, conn: ConnId, bytes: &[u8]) {
        let answer = match frame_of(bytes) {
            Frame::ShakeResponse { .. } => true,
            Frame::SendPacket { .. } => self.notices == Notices::Answer,
            _ => false,
        };
        self.links.swallowed.answers_delivered += u64::from(answer);
        let half = self.links.random.random_range(0..bytes.len());
        let used = self.with_generator(shard, |generator, port| {
            generator.received(port, conn, &bytes[..half])
        });
        assert_eq!(used, 0, "half a frame");
        let used =
            self.with_generator(shard, |generator, port| generator.received(port, conn, bytes));
        assert_eq!(used, bytes.len());
    }

    /// A connection breaks: what is under way on it is lost, in both directions.
    fn cut(&mut self, shard: usize, slot: usize) {
        let link = &mut self.links.links[shard][slot];
        if !link.open {
            return;
        }
        link.open = false;
        link.up.clear();
        let conn = ConnId { slot: slot as u32, generation: link.generation };
        // The server may learn of it when the user has long come back.
        let later = self.links.random.random_range(0..NANOS_PER_SECOND / 2);
        link.up.push_back((self.links.now_ns + later, Moving::End));
        self.links.cut_down(shard, slot);
        self.with_generator(shard, |generator, port| generator.closed(port, conn, Closed::ByPeer));
    }

    /// Some connection breaks or stalls, in both cases every few hundred milliseconds.
    fn disturb(&mut self) {
        let shard = self.links.random.random_range(0..CLIENT_SHARDS);
        let links = self.links.links[shard].len();
        if links == 0 {
            return;
        }
        let slot = self.links.random.random_range(0..links);
        match self.links.random.random_range(0..300) {
            0 | 1 => self.cut(shard, slot),
            2 => {
                let stall = self.links.random.random_range(0..8 * NANOS_PER_SECOND);
                self.links.links[shard][slot].stalled_until = self.links.now_ns + stall;
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        let ns = self.links.random.random_range(MILLISECOND / 2..4 * MILLISECOND);
        self.links.now_ns += ns;
        self.cluster.pass(ns);
        self.read_server();
        for _ in 0..self.links.random.random_range(0..20) {
            self.cluster.deliver();
            self.read_server();
        }
        for shard in 0..CLIENT_SHARDS {
            for slot in 0..self.links.links[shard].len() {
                self.arrive_up(shard, slot);
                self.arrive_down(shard, slot);
            }
            self.with_generator(shard, |generator, port| generator.poll(port));
            for event in self.generators[shard].take_events() {
                if let Event::Settled { phase: 0, tally } = event {
                    self.settled.push(*tally);
                }
            }
        }
        if self.links.now_ns < START_NS + LOADED * NANOS_PER_SECOND {
            self.disturb();
        }
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.generators.iter().for_each(|generator| tally.add(generator.tally()));
        tally
    }

    /// What must hold in every second, in its own figures too.
    fn check_second(&self, before: &Tally) -> Tally {
        let tally = self.tally();
        let second = tally.since(before);
        assert_eq!(second.offered, second.sent + second.skipped());
        assert_eq!(second.answered, second.granted + second.empty + second.overloaded);
        let in_flight = tally.in_flight().expect("no more came back than was sent");
        let online: u32 = self.generators.iter().map(LoadGenerator::online).sum();
        assert!(tally.adds_up() && in_flight <= u64::from(online), "{in_flight} of {online}");
        assert_eq!(tally.sent, self.links.swallowed.shakes_sent);
        let answers = tally.answered + tally.late_answers + tally.unexpected;
        assert_eq!(answers, self.links.swallowed.answers_delivered, "answers that arrived");
        assert_eq!((tally.unexpected, tally.nonsense), (0, 0));
        assert!(self.cluster.ledger().is_balanced());
        tally
    }

    /// What is missing was under way on connections that broke, as both sides counted.
    /// Returns by how many cents more could have been missing.
    fn check_losses(&self, receipts: &Receipts) -> u64 {
        let (ledger, counters) = (self.cluster.ledger(), self.cluster.counters());
        let Counters { undelivered_shares: count, undelivered_cents: amount, .. } = counters;
        let written =
            Money { count: counters.unconfirmed_shares, amount: counters.unconfirmed_cents };
        let (read, overtaken) = (receipts.last_answers, receipts.overtaken);
        let losses = Losses {
            unanswered: receipts.in_flight_lost + receipts.in_flight_at_end,
            undelivered: Money { count, amount },
            overflows: 0,
            largest_share: ledger.largest_share.unwrap_or(0),
            last_answers: Some(LastAnswers { written, read, overtaken }),
        };
        let missing = ledger.undelivered(receipts.granted + receipts.claimed).expect("no more");
        assert_eq!(losses.explain(missing), Ok(()), "{losses:?}");
        let most = written.amount - read.amount + overtaken * losses.largest_share;
        most - (missing.amount - amount)
    }

    /// The ledger and the receipts, when nothing is under way any more.
    fn check_receipts(&mut self) -> u64 {
        self.generators.iter_mut().for_each(|it| it.end(self.links.now_ns));
        self.cluster.shards.iter_mut().for_each(Logic::end);
        assert_eq!(self.cluster.messages().count(), 0);
        let (ledger, counters) = (self.cluster.ledger(), self.cluster.counters());
        let swallowed = &self.links.swallowed;
        let mut receipts = Receipts::default();
        self.generators.iter().for_each(|generator| receipts.add(generator.receipts()));
        assert_eq!(receipts.double_grants + receipts.unaudited, 0);
        assert_eq!(ledger.granted, receipts.granted + swallowed.granted);
        let slack = self.check_losses(&receipts);
        let Counters { undelivered_shares: count, undelivered_cents: amount, .. } = counters;
        let undelivered = Money { count, amount };
        assert_eq!(ledger.claimed, receipts.claimed + swallowed.claimed + undelivered);
        assert_eq!(counters.packets_sent * 3, (receipts.created + swallowed.created).count);
        let known = receipts.refunded + swallowed.refunded;
        assert!(known.amount <= ledger.refunded.amount && known.count <= ledger.refunded.count);
        let tally = self.tally();
        assert!(tally.logins <= counters.logins && tally.replaced <= counters.replaced);
        let receipts = tally.chats_delivered + tally.chats_offline + tally.chats_busy;
        assert!(receipts <= counters.chats && counters.chats <= tally.chats);
        slack
    }
}

fn phases() -> [Phase; 2] {
    let start = START_NS / NANOS_PER_SECOND + 1;
    [
        Phase {
            index: 0,
            name: "load".to_owned(),
            start,
            seconds: Some(LOADED),
            load: Load::Open { rate: Rate::Fixed(100), pacing: Pacing::Poisson },
            connect: Some(Connect { users: USERS, rate: Some(300.0) }),
            chat: Some(Chat { rate: 10.0, bytes: 20 }),
            creates: Some(Creates { rate: 10.0 }),
        },
        Phase { index: 1, name: "rest".to_owned(), start: start + LOADED, ..Phase::default() },
    ]
}

/// Says which seed it was when a check fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed is {}", self.0);
        }
    }
}

fn run(seed: u64) -> (Tally, Counters, u64) {
    let _seed = Seed(seed);
    let mut world = World::new(seed);
    let mut tally = Tally::default();
    for second in 1..=ALL {
        while world.links.now_ns < START_NS + second * NANOS_PER_SECOND {
            world.step();
        }
        tally = world.check_second(&tally);
        if second == LOADED + 1 {
            world.cluster.tell(0, Message::StopGenerator(None));
        }
    }
    assert_eq!(tally.in_flight(), Some(0), "{tally:?}");
    assert_eq!(world.settled.len(), CLIENT_SHARDS, "the phase settled on every shard");
    let settled: u64 = world.settled.iter().map(|tally| tally.sent).sum();
    assert_eq!(settled, tally.sent, "all shakes were due in the one phase");
    let online: u32 = world.generators.iter().map(LoadGenerator::online).sum();
    assert_eq!(online, USERS, "all are back");
    assert_eq!(world.cluster.users_online(), u64::from(USERS));
    let slack = world.check_receipts();
    latencies::check(&mut world.generators, &tally);
    (tally, world.cluster.counters(), slack)
}

#[test]
fn both_sides_agree_whatever_breaks() {
    let (mut all, mut server, mut exact) = (Tally::default(), Counters::default(), 0);
    for seed in 0..SEEDS {
        let (tally, counters, slack) = run(seed);
        exact += u64::from(slack == 0);
        all.add(&tally);
        server.add(&counters);
    }
    // Where no shake was lost or overtaken on a connection that broke, what can be missing is what
    // is missing, to the cent.
    assert!(exact > SEEDS / 2, "{exact} of {SEEDS}");
    // The seeds do reach all of it.
    let reached = [
        ("granted", all.granted, 10_000),
        ("empty", all.empty, 1_000),
        ("overloaded", all.overloaded, 500),
        ("noticed", all.noticed, 100),
        ("timed out", all.timed_out, 50),
        ("late", all.late_answers, 50),
        ("lost", all.lost, 50),
        ("broken", all.connections_lost, 500),
        ("claimed", all.claims_granted, 1_000),
        ("refused", all.claims_refused, 1),
        ("refunds", all.refunds, 100),
        ("chats", all.chats_delivered, 1_000),
        ("replaced", server.replaced, 50),
        ("skipped", all.skipped(), 500),
    ];
    for (what, count, least) in reached {
        assert!(count >= least, "{what}: {count} in all");
    }
}
