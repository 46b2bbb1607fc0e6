//! The state of a shard's users, and what is read of it. Must not know: what moves it on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use accounting::{Money, Tail};
use attribution::{
    CauseRecorder, Request, Sampled, SegmentHistogram, SegmentRecorder, SlowRequest, Slowest, Tally,
};
use platform::{Clock, SPIN_PER_POLL_NS, Slowness};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use service::Notices;
use shard::{ConnId, Wheel};
use workload::{Flows, Phase, Receipts, Share};

use crate::load::closed::ClosedLoad;
use crate::load::even::Social;
use crate::load::failures::ConnectFailures;
use crate::load::handshakes::Connecting;
use crate::load::punctual::Punctuality;
use crate::load::unsent::Unsent;
use crate::pacer::Pacer;
use crate::traces::TraceReader;

/// Granularity of back-off times and handshake deadlines.
const TICK_NS: u64 = 10_000_000;

/// What all shards of a client agree on.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What schedules come from.
    pub seed: u64,
    /// After this time without an answer a shake has timed out, in nanoseconds.
    pub timeout_ns: u64,
    /// A send that is later than this is counted, in nanoseconds.
    pub late_ns: u64,
    /// How notices come.
    pub notices: Notices,
    /// Whether to tell the server that we speak this project's own commands.
    pub own_commands: bool,
    /// Where users come from.
    pub flows: Flows,
    /// The first user of this machine, from which flows are numbered.
    pub first_flow: u32,
    /// Connect again when a connection is lost.
    pub reconnect: bool,
    /// Slow requests recorded of a second.
    pub slow_kept: usize,
    /// Pass a sample of the requests on, to be joined with the server's ends of them.
    pub join: bool,
}

/// Where a user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum UserState {
    /// Not asked to connect.
    #[default]
    Idle,
    /// Connecting, or connected and waiting for the answer to the login.
    Handshake,
    Online,
    /// Waiting to connect again.
    BackingOff,
    /// Refused for good, or replaced by another connection of the same user.
    Out,
}

/// A user: 40 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) conn: ConnId,
    /// When the shake under way was due; 0 when none is.
    pub(super) due_ns: u64,
    /// How late it left, in microseconds.
    pub(super) lag_us: u32,
    /// Money of the last answers that came over the connection.
    pub(super) tail: Tail,
    /// The last push that came, plus one.
    pub(super) pushes: u32,
    /// The phase of the shake under way.
    pub(super) phase: u16,
    pub(super) state: UserState,
    /// Shakes that timed out and whose answers may still come, before that of the one under way.
    pub(super) owed: u8,
    /// Until the user is logged in: attempts to connect without success. From then on: claims
    /// without an answer. Never both, so that a user stays at 40 bytes.
    pub(super) tries_or_claims: u8,
    /// Source ports found taken.
    pub(super) ports: u8,
}

pub(super) const NO_CONN: ConnId = ConnId { slot: u32::MAX, generation: u32::MAX };

impl Default for User {
    fn default() -> Self {
        Self {
            conn: NO_CONN,
            due_ns: 0,
            lag_us: 0,
            tail: Tail::default(),
            pushes: 0,
            phase: 0,
            state: UserState::Idle,
            owed: 0,
            tries_or_claims: 0,
            ports: 0,
        }
    }
}

impl User {
    /// Claims without an answer.
    fn claims(&self) -> u8 {
        if self.state == UserState::Online { self.tries_or_claims } else { 0 }
    }

    /// Shakes whose answers may still come over the connection.
    fn unanswered_shakes(&self) -> u64 {
        u64::from(self.due_ns != 0) + u64::from(self.owed)
    }

    /// Shakes and claims whose answers may still come over the connection.
    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered_shakes() + u64::from(self.claims())
    }

    /// Of those, what another shake followed: it had timed out.
    pub(super) fn overtaken(&self) -> u64 {
        let overtaken = self.unanswered_shakes() > 1;
        if overtaken { self.unanswered() - 1 } else { 0 }
    }

    /// The connection is over: money of the last answers that came over it.
    pub(super) fn take_last_answers(&mut self) -> Money {
        std::mem::take(&mut self.tail).read(self.unanswered_shakes())
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// A user's handshake should be done.
    Handshake(u32, ConnId),
    /// A user connects again.
    Reconnect(u32),
}

/// A phase under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) phase: Phase,
    /// When it ends, in nanoseconds; `u64::MAX` while that is not known.
    pub(super) end_ns: u64,
    pub(super) ended: bool,
    /// It is over, and what was not sent is being counted.
    pub(super) skipping: bool,
}

/// Something the shard's control thread should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// All users that a phase was to log in are logged in.
    Established {
        /// The phase.
        phase: u16,
        /// When, on the monotonic clock in nanoseconds.
        at_ns: u64,
    },
    /// All connections of a phase have been tried, and some of its users are not logged in: they
    /// were refused for good, or another connection took their place.
    LeftOut {
        /// The phase.
        phase: u16,
        /// How many.
        users: u32,
    },
    /// A phase has ended and nothing of it is under way any more.
    Settled {
        /// The phase.
        phase: u16,
        /// What became of its shakes.
        tally: Box<Tally>,
    },
}

/// The users of a shard.
pub struct LoadGenerator {
    pub(super) share: Share,
    pub(super) rules: Arc<Rules>,
    pub(super) clock: Clock,
    pub(super) users: Vec<User>,
    /// The user of each connection slot.
    pub(super) by_slot: Vec<u32>,
    pub(super) online: u32,
    pub(super) upcoming: VecDeque<Phase>,
    pub(super) running: Option<Running>,
    /// Phases that have ended and may still have shakes or claims under way, and until when claims
    /// are waited for.
    pub(super) settling: Vec<(u16, u64)>,
    pub(super) pacer: Option<Pacer>,
    /// The rate asked for last and the Unix second from which it counts: a phase that begins in
    /// between needs it, too.
    pub(super) asked_rate: Option<(u64, u32)>,
    pub(super) closed: Option<ClosedLoad>,
    pub(super) connecting: Connecting,
    /// Why connections could not be opened, since this was last asked for.
    pub(super) failures: ConnectFailures,
    pub(super) social: Social,
    /// Shakes under way, by the instant they were due: when each times out.
    pub(super) timeouts: VecDeque<(u64, u32)>,
    /// Shakes that were due and could not start.
    pub(super) unsent: Unsent,
    pub(super) punctuality: Punctuality,
    pub(super) wheel: Wheel<Timer>,
    pub(super) recorder: SegmentRecorder,
    pub(super) slow: Slowest,
    pub(super) causes: CauseRecorder,
    /// Requests of the second under way that are to be joined with the server's ends.
    pub(super) sampled: Vec<Sampled>,
    /// What the kernel had seen of shakes under way when their users sent something else.
    pub(super) overtaken: HashMap<u32, Request>,
    /// What the kernel saw of requests, where it is traced.
    pub(super) traces: Option<Arc<dyn TraceReader>>,
    pub(super) tally: Tally,
    /// Tallies by phase; shakes count in the phase in which they were due.
    pub(super) tallies: Vec<Tally>,
    pub(super) receipts: Receipts,
    pub(super) events: Vec<Event>,
    pub(super) random: Pcg64Mcg,
    /// Faults on purpose; empty in all runs that ask for none.
    pub(super) slowness: Vec<Slowness>,
    /// CPU time that they may still spend in this poll, in nanoseconds.
    pub(super) spin_left_ns: u64,
}

impl LoadGenerator {
    /// Users who are not connected.
    pub fn new(share: Share, rules: Arc<Rules>, clock: Clock, now_ns: u64) -> Self {
        let seed = rules.seed ^ u64::from(share.first) ^ ((share.shard as u64) << 40);
        Self {
            share,
            clock,
            users: vec![User::default(); share.len() as usize],
            by_slot: Vec::new(),
            online: 0,
            upcoming: VecDeque::new(),
            running: None,
            settling: Vec::new(),
            pacer: None,
            asked_rate: None,
            closed: None,
            connecting: Connecting::default(),
            failures: ConnectFailures::new(),
            social: Social::default(),
            timeouts: VecDeque::new(),
            unsent: Unsent::new(share.len()),
            punctuality: Punctuality::default(),
            wheel: Wheel::new(TICK_NS, now_ns),
            recorder: SegmentRecorder::default(),
            slow: Slowest::new(rules.slow_kept),
            causes: CauseRecorder::default(),
            sampled: Vec::new(),
            overtaken: HashMap::new(),
            traces: None,
            tally: Tally::default(),
            tallies: Vec::new(),
            receipts: Receipts::default(),
            events: Vec::new(),
            random: Pcg64Mcg::seed_from_u64(seed),
            slowness: Vec::new(),
            spin_left_ns: SPIN_PER_POLL_NS,
            rules,
        }
    }

    /// Attributes the time of every answer by these traces from here on.
    pub(crate) fn set_traces(&mut self, traces: Option<Arc<dyn TraceReader>>) {
        self.traces = traces;
    }

    /// Faults on purpose under way.
    pub(crate) fn slowness_mut(&mut self) -> &mut Vec<Slowness> {
        &mut self.slowness
    }

    /// Why requests took their time, in the second under way.
    pub(crate) fn causes(&mut self) -> &mut CauseRecorder {
        &mut self.causes
    }

    /// What was counted so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The counters, for what only the sockets know.
    pub(crate) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Users logged in.
    pub fn online(&self) -> u32 {
        self.online
    }

    /// What the users received.
    pub fn receipts(&self) -> &Receipts {
        &self.receipts
    }

    /// The client ends: what is under way now, or waits, gets no answer any more. Of a phase that
    /// has settled nothing is: an answer that is still missing then was due long ago.
    pub fn end(&mut self, now_ns: u64) {
        let recorder = &mut self.recorder;
        self.unsent.expire(u64::MAX, |phase, _, due_ns| {
            recorder.record_at_least(phase, now_ns.saturating_sub(due_ns));
        });
        for user in self.users.iter().filter(|user| user.due_ns != 0) {
            recorder.record_at_least(user.phase, now_ns.saturating_sub(user.due_ns));
        }
        let settled = self.settling.is_empty() && self.running.as_ref().is_none_or(|run| run.ended);
        let claims = |user: &User| if settled { 0 } else { u64::from(user.claims()) };
        let under_way = |user: &User| u64::from(user.due_ns != 0) + claims(user);
        self.receipts.in_flight_at_end = self.users.iter().map(under_way).sum();
        for user in &mut self.users {
            self.receipts.last_answers += user.take_last_answers();
        }
    }

    /// The histograms of the second that ends.
    pub fn take_histograms(&mut self) -> std::vec::Drain<'_, SegmentHistogram> {
        self.recorder.take()
    }

    /// The histograms of the second under way.
    pub(crate) fn recorder(&mut self) -> &mut SegmentRecorder {
        &mut self.recorder
    }

    /// The slowest requests of the second under way.
    pub fn take_slow(&mut self) -> Vec<SlowRequest> {
        let traces = self.traces.as_ref();
        self.slow.take(|slot, from_ns, to_ns| traces?.thread(slot, from_ns, to_ns))
    }

    /// The requests of the second under way that are to be joined with the server's ends.
    pub(crate) fn take_sampled(&mut self) -> Vec<Sampled> {
        std::mem::take(&mut self.sampled)
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// Why connections could not be opened, since the last call.
    pub(crate) fn take_failures(&mut self) -> ConnectFailures {
        std::mem::take(&mut self.failures)
    }

    /// The phase that offers shakes now.
    pub(super) fn phase_index(&self) -> u16 {
        self.running.as_ref().map_or(0, |run| run.phase.index)
    }

    /// A user's shard and connection, if the connection is that user's.
    pub(super) fn user_of(&self, conn: ConnId) -> Option<u32> {
        let user = *self.by_slot.get(conn.slot as usize)?;
        (self.users.get(user as usize)?.conn == conn).then_some(user)
    }
}
