//! The whole server without a socket and with a durable ledger on a simulated disk: power losses,
//! kills, full and failing disks at random instants, and restarts with other numbers of shards and
//! SETs. What users were told is in the ledger, once; money is conserved.

#[path = "sim/mod.rs"]
mod sim;

use std::collections::{HashMap, HashSet};

use accounting::Ledger;
use journal::{Failure, Limits, Record, SimulatedDisk, State, audit, begin, recover};
use lab_server::directory::Address;
use lab_server::generator::{GeneratorSpec, PacketKind};
use lab_server::message::Message;
use lab_server::packets::FIRST_SENT;
use platform::NANOS_PER_SECOND;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use service::Notices;
use shard::ConnId;
use wire::{Decoded, Frame, UserList, decode};

use sim::{Cluster, Out, START_NS, rules};

const SEEDS: u64 = 200;
const LIVES: usize = 5;
const STEPS: usize = 250;
const USERS: u32 = 20;

/// What users were told, over all lives of the server.
#[derive(Default)]
struct Told {
    granted: HashMap<u32, (u32, u32)>,
    /// Packets made: cents.
    created: HashMap<u32, u32>,
    /// Their ids, in order.
    made: Vec<u32>,
    claimed: HashMap<(u32, u32), u32>,
    refunded: HashSet<u32>,
    /// Shakes that were answered with nothing while the disk failed.
    refused: u64,
}

struct Life {
    disk: SimulatedDisk,
    random: Pcg64Mcg,
    now_ns: u64,
    told: Told,
}

/// One life: a cluster, and who is on which connection.
struct Peers<'a> {
    cluster: Cluster,
    users: HashMap<(u16, ConnId), u32>,
    /// Asked on a connection and not answered: pings and shakes in order.
    asked: HashMap<(u16, ConnId), Vec<char>>,
    order: Vec<Address>,
    told: &'a mut Told,
    random: &'a mut Pcg64Mcg,
}

impl Peers<'_> {
    fn key(at: Address) -> (u16, ConnId) {
        (at.shard, at.conn)
    }

    fn step(&mut self) {
        let shards = self.cluster.shards.len();
        match self.random.random_range(0..13) {
            0 | 1 => {
                let shard = self.random.random_range(0..shards);
                let at = self.cluster.connect(shard);
                let user = self.random.random_range(0..USERS);
                self.users.insert(Self::key(at), user);
                self.order.push(at);
                self.cluster.frame(at, &Frame::LoginRequest { user });
                self.cluster.frame(at, &Frame::Ping { client_ns: 0 });
            }
            2..=4 => self.ask('s', &Frame::ShakeRequest { user: 0 }),
            5 => self.ask('p', &Frame::Ping { client_ns: 1 }),
            6 => self.create(),
            7 | 12 => {
                // One of the last, of this life or the one before, or a guess.
                let guess = FIRST_SENT + self.random.random_range(0..60);
                let back = self.random.random_range(1..8);
                let made = &self.told.made;
                let packet = made.len().checked_sub(back).map_or(guess, |at| made[at]);
                self.ask('c', &Frame::ClaimRequest { user: 0, packet });
            }
            8 => {
                let shard = self.random.random_range(0..shards);
                self.cluster.commit(shard);
            }
            9 | 10 => {
                self.cluster.deliver();
            }
            _ => {
                let ns = self.random.random_range(0..400_000_000);
                self.cluster.pass(ns);
            }
        }
        self.read();
    }

    fn ask(&mut self, what: char, frame: &Frame<'_>) {
        if self.order.is_empty() {
            return;
        }
        let at = self.order[self.random.random_range(0..self.order.len())];
        // Claims go by other shards, and their answers in no order with others.
        if what != 'c' {
            self.asked.entry(Self::key(at)).or_default().push(what);
        }
        self.cluster.frame(at, frame);
    }

    fn create(&mut self) {
        let named: Vec<u32> = (0..3).map(|_| self.random.random_range(0..USERS)).collect();
        let bytes: Vec<u8> = named.iter().flat_map(|user| user.to_be_bytes()).collect();
        let recipients = UserList::from_be_bytes(&bytes).expect("whole users");
        let amount = self.random.random_range(1..300);
        let frame = Frame::CreatePacket { request: amount, amount, count: 1, recipients };
        self.ask('m', &frame);
    }

    /// Reads what the server did. Answers on a connection come in the order of the questions.
    fn read(&mut self) {
        while let Some(out) = self.cluster.take_out() {
            let (at, bytes) = match out {
                Out::Closed(at) => {
                    self.order.retain(|other| *other != at);
                    continue;
                }
                Out::Frame(at, bytes) => (at, bytes),
            };
            let Decoded::Frame { frame, .. } = decode(&bytes) else { panic!("{bytes:?}") };
            let user = self.users[&Self::key(at)];
            let mut answered = |what| {
                let asked = self.asked.get_mut(&Self::key(at)).expect("asked");
                assert_eq!(asked.remove(0), what, "answers keep their order");
            };
            match frame {
                Frame::ShakeResponse { packet, amount, .. } => {
                    answered('s');
                    if amount > 0 {
                        let before = self.told.granted.insert(packet, (amount, user));
                        assert_eq!(before, None, "packet {packet} was granted twice");
                    } else {
                        self.told.refused += u64::from(self.cluster.wires.is_failing());
                    }
                }
                Frame::Pong { client_ns: 1 } => answered('p'),
                Frame::CreatePacketResponse { packet, result, request } => {
                    answered('m');
                    if result == 0 {
                        self.told.made.push(packet);
                        let before = self.told.created.insert(packet, request);
                        assert_eq!(before, None, "packet {packet} was made twice");
                    }
                }
                Frame::ClaimResponse { packet, amount: amount @ 1.. } => {
                    let before = self.told.claimed.insert((packet, user), amount);
                    assert_eq!(before, None, "{user} got two shares of packet {packet}");
                }
                Frame::PacketRefund { packet, .. } => {
                    assert!(self.told.refunded.insert(packet), "{packet} came back twice");
                }
                _ => {}
            }
        }
        assert!(self.cluster.ledger().is_balanced());
    }
}

impl Life {
    fn live(&mut self) {
        let before = recover(&self.disk).expect("what was acknowledged can be read").state;
        let shards = self.random.random_range(1..=4);
        let sets = self.random.random_range(shards..=9);
        let seed = self.random.random();
        self.fail_on_purpose();
        let restarted = Cluster::restarted(
            &self.disk,
            (shards, sets),
            rules(USERS, Notices::Push, seed),
            self.now_ns,
        );
        if let Some(cluster) = restarted {
            assert_eq!(cluster.ledger(), before.ledger(), "it goes on with what was there");
            self.check_standing_still(&cluster);
            let mut peers = Peers {
                cluster,
                users: HashMap::new(),
                asked: HashMap::new(),
                order: Vec::new(),
                told: &mut self.told,
                random: &mut self.random,
            };
            let order = GeneratorSpec {
                id: 1,
                kind: PacketKind::Shaken,
                rate: 20,
                total: None,
                seed,
                from_ns: None,
                until_ns: None,
            };
            peers.cluster.tell(0, Message::Start(order));
            for _ in 0..STEPS {
                peers.step();
            }
            self.now_ns = peers.cluster.wires.now_ns;
        }
        if self.random.random() {
            self.disk.power_loss(&mut self.random);
        } else {
            self.disk.restart();
        }
        self.check();
    }

    fn fail_on_purpose(&mut self) {
        let power = self.random.random_range(0..400);
        self.disk.fail_after(power, Failure::PowerLoss);
        for _ in 0..self.random.random_range(0..6) {
            let kind = if self.random.random() { Failure::Full } else { Failure::Broken };
            let at = self.random.random_range(30..300);
            self.disk.fail_after(at, kind);
        }
    }

    fn check_standing_still(&self, cluster: &Cluster) {
        let generators: u64 = cluster.shards.iter().map(|it| it.gauges().generators).sum();
        assert_eq!(generators, 0);
    }

    /// What users were told is in the ledger, with the same cents; and what a restart finds is
    /// balanced, each packet with its id and its deadline.
    fn check(&self) -> Ledger {
        let (mut granted, mut opened, mut claimed) =
            (HashMap::new(), HashMap::new(), HashMap::new());
        let mut refunded = HashSet::new();
        let audit = audit(&self.disk, |record| match record {
            Record::Granted { packet, amount, user, .. } => {
                granted.insert(*packet, (*amount, *user));
            }
            Record::Opened { packet, open } => {
                opened.insert(*packet, open.clone());
            }
            Record::Claimed { packet, user, amount } => {
                claimed.insert((*packet, *user), *amount);
            }
            Record::Refunded { packet, .. } => {
                refunded.insert(*packet);
            }
            _ => {}
        });
        let audit = audit.expect("readable");
        assert_eq!(audit.faults, Vec::<String>::new());
        for (packet, told) in &self.told.granted {
            assert_eq!(granted.get(packet), Some(told), "packet {packet}");
        }
        for (key, told) in &self.told.claimed {
            assert_eq!(claimed.get(key), Some(told), "{key:?}");
        }
        assert!(self.told.refunded.is_subset(&refunded));
        let state = recover(&self.disk).expect("readable").state;
        for (packet, amount) in &self.told.created {
            let made = &opened[packet];
            assert_eq!(made.left, *amount);
            match state.open.get(packet) {
                Some(open) => assert_eq!(open.deadline_ns, made.deadline_ns, "packet {packet}"),
                // It has one share.
                None => {
                    let over = claimed.keys().any(|(claimed, _)| claimed == packet);
                    assert!(over || refunded.contains(packet), "packet {packet} is nowhere");
                }
            }
        }
        state.ledger()
    }
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

#[test]
fn what_users_were_told_survives_whatever_ends_the_server() {
    let (mut granted, mut claimed, mut refunded, mut refused) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let _seed = Seed(seed);
        let mut life = Life {
            disk: SimulatedDisk::default(),
            random: Pcg64Mcg::seed_from_u64(seed),
            now_ns: START_NS,
            told: Told::default(),
        };
        for _ in 0..LIVES {
            life.live();
            life.now_ns += life.random.random_range(0..3 * NANOS_PER_SECOND);
        }
        granted += life.told.granted.len();
        claimed += life.told.claimed.len();
        refunded += life.told.refunded.len();
        refused += life.told.refused;
    }
    // The seeds do reach all of it.
    assert!(granted > 2_000 && claimed > 200, "{granted} granted, {claimed} claimed");
    assert!(refunded > 100 && refused > 100, "{refunded} refunded, {refused} refused");
}

/// A disk on which a ledger has begun with this.
fn begun_with(state: State) -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    let limits = Limits { keep_history: true, ..Limits::default() };
    begin(&disk, 0, vec![state], limits).expect("new");
    disk
}

fn frames(cluster: &mut Cluster, mut each: impl FnMut(&Frame<'_>)) {
    while let Some(out) = cluster.take_out() {
        let Out::Frame(_, bytes) = out else { continue };
        let Decoded::Frame { frame, .. } = decode(&bytes) else { panic!("{bytes:?}") };
        each(&frame);
    }
}

#[test]
fn a_claim_after_the_deadline_brings_nothing_although_the_disk_held_the_refund_back() {
    let disk = begun_with(State::default());
    let rules = rules(USERS, Notices::Push, 1);
    let life_ns = rules.packet_life_ns;
    let mut cluster = Cluster::restarted(&disk, (1, 1), rules, START_NS).expect("it begins");
    let at = cluster.connect(0);
    cluster.frame(at, &Frame::LoginRequest { user: 1 });
    let bytes: Vec<u8> = [1_u32, 2].iter().flat_map(|user| user.to_be_bytes()).collect();
    let recipients = UserList::from_be_bytes(&bytes).expect("whole users");
    let create = Frame::CreatePacket { request: 1, amount: 100, count: 2, recipients };
    cluster.frame(at, &create);
    assert!(cluster.commit(0));
    let mut packet = 0;
    frames(&mut cluster, |frame| {
        if let Frame::CreatePacketResponse { packet: made, result: 0, .. } = frame {
            packet = *made;
        }
    });
    // The disk fails until the packet's time is over.
    cluster.frame(at, &create);
    disk.set_full(true);
    assert!(!cluster.commit(0));
    cluster.pass(2 * life_ns);
    assert_eq!(cluster.shards[0].gauges().packets_open, 2, "nothing expires meanwhile");
    disk.set_full(false);
    assert!(cluster.commit(0));
    frames(&mut cluster, |_| {});
    cluster.frame(at, &Frame::ClaimRequest { user: 1, packet });
    let mut claimed = None;
    frames(&mut cluster, |frame| {
        if let Frame::ClaimResponse { amount, .. } = frame {
            claimed = Some(*amount);
        }
    });
    assert_eq!(claimed, Some(0));
    cluster.pass(0);
    assert!(cluster.commit(0));
    assert_eq!(cluster.ledger().refunded.amount, 200);
    let audit = audit(&disk, |_| {}).expect("readable");
    assert_eq!((audit.faults.len(), audit.ledger), (0, cluster.ledger()));
}

/// What a user's claims brought, in the order of the answers that have left.
fn claims(cluster: &mut Cluster) -> Vec<u32> {
    while cluster.deliver() {}
    let mut brought = Vec::new();
    frames(cluster, |frame| {
        if let Frame::ClaimResponse { amount, .. } = frame {
            brought.push(*amount);
        }
    });
    brought
}

/// The disk is slow, and then full: what is refused says nothing of the ledger.
#[test]
fn a_refused_claim_waits_for_shares_of_its_connection_and_not_for_the_disk() {
    const NONE: [u32; 0] = [];
    for shards in [1, 2] {
        let disk = begun_with(State::default());
        let rules = rules(USERS, Notices::Push, 1);
        let mut cluster = Cluster::restarted(&disk, (shards, 2), rules, START_NS).expect("begins");
        let ats: Vec<Address> = (0..2).map(|_| cluster.connect(shards - 1)).collect();
        for (user, at) in ats.iter().enumerate() {
            cluster.frame(*at, &Frame::LoginRequest { user: user as u32 });
        }
        let bytes: Vec<u8> = [0_u32].iter().flat_map(|user| user.to_be_bytes()).collect();
        let recipients = UserList::from_be_bytes(&bytes).expect("whole users");
        let create = Frame::CreatePacket { request: 1, amount: 100, count: 1, recipients };
        // Two packets of shard 0.
        let creator = cluster.connect(0);
        cluster.frame(creator, &Frame::LoginRequest { user: 2 });
        cluster.frame(creator, &create);
        cluster.frame(creator, &create);
        assert!(cluster.commit(0));
        let mut made = Vec::new();
        frames(&mut cluster, |frame| {
            if let Frame::CreatePacketResponse { packet, result: 0, .. } = frame {
                made.push(*packet);
            }
        });
        assert_eq!(made.len(), 2);
        let claim = |at: usize, packet: usize| {
            let frame = Frame::ClaimRequest { user: at as u32, packet: made[packet] };
            (ats[at], frame)
        };
        let ask = |cluster: &mut Cluster, (at, frame): (Address, Frame<'_>)| {
            cluster.frame(at, &frame);
            claims(cluster)
        };
        // A share waits until its record is durable, and a refusal to the same user behind it.
        assert_eq!(ask(&mut cluster, claim(0, 0)), NONE);
        assert_eq!(ask(&mut cluster, claim(0, 0)), NONE);
        assert_eq!(ask(&mut cluster, claim(1, 0)), [0], "others do not wait");
        disk.set_full(true);
        assert!(!cluster.commit(0));
        assert_eq!(ask(&mut cluster, claim(1, 1)), [0], "money does not move, and that is said");
        assert_eq!(ask(&mut cluster, claim(0, 1)), NONE, "order is kept");
        disk.set_full(false);
        assert!(cluster.commit(0));
        assert_eq!(claims(&mut cluster), [100, 0, 0]);
        assert_eq!(ask(&mut cluster, claim(0, 1)), NONE);
        assert!(cluster.commit(0));
        assert_eq!(claims(&mut cluster), [100], "a refusal took nothing away");
        let audit = audit(&disk, |_| {}).expect("readable");
        assert_eq!((audit.faults, audit.ledger.claimed.amount), (Vec::<String>::new(), 200));
    }
}

#[test]
fn ids_go_round_and_one_that_waits_is_not_given_out_again() {
    const FIRST: u32 = 0x0010_0000;
    let mut state = State::default();
    let waiting = Record::Created { set: 0, packet: FIRST + 1, amount: 5 };
    state.apply(&waiting).expect("possible");
    // Almost a round ago; in a SET whose users are gone.
    state.next_shaken = u32::MAX - 3;
    let disk = begun_with(state);
    let mut made = HashSet::new();
    for life in 0..2 {
        let rules = rules(USERS, Notices::Push, 1);
        let mut cluster = Cluster::restarted(&disk, (2, 2), rules, START_NS).expect("it begins");
        let at = cluster.connect(1);
        cluster.frame(at, &Frame::LoginRequest { user: 1 });
        while cluster.deliver() {}
        let (from_ns, until_ns) = (None, None);
        let (kind, rate, total) = (PacketKind::Shaken, 20, Some(10));
        let order = GeneratorSpec { id: 1, kind, rate, total, seed: 1, from_ns, until_ns };
        cluster.tell(0, Message::Start(order));
        for _ in 0..20 {
            while cluster.deliver() {}
            cluster.pass(NANOS_PER_SECOND / 20);
            cluster.frame(at, &Frame::ShakeRequest { user: 1 });
            assert!(cluster.commit(0) && cluster.commit(1));
        }
        frames(&mut cluster, |frame| {
            if let Frame::ShakeResponse { packet, amount: 1.., .. } = frame {
                assert!(made.insert(*packet), "packet {packet} was granted twice");
            }
        });
        assert_eq!(made.len(), 10 * (life + 1));
    }
    // Those before the end, and then those of a part of the ids in which none waits.
    let (before, after): (Vec<u32>, Vec<u32>) = made.iter().partition(|id| **id > u32::MAX / 2);
    assert_eq!((before.len(), after.len()), (4, 16));
    assert!(after.iter().all(|id| *id >= 1 << 26), "{after:?}");
    let audit = audit(&disk, |_| {}).expect("readable");
    assert_eq!((audit.faults, audit.grants.count), (Vec::<String>::new(), 20));
    assert_eq!(audit.queued, 1);
}
