//! The whole server without a socket: random peers against several shards whose messages are late,
//! out of order between pairs, and sometimes dropped. What must hold is checked after every step.

mod checks;
mod reading;
#[path = "../sim/mod.rs"]
mod sim;

use std::collections::{HashMap, HashSet};

use accounting::Money;
use lab_server::directory::Address;
use lab_server::generator::{GeneratorSpec, PacketKind};
use lab_server::message::Message;
use lab_server::packets::{Draft, NO_CREATOR};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use service::Notices;
use shard::ConnId;
use wire::{Frame, UserList};

use sim::{Cluster, rules};

const SEEDS: u64 = 300;
const STEPS: usize = 400;
/// Users whom peers log in as, and write to.
const USERS: u32 = 12;
/// All users of the server; the others come at the end, to shake the queues empty.
const ALL: u32 = 2_000;

type Key = (u16, ConnId);

fn key(at: Address) -> Key {
    (at.shard, at.conn)
}

/// A peer whose connection is open.
struct Peer {
    at: Address,
    user: Option<u32>,
    extended: bool,
    /// It has left a frame half, and sends nothing any more.
    halved: bool,
    /// Packets it was told of.
    told: Vec<u32>,
    shakes: u32,
    shakes_answered: u32,
    claims: u32,
    claims_answered: u32,
    /// Packets it asked for: request, amount, count, recipients.
    creates: Vec<(u32, u32, u32, Vec<u32>)>,
    /// It was sent an error frame; nothing but the end may follow.
    told_error: bool,
}

/// A packet that was sent to users, as the peers see it.
#[derive(Default)]
struct Sent {
    amount: u32,
    count: u32,
    named: HashSet<u32>,
    creator: Option<u32>,
    claimed_by: HashSet<u32>,
    claims: u32,
    claimed: u32,
    refunded: bool,
}

struct Chat {
    to: u32,
    delivered: u32,
    receipt: Option<u32>,
}

/// The peers of a server, and all they know.
struct Model {
    cluster: Cluster,
    random: Pcg64Mcg,
    notices: Notices,
    peers: HashMap<Key, Peer>,
    /// Open connections in a fixed order, to draw from.
    order: Vec<Key>,
    granted_ids: HashSet<u32>,
    granted: Money,
    claimed: Money,
    packets: HashMap<u32, Sent>,
    /// Claims by users who guessed the packet before any notice of it came: user and amount.
    early: HashMap<u32, Vec<(u32, u32)>>,
    chats: HashMap<(Key, u32), Chat>,
    numbers: u32,
    /// Packets that users created, and their shares.
    created: u64,
    created_shares: u64,
    /// Packets that users could not create.
    refused: u64,
    /// Packets that the control thread ordered.
    ordered: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let shards = random.random_range(2..=5);
        let sets = random.random_range(shards..=2 * shards + 1);
        let notices = if seed % 4 == 3 { Notices::Answer } else { Notices::Push };
        let mut cluster = Cluster::new(shards, sets, None, rules(ALL, notices, seed));
        cluster.wires.dropped_per_mille = if seed % 3 == 2 { 40 } else { 0 };
        Self {
            cluster,
            random,
            notices,
            peers: HashMap::new(),
            order: Vec::new(),
            granted_ids: HashSet::new(),
            granted: Money::default(),
            claimed: Money::default(),
            packets: HashMap::new(),
            early: HashMap::new(),
            chats: HashMap::new(),
            numbers: 0,
            created: 0,
            created_shares: 0,
            refused: 0,
            ordered: 0,
        }
    }

    fn shards(&self) -> usize {
        self.cluster.shards.len()
    }

    fn connect(&mut self, shard: usize) -> Key {
        let at = self.cluster.connect(shard);
        let peer = Peer {
            at,
            user: None,
            extended: false,
            halved: false,
            told: Vec::new(),
            shakes: 0,
            shakes_answered: 0,
            claims: 0,
            claims_answered: 0,
            creates: Vec::new(),
            told_error: false,
        };
        self.peers.insert(key(at), peer);
        self.order.push(key(at));
        key(at)
    }

    /// A user; now and then one beyond the largest.
    fn user(&mut self) -> u32 {
        let user = self.random.random_range(0..=4 * USERS);
        if user == 4 * USERS { ALL } else { user % USERS }
    }

    fn remove(&mut self, key: Key) -> Peer {
        self.order.retain(|other| *other != key);
        self.peers.remove(&key).expect("open")
    }

    /// A peer that can still say something.
    fn pick(&mut self) -> Option<Key> {
        let able: Vec<Key> =
            self.order.iter().copied().filter(|key| !self.peers[key].halved).collect();
        (!able.is_empty()).then(|| able[self.random.random_range(0..able.len())])
    }

    /// One that is logged in.
    fn pick_user(&mut self) -> Option<Key> {
        self.pick().filter(|key| self.peers[key].user.is_some())
    }

    fn send(&mut self, key: Key, frame: &Frame<'_>) {
        let peer = self.peers.get_mut(&key).expect("open");
        peer.extended |= frame.command().is_extension();
        let at = peer.at;
        self.cluster.frame(at, frame);
    }

    /// Does something, and reads and checks what comes of it.
    fn act(&mut self, act: impl FnOnce(&mut Self)) {
        act(self);
        self.read();
        self.check();
    }

    fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..=2 => {
                let shard = self.random.random_range(0..self.shards());
                let key = self.connect(shard);
                if self.random.random_range(0..10) > 0 {
                    let user = self.user();
                    self.send(key, &Frame::LoginRequest { user });
                }
            }
            3..=6 => self.shake(),
            7 => self.create(),
            8..=9 => (0..self.random.random_range(1..5)).for_each(|_| self.claim()),
            10 => self.chat(),
            11 => self.disturb(),
            12 => {
                if let Some(key) = self.pick_user() {
                    self.send(key, &Frame::Ping { client_ns: 1 });
                }
            }
            13 => {
                if let Some(key) = self.pick().filter(|_| self.order.len() > 3) {
                    let at = self.remove(key).at;
                    self.cluster.disconnect(at);
                }
            }
            14 => self.control(),
            15..=17 => {
                for _ in 0..self.random.random_range(1..8) {
                    self.cluster.deliver();
                }
            }
            _ => {
                let long = self.random.random_range(0..12) == 0;
                let most = if long { 3_000_000_000 } else { 200_000_000 };
                let ns = self.random.random_range(0..most);
                self.cluster.pass(ns);
            }
        }
    }

    fn shake(&mut self) {
        for _ in 0..self.random.random_range(1..4) {
            let Some(key) = self.pick_user() else { continue };
            self.peers.get_mut(&key).expect("open").shakes += 1;
            self.send(key, &Frame::ShakeRequest { user: 0 });
        }
    }

    fn create(&mut self) {
        let Some(key) = self.pick_user() else { return };
        let named = if self.random.random() { 3 } else { self.random.random_range(1..6) };
        let recipients: Vec<u32> = (0..named).map(|_| self.user()).collect();
        let bytes: Vec<u8> = recipients.iter().flat_map(|user| user.to_be_bytes()).collect();
        let count = self.random.random_range(0..=named + 1);
        let amount = self.random.random_range(0..300);
        self.numbers += 1;
        let request = self.numbers;
        let wanted = (request, amount, count, recipients);
        self.peers.get_mut(&key).expect("open").creates.push(wanted);
        let recipients = UserList::from_be_bytes(&bytes).expect("whole users");
        self.send(key, &Frame::CreatePacket { request, amount, count, recipients });
    }

    /// A claim of a packet the peer was told of, perhaps long ago or before, or of any.
    fn claim(&mut self) {
        let Some(key) = self.pick_user() else { return };
        let told = &self.peers[&key].told;
        let packet = if !told.is_empty() && self.random.random_range(0..4) > 0 {
            told[self.random.random_range(0..told.len())]
        } else {
            lab_server::packets::FIRST_SENT.wrapping_add(self.random.random_range(0..40)) - 2
        };
        self.peers.get_mut(&key).expect("open").claims += 1;
        self.send(key, &Frame::ClaimRequest { user: 0, packet });
    }

    fn chat(&mut self) {
        let Some(key) = self.pick_user() else { return };
        let to = self.user();
        self.numbers += 1;
        let message = self.numbers;
        self.chats.insert((key, message), Chat { to, delivered: 0, receipt: None });
        let text =
            [&key.0.to_be_bytes()[..], &key.1.slot.to_be_bytes(), &key.1.generation.to_be_bytes()];
        self.send(key, &Frame::ChatRequest { message, to, text: &text.concat() });
    }

    /// A peer does something that ends its connection, now or later.
    fn disturb(&mut self) {
        let Some(key) = self.pick() else { return };
        match self.random.random_range(0..4) {
            0 => self.send(key, &Frame::LoginRequest { user: 1 }),
            1 => self.send(key, &Frame::Pong { client_ns: 1 }),
            2 => {
                let at = self.peers[&key].at;
                self.cluster.receive(at, &[0, 99, 0, 2]);
            }
            _ => {
                let peer = self.peers.get_mut(&key).expect("open");
                peer.halved = true;
                let at = peer.at;
                self.cluster.receive(at, &[0, 16, 0]);
            }
        }
    }

    fn control(&mut self) {
        let id = u64::from(self.random.random_range(0..3u32));
        match self.random.random_range(0..5) {
            0 => self.cluster.tell(0, Message::StopGenerator(Some(id))),
            1 => {
                let draft = Draft {
                    amount: 100,
                    count: 3,
                    recipients: vec![1, 2, 3],
                    creator: NO_CREATOR,
                    set: 0,
                };
                self.ordered += 1;
                let shard = self.random.random_range(0..self.shards());
                self.cluster.tell(shard, Message::Send(Box::new(draft)));
            }
            which => {
                let kind = match which {
                    2 => PacketKind::Sent { first_user: 0, end_user: USERS },
                    _ => PacketKind::Shaken,
                };
                let total = Some(self.random.random_range(0..100));
                let total = total.filter(|_| self.random.random());
                let rate = self.random.random_range(1..60);
                let seed = self.random.random();
                let (from_ns, until_ns) = (None, None);
                let order = GeneratorSpec { id, kind, rate, total, seed, from_ns, until_ns };
                self.cluster.tell(0, Message::Start(order));
            }
        }
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
fn whatever_peers_do_no_cent_is_lost_and_everybody_is_answered() {
    let (mut granted, mut claims, mut chats, mut refunds, mut undelivered) = (0, 0, 0, 0, 0);
    for seed in 0..SEEDS {
        let _seed = Seed(seed);
        let mut model = Model::new(seed);
        for _ in 0..STEPS {
            model.act(Model::step);
        }
        model.end();
        let counters = model.cluster.counters();
        granted += model.granted.count;
        claims += model.claimed.count;
        chats += counters.chats_delivered;
        refunds += counters.packets_expired;
        undelivered += counters.undelivered_shares;
    }
    // The seeds do reach all of it.
    assert!(granted > 10_000 && claims > 1_000, "{granted} granted, {claims} claimed");
    assert!(chats > 500 && refunds > 500 && undelivered > 10, "{chats} {refunds} {undelivered}");
}
