//! What a shard does: a state machine that is told what happened and acts through [`Io`].
//!
//! Owns: sessions, SETs, the shard's part of the directory and of the sent packets, generators,
//! pushes, deadlines. Must not know: sockets, threads, the real clock.

mod generating;
mod mail;
mod pushing;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use shard::{ConnId, Slowness, Wheel};
use wire::{ErrorCode, Frame};

use crate::counters::Counters;
use crate::directory::{Address, Directory, home_of};
use crate::io::Io;
use crate::ledger::Ledger;
use crate::message::Message;
use crate::overload::{Budget, Meter};
use crate::packets::SentPackets;
use crate::sets::{Online, Sets};

use generating::Generators;
use pushing::Pushes;
use session::Session;

/// A peer that says nothing is closed this long after it connected, and one that leaves a frame
/// half this long after it began it: within the 10 s promised, whatever a tick adds.
const PATIENCE_NS: u64 = 9_000_000_000;

/// Granularity of deadlines. Nothing a shard waits for needs to be closer than that.
const TICK_NS: u64 = 50_000_000;

/// How notices of sent packets reach their users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Notices {
    /// Written to the named users' own connections.
    #[default]
    Push,
    /// The prototype's way: put into the queue of the named user's SET, to travel as the answer to
    /// that SET's next shake, whoever shakes.
    Answer,
}

/// What all shards must agree on.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Users are `0..users`.
    pub users: u32,
    /// How notices travel.
    pub notices: Notices,
    /// How long a sent packet can be claimed, in nanoseconds.
    pub packet_life_ns: u64,
    /// Packets and notices that wait in one SET at most.
    pub queue_bound: usize,
    /// Sent packets that one shard keeps at a time.
    pub packets_bound: usize,
    /// What splits come from.
    pub seed: u64,
}

/// Things that fall due.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// A connection should have logged in.
    Login(ConnId),
    /// A connection should have finished the frame that it began.
    Frame(ConnId),
    /// A sent packet expires.
    Packet(u32),
}

/// What a shard holds besides what it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gauges {
    /// Users logged in.
    pub users_online: u64,
    /// Packets and notices in the queues of its SETs.
    pub queued: u64,
    /// Sent packets that have not expired and are not used up.
    pub packets_open: u64,
    /// Packets that generators of this shard have made.
    pub generated: u64,
    /// Generators that run on this shard.
    pub generators: u64,
}

/// The state of a shard.
pub struct Logic {
    me: usize,
    shards: usize,
    rules: Arc<Rules>,
    sessions: Vec<Session>,
    online: u64,
    sets: Sets,
    directory: Directory,
    packets: SentPackets,
    meter: Meter,
    generators: Generators,
    /// The schedule that runs, and one that is to follow it.
    pushes: Vec<Pushes>,
    wheel: Wheel<Timer>,
    /// Messages of this shard to itself.
    local: VecDeque<Message>,
    /// What there was to be shaken is all taken, and no more will come.
    supply_finished: bool,
    random: Pcg64Mcg,
    counters: Counters,
    /// Faults on purpose; empty in all runs that ask for none.
    slowness: Vec<Slowness>,
}

impl Logic {
    /// A shard without connections.
    pub fn new(
        me: usize,
        shards: usize,
        rules: Arc<Rules>,
        online: Online,
        budget: Arc<Budget>,
        now_ns: u64,
    ) -> Self {
        let (users, queue_bound, packets_bound) =
            (rules.users, rules.queue_bound, rules.packets_bound);
        Self {
            me,
            shards,
            sessions: Vec::new(),
            online: 0,
            directory: Directory::new(users, shards),
            packets: SentPackets::new(me, shards, packets_bound),
            meter: Meter::new(budget, shards),
            generators: Generators::new(Arc::clone(&online), shards),
            sets: Sets::new(me, shards, online, queue_bound),
            pushes: Vec::new(),
            wheel: Wheel::new(TICK_NS, now_ns),
            local: VecDeque::new(),
            supply_finished: false,
            random: Pcg64Mcg::seed_from_u64(rules.seed ^ (me as u64).rotate_right(16)),
            counters: Counters::default(),
            slowness: Vec::new(),
            rules,
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counters, for what only the sockets know.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Faults on purpose under way.
    pub fn slowness_mut(&mut self) -> &mut Vec<Slowness> {
        &mut self.slowness
    }

    /// What the shard holds.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            users_online: self.online,
            queued: self.sets.queued() as u64,
            packets_open: self.packets.len() as u64,
            generated: self.generators.made(),
            generators: self.generators.running() as u64,
        }
    }

    /// The books of the shard.
    pub fn ledger(&self) -> Ledger {
        self.sets.ledger()
    }

    /// The shard's SETs.
    pub fn sets(&self) -> &Sets {
        &self.sets
    }

    /// Where the users are whose home this shard is.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// A peer connected.
    pub fn accepted(&mut self, io: &mut impl Io, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, Session::default);
        }
        self.sessions[slot] = Session::fresh(conn);
        self.wheel.insert(io.now_ns() + PATIENCE_NS, Timer::Login(conn));
    }

    /// A connection is gone without this shard having closed it.
    pub fn closed(&mut self, io: &mut impl Io, conn: ConnId) {
        self.forget(io, conn);
        self.settle(io);
    }

    /// Everything that happened was handled: does what is due by now. Returns when there is
    /// something to do next, in nanoseconds.
    pub fn turned(&mut self, io: &mut impl Io) -> Option<u64> {
        let now_ns = io.now_ns();
        if self.wheel.next_ns().is_some_and(|next| next <= now_ns) {
            let mut due = Vec::new();
            self.wheel.expire(now_ns, |timer| due.push(timer));
            for timer in due {
                self.expired(io, timer);
            }
        }
        self.generate(io);
        self.push_due(io);
        self.settle(io);
        let pushes = self.pushes.first().map(Pushes::next_ns);
        self.wheel.next_ns().into_iter().chain(self.generators.next_ns()).chain(pushes).min()
    }

    fn expired(&mut self, io: &mut impl Io, timer: Timer) {
        match timer {
            Timer::Login(conn) => {
                if self.session(conn).is_some_and(|session| !session.is_online()) {
                    self.refuse(io, conn, ErrorCode::LoginTimeout, u32::MAX);
                }
            }
            Timer::Frame(conn) => {
                let Some(session) = self.session(conn) else { return };
                match session.half_since_ns() {
                    None => session.timed = false,
                    Some(since) if since + PATIENCE_NS <= io.now_ns() + TICK_NS => {
                        self.refuse(io, conn, ErrorCode::FrameTimeout, u32::MAX);
                    }
                    Some(since) => self.wheel.insert(since + PATIENCE_NS, Timer::Frame(conn)),
                }
            }
            Timer::Packet(packet) => self.packet_expired(io, packet),
        }
    }

    fn session(&mut self, conn: ConnId) -> Option<&mut Session> {
        self.sessions.get_mut(conn.slot as usize).filter(|session| session.is_of(conn))
    }

    fn address(&self, conn: ConnId) -> Address {
        Address { shard: self.me as u16, conn }
    }

    /// Ends a session, whatever becomes of its connection.
    fn forget(&mut self, io: &mut impl Io, conn: ConnId) {
        let Some(session) = self.session(conn) else { return };
        let was = std::mem::take(session);
        if was.is_online() {
            self.online -= 1;
            self.sets.leave(was.set);
            let leave = Message::Leave { user: was.user, at: self.address(conn) };
            self.post(io, home_of(was.user, self.shards), leave);
        }
    }

    /// Closes a connection for cause: with an error frame when the peer can read one.
    fn refuse(&mut self, io: &mut impl Io, conn: ConnId, code: ErrorCode, command: u32) {
        let Some(session) = self.session(conn) else { return };
        if session.ours {
            io.send(conn, &Frame::Error { code: code as u32, command });
        }
        let counters = &mut self.counters;
        *match code {
            ErrorCode::BadLength => &mut counters.bad_length,
            ErrorCode::UnknownCommand => &mut counters.unknown_command,
            ErrorCode::WrongDirection => &mut counters.wrong_direction,
            ErrorCode::NotLoggedIn => &mut counters.not_logged_in,
            ErrorCode::AlreadyLoggedIn => &mut counters.already_logged_in,
            ErrorCode::Replaced => &mut counters.replaced,
            ErrorCode::LoginTimeout => &mut counters.login_timeout,
            ErrorCode::FrameTimeout => &mut counters.frame_timeout,
            ErrorCode::NotReading => &mut counters.not_reading,
        } += 1;
        self.forget(io, conn);
        io.finish(conn);
    }

    /// Puts a message on its way, to this shard itself too. Returns false when it was dropped.
    fn post(&mut self, io: &mut impl Io, to: usize, message: Message) -> bool {
        if to == self.me {
            self.local.push_back(message);
            return true;
        }
        io.post(to, message)
    }

    /// Reads this shard's messages to itself, and what they bring about, until there are none.
    fn settle(&mut self, io: &mut impl Io) {
        while let Some(message) = self.local.pop_front() {
            self.read(io, message);
        }
    }
}
