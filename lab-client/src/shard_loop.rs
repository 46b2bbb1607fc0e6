//! The users of a shard on real sockets: translates between [`shard::Handler`] and [`Crowd`].

use std::io;
use std::net::SocketAddrV4;

use shard::{
    Clock, Closed, ConnId, ConnectOptions, Handler, Mail, Net, Next, SchedStat, Slowness, Spin,
    ThreadTimes, monotonic_ns,
};
use wire::Frame;

use crate::load::Crowd;
use crate::message::Message;
use crate::report::{Report, Sample};
use crate::tally::Tally;
use crate::transport::Transport;

/// Messages read before the sockets get their turn again.
const MAIL_PER_TURN: usize = 64;

/// A shard of the client, for [`shard::drive`].
pub(crate) struct ShardLoop {
    me: usize,
    crowd: Crowd,
    server: SocketAddrV4,
    congestion: Option<String>,
    mail: Mail<Message>,
    reports: Mail<Report>,
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

    fn last_sleep_ns(&self) -> (u64, u64) {
        self.net.last_sleep_ns()
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
        // A ring that fails fails again at the end of the turn, which reports it.
        let _ = self.net.flush();
    }

    fn close(&mut self, conn: ConnId) {
        self.net.close(conn);
    }

    fn spin(&mut self, ns: u64) -> Spin {
        shard::spin(ns)
    }
}

impl ShardLoop {
    pub(crate) fn new(
        me: usize,
        crowd: Crowd,
        server: SocketAddrV4,
        congestion: Option<String>,
        mail: Mail<Message>,
        reports: Mail<Report>,
        clock: Clock,
    ) -> Self {
        let second = clock.unix_second(monotonic_ns());
        let schedstat = SchedStat::of_this_thread();
        Self {
            me,
            crowd,
            server,
            congestion,
            mail,
            reports,
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
        act: impl FnOnce(&mut Crowd, &mut Sockets<'_>) -> T,
    ) -> T {
        self.tick(net);
        let mut sockets = Sockets {
            net,
            server: self.server,
            congestion: self.congestion.as_deref(),
            second: self.second,
        };
        act(&mut self.crowd, &mut sockets)
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
        let sockets = net.counters();
        let tally = self.crowd.tally_mut();
        tally.bytes_in = sockets.bytes_in;
        tally.bytes_out = sockets.bytes_out;
        tally.turns = sockets.turns;
        let tally = *tally;
        let times = self.schedstat.read();
        let both = times.zip(self.reported_times);
        let sample = Sample {
            t: self.second,
            shard: self.me,
            online: self.crowd.online(),
            connections: net.connections(),
            in_flight: tally.in_flight().unwrap_or_default(),
            cpu_us: both.map(|(now, then)| (now.ran_ns - then.ran_ns) / 1000),
            wait_us: both.map(|(now, then)| (now.waited_ns - then.waited_ns) / 1000),
            tally: tally.since(&self.reported),
        };
        // A full inbox means that the control thread stands still. The next sample that finds room
        // carries what this one would have.
        if self.reports.post(0, Report::Second(sample)).is_err() {
            return;
        }
        self.reported = tally;
        self.reported_times = times;
        for filled in self.crowd.recorder().take() {
            report(&self.reports, Report::Filled(sample.t, self.me, filled));
        }
        for (phase, rows) in self.crowd.causes().take() {
            report(&self.reports, Report::Causes(sample.t, self.me, phase, Box::new(rows)));
        }
        let sampled = self.crowd.take_sampled();
        if !sampled.is_empty() {
            report(&self.reports, Report::Sampled(sample.t, sampled));
        }
        self.report_slowness(net.now_ns());
        let slow = self.crowd.take_slow();
        if !slow.is_empty() {
            report(&self.reports, Report::Slow(sample.t, slow));
        }
    }

    fn report_slowness(&mut self, now_ns: u64) {
        let (me, reports) = (self.me, &self.reports);
        self.crowd.slowness_mut().retain_mut(|slowness| {
            let spins = slowness.take(now_ns);
            let over = spins.over;
            report(reports, Report::Spun(me, spins));
            !over
        });
    }

    fn read_mail(&mut self) {
        let mail = self.mail.clone();
        mail.take(self.me, MAIL_PER_TURN, |message| match message {
            Message::Phase(phase) => self.crowd.add_phase(*phase),
            Message::EndPhase { index, end } => self.crowd.end_phase(index, end),
            Message::Rate { from, rate } => self.crowd.change_rate(from, rate),
            Message::Spare(values) => self.crowd.recorder().give_back(values),
            Message::Slow(order) => self.crowd.slowness_mut().push(Slowness::new(*order)),
            Message::EndSlow { id, until_ns } => {
                self.crowd.slowness_mut().iter_mut().for_each(|it| it.end_at(id, until_ns));
            }
            Message::Stop => self.stopping = true,
        });
    }

    fn report_events(&mut self) {
        for event in self.crowd.take_events() {
            report(&self.reports, Report::Event(self.me, event));
        }
    }

    /// The last sample and the books, when the loop has ended.
    pub(crate) fn end(&mut self, net: &mut Net, ended: io::Result<()>) {
        net.read_clock();
        self.report_events();
        self.report_second(net);
        self.report_slowness(u64::MAX);
        let books = Box::new(self.crowd.books().clone());
        let ended = ended.map_err(|error| error.to_string());
        report(&self.reports, Report::Ended(self.me, books, ended));
    }
}

/// A report that must not be lost: waits while the control thread is behind.
pub(crate) fn report(reports: &Mail<Report>, mut report: Report) {
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
        self.with_sockets(net, |crowd, sockets| crowd.connected(sockets, id));
    }

    fn coming(&mut self, id: ConnId) {
        self.crowd.coming(id);
    }

    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
        self.with_sockets(net, |crowd, sockets| crowd.received(sockets, id, bytes))
    }

    fn closed(&mut self, net: &mut Net, id: ConnId, _: Closed) {
        self.with_sockets(net, |crowd, sockets| crowd.closed(sockets, id));
    }

    fn rung(&mut self, _: &mut Net) {
        self.read_mail();
    }

    fn turned(&mut self, net: &mut Net) -> Next {
        if self.stopping {
            return Next::Stop;
        }
        let due_ns = self.with_sockets(net, |crowd, sockets| crowd.turned(sockets));
        self.report_events();
        Next::By(due_ns.unwrap_or(u64::MAX).min(self.second_ends_ns))
    }
}
