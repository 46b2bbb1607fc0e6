//! The logic of a whole server without a socket: shards whose messages take their time, a clock
//! that goes when told to, connections that are queues of bytes.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use accounting::Ledger;
use accounting::server::Counters;
use journal::{Limits, Record, SimulatedDisk, Writer, begin, recover};
use lab_server::directory::Address;
use lab_server::holding::{Held, Holding};
use lab_server::io::Io;
use lab_server::logic::{Logic, Rules};
use lab_server::message::Message;
use lab_server::overload::Budget;
use lab_server::restart::divide;
use lab_server::sets::{Online, new_online};
use lab_server::under_way::UnderWay;
use platform::NANOS_PER_SECOND;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use service::{Budgets, Notices};

use shard::ConnId;
use wire::Frame;

/// When a simulation begins, in nanoseconds of its clock. That clock is monotonic and wall time.
pub(crate) const START_NS: u64 = 1_000 * NANOS_PER_SECOND;

/// What a server did to a connection.
#[derive(Debug)]
pub(crate) enum Out {
    /// Sent this frame.
    Frame(Address, Vec<u8>),
    /// Closed it.
    Closed(Address),
}

/// Everything between the shards, and between them and their peers.
pub(crate) struct Wires {
    pub(crate) now_ns: u64,
    /// What the server did, oldest first; for the test to take.
    pub(crate) out: VecDeque<Out>,
    /// Messages under way, by sender and receiver: in order for each pair, and for no two pairs.
    /// The last sender is the control thread.
    messages: Vec<VecDeque<Message>>,
    shards: usize,
    /// How many of a thousand messages find no room.
    pub(crate) dropped_per_mille: u32,
    /// Those that found none.
    pub(crate) dropped: Vec<Message>,
    random: Pcg64Mcg,
    /// For each shard the records that are not durable and what waits for them, where a durable
    /// ledger is kept.
    holdings: Vec<Holding>,
    /// Shards whose disk fails.
    failing: Vec<bool>,
}

impl Wires {
    /// Whether the disk of a shard fails.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.contains(&true)
    }
}

struct Port<'a> {
    wires: &'a mut Wires,
    me: usize,
}

impl Port<'_> {
    fn address(&self, conn: ConnId) -> Address {
        Address { shard: self.me as u16, conn }
    }

    fn holding(&mut self) -> Option<&mut Holding> {
        self.wires.holdings.get_mut(self.me)
    }

    fn hold_back(&mut self, held: Held) {
        self.holding().expect("a ledger").hold(held);
    }

    fn hold_behind(&mut self, held: Held) {
        self.holding().expect("a ledger").hold_behind(held);
    }

    fn encoded(&self, frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = vec![0; frame.encoded_len()];
        frame.encode(self.unix_second(), &mut bytes).expect("no frame is too long");
        bytes
    }
}

impl Io for Port<'_> {
    fn now_ns(&self) -> u64 {
        self.wires.now_ns
    }

    fn unix_second(&self) -> u64 {
        self.wires.now_ns / NANOS_PER_SECOND
    }

    fn send(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let bytes = self.encoded(frame);
        if self.holding().is_some_and(|it| it.waits(conn)) {
            return self.hold_behind(Held::Frame(conn, bytes.into()));
        }
        let at = self.address(conn);
        self.wires.out.push_back(Out::Frame(at, bytes));
    }

    fn record(&mut self, record: impl FnOnce() -> Record) {
        if let Some(holding) = self.holding() {
            holding.record(record());
        }
    }

    fn refuses_money(&self) -> bool {
        let full = self.wires.holdings.get(self.me).is_some_and(Holding::is_full);
        full || self.wires.failing.get(self.me).copied().unwrap_or_default()
    }

    fn has_room(&self) -> bool {
        !self.wires.holdings.get(self.me).is_some_and(Holding::is_full)
    }

    fn send_recorded(&mut self, conn: ConnId, frame: &Frame<'_>) {
        if self.holding().is_some_and(|it| it.is_behind()) {
            let bytes = self.encoded(frame);
            self.hold_back(Held::Frame(conn, bytes.into()));
        } else {
            self.send(conn, frame);
        }
    }

    fn hold(&mut self, shard: usize, message: Message) -> Option<Message> {
        if !self.holding().is_some_and(|it| it.is_behind()) {
            return Some(message);
        }
        self.hold_back(Held::Post(shard, message));
        None
    }

    fn keeps_share_of(&self, at: Address) -> bool {
        self.wires.holdings.get(self.me).is_some_and(|it| it.keeps_share_of(at))
    }

    fn hold_refusal(&mut self, shard: usize, refusal: Message) {
        self.hold_behind(Held::Post(shard, refusal));
    }

    fn finish(&mut self, conn: ConnId) {
        if self.holding().is_some_and(|it| it.waits(conn)) {
            return self.hold_behind(Held::Finish(conn));
        }
        let at = self.address(conn);
        self.wires.out.push_back(Out::Closed(at));
    }

    fn post(&mut self, shard: usize, message: Message) -> bool {
        assert_ne!(shard, self.me, "a shard reads its own messages itself");
        let wires = &mut *self.wires;
        if wires.random.random_range(0..1000) < wires.dropped_per_mille {
            wires.dropped.push(message);
            return false;
        }
        wires.messages[self.me * wires.shards + shard].push_back(message);
        true
    }
}

/// The bytes of a connection that the server has not used up yet.
#[derive(Debug, Default)]
struct Unread(Vec<u8>);

/// A server in simulation.
pub(crate) struct Cluster {
    pub(crate) shards: Vec<Logic>,
    pub(crate) wires: Wires,
    pub(crate) online: Online,
    pub(crate) budget: Arc<Budget>,
    pub(crate) under_way: Arc<UnderWay>,
    /// Open connections, by shard and slot.
    open: Vec<BTreeMap<u32, (ConnId, Unread)>>,
    /// For each shard, how often each slot was used.
    generations: Vec<Vec<u32>>,
    writers: Vec<Writer<SimulatedDisk>>,
    /// For each shard, records whose commit has failed.
    stuck: Vec<Vec<Record>>,
    /// Polls follow each step until no notice waits. Else [`Self::pass`] is the next poll.
    pub(crate) settles: bool,
}

/// Rules for a small server.
pub(crate) fn rules(users: u32, notices: Notices, seed: u64) -> Rules {
    Rules {
        users,
        notices,
        packet_life_ns: 5 * NANOS_PER_SECOND,
        queue_bound: 64,
        packets_bound: 32,
        budgets: Budgets::default(),
        seed,
    }
}

impl Cluster {
    pub(crate) fn new(shards: usize, sets: usize, limit: Option<u64>, rules: Rules) -> Self {
        let online = new_online(sets);
        let (budget, under_way) = (Budget::new(limit), UnderWay::new(rules.users));
        let random = Pcg64Mcg::seed_from_u64(rules.seed);
        let rules = Arc::new(rules);
        let shard = |me| {
            let (rules, online) = (Arc::clone(&rules), Arc::clone(&online));
            let (budget, under_way) = (Arc::clone(&budget), Arc::clone(&under_way));
            Logic::new(me, shards, rules, online, budget, under_way, START_NS)
        };
        Self {
            shards: (0..shards).map(shard).collect(),
            wires: Wires {
                now_ns: START_NS,
                out: VecDeque::new(),
                messages: (0..(shards + 1) * shards).map(|_| VecDeque::new()).collect(),
                shards,
                dropped_per_mille: 0,
                dropped: Vec::new(),
                random,
                holdings: Vec::new(),
                failing: Vec::new(),
            },
            online,
            budget,
            under_way,
            open: (0..shards).map(|_| BTreeMap::new()).collect(),
            generations: vec![Vec::new(); shards],
            writers: Vec::new(),
            stuck: vec![Vec::new(); shards],
            settles: true,
        }
    }

    /// A server that goes on with a durable ledger, at this instant; `None` when the disk lets no
    /// epoch begin.
    pub(crate) fn restarted(
        disk: &SimulatedDisk,
        (shards, sets): (usize, usize),
        rules: Rules,
        now_ns: u64,
    ) -> Option<Self> {
        let recovered = recover(disk).expect("what was acknowledged can be read");
        let shares = divide(recovered.state, shards, sets);
        let limits = Limits { segment_bytes: 4_000, keep_history: true };
        let writers = begin(disk, recovered.found.epoch, shares.clone(), limits).ok()?;
        let mut cluster = Self::new(shards, sets, None, rules);
        cluster.wires.now_ns = now_ns;
        cluster.wires.holdings = (0..shards).map(|_| Holding::default()).collect();
        cluster.wires.failing = vec![false; shards];
        cluster.writers = writers;
        for (shard, share) in shares.into_iter().enumerate() {
            cluster.under_way.count_open(&share);
            cluster.shards[shard].restore(share);
        }
        Some(cluster)
    }

    /// A shard's records are written, and what waited for them leaves; false when the disk fails.
    pub(crate) fn commit(&mut self, shard: usize) -> bool {
        let mut records = std::mem::take(&mut self.stuck[shard]);
        // While the disk fails, no other group is taken.
        if records.is_empty() {
            self.wires.holdings[shard].hand_over(&mut records);
        }
        let committed = self.writers[shard].commit(&records);
        self.wires.failing[shard] = committed.is_err();
        let Ok(durable) = committed else {
            self.stuck[shard] = records;
            return false;
        };
        self.wires.holdings[shard].set_durable(durable);
        while let Some(held) = self.wires.holdings[shard].release() {
            let at = |conn| Address { shard: shard as u16, conn };
            match held {
                Held::Frame(conn, bytes) => {
                    self.wires.out.push_back(Out::Frame(at(conn), bytes.into()));
                }
                Held::Finish(conn) if self.is_open(at(conn)) => {
                    self.wires.out.push_back(Out::Closed(at(conn)));
                }
                Held::Finish(_) => {}
                Held::Post(to, message) => {
                    self.at(shard, |logic, port| logic.release(port, to, message));
                }
            }
        }
        true
    }

    fn at<T>(&mut self, shard: usize, act: impl FnOnce(&mut Logic, &mut Port<'_>) -> T) -> T {
        let mut port = Port { wires: &mut self.wires, me: shard };
        let done = act(&mut self.shards[shard], &mut port);
        if self.settles {
            while self.shards[shard].go_on(&mut port) {}
        }
        done
    }

    /// A peer connects to a shard.
    pub(crate) fn connect(&mut self, shard: usize) -> Address {
        let slot = (0..).find(|slot| !self.open[shard].contains_key(slot)).expect("no end");
        let generations = &mut self.generations[shard];
        if generations.len() <= slot as usize {
            generations.resize(slot as usize + 1, 0);
        }
        generations[slot as usize] += 1;
        let conn = ConnId { slot, generation: generations[slot as usize] };
        self.open[shard].insert(slot, (conn, Unread::default()));
        self.at(shard, |logic, port| logic.accepted(port, conn));
        Address { shard: shard as u16, conn }
    }

    fn is_open(&self, at: Address) -> bool {
        let open = self.open[usize::from(at.shard)].get(&at.conn.slot);
        open.is_some_and(|(conn, _)| *conn == at.conn)
    }

    /// Bytes of a peer arrive; those of one that was closed are thrown away.
    pub(crate) fn receive(&mut self, at: Address, bytes: &[u8]) {
        if !self.is_open(at) {
            return;
        }
        let shard = usize::from(at.shard);
        let Some((conn, unread)) = self.open[shard].get_mut(&at.conn.slot) else { return };
        let conn = *conn;
        unread.0.extend_from_slice(bytes);
        let mut bytes = std::mem::take(&mut unread.0);
        let used = self.at(shard, |logic, port| logic.received(port, conn, &bytes));
        bytes.drain(..used);
        if let Some((_, unread)) = self.open[shard].get_mut(&conn.slot) {
            unread.0 = bytes;
        }
    }

    /// A frame of a peer arrives.
    pub(crate) fn frame(&mut self, at: Address, frame: &Frame<'_>) {
        let mut bytes = vec![0; frame.encoded_len()];
        frame.encode(0, &mut bytes).expect("fits");
        self.receive(at, &bytes);
    }

    /// A peer is gone.
    pub(crate) fn disconnect(&mut self, at: Address) {
        if self.is_open(at) {
            self.open[usize::from(at.shard)].remove(&at.conn.slot);
            self.at(usize::from(at.shard), |logic, port| logic.closed(port, at.conn));
        }
    }

    /// The next thing that the server did. What it has closed is gone from then on.
    pub(crate) fn take_out(&mut self) -> Option<Out> {
        let out = self.wires.out.pop_front()?;
        if let Out::Closed(at) = &out {
            assert!(self.is_open(*at), "closed twice: {at:?}");
            self.open[usize::from(at.shard)].remove(&at.conn.slot);
        }
        Some(out)
    }

    /// A message of the control thread.
    pub(crate) fn tell(&mut self, shard: usize, message: Message) {
        let shards = self.wires.shards;
        self.wires.messages[shards * shards + shard].push_back(message);
    }

    /// Messages under way.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.wires.messages.iter().flatten()
    }

    /// Delivers the oldest message of a pair drawn at random; false when none is under way.
    pub(crate) fn deliver(&mut self) -> bool {
        let wires = &mut self.wires;
        let waiting = wires.messages.iter().filter(|queue| !queue.is_empty()).count();
        if waiting == 0 {
            return false;
        }
        let chosen = wires.random.random_range(0..waiting);
        let shards = wires.shards;
        let mut pairs =
            wires.messages.iter_mut().enumerate().filter(|(_, queue)| !queue.is_empty());
        let (pair, queue) = pairs.nth(chosen).expect("counted");
        let message = queue.pop_front().expect("not empty");
        self.at(pair % shards, |logic, port| logic.handle(port, message));
        true
    }

    /// Lets time pass, and every shard do what is due then. Returns when the next thing is due.
    pub(crate) fn pass(&mut self, ns: u64) -> u64 {
        self.wires.now_ns += ns;
        let due = (0..self.shards.len()).map(|shard| self.at(shard, |logic, io| logic.tick(io)));
        due.collect::<Vec<_>>().into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// The books of all shards; those of each SET must be balanced.
    pub(crate) fn ledger(&self) -> Ledger {
        for (number, set) in self.shards.iter().flat_map(|logic| logic.sets().iter()) {
            assert!(set.ledger.is_balanced(), "SET {number}: {:?}", set.ledger);
        }
        let ledgers: Vec<Ledger> = self.shards.iter().map(Logic::ledger).collect();
        ledgers.iter().sum()
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.shards.iter().for_each(|logic| counters.add(logic.counters()));
        counters
    }

    pub(crate) fn users_online(&self) -> u64 {
        self.shards.iter().map(|logic| logic.gauges().users_online).sum()
    }
}
