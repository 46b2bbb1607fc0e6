//! The users of a shard on real sockets: translates between [`shard::Handler`] and
//! [`LoadGenerator`].

use std::io;
use std::net::SocketAddrV4;

use attribution::{Sample, Tally};
use platform::{Clock, SchedStat, Slowness, Spin, ThreadTimes, monotonic_ns};

use shard::{Closed, ConnId, ConnectOptions, Handler, Inboxes, Net, Next};
use wire::Frame;

use crate::load::LoadGenerator;
use crate::message::Message;
use crate::outbox::Outbox;
use crate::report::Report;
use crate::transport::Transport;

/// Messages read before the sockets are polled again.
const MESSAGES_PER_POLL: usize = 64;

/// A shard of the client, for [`shard::drive`].
pub(crate) struct ShardLoop {
    me: usize,
    generator: LoadGenerator,
    server: SocketAddrV4,
    congestion: Option<String>,
    mail: Inboxes<Message>,
    outbox: Outbox,
    clock: Clock,
    /// The second whose sample has not been reported.
    second: u64,
    second_ends_ns: u64,
    reported: Tally,
    schedstat: SchedStat,
    reported_times: Option<ThreadTimes>,
    stopping: bool,
}

/// The network of a shard: kernel sockets.
struct Sockets<'a> {
    net: &'a mut Net,
    server: SocketAddrV4,
    congestion: Option<&'a str>,
    second: u64,
}

impl Transport for Sockets<'_> {
    fn now_ns(&self) -> u64 {
        self.net.now_ns()
    }

    fn read_clock(&mut self) -> u64 {
        self.net.read_clock()
    }

    fn open(&mut self, source: SocketAddrV4) -> io::Result<ConnId> {
        let (server, congestion) = (self.server, self.congestion);
        self.net.connect(ConnectOptions { source, server, congestion })
    }

    fn send(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let second = self.second;
        self.net.send_with(conn, frame.encoded_len(), |space| {
            // The space has the frame's length, and no frame a user sends is too long.
            let written = frame.encode(second, space);
            debug_assert!(written.is_ok(), "{written:?}");
        });
    }

    fn flush(&mut self) {
        // A ring that fails fails again at the end of the poll, which reports it.
        let _ = self.net.flush();
    }

    fn give_way(&mut self) {
        std::thread::yield_now();
        self.net.read_clock();
    }

    fn close(&mut self, conn: ConnId) {
        self.net.close(conn);
    }

    fn spin(&mut self, ns: u64) -> Spin {
        platform::spin(ns)
    }
}

impl ShardLoop {
    pub(crate) fn new(
        me: usize,
        generator: LoadGenerator,
        server: SocketAddrV4,
        congestion: Option<String>,
        mail: Inboxes<Message>,
        reports: Inboxes<Report>,
        clock: Clock,
    ) -> Self {
        let second = clock.unix_second(monotonic_ns());
        let schedstat = SchedStat::of_this_thread();
        Self {
            me,
            generator,
            server,
            congestion,
            mail,
            outbox: Outbox::new(reports),
            clock,
            second,
            second_ends_ns: clock.start_of(second + 1),
            reported: Tally::default(),
            reported_times: schedstat.read(),
            schedstat,
            stopping: false,
        }
    }

    fn with_sockets<T>(
        &mut self,
        net: &mut Net,
        act: impl FnOnce(&mut LoadGenerator, &mut Sockets<'_>) -> T,
    ) -> T {
        self.tick(net);
        let mut sockets = Sockets {
            net,
            server: self.server,
            congestion: self.congestion.as_deref(),
            second: self.second,
        };
        act(&mut self.generator, &mut sockets)
    }

    /// Reports the second that has passed; what happens from here on belongs to the present one.
    fn tick(&mut self, net: &Net) {
        if net.now_ns() >= self.second_ends_ns {
            self.report_second(net);
            self.second = self.clock.unix_second(net.now_ns());
            self.second_ends_ns = self.clock.start_of(self.second + 1);
        }
    }

    fn report_second(&mut self, net: &Net) {
        // The control thread stands still. The shard does not wait for it: everything stays where
        // it is gathered, and goes with the next second that finds room.
        if !self.outbox.retry() {
            return;
        }
        let sockets = net.counters();
        let tally = self.generator.tally_mut();
        tally.bytes_in = sockets.bytes_in;
        tally.bytes_out = sockets.bytes_out;
        tally.turns = sockets.polls;
        let tally = *tally;
        let times = self.schedstat.read();
        let both = times.zip(self.reported_times);
        let sample = Sample {
            t: self.second,
            shard: self.me,
            online: self.generator.online(),
            connections: net.connections(),
            in_flight: tally.in_flight().unwrap_or_default(),
            cpu_us: both.map(|(now, then)| (now.ran_ns - then.ran_ns) / 1000),
            wait_us: both.map(|(now, then)| (now.waited_ns - then.waited_ns) / 1000),
            tally: tally.since(&self.reported),
        };
        let failures = self.generator.take_failures();
        if !failures.is_empty() {
            self.outbox.post(Report::NotConnected(self.server, failures));
        }
        self.outbox.post(Report::Second(sample));
        let (t, shard) = (sample.t, sample.shard);
        self.reported = tally;
        self.reported_times = times;
        for histogram in self.generator.take_histograms() {
            self.outbox.post(Report::Histogram { t, shard, histogram });
        }
        for (phase, rows) in self.generator.causes().take() {
            let rows = Box::new(rows);
            self.outbox.post(Report::Causes { t, shard, phase, rows });
        }
        let sampled = self.generator.take_sampled();
        if !sampled.is_empty() {
            self.outbox.post(Report::Sampled(t, sampled));
        }
        self.report_slowness(net.now_ns());
        let slow = self.generator.take_slow();
        if !slow.is_empty() {
            self.outbox.post(Report::Slow(t, slow));
        }
    }

    fn report_slowness(&mut self, now_ns: u64) {
        let (me, outbox) = (self.me, &mut self.outbox);
        self.generator.slowness_mut().retain_mut(|slowness| {
            let spins = slowness.drain(now_ns);
            let over = spins.over;
            outbox.post(Report::Spun(me, spins));
            !over
        });
    }

    fn read_messages(&mut self) {
        let mail = self.mail.clone();
        mail.drain(self.me, MESSAGES_PER_POLL, |message| match message {
            Message::Phase(phase) => self.generator.add_phase(*phase),
            Message::EndPhase { index, end } => self.generator.end_phase(index, end),
            Message::Rate { from, rate } => self.generator.change_rate(from, rate),
            Message::Spare(values) => self.generator.recorder().give_back(values),
            Message::Slow(order) => self.generator.slowness_mut().push(Slowness::new(*order)),
            Message::EndSlow { id, until_ns } => {
                self.generator.slowness_mut().iter_mut().for_each(|it| it.end_at(id, until_ns));
            }
            Message::Stop => self.stopping = true,
        });
    }

    fn report_events(&mut self) {
        for event in self.generator.take_events() {
            self.outbox.post(Report::Event(event));
        }
    }

    /// The last sample and the receipts, when the loop has ended.
    pub(crate) fn end(&mut self, net: &mut Net, ended: io::Result<()>) {
        net.read_clock();
        self.report_events();
        self.generator.end(net.now_ns());
        // No later second would carry what finds no room now, so this waits.
        self.outbox.wait();
        self.report_second(net);
        self.report_slowness(u64::MAX);
        let receipts = Box::new(self.generator.receipts().clone());
        let ended = ended.map_err(|error| error.to_string());
        self.outbox.post(Report::Ended(self.me, receipts, ended));
        self.outbox.wait();
    }
}

/// A report of a shard that is not running yet: waits while the control thread is behind.
pub(crate) fn report(reports: &Inboxes<Report>, mut report: Report) {
    while let Err(back) = reports.post(0, report) {
        report = back;
        std::thread::yield_now();
    }
}

impl Handler for ShardLoop {
    fn accepted(&mut self, _: &mut Net, _: ConnId) {
        debug_assert!(false, "a client accepts no connections");
    }

    fn connected(&mut self, net: &mut Net, id: ConnId) {
        self.with_sockets(net, |generator, sockets| generator.connected(sockets, id));
    }

    fn prefetch(&mut self, id: ConnId) {
        self.generator.prefetch(id);
    }

    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
        self.with_sockets(net, |generator, sockets| generator.received(sockets, id, bytes))
    }

    fn closed(&mut self, net: &mut Net, id: ConnId, why: Closed) {
        self.with_sockets(net, |generator, sockets| generator.closed(sockets, id, why));
    }

    fn notified(&mut self, _: &mut Net) {
        self.read_messages();
    }

    fn polled(&mut self, net: &mut Net) -> Next {
        if self.stopping {
            return Next::Stop;
        }
        let due_ns = self.with_sockets(net, |generator, sockets| generator.poll(sockets));
        self.report_events();
        self.outbox.retry();
        Next::By(due_ns.unwrap_or(u64::MAX).min(self.second_ends_ns))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use attribution::{Attributed, Seconds, Segment};
    use shard::Limits;
    use wire::MAX_FRAME;

    use super::*;
    use crate::load::Rules;
    use service::Notices;
    use workload::{Flows, Share};

    /// Nothing here takes longer.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A shard with one user, and its sockets.
    fn shard_loop(reports: &Inboxes<Report>) -> (ShardLoop, Net) {
        let mut net = Net::new(Limits::new(1, 3, MAX_FRAME), None).expect("epoll");
        let share = Share { total_users: 1, first: 0, end: 1, shard: 0, shards: 1 };
        let sources = vec![Ipv4Addr::LOCALHOST];
        let rules = Rules {
            seed: 1,
            timeout_ns: 1,
            late_ns: 1,
            notices: Notices::Push,
            own_commands: false,
            flows: Flows { sources, first_port: 1024, last_port: 60_000, but: 0 },
            first_flow: 0,
            reconnect: true,
            slow_kept: 1,
            join: false,
        };
        let generator = LoadGenerator::new(share, Arc::new(rules), Clock::read(), net.read_clock());
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let mail = Inboxes::new(1, 4).expect("eventfd");
        let clock = Clock::read();
        (ShardLoop::new(0, generator, server, None, mail, reports.clone(), clock), net)
    }

    /// Something of each kind happens in a second, so often.
    fn happens(shard: &mut ShardLoop, times: u64) {
        for _ in 0..times {
            shard.generator.tally_mut().offered += 1;
            shard.generator.recorder().record(0, Segment::Latency, 1_000);
            let seconds = Seconds { due: 1, over: 1 };
            shard.generator.causes().enter(0, 1_000, &Attributed::unexplained(1_000), seconds);
        }
    }

    /// How often something happened, by the samples, by histograms and by causes.
    fn add(found: &mut [u64; 3], report: Report) {
        match report {
            Report::Second(sample) => found[0] += sample.tally.offered,
            Report::Histogram { histogram, .. } => found[1] += histogram.values.len(),
            Report::Causes { rows, .. } => found[2] += rows.requests,
            _ => {}
        }
    }

    #[test]
    fn a_recorder_that_stalls_does_not_stop_the_load_and_gets_everything_later() {
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let reports = Inboxes::new(1, 2).expect("eventfd");
            let (mut shard, net) = shard_loop(&reports);
            // A sample and a histogram find room, the causes do not; nor does any second after.
            for _ in 0..5 {
                happens(&mut shard, 3);
                shard.report_second(&net);
            }
            let (mut found, mut seconds) = ([0; 3], 0);
            let mut read_all = |shard: &mut ShardLoop| {
                let mut any = true;
                while std::mem::take(&mut any) {
                    reports.drain(0, 2, |report| {
                        any = true;
                        seconds += u32::from(matches!(report, Report::Second(_)));
                        add(&mut found, report);
                    });
                    shard.outbox.retry();
                }
            };
            read_all(&mut shard);
            shard.report_second(&net);
            read_all(&mut shard);
            let _ = tell.send((found, seconds));
        });
        let (found, seconds) = told.recv_timeout(PATIENCE).expect("the shard does not wait");
        assert_eq!(found, [15; 3]);
        assert_eq!(seconds, 2, "the one that found room, and one for all that came after it");
    }

    #[test]
    fn the_last_second_waits_for_a_control_thread_that_is_behind() {
        let reports = Inboxes::new(1, 2).expect("eventfd");
        let (mut shard, mut net) = shard_loop(&reports);
        while reports.post(0, Report::Started(0, Ok(()))).is_ok() {}
        // One second that waits for room already, and the last one.
        happens(&mut shard, 3);
        shard.report_second(&net);
        happens(&mut shard, 3);
        let control = std::thread::spawn(move || {
            // So far behind is this control thread; the shard has nothing else to do long before.
            std::thread::sleep(Duration::from_millis(50));
            let (mut found, mut ended) = ([0; 3], false);
            while !ended {
                reports.drain(0, 1, |report| {
                    ended = matches!(report, Report::Ended(..));
                    add(&mut found, report);
                });
            }
            found
        });
        shard.end(&mut net, Ok(()));
        assert_eq!(control.join().expect("no panic"), [6; 3]);
    }
}
