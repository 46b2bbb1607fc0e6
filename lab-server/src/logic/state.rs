//! The state of a shard, and what every part of its logic does with it: sessions, refusals,
//! messages to other shards.

use std::sync::Arc;

use accounting::server::{Counters, Gauges};
use accounting::{Ledger, Money};
use journal::State;
use platform::{SPIN_PER_POLL_NS, Slowness};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use shard::{ConnId, Wheel};
use wire::{ErrorCode, Frame};

use crate::directory::{Address, Directory, home_of};
use crate::io::Io;
use crate::logic::connection::Session;
use crate::logic::generators::Generators;
use crate::logic::local::Local;
use crate::logic::pushes::Pushes;
use crate::logic::rules::Rules;
use crate::message::Message;
use crate::overload::{Budget, Meter};
use crate::packets::{PacketLimits, SentPackets};
use crate::sets::{Online, Sets};
use crate::under_way::UnderWay;

/// A peer that says nothing is closed this long after it connected, and one that leaves a frame
/// half this long after it began it: within the 10 s promised, a tick included.
pub(super) const PATIENCE_NS: u64 = 9_000_000_000;

/// Granularity of deadlines. Nothing a shard waits for needs to be closer than that.
pub(super) const TICK_NS: u64 = 50_000_000;

/// Things that fall due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// A connection should have logged in.
    Login(ConnId),
    /// A connection should have finished the frame that it began.
    Frame(ConnId),
}

/// The state of a shard.
pub struct Logic {
    pub(super) me: usize,
    pub(super) shards: usize,
    pub(super) rules: Arc<Rules>,
    pub(super) sessions: Vec<Session>,
    pub(super) online: u64,
    pub(super) sets: Sets,
    pub(super) directory: Directory,
    pub(super) packets: SentPackets,
    /// What each user has under way on all shards.
    pub(super) under_way: Arc<UnderWay>,
    pub(super) meter: Meter,
    pub(super) generators: Generators,
    /// The schedule that runs, and one that is to follow it.
    pub(super) pushes: Vec<Pushes>,
    pub(super) wheel: Wheel<Timer>,
    /// Messages of this shard to itself.
    pub(super) local: Local,
    /// All packets to be shaken are taken, and no more will come.
    pub(super) supply_finished: bool,
    pub(super) random: Pcg64Mcg,
    pub(super) counters: Counters,
    /// Faults on purpose; empty in all runs that ask for none.
    pub(super) slowness: Vec<Slowness>,
    /// CPU time that they may still spend in this tick, in nanoseconds.
    pub(super) spin_left_ns: u64,
}

impl Logic {
    /// A shard without connections.
    pub fn new(
        me: usize,
        shards: usize,
        rules: Arc<Rules>,
        online: Online,
        budget: Arc<Budget>,
        under_way: Arc<UnderWay>,
        now_ns: u64,
    ) -> Self {
        let (users, queue_bound) = (rules.users, rules.queue_bound);
        let limits = PacketLimits {
            all: rules.packets_bound,
            of_user: rules.budgets.packets,
            life_ns: rules.packet_life_ns,
        };
        Self {
            me,
            shards,
            sessions: Vec::new(),
            online: 0,
            directory: Directory::new(users, shards),
            packets: SentPackets::new(me, shards, limits, Arc::clone(&under_way)),
            under_way,
            meter: Meter::new(budget, shards),
            generators: Generators::new(Arc::clone(&online), shards),
            sets: Sets::new(me, shards, online, queue_bound),
            pushes: Vec::new(),
            wheel: Wheel::new(TICK_NS, now_ns),
            local: Local::default(),
            supply_finished: false,
            random: Pcg64Mcg::seed_from_u64(rules.seed ^ (me as u64).rotate_right(16)),
            counters: Counters::default(),
            slowness: Vec::new(),
            spin_left_ns: SPIN_PER_POLL_NS,
            rules,
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counters, for what only the sockets know.
    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
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
            generators: self.generators.count() as u64,
            generators_begun: self.generators.begun,
            generators_rate: self.generators.rate(),
            timers: (self.wheel.len() + self.packets.deadlines()) as u64,
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

    /// Whether notices wait for the next poll.
    pub(crate) fn has_notices(&self) -> bool {
        !self.local.is_empty()
    }

    /// Where the users are whose home this shard is.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn session(&mut self, conn: ConnId) -> Option<&mut Session> {
        self.sessions.get_mut(conn.slot as usize).filter(|session| session.is_of(conn))
    }

    pub(super) fn address(&self, conn: ConnId) -> Address {
        Address { shard: self.me as u16, conn }
    }

    /// Ends a session, whatever becomes of its connection.
    pub(super) fn end_session(&mut self, io: &mut impl Io, conn: ConnId) {
        let Some(session) = self.session(conn) else { return };
        let ended = std::mem::take(session);
        self.unconfirmed(ended.tail.written());
        if ended.is_online() {
            self.online -= 1;
            self.sets.leave(ended.set);
            let leave = Message::Leave { user: ended.user, at: self.address(conn) };
            self.post(io, home_of(ended.user, self.shards), leave);
        }
    }

    /// Money that was written, and that no later shake can have confirmed.
    pub(super) fn unconfirmed(&mut self, money: Money) {
        self.counters.unconfirmed_shares += money.count;
        self.counters.unconfirmed_cents += money.amount;
    }

    /// The shard ends: no shake of those who are still connected will confirm anything.
    pub fn end(&mut self) {
        let tails = self.sessions.iter_mut().map(|session| std::mem::take(&mut session.tail));
        let written = tails.fold(Money::default(), |sum, tail| sum + tail.written());
        self.unconfirmed(written);
    }

    /// Closes a connection for cause: with an error frame when the peer can read one.
    pub(super) fn refuse(&mut self, io: &mut impl Io, conn: ConnId, code: ErrorCode, command: u32) {
        let Some(session) = self.session(conn) else { return };
        if session.extended {
            io.send(conn, &Frame::Error { code: code.code(), command });
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
        self.end_session(io, conn);
        io.finish(conn);
    }

    /// Takes over what this shard's share of a durable ledger had; deadlines are on the clock of
    /// now. Its open packets are counted of their users already ([`UnderWay::count_open`]).
    pub fn restore(&mut self, state: State) {
        for (number, of) in state.sets {
            if let Some(set) = self.sets.place_of(number) {
                self.sets.restore(set, of.ledger, of.queue.into_iter());
            }
        }
        for (packet, open) in state.open {
            if let Some(set) = self.sets.place_of(open.set) {
                self.packets.restore(packet, open, set);
            }
        }
        self.packets.go_on_from(state.next_sent);
        self.generators.go_on_from(state.next_shaken);
    }

    /// Puts a message on its way once what was recorded by now is durable. Returns false when it
    /// was dropped.
    pub(super) fn post_recorded(&mut self, io: &mut impl Io, to: usize, message: Message) -> bool {
        match io.hold(to, message) {
            None => true,
            Some(message) => self.post(io, to, message),
        }
    }

    /// Puts a message on its way, to this shard itself too. Returns false when it was dropped.
    pub(super) fn post(&mut self, io: &mut impl Io, to: usize, message: Message) -> bool {
        if to == self.me {
            let room = self.local.put(message);
            self.counters.local_overflow += u64::from(!room);
            return room;
        }
        io.post(to, message)
    }
}
