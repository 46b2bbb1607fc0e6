//! Whether missing money is told from lost money. A server of a few lines grants a packet for every
//! shake and keeps a ledger of its own; what a test drops on the way, it alone knows. The clients'
//! receipts, compared with that ledger, must be explained by what was under way, and by nothing
//! else.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use accounting::{LastAnswers, Ledger, Losses, Money, Tail, Unexplained};
use lab_client::load::{LoadGenerator, Rules};
use lab_client::transport::Transport;
use platform::{Clock, NANOS_PER_SECOND};
use service::Notices;
use shard::{Closed, ConnId};
use wire::{Decoded, Frame, LoginResult, ShakeResult, decode};
use workload::{Connect, Flows, Load, Pacing, Phase, Rate, Share};

const START: u64 = 1_000;
const USERS: u32 = 200;
const FIRST_PACKET: u32 = 0x0010_0000;
const TIMEOUT_NS: u64 = 5 * NANOS_PER_SECOND;

/// What users sent, and a clock that a test moves.
#[derive(Default)]
struct Network {
    now_ns: u64,
    opened: u32,
    sent: Vec<(ConnId, Vec<u8>)>,
}

impl Transport for Network {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn read_clock(&mut self) -> u64 {
        self.now_ns
    }

    fn open(&mut self, _: SocketAddrV4) -> io::Result<ConnId> {
        self.opened += 1;
        Ok(ConnId { slot: self.opened - 1, generation: 0 })
    }

    fn send(&mut self, conn: ConnId, frame: &Frame<'_>) {
        self.sent.push((conn, bytes_of(frame)));
    }

    fn flush(&mut self) {}

    fn give_way(&mut self) {}

    fn close(&mut self, _: ConnId) {}
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; frame.encoded_len()];
    frame.encode(0, &mut bytes).expect("fits");
    bytes
}

/// What the network does with the answers of the server.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Connections that break after their request arrived: the answer goes with them.
    broken: usize,
    /// Answers that vanish while their connections stand.
    dropped: usize,
    /// Answers that arrive with a cent less.
    clipped: usize,
    /// Users who are sent the notice of a packet, and claim it.
    claims: usize,
    /// Of these, connections that break before the answer.
    claims_broken: usize,
    /// Of the rest, answers that vanish.
    claims_dropped: usize,
    /// Whether the client ends with the requests under way.
    ends: bool,
}

struct World {
    generator: LoadGenerator,
    network: Network,
    ledger: Ledger,
    undelivered: Money,
    /// What the server keeps of each connection.
    tails: Vec<Tail>,
    packets: u32,
    /// Seconds in which users shook.
    seconds: u64,
}

impl World {
    fn new(seconds: u64) -> Self {
        let share = Share { total_users: USERS, first: 0, end: USERS, shard: 0, shards: 1 };
        let sources = vec![Ipv4Addr::LOCALHOST];
        let rules = Rules {
            seed: 7,
            timeout_ns: TIMEOUT_NS,
            late_ns: 1_000_000,
            notices: Notices::Push,
            own_commands: false,
            flows: Flows { sources, first_port: 1024, last_port: 60_000, but: 0 },
            first_flow: 0,
            reconnect: false,
            slow_kept: 8,
            join: false,
        };
        let network = Network { now_ns: START * NANOS_PER_SECOND, ..Network::default() };
        let clock = Clock::with_offset(0);
        let mut generator = LoadGenerator::new(share, Arc::new(rules), clock, network.now_ns);
        let connect = Some(Connect { users: USERS, rate: None });
        generator.add_phase(Phase { start: START, seconds: Some(1), connect, ..Phase::default() });
        let load = Load::Open { rate: Rate::Fixed(USERS), pacing: Pacing::Even };
        generator.add_phase(Phase {
            index: 1,
            start: START + 1,
            seconds: Some(seconds),
            load,
            ..Phase::default()
        });
        let ledger = Ledger::default();
        let tails = vec![Tail::default(); USERS as usize];
        let undelivered = Money::default();
        let mut world =
            Self { generator, network, ledger, undelivered, tails, packets: 0, seconds: 0 };
        world.log_in();
        world
    }

    fn turn(&mut self) {
        // As often as there is something to do at this instant.
        let is_due =
            |next_ns: Option<u64>, now_ns| next_ns.is_some_and(|next_ns| next_ns <= now_ns);
        while is_due(self.generator.poll(&mut self.network), self.network.now_ns) {}
    }

    fn receive(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let bytes = bytes_of(frame);
        let used = self.generator.received(&mut self.network, conn, &bytes);
        assert_eq!(used, bytes.len());
    }

    fn log_in(&mut self) {
        self.turn();
        for slot in 0..self.network.opened {
            self.generator.connected(&mut self.network, ConnId { slot, generation: 0 });
        }
        for (conn, bytes) in std::mem::take(&mut self.network.sent) {
            if let Decoded::Frame { frame: Frame::LoginRequest { user }, .. } = decode(&bytes) {
                self.receive(conn, &Frame::LoginResponse { user, result: LoginResult::Ok as u32 });
            }
        }
        assert_eq!(self.generator.online(), USERS);
    }

    /// The next packet: its id and its cents.
    fn packet(&mut self) -> (u32, u32) {
        self.packets += 1;
        (FIRST_PACKET + self.packets, 10 + self.packets % 100)
    }

    /// All shakes of the next second are answered with a packet, or their answers meet with a
    /// fault.
    fn shake(&mut self, faults: Faults) {
        self.seconds += 1;
        self.network.now_ns = (START + 1 + self.seconds) * NANOS_PER_SECOND - 1;
        self.turn();
        let shakes: Vec<_> = std::mem::take(&mut self.network.sent);
        assert_eq!(shakes.len(), self.generator.online() as usize, "each user shakes once");
        for (number, (conn, bytes)) in shakes.into_iter().enumerate() {
            let Decoded::Frame { frame: Frame::ShakeRequest { user }, .. } = decode(&bytes) else {
                panic!("a shake");
            };
            let (packet, amount) = self.packet();
            self.ledger.create(Money::share(amount));
            self.ledger.grant(Money::share(amount));
            let tail = &mut self.tails[conn.slot as usize];
            tail.shake();
            assert!(tail.grant(amount));
            if number < faults.broken {
                self.generator.closed(&mut self.network, conn, Closed::ByPeer);
                continue;
            }
            if number < faults.broken + faults.dropped || faults.ends {
                continue;
            }
            let clipped = number < faults.broken + faults.dropped + faults.clipped;
            let amount = amount - u32::from(clipped);
            let result = ShakeResult::Granted as u32;
            self.receive(conn, &Frame::ShakeResponse { user, result, packet, amount });
        }
    }

    /// The last users claim a share.
    fn claim(&mut self, faults: Faults) {
        let last = self.network.opened - faults.claims as u32..self.network.opened;
        for (number, slot) in last.enumerate() {
            let conn = ConnId { slot, generation: 0 };
            let (packet, amount) = self.packet();
            let users = [0; 3];
            self.receive(conn, &Frame::SendPacket { packet, amount, count: 3, users });
            self.ledger.create(Money::share(amount));
            self.ledger.claim(Money::share(amount));
            if number < faults.claims_broken {
                self.generator.closed(&mut self.network, conn, Closed::ByPeer);
                self.undelivered += Money::share(amount);
                continue;
            }
            assert!(self.tails[slot as usize].claim(amount));
            if number >= faults.claims_broken + faults.claims_dropped {
                self.receive(conn, &Frame::ClaimResponse { packet, amount });
            }
        }
    }
}

/// Whether the books balance after some faults.
fn books(faults: Faults) -> Result<(), Unexplained> {
    books_after(Faults::default(), faults, 1)
}

/// The same with faults in a second before the last.
fn books_after(before: Faults, faults: Faults, seconds: u64) -> Result<(), Unexplained> {
    let mut world = World::new(seconds);
    for _ in 1..seconds {
        world.shake(before);
    }
    world.shake(faults);
    world.claim(faults);
    if !faults.ends {
        // The phase ends; what has not come a timeout later is not waited for any more.
        for ns in [NANOS_PER_SECOND, 2 * TIMEOUT_NS] {
            world.network.now_ns += ns;
            world.turn();
        }
        assert_eq!(world.generator.tally().in_flight(), Some(0));
    }
    world.generator.end(world.network.now_ns);
    let receipts = world.generator.receipts();
    let missing = world.ledger.undelivered(receipts.granted + receipts.claimed).expect("no more");
    // The same by what the test did.
    let swallowed = if faults.ends { USERS as usize } else { faults.broken + faults.dropped };
    let swallowed = swallowed + faults.claims_broken + faults.claims_dropped;
    let swallowed = swallowed + before.broken + before.dropped;
    assert_eq!(missing.count, swallowed as u64);
    let losses = Losses {
        unanswered: receipts.in_flight_lost + receipts.in_flight_at_end,
        undelivered: world.undelivered,
        overflows: 0,
        largest_share: world.ledger.largest_share.unwrap_or(0),
        last_answers: Some(LastAnswers {
            written: world.tails.iter().fold(Money::default(), |sum, tail| sum + tail.written()),
            read: receipts.last_answers,
            overtaken: receipts.overtaken,
        }),
    };
    losses.explain(missing)
}

#[test]
fn what_is_missing_is_explained_by_requests_under_way_and_by_nothing_else() {
    let none = Faults::default();
    for (case, faults, right) in [
        ("nothing is lost", none, true),
        ("one connection with a request", Faults { broken: 1, ..none }, true),
        ("many of them", Faults { broken: 150, ..none }, true),
        ("an answer without a connection", Faults { dropped: 1, ..none }, false),
        ("all but one answer", Faults { dropped: USERS as usize - 1, ..none }, false),
        ("one lost, and 156 answers", Faults { broken: 1, dropped: 156, ..none }, false),
        ("one lost, and one answer", Faults { broken: 1, dropped: 1, ..none }, false),
        ("a cent", Faults { clipped: 1, ..none }, false),
        ("the client ends before the answers", Faults { ends: true, ..none }, true),
        ("claims", Faults { claims: 20, ..none }, true),
        ("claims lost", Faults { claims: 20, claims_broken: 5, ..none }, true),
        ("a claim dropped", Faults { claims: 20, claims_dropped: 1, ..none }, false),
        (
            "claims lost, and one dropped",
            Faults { claims: 20, claims_broken: 5, claims_dropped: 1, ..none },
            false,
        ),
    ] {
        let verdict = books(faults);
        assert_eq!(verdict.is_ok(), right, "{case}: {verdict:?}");
    }
}

#[test]
fn the_cents_of_what_is_missing_must_be_those_of_so_many_shares() {
    // One connection was lost with one request; 150 other packets arrived with a cent less each.
    let clipped = books(Faults { broken: 1, clipped: 150, ..Faults::default() });
    assert!(matches!(clipped, Err(Unexplained::Cents { .. })), "{clipped:?}");
}

#[test]
fn another_share_than_the_one_that_the_server_wrote_to_the_lost_is_not_explained() {
    let none = Faults::default();
    let broken = Faults { broken: 1, ..none };
    for (case, before, faults, right) in [
        ("lost in the last second", none, broken, true),
        ("lost in each", broken, broken, true),
        ("a cent of a packet, and all shook again", Faults { clipped: 1, ..none }, none, false),
        // Within what a share may be worth: not what was written on that connection.
        ("a cent of another's packet", Faults { clipped: 1, ..none }, broken, false),
        ("claims lost after that", none, Faults { claims: 9, claims_broken: 3, ..none }, true),
    ] {
        let verdict = books_after(before, faults, 2);
        assert_eq!(verdict.is_ok(), right, "{case}: {verdict:?}");
    }
}
