//! The logic of a shard on real sockets: translates between [`shard::Handler`] and [`Logic`].

use std::sync::Arc;

use accounting::server::{Counters, Sample};
use journal::Record;
use platform::{Clock, NANOS_PER_SECOND, SchedStat, Spin, ThreadTimes, monotonic_ns};

use shard::{Closed, ConnId, Handler, Inboxes, Net, Next};
use wire::Frame;

use crate::directory::Address;
use crate::holding::Held;
use crate::io::Io;
use crate::keeping::Keeping;
use crate::logic::Logic;
use crate::message::Message;
use crate::outbox::Outbox;
use crate::quiescence::Quiescence;
use crate::report::{Report, Snapshot};
use crate::seats::Seats;

/// Messages read before the sockets are polled again: each may send something, at 5 µs.
const MESSAGES_PER_TICK: usize = 64;

/// Answers and messages that leave in one poll once the ledger is durable: after a slow disk tens
/// of thousands may wait, at 5 µs each.
const RELEASED_PER_POLL: usize = 64;

/// When told to stop, a shard goes on answering what arrives for at most this long, so that a
/// server that is flooded ends within a second too, on a machine that is late as well.
const STOP_NS: u64 = NANOS_PER_SECOND / 4;

/// A shard that has nothing to do any more checks this often whether the others have.
const QUIESCENCE_NS: u64 = 1_000_000;

/// A shard of the server, for [`shard::drive`].
pub(crate) struct ShardLoop {
    me: usize,
    logic: Logic,
    outbox: Outbox,
    /// Where a durable ledger is kept.
    keeping: Option<Keeping>,
    inboxes: Inboxes<Message>,
    reports: Inboxes<Report>,
    clock: Clock,
    /// The second whose sample has not been reported.
    second: u64,
    second_ends_ns: u64,
    reported: Counters,
    schedstat: SchedStat,
    reported_times: Option<ThreadTimes>,
    /// Since when the shard has been told to stop.
    stopping_ns: Option<u64>,
    /// What the shards share when they stop.
    quiescence: Arc<Quiescence>,
    /// Its part of the limit of connections.
    seats: Seats,
    /// What people must know and found no room yet: two reasons, and a sum.
    unsaid: Vec<String>,
    /// This one has said there that it has nothing to do.
    is_idle: bool,
    /// There may be more messages than one tick reads.
    more_messages: bool,
}

/// The world of a shard: its sockets and its outbox.
struct World<'a> {
    net: &'a mut Net,
    outbox: &'a mut Outbox,
    keeping: Option<&'a mut Keeping>,
    second: u64,
}

impl World<'_> {
    /// A frame that is to be kept.
    fn encoded(&self, conn: ConnId, frame: &Frame<'_>) -> Held {
        let mut bytes = vec![0; frame.encoded_len()];
        let written = frame.encode(self.second, &mut bytes);
        debug_assert!(written.is_ok(), "{written:?}");
        Held::Frame(conn, bytes.into())
    }

    /// Keeps it behind what waits already.
    fn hold_behind(&mut self, held: Held) {
        if let Some(keeping) = &mut self.keeping {
            keeping.holding.hold_behind(held);
        }
    }

    /// Whether answers of this connection wait for the durable ledger.
    #[inline]
    fn waits(&self, conn: ConnId) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.holding.waits(conn))
    }

    fn is_behind(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.holding.is_behind())
    }
}

impl Io for World<'_> {
    fn now_ns(&self) -> u64 {
        self.net.now_ns()
    }

    fn unix_second(&self) -> u64 {
        self.second
    }

    fn send(&mut self, conn: ConnId, frame: &Frame<'_>) {
        if self.waits(conn) {
            return self.hold_behind(self.encoded(conn, frame));
        }
        let second = self.second;
        self.net.send_with(conn, frame.encoded_len(), |space| {
            // The space has the frame's length, and no frame the logic sends is too long.
            let written = frame.encode(second, space);
            debug_assert!(written.is_ok(), "{written:?}");
        });
    }

    fn finish(&mut self, conn: ConnId) {
        if self.waits(conn) {
            self.hold_behind(Held::Finish(conn));
        } else {
            self.net.finish(conn);
        }
    }

    fn record(&mut self, record: impl FnOnce() -> Record) {
        if let Some(keeping) = &mut self.keeping {
            keeping.holding.record(record());
        }
    }

    fn refuses_money(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.refuses())
    }

    fn has_room(&self) -> bool {
        self.keeping.as_ref().is_none_or(|keeping| !keeping.holding.is_full())
    }

    fn unix_ns(&self, at_ns: u64) -> u64 {
        self.keeping.as_ref().map_or(at_ns, |keeping| keeping.unix_ns(at_ns))
    }

    fn send_recorded(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let held = self.is_behind().then(|| self.encoded(conn, frame));
        match (held, &mut self.keeping) {
            (Some(held), Some(keeping)) => keeping.holding.hold(held),
            _ => self.send(conn, frame),
        }
    }

    fn hold(&mut self, shard: usize, message: Message) -> Option<Message> {
        match &mut self.keeping {
            Some(keeping) if keeping.holding.is_behind() => {
                keeping.holding.hold(Held::Post(shard, message));
                None
            }
            _ => Some(message),
        }
    }

    fn keeps_share_of(&self, at: Address) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.holding.keeps_share_of(at))
    }

    fn hold_refusal(&mut self, shard: usize, refusal: Message) {
        self.hold_behind(Held::Post(shard, refusal));
    }

    fn post(&mut self, shard: usize, message: Message) -> bool {
        self.outbox.post(shard, message)
    }

    fn spin(&mut self, ns: u64) -> Spin {
        platform::spin(ns)
    }
}

impl ShardLoop {
    /// A shard that is about to run.
    pub(crate) fn new(
        me: usize,
        logic: Logic,
        inboxes: Inboxes<Message>,
        reports: Inboxes<Report>,
        clock: Clock,
        quiescence: Arc<Quiescence>,
        seats: Seats,
    ) -> Self {
        let now_ns = monotonic_ns();
        let second = clock.unix_second(now_ns);
        let schedstat = SchedStat::of_this_thread();
        Self {
            me,
            logic,
            outbox: Outbox::new(inboxes.clone()),
            keeping: None,
            inboxes,
            reports,
            clock,
            second,
            second_ends_ns: clock.start_of(second + 1),
            reported: Counters::default(),
            reported_times: schedstat.read(),
            schedstat,
            stopping_ns: None,
            quiescence,
            seats,
            unsaid: Vec::new(),
            is_idle: false,
            more_messages: false,
        }
    }

    /// The same with a durable ledger.
    pub(crate) fn with_ledger(mut self, keeping: Option<Keeping>) -> Self {
        self.keeping = keeping;
        self
    }

    fn with_world<T>(
        &mut self,
        net: &mut Net,
        act: impl FnOnce(&mut Logic, &mut World<'_>) -> T,
    ) -> T {
        self.report_passed(net);
        let keeping = self.keeping.as_mut();
        let mut world = World { net, outbox: &mut self.outbox, keeping, second: self.second };
        act(&mut self.logic, &mut world)
    }

    /// Hands over what was recorded, lets go of what waited for what is durable by now (a part of
    /// it in each poll), and cuts off what finds no room to wait. Returns whether something still
    /// waits.
    fn exchange_records(&mut self, net: &mut Net) -> bool {
        let Some(keeping) = &mut self.keeping else { return false };
        keeping.exchange();
        for _ in 0..RELEASED_PER_POLL {
            let Some(held) = self.keeping.as_mut().and_then(|it| it.holding.release()) else {
                break;
            };
            match held {
                Held::Frame(conn, bytes) => {
                    net.send_with(conn, bytes.len(), |space| space.copy_from_slice(&bytes));
                }
                Held::Finish(conn) => net.finish(conn),
                Held::Post(to, message) => {
                    self.with_world(net, |logic, world| logic.release(world, to, message));
                }
            }
        }
        while let Some(conn) = self.keeping.as_mut().and_then(|it| it.holding.take_cut()) {
            self.logic.counters_mut().ledger_overflow += 1;
            net.close(conn);
            self.with_world(net, |logic, world| logic.closed(world, conn));
        }
        let Some(keeping) = &mut self.keeping else { return false };
        // What was released may have recorded something: a user is told, and nothing else by now.
        keeping.exchange();
        !keeping.holding.is_settled()
    }

    /// Reports the seconds that have passed; what happens from here on belongs to the present one.
    fn report_passed(&mut self, net: &mut Net) {
        if net.now_ns() >= self.second_ends_ns {
            self.report_second(net);
            self.second = self.clock.unix_second(net.now_ns());
            self.second_ends_ns = self.clock.start_of(self.second + 1);
        }
    }

    /// Reports what happened since the last report. Returns whether there was room for it.
    fn report_second(&mut self, net: &Net) -> bool {
        self.count_sockets(net);
        let counters = *self.logic.counters();
        let times = self.schedstat.read();
        let both = times.zip(self.reported_times);
        let sample = Sample {
            t: self.second,
            shard: self.me,
            connections: net.connections(),
            cpu_us: both.map(|(now, then)| (now.ran_ns - then.ran_ns) / 1000),
            wait_us: both.map(|(now, then)| (now.waited_ns - then.waited_ns) / 1000),
            counters: counters.since(&self.reported),
            gauges: self.logic.gauges(),
            ledger: self.logic.ledger(),
        };
        // A full inbox means that the control thread stands still. Nothing is lost: the next sample
        // that finds room carries what this one would have.
        let found_room = self.reports.post(0, Report::Second(sample)).is_ok();
        if found_room {
            self.reported = counters;
            self.reported_times = times;
        }
        self.report_slowness(net.now_ns());
        self.unsaid.extend(self.seats.new_reason(&net.counters()));
        self.say();
        found_room
    }

    /// Tells people what they must know; what finds no room is told with the next second.
    fn say(&mut self) {
        while let Some(words) = self.unsaid.pop() {
            if let Err(Report::Said(words)) = self.reports.post(0, Report::Said(words)) {
                self.unsaid.push(words);
                return;
            }
        }
    }

    /// Hands on what faults on purpose did; what finds no room goes with the next second's.
    fn report_slowness(&mut self, now_ns: u64) {
        let (me, reports) = (self.me, &self.reports);
        self.logic.slowness_mut().retain_mut(|slowness| {
            let spins = slowness.drain(now_ns);
            let over = spins.over;
            match reports.post(0, Report::Spun(me, spins)) {
                Ok(()) => !over,
                Err(Report::Spun(_, spins)) => {
                    slowness.put_back(spins);
                    true
                }
                Err(_) => true,
            }
        });
    }

    /// Takes over what the sockets and the outbox count themselves.
    fn count_sockets(&mut self, net: &Net) {
        let sockets = net.counters();
        let counters = self.logic.counters_mut();
        counters.accepted = sockets.accepted - self.seats.refused;
        counters.turned_away = sockets.turned_away + self.seats.refused;
        counters.bytes_in = sockets.bytes_in;
        counters.bytes_out = sockets.bytes_out;
        counters.io_put_off = sockets.put_off;
        counters.turns = sockets.polls;
        counters.ledger_records = self.keeping.as_ref().map_or(0, |it| it.holding.recorded());
        counters.mail_sent = self.outbox.sent;
        counters.mail_held = self.outbox.waited;
        counters.mail_overflow = self.outbox.dropped;
    }

    fn snapshot(&mut self, net: &Net, ticket: u64) {
        self.count_sockets(net);
        let sets = self.logic.sets();
        let books = sets.iter().enumerate();
        let snapshot = Snapshot {
            shard: self.me,
            connections: net.connections(),
            counters: *self.logic.counters(),
            gauges: self.logic.gauges(),
            ledger: self.logic.ledger(),
            timing: net.timing().clone(),
            sets: books
                .map(|(place, (number, set))| (number, sets.users_of(place), set.ledger))
                .collect(),
        };
        // Without an answer the control thread says that the shard did not answer.
        let _ = self.reports.post(0, Report::Snapshot(ticket, Box::new(snapshot)));
    }

    fn set_idle(&mut self, idle: bool) {
        match (self.is_idle, idle) {
            (false, true) => self.quiescence.enter(),
            (true, false) => self.quiescence.leave(),
            _ => {}
        }
        self.is_idle = idle;
    }

    fn read_inbox(&mut self, net: &mut Net) {
        self.set_idle(false);
        let inboxes = self.inboxes.clone();
        let me = self.me;
        self.more_messages = inboxes.drain(me, MESSAGES_PER_TICK, |message| match message {
            // What it says is asked for at the end of every poll.
            Message::Recorded => {}
            Message::Snapshot { ticket } => self.snapshot(net, ticket),
            Message::Stop => {
                net.stop_listening();
                self.stopping_ns.get_or_insert(net.now_ns());
                // What no client asked for would keep the shards from ever being idle.
                for end in [Message::StopGenerator(None), Message::Push(None)] {
                    self.with_world(net, |logic, world| logic.handle(world, end));
                }
            }
            message => self.with_world(net, |logic, world| logic.handle(world, message)),
        });
    }

    /// The last sample, when the loop has ended.
    pub(crate) fn end(&mut self, net: &mut Net) {
        net.read_clock();
        // What was recorded goes to the disk, whoever is still there to be told.
        if let Some(keeping) = &mut self.keeping {
            keeping.exchange();
        }
        self.logic.end();
        // Waits while the control thread is behind: this is the last sample, and no later one
        // would carry what the books at the end need.
        while !self.report_second(net) {
            std::thread::yield_now();
        }
        self.unsaid.extend(self.seats.leave(&net.counters()));
        self.say();
        while !self.unsaid.is_empty() {
            std::thread::yield_now();
            self.say();
        }
        while !self.logic.slowness_mut().is_empty() {
            self.report_slowness(u64::MAX);
            std::thread::yield_now();
        }
    }
}

impl Drop for ShardLoop {
    /// For whatever reason it ended, the others need not wait for it.
    fn drop(&mut self) {
        self.set_idle(true);
    }
}

impl Handler for ShardLoop {
    fn accepted(&mut self, net: &mut Net, id: ConnId) {
        // Those that have gone meanwhile need theirs no more.
        self.seats.keep(net.connections() - 1);
        if !self.seats.take() {
            return net.close(id);
        }
        self.with_world(net, |logic, world| logic.accepted(world, id));
    }

    fn connected(&mut self, _: &mut Net, _: ConnId) {
        debug_assert!(false, "a server opens no connections");
    }

    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
        if self.keeping.as_ref().is_some_and(|it| it.holding.is_finishing(id)) {
            return bytes.len();
        }
        self.with_world(net, |logic, world| logic.received(world, id, bytes))
    }

    fn closed(&mut self, net: &mut Net, id: ConnId, why: Closed) {
        let counters = self.logic.counters_mut();
        match why {
            Closed::ByPeer => counters.closed_by_peer += 1,
            Closed::Broken(_) | Closed::NotConnected(_) => counters.broken += 1,
            Closed::NotReading => counters.not_reading += 1,
            Closed::FrameTooLong => counters.bad_length += 1,
        }
        self.with_world(net, |logic, world| logic.closed(world, id));
    }

    fn notified(&mut self, net: &mut Net) {
        self.read_inbox(net);
    }

    fn polled(&mut self, net: &mut Net) -> Next {
        if self.more_messages {
            self.read_inbox(net);
        }
        self.seats.keep(net.connections());
        let sent = self.outbox.sent;
        let due_ns = self.with_world(net, |logic, world| logic.tick(world));
        let waits = self.exchange_records(net);
        let retry_ns = self.outbox.retry(net.now_ns());
        if let Some(since_ns) = self.stopping_ns {
            // What has arrived is answered; a peer that never stops asking is cut off after half
            // a second.
            let idle = net.is_idle()
                && !self.more_messages
                && retry_ns.is_none()
                && !waits
                && !self.logic.has_notices()
                && self.outbox.sent == sent;
            self.set_idle(idle);
            let over = idle && self.quiescence.is_over(&self.inboxes);
            if over || since_ns + STOP_NS <= net.now_ns() {
                return Next::Stop;
            }
            return Next::By(net.now_ns() + if idle { QUIESCENCE_NS } else { 0 });
        }
        let releases = self.keeping.as_ref().is_some_and(|it| it.holding.releases());
        if self.more_messages || releases {
            return Next::By(net.now_ns());
        }
        let due_ns = due_ns.into_iter().chain(retry_ns).fold(self.second_ends_ns, u64::min);
        Next::By(due_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shard::Limits;
    use wire::MAX_FRAME;

    use super::*;
    use crate::logic::Rules;
    use crate::overload::Budget;
    use crate::seats::Hall;
    use crate::sets::new_online;
    use crate::under_way::UnderWay;
    use service::{Budgets, Notices};

    /// A shard of its own with one SET, and its sockets.
    fn shard_loop(reports: &Inboxes<Report>) -> (ShardLoop, Net) {
        let mut net = Net::new(Limits::new(1, 3, MAX_FRAME), None).expect("epoll");
        let rules = Rules {
            users: 1,
            notices: Notices::Push,
            packet_life_ns: NANOS_PER_SECOND,
            queue_bound: 1,
            packets_bound: 1,
            budgets: Budgets::default(),
            seed: 1,
        };
        let (budget, users, now_ns) = (Budget::new(None), UnderWay::new(1), net.read_clock());
        let logic = Logic::new(0, 1, Arc::new(rules), new_online(1), budget, users, now_ns);
        let inboxes = Inboxes::new(1, 4).expect("eventfd");
        let (quiescence, seats) = (Arc::default(), Seats::new(Hall::new(1)));
        let reports = reports.clone();
        (ShardLoop::new(0, logic, inboxes, reports, Clock::read(), quiescence, seats), net)
    }

    #[test]
    fn the_last_sample_waits_for_a_control_thread_that_is_behind() {
        let reports = Inboxes::new(1, 2).expect("eventfd");
        let (mut shard, mut net) = shard_loop(&reports);
        shard.with_world(&mut net, |logic, world| {
            logic.handle(world, Message::Packet { set: 0, packet: 1, amount: 50 });
        });
        while reports.post(0, Report::Started(0, Ok(()))).is_ok() {}
        let control = std::thread::spawn(move || {
            // So far behind is this control thread; the shard has ended long before.
            std::thread::sleep(Duration::from_millis(50));
            let (mut created, mut ended) = (None, false);
            while !ended {
                reports.drain(0, 1, |report| match report {
                    Report::Second(sample) => created = Some(sample.ledger.created),
                    Report::Started(..) => {}
                    _ => ended = true,
                });
            }
            created
        });
        shard.end(&mut net);
        while shard.reports.post(0, Report::Ended(0, Ok(()))).is_err() {}
        let created = control.join().expect("no panic").expect("a last sample");
        assert_eq!((created.count, created.amount), (1, 50));
    }
}
