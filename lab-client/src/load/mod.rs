//! The users of a shard: they log in, shake on schedule, claim, chat, and count what they
//! receive.
//!
//! Owns: users, what is under way, tallies, receipts. Must not know: sockets, threads, the real
//! clock; it acts through [`Transport`].

mod answers;
mod attributing;
mod connecting;
mod shaking;
mod social;

use std::collections::VecDeque;
use std::sync::Arc;

use attribution::{CauseRecorder, Sampled, SegmentRecorder, SlowRequest, Slowest, Tally};
use platform::{Clock, Slowness};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use shard::{ConnId, Wheel};
use workload::{Flows, Load, Notices, Phase, Receipts, Share};

use crate::pacer::Pacer;
use crate::traces::TraceReader;
use crate::transport::Transport;

use connecting::Connecting;
use shaking::ClosedLoad;
use social::Social;

/// Granularity of back-off times and handshake deadlines.
const TICK_NS: u64 = 10_000_000;

/// Shakes that were due before the end of a phase are sent up to this long after it.
const LATEST_NS: u64 = 1_000_000_000;

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
enum UserState {
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

/// A user: 32 bytes.
#[derive(Clone, Copy, Debug)]
struct User {
    conn: ConnId,
    /// When the shake under way was due; 0 when none is.
    due_ns: u64,
    /// How late it left, in microseconds.
    lag_us: u32,
    /// The last push that came, plus one.
    pushes: u32,
    /// The phase of the shake under way.
    phase: u16,
    state: UserState,
    /// Shakes that timed out and whose answers may still come, before that of the one under way.
    owed: u8,
    /// Attempts to connect without success.
    tries: u8,
    /// Source ports found taken.
    ports: u8,
    /// How long the shard slept between the instant and the send, in microseconds; at most 65 ms.
    slept_us: u16,
}

const NO_CONN: ConnId = ConnId { slot: u32::MAX, generation: u32::MAX };

impl Default for User {
    fn default() -> Self {
        Self {
            conn: NO_CONN,
            due_ns: 0,
            lag_us: 0,
            pushes: 0,
            phase: 0,
            state: UserState::Idle,
            owed: 0,
            tries: 0,
            ports: 0,
            slept_us: 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// A user's handshake should be done.
    Handshake(u32, ConnId),
    /// A user connects again.
    Reconnect(u32),
}

/// A phase under way.
#[derive(Debug)]
struct Running {
    phase: Phase,
    /// When it ends, in nanoseconds; `u64::MAX` while that is not known.
    end_ns: u64,
    ended: bool,
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
    share: Share,
    rules: Arc<Rules>,
    clock: Clock,
    users: Vec<User>,
    /// The user of each connection slot.
    by_slot: Vec<u32>,
    online: u32,
    upcoming: VecDeque<Phase>,
    running: Option<Running>,
    /// Phases that have ended and may still have shakes or claims under way, and until when claims
    /// are waited for.
    settling: Vec<(u16, u64)>,
    pacer: Option<Pacer>,
    /// The rate asked for last and the Unix second from which it counts: a phase that begins in
    /// between needs it, too.
    asked_rate: Option<(u64, u32)>,
    closed: Option<ClosedLoad>,
    connecting: Connecting,
    social: Social,
    /// Shakes under way, by the instant they were due: when each times out.
    timeouts: VecDeque<(u64, u32)>,
    wheel: Wheel<Timer>,
    recorder: SegmentRecorder,
    slow: Slowest,
    causes: CauseRecorder,
    /// Requests of the second under way that are to be joined with the server's ends.
    sampled: Vec<Sampled>,
    /// What the kernel saw of requests, where it is traced.
    traces: Option<Arc<dyn TraceReader>>,
    tally: Tally,
    /// Tallies by phase; shakes count in the phase in which they were due.
    tallies: Vec<Tally>,
    receipts: Receipts,
    events: Vec<Event>,
    random: Pcg64Mcg,
    /// Faults on purpose; empty in all runs that ask for none.
    slowness: Vec<Slowness>,
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
            social: Social::default(),
            timeouts: VecDeque::new(),
            wheel: Wheel::new(TICK_NS, now_ns),
            recorder: SegmentRecorder::default(),
            slow: Slowest::new(rules.slow_kept),
            causes: CauseRecorder::default(),
            sampled: Vec::new(),
            traces: None,
            tally: Tally::default(),
            tallies: Vec::new(),
            receipts: Receipts::default(),
            events: Vec::new(),
            random: Pcg64Mcg::seed_from_u64(seed),
            slowness: Vec::new(),
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

    /// The histograms of the second under way.
    pub(crate) fn recorder(&mut self) -> &mut SegmentRecorder {
        &mut self.recorder
    }

    /// The slowest requests of the second under way.
    pub fn take_slow(&mut self) -> Vec<SlowRequest> {
        self.slow.take(|slot| self.traces.as_ref()?.thread(slot))
    }

    /// The requests of the second under way that are to be joined with the server's ends.
    pub(crate) fn take_sampled(&mut self) -> Vec<Sampled> {
        std::mem::take(&mut self.sampled)
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// A phase to be carried out when its second comes; the one before ends then at the latest.
    pub fn add_phase(&mut self, phase: Phase) {
        if let Some(before) = self.running.as_ref().map(|run| run.phase.index) {
            self.end_phase(before, phase.start);
        }
        self.upcoming.push_back(phase);
    }

    /// Ends a phase before a Unix second.
    pub fn end_phase(&mut self, index: u16, end: u64) {
        let end_ns = self.clock.start_of(end);
        if let Some(running) = self.running.as_mut().filter(|run| run.phase.index == index) {
            running.end_ns = running.end_ns.min(end_ns);
            if let Some(pacer) = &mut self.pacer {
                pacer.end_at(end);
            }
        }
        if let Some(phase) = self.upcoming.iter_mut().find(|phase| phase.index == index) {
            phase.seconds = Some(end.saturating_sub(phase.start));
        }
    }

    /// Changes the rate of the open load from a Unix second on.
    pub fn change_rate(&mut self, from: u64, rate: u32) {
        if let Some(pacer) = &mut self.pacer {
            pacer.change_rate(from, rate);
        }
        self.asked_rate = Some((from, rate));
    }

    /// Everything that happened was handled: does what is due by now. Returns when there is
    /// something to do next, in nanoseconds.
    pub fn poll(&mut self, net: &mut impl Transport) -> Option<u64> {
        let now_ns = net.now_ns();
        self.change_phase(now_ns);
        self.expire(net, now_ns);
        self.connect_due(net);
        let behind = self.shake_due(net);
        let behind = self.socialize(net) || behind;
        self.settle(now_ns);
        if behind {
            return Some(net.now_ns());
        }
        let times = [
            self.upcoming.front().map(|phase| self.clock.start_of(phase.start)),
            self.running.as_ref().filter(|run| !run.ended).map(|run| run.end_ns),
            self.pacer.as_ref().map(Pacer::wake_ns),
            self.timeouts.front().map(|(due_ns, _)| due_ns + self.rules.timeout_ns),
            self.wheel.next_ns(),
            self.connecting.next_ns(),
            self.social.next_ns(),
            self.settling.iter().map(|(_, until_ns)| *until_ns).min(),
        ];
        times.into_iter().flatten().min().filter(|at| *at != u64::MAX)
    }

    fn change_phase(&mut self, now_ns: u64) {
        if let Some(run) = self.running.as_ref().filter(|run| !run.ended) {
            let end_ns = run.end_ns;
            if end_ns > now_ns {
                return;
            }
            // What was due before the end is still sent, late, but not for ever.
            let more = self.pacer.as_mut().is_some_and(|pacer| pacer.next(end_ns).is_some());
            if more && now_ns < end_ns + LATEST_NS {
                return;
            }
            self.stop_phase(now_ns);
        }
        let due = |phase: &Phase| self.clock.start_of(phase.start) <= now_ns;
        if self.upcoming.front().is_some_and(due)
            && let Some(phase) = self.upcoming.pop_front()
        {
            self.start_phase(phase);
        }
    }

    fn stop_phase(&mut self, now_ns: u64) {
        self.skip_rest();
        self.pacer = None;
        self.closed = None;
        self.social = Social::default();
        if let Some(run) = &mut self.running {
            run.ended = true;
            self.settling.push((run.phase.index, now_ns + self.rules.timeout_ns));
        }
    }

    fn start_phase(&mut self, phase: Phase) {
        let index = usize::from(phase.index);
        if self.tallies.len() <= index {
            self.tallies.resize(index + 1, Tally::default());
        }
        let start_ns = self.clock.start_of(phase.start);
        let end = phase.seconds.map(|seconds| phase.start + seconds);
        if let Some(connect) = phase.connect {
            self.connecting.start(phase.index, &self.share, connect, start_ns);
            self.report_established(start_ns);
        }
        match phase.load {
            Load::None => {}
            Load::Open { rate, pacing } => {
                let (share, clock, seed) = (self.share, self.clock, self.rules.seed);
                let mut pacer = Pacer::new(share, clock, seed, rate, pacing, phase.start, end);
                let asked = self.asked_rate.take().filter(|(from, _)| *from >= phase.start);
                asked.into_iter().for_each(|(from, rate)| pacer.change_rate(from, rate));
                self.pacer = Some(pacer);
            }
            Load::Closed { in_flight } => {
                let order = platform::splitmix64(self.rules.seed ^ u64::from(phase.index));
                self.closed = ClosedLoad::new(&self.share, in_flight, order);
            }
        }
        self.social = Social::new(&self.share, &phase, start_ns);
        let end_ns = end.map_or(u64::MAX, |end| self.clock.start_of(end));
        self.running = Some(Running { phase, end_ns, ended: false });
    }

    /// The phase that offers shakes now.
    fn phase_index(&self) -> u16 {
        self.running.as_ref().map_or(0, |run| run.phase.index)
    }

    fn expire(&mut self, net: &mut impl Transport, now_ns: u64) {
        while let Some((due_ns, user)) = self.timeouts.front().copied() {
            if due_ns + self.rules.timeout_ns > now_ns {
                break;
            }
            self.timeouts.pop_front();
            self.time_out(user, due_ns);
        }
        if self.wheel.next_ns().is_some_and(|next| next <= now_ns) {
            let mut due = Vec::new();
            self.wheel.expire(now_ns, |timer| due.push(timer));
            for timer in due {
                match timer {
                    Timer::Handshake(user, conn) => self.handshake_late(net, user, conn),
                    Timer::Reconnect(user) => self.connecting.retry(user),
                }
            }
        }
    }

    /// Reports phases of which nothing is under way any more.
    fn settle(&mut self, now_ns: u64) {
        // A claim whose connection went away is never answered; the others are in milliseconds.
        let Tally { claims, claims_granted, claims_refused, .. } = self.tally;
        let claims_open = claims > claims_granted + claims_refused;
        let (tallies, events) = (&self.tallies, &mut self.events);
        self.settling.retain(|(phase, until_ns)| {
            let tally = tallies[usize::from(*phase)];
            let waits = tally.in_flight() != Some(0) || (claims_open && now_ns < *until_ns);
            if !waits {
                events.push(Event::Settled { phase: *phase, tally: Box::new(tally) });
            }
            waits
        });
    }

    /// A user's shard and connection, if the connection is that user's.
    fn user_of(&self, conn: ConnId) -> Option<u32> {
        let user = *self.by_slot.get(conn.slot as usize)?;
        (self.users.get(user as usize)?.conn == conn).then_some(user)
    }
}
