//! Between the shards and those who command and record: what all shards together have reported.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use attribution::{Encoded, Sample, SegmentHistogram, Tally};
use control::{Lines, Output, Program, Shards, locked};
use platform::{Clock, NANOS_PER_SECOND, SlowOrders, monotonic_ns};
use workload::{Audit, Command, Line, Load, Phase, Receipts, check_rate};

use super::error::CommandError;
use crate::client::Client;
use crate::load::{ConnectFailures, Event, in_all};
use crate::message::Message;
use crate::report::Report;

/// A changed rate must reach all shards before the second in which it counts, and before they work
/// that second out.
const RATE_MARGIN_NS: u64 = NANOS_PER_SECOND / 5;

/// What the shards have reported of a phase.
#[derive(Debug, Default)]
struct Gathered {
    start_ns: u64,
    established: usize,
    established_ns: u64,
    settled: usize,
    tally: Tally,
    /// Shards that have tried all connections, and their users who are not logged in.
    left_out: (usize, u32),
    /// The Unix seconds in which it offers an open load: the first, and the exclusive end.
    open: (u64, u64),
}

struct State {
    shards: Shards<Message, Report>,
    clock: Clock,
    phases: Mutex<HashMap<u16, Gathered>>,
    /// The rate of an open load that will begin at a time that is not known yet.
    expected: Mutex<Option<u32>>,
    /// What the shards counted since they began, and their last samples.
    totals: Mutex<Vec<(Tally, Option<Sample>)>>,
    receipts: Mutex<Receipts>,
    /// Why connections could not be opened, since the shards began.
    failures: Mutex<ConnectFailures>,
    /// Shards that have not ended.
    running: AtomicUsize,
    /// Faults on purpose in force.
    slow: Mutex<SlowOrders>,
}

/// The control thread's view of a client. A clone is another handle to the same.
#[derive(Clone)]
pub(crate) struct Hub(Arc<State>);

impl Hub {
    /// A view of a running client.
    pub(crate) fn new(client: &Client) -> Self {
        let shards = client.mail().shards();
        Self(Arc::new(State {
            shards: Shards::new(client.mail().clone(), client.reports().clone()),
            clock: client.clock(),
            phases: Mutex::default(),
            expected: Mutex::default(),
            totals: Mutex::new(vec![(Tally::default(), None); shards]),
            receipts: Mutex::default(),
            failures: Mutex::default(),
            running: AtomicUsize::new(shards),
            slow: Mutex::default(),
        }))
    }

    /// Says each reason once for which connections could not be opened.
    fn not_connected(&self, server: SocketAddrV4, new: ConnectFailures, lines: &Lines<Line>) {
        let mut failures = locked(&self.0.failures);
        for (why, count) in new {
            if !failures.contains_key(&why) {
                let _ = lines.send(Line::Error(why.sentence(server)));
            }
            *failures.entry(why).or_default() += count;
        }
    }

    /// Says at the end how many there were, where that is more than was said.
    fn say_failures(&self, lines: &Lines<Line>) {
        let failures = locked(&self.0.failures);
        let is_last = self.0.running.fetch_sub(1, Ordering::Relaxed) == 1;
        let is_more = failures.values().any(|count| *count > 1);
        if let Some(words) = in_all(&failures).filter(|_| is_last && is_more) {
            let _ = lines.send(Line::Error(words));
        }
    }

    /// The first Unix second from which a changed rate can count on all shards.
    pub(crate) fn next_second(&self) -> u64 {
        self.0.clock.unix_second(monotonic_ns() + RATE_MARGIN_NS) + 1
    }

    /// Checks a command and carries it out.
    ///
    /// # Errors
    /// [`CommandError`].
    pub(crate) fn execute(&self, command: Command) -> Result<(), CommandError> {
        match command {
            Command::Phase(phase) => {
                phase.check()?;
                phase.check_start(self.0.clock.unix_second(monotonic_ns()))?;
                self.begin(&phase);
                self.post_all(|| Message::Phase(phase.clone()))
            }
            Command::EndPhase { index, end } => {
                self.end(index, end);
                self.post_all(|| Message::EndPhase { index, end })
            }
            Command::Rate { qps } => self.change_rate(qps),
            Command::Slow(order) => {
                locked(&self.0.slow).admit(&order, monotonic_ns())?;
                // One that reached some of the shards counts as well, until its end.
                self.post_all(|| Message::Slow(Box::new(order)))
            }
            Command::EndSlow { id, until_ns } => {
                locked(&self.0.slow).end_at(id, until_ns);
                self.post_all(|| Message::EndSlow { id, until_ns })
            }
            Command::Stop {} => self.post_all(|| Message::Stop),
        }
    }

    fn begin(&self, phase: &Phase) {
        let start_ns = self.0.clock.start_of(phase.start);
        let end = phase.seconds.map_or(u64::MAX, |seconds| phase.start.saturating_add(seconds));
        let open = match phase.load {
            Load::Open { .. } => (phase.start, end),
            Load::None | Load::Closed { .. } => (0, 0),
        };
        let mut phases = locked(&self.0.phases);
        // The one before ends at the latest when this one starts.
        phases.values_mut().for_each(|before| before.open.1 = before.open.1.min(phase.start));
        phases.insert(phase.index, Gathered { start_ns, open, ..Gathered::default() });
    }

    fn end(&self, index: u16, end: u64) {
        let mut phases = locked(&self.0.phases);
        phases.get_mut(&index).into_iter().for_each(|it| it.open.1 = it.open.1.min(end));
    }

    /// An open load will begin: until then its rate can be changed like that of one under way.
    pub(crate) fn expect_load(&self, rate: u32) {
        *locked(&self.0.expected) = Some(rate);
    }

    /// The load that was expected begins now: its rate, as it may have been changed.
    pub(crate) fn take_expected(&self) -> Option<u32> {
        locked(&self.0.expected).take()
    }

    /// Changes the rate of the open load from the next second on.
    fn change_rate(&self, qps: u32) -> Result<(), CommandError> {
        check_rate("qps", f64::from(qps))?;
        if let Some(rate) = &mut *locked(&self.0.expected) {
            *rate = qps;
            return Ok(());
        }
        let from = self.next_second();
        let is_open = |it: &Gathered| it.open.0 <= from && from < it.open.1;
        if !locked(&self.0.phases).values().any(is_open) {
            return Err(CommandError::NoOpenLoad);
        }
        self.post_all(|| Message::Rate { from, rate: qps })
    }

    /// How many users that a phase was to log in cannot be, once all connections have been tried.
    pub(crate) fn left_out(&self, phase: u16) -> Option<u32> {
        let phases = locked(&self.0.phases);
        let Gathered { established, left_out: (shards, users), .. } = phases.get(&phase)?;
        (*shards > 0 && established + shards == self.0.shards.count()).then_some(*users)
    }

    /// Posts a message to every shard.
    ///
    /// # Errors
    /// [`CommandError::InboxFull`] for the first whose inbox is full.
    pub(crate) fn post_all(&self, message: impl Fn() -> Message) -> Result<(), CommandError> {
        Ok(self.0.shards.post_all(message)?)
    }

    /// What each shard counted since it began, with its last sample.
    pub(crate) fn totals(&self) -> Vec<(Tally, Option<Sample>)> {
        locked(&self.0.totals).clone()
    }

    /// What the users of the shards that have ended received.
    pub(crate) fn audit(&self) -> Audit {
        Audit::of(&locked(&self.0.receipts))
    }

    /// The errors of shards that could not go on.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.0.shards.take_failures()
    }

    fn on_event(&self, event: Event) -> Option<Line> {
        let mut phases = locked(&self.0.phases);
        match event {
            Event::Established { phase, at_ns } => {
                let gathered = phases.entry(phase).or_default();
                gathered.established += 1;
                gathered.established_ns = gathered.established_ns.max(at_ns);
                let took_ns = gathered.established_ns.saturating_sub(gathered.start_ns);
                let seconds = took_ns as f64 / NANOS_PER_SECOND as f64;
                (gathered.established == self.0.shards.count())
                    .then_some(Line::Established { phase, seconds })
            }
            Event::LeftOut { phase, users } => {
                let left_out = &mut phases.entry(phase).or_default().left_out;
                *left_out = (left_out.0 + 1, left_out.1 + users);
                None
            }
            Event::Settled { phase, tally } => {
                let gathered = phases.entry(phase).or_default();
                gathered.settled += 1;
                gathered.tally.add(&tally);
                let tally = Box::new(gathered.tally);
                (gathered.settled == self.0.shards.count())
                    .then_some(Line::Settled { phase, tally })
            }
        }
    }
}

impl Program for Hub {
    type Message = Message;
    type Report = Report;
    type Command = Command;
    type Line = Line;

    fn shards(&self) -> &Shards<Message, Report> {
        &self.0.shards
    }

    fn handle(&self, report: Report, lines: &Lines<Line>) {
        // A recorder may be gone, so lines may be refused; the receipts are kept all the same.
        let line = match report {
            Report::Started(_, Ok(())) => None,
            Report::Started(shard, Err(reason)) => {
                self.shard_ended(shard, Err(reason), lines);
                None
            }
            Report::Second(sample) => {
                let total = &mut locked(&self.0.totals)[sample.shard];
                total.0.add(&sample.tally);
                total.1 = Some(sample);
                Some(Line::Sample(Box::new(sample)))
            }
            Report::Histogram { t, shard, histogram } => {
                let SegmentHistogram { phase, segment, values } = histogram;
                let encoded = Encoded(values.clone());
                // An inbox that is full gets its histogram back another time, made anew.
                let _ = self.0.shards.post(shard, Message::Spare(values));
                Some(Line::Histogram { t, phase, segment, values: encoded })
            }
            Report::Causes { t, shard, phase, rows } => {
                Some(Line::Causes { t, shard, phase, rows })
            }
            Report::Spun(shard, spins) => Some(Line::Spun { shard, spins }),
            Report::Sampled(t, requests) => Some(Line::Sampled { t, requests }),
            Report::Slow(t, requests) => Some(Line::Slow { t, requests }),
            Report::Event(event) => self.on_event(event),
            Report::NotConnected(server, failures) => {
                self.not_connected(server, failures, lines);
                None
            }
            Report::Ended(shard, receipts, ended) => {
                locked(&self.0.receipts).add(&receipts);
                self.shard_ended(shard, ended, lines);
                self.say_failures(lines);
                None
            }
        };
        if let Some(line) = line {
            let _ = lines.send(line);
        }
    }

    fn carry_out(&self, command: Command) -> Result<(), String> {
        self.execute(command).map_err(|error| error.to_string())
    }

    fn stop_message() -> Message {
        Message::Stop
    }

    fn error_line(&self, error: String) -> Line {
        Line::Error(error)
    }

    fn is_vital(line: &Line) -> bool {
        match line {
            Line::Ready(_)
            | Line::Established { .. }
            | Line::Settled { .. }
            | Line::Error(_)
            | Line::Ended(_) => true,
            Line::Sample(_)
            | Line::Histogram { .. }
            | Line::Causes { .. }
            | Line::Slow { .. }
            | Line::Sampled { .. }
            | Line::Spun { .. } => false,
        }
    }

    fn show(&self, _: &Line, _: &Output) {}
}
