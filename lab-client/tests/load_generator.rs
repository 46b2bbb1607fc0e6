//! The users of one shard against a network that a test moves by hand: what no live server can be
//! made to do on time.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use attribution::{Latencies, Segment, empty};
use lab_client::load::{Event, LoadGenerator, Rules};
use lab_client::transport::Transport;
use platform::{Clock, NANOS_PER_SECOND};
use workload::{Chat, Connect, Creates, Flows, Load, Pacing, Phase, Rate, Share};

use service::Notices;
use shard::{Closed, ConnId};
use wire::{Decoded, Frame, LoginResult, ShakeResult, decode};

/// The second in which users connect; loads begin with the next.
const START: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// What users sent, and a clock that stands still.
#[derive(Default)]
struct Network {
    now_ns: u64,
    opened: u32,
    sent: Vec<(ConnId, Vec<u8>)>,
    /// How much was sent each time that the other end was given way.
    gave_way_after: Vec<usize>,
}

impl Transport for Network {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn read_clock(&mut self) -> u64 {
        self.now_ns
    }

    fn open(&mut self, _: SocketAddrV4) -> io::Result<ConnId> {
        self.opened += 1;
        Ok(ConnId { slot: self.opened - 1, generation: 0 })
    }

    fn send(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let mut bytes = vec![0; frame.encoded_len()];
        frame.encode(0, &mut bytes).expect("fits");
        self.sent.push((conn, bytes));
    }

    fn flush(&mut self) {}

    fn give_way(&mut self) {
        self.gave_way_after.push(self.sent.len());
    }

    fn close(&mut self, _: ConnId) {}
}

/// A shard with so many users, all of those that there are.
struct Shard {
    generator: LoadGenerator,
    network: Network,
}

impl Shard {
    fn new(users: u32, phases: impl IntoIterator<Item = Phase>) -> Self {
        let share = Share { total_users: users, first: 0, end: users, shard: 0, shards: 1 };
        let sources = vec![Ipv4Addr::LOCALHOST];
        let rules = Rules {
            seed: 7,
            timeout_ns: 5 * NANOS_PER_SECOND,
            late_ns: MILLISECOND,
            notices: Notices::Push,
            own_commands: true,
            flows: Flows { sources, first_port: 1024, last_port: 60_000, but: 0 },
            first_flow: 0,
            reconnect: true,
            slow_kept: 8,
            join: false,
        };
        let network = Network { now_ns: START * NANOS_PER_SECOND, ..Network::default() };
        let clock = Clock::with_offset(0);
        let mut generator = LoadGenerator::new(share, Arc::new(rules), clock, network.now_ns);
        let connect = Some(Connect { users, rate: None });
        generator.add_phase(Phase { start: START, seconds: Some(1), connect, ..Phase::default() });
        phases.into_iter().for_each(|phase| generator.add_phase(phase));
        Self { generator, network }
    }

    /// What is due at an instant after the start is done, once.
    fn turn_at(&mut self, ns: u64) -> Option<u64> {
        self.network.now_ns = START * NANOS_PER_SECOND + ns;
        self.generator.poll(&mut self.network)
    }

    fn receive(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let mut bytes = vec![0; frame.encoded_len()];
        frame.encode(0, &mut bytes).expect("fits");
        let used = self.generator.received(&mut self.network, conn, &bytes);
        assert_eq!(used, bytes.len());
    }

    /// All users connect, and their logins are answered with this.
    fn log_in(&mut self, result: impl Fn(u32) -> LoginResult) {
        let mut connected = 0;
        loop {
            self.turn_at(0);
            if connected == self.network.opened {
                return;
            }
            for slot in connected..self.network.opened {
                self.generator.connected(&mut self.network, ConnId { slot, generation: 0 });
            }
            connected = self.network.opened;
            for (conn, bytes) in std::mem::take(&mut self.network.sent) {
                if let Decoded::Frame { frame: Frame::LoginRequest { user }, .. } = decode(&bytes) {
                    let result = result(user) as u32;
                    self.receive(conn, &Frame::LoginResponse { user, result });
                }
            }
        }
    }

    /// Answers what shakes were sent, so long after the present instant.
    fn answer_after(&mut self, ns: u64) -> usize {
        self.network.now_ns += ns;
        let result = ShakeResult::NoPacket as u32;
        let mut answered = 0;
        for (conn, bytes) in std::mem::take(&mut self.network.sent) {
            if let Decoded::Frame { frame: Frame::ShakeRequest { user }, .. } = decode(&bytes) {
                answered += 1;
                self.receive(conn, &Frame::ShakeResponse { user, result, packet: 0, amount: 0 });
            }
        }
        answered
    }

    /// What is due is done every millisecond from the first second of the load on, and answered
    /// 100 µs later unless the server stands still.
    fn run(&mut self, seconds: u64, stands_still: impl Fn(u64) -> bool) {
        for ms in 1_000..(1 + seconds) * 1_000 {
            if !stands_still(ms) {
                self.network.now_ns = START * NANOS_PER_SECOND + ms * MILLISECOND;
                self.answer_after(0);
            }
            self.turn_at(ms * MILLISECOND);
            if !stands_still(ms) {
                self.answer_after(MILLISECOND / 10);
            }
        }
    }

    /// What was recorded of a segment so far, in all phases.
    fn histograms(&mut self) -> impl Fn(Segment) -> Latencies + use<> {
        let all: Vec<_> = self.generator.take_histograms().collect();
        move |segment| {
            let mut sum = empty();
            for one in all.iter().filter(|it| it.segment == segment) {
                sum.add(&one.values).expect("the same bounds");
            }
            sum
        }
    }
}

fn open(index: u16, start: u64, rate: u32) -> Phase {
    let load = Load::Open { rate: Rate::Fixed(rate), pacing: Pacing::Even };
    Phase { index, start, load, ..Phase::default() }
}

#[test]
fn a_closed_load_after_an_open_one_does_not_take_over_its_lag() {
    let first = Phase { seconds: Some(1), ..open(1, START + 1, 1) };
    let closed = Load::Closed { in_flight: 1 };
    let closed = Phase { index: 2, start: START + 2, load: closed, ..Phase::default() };
    let mut shard = Shard::new(1, [first, closed]);
    shard.log_in(|_| LoginResult::Ok);
    // Due at the beginning of the second, sent 300 ms later.
    shard.turn_at(1_300 * MILLISECOND);
    assert_eq!(shard.answer_after(2 * MILLISECOND), 1);
    shard.turn_at(2_000 * MILLISECOND);
    assert_eq!(shard.answer_after(5 * MILLISECOND), 1);
    let lags: Vec<_> = shard
        .generator
        .take_slow()
        .iter()
        .map(|it| (it.phase, it.send_lag_us, it.latency_us))
        .collect();
    assert_eq!(lags, [(1, 300_000, 302_000), (2, 0, 5_000)]);
}

#[test]
fn users_refused_for_good_are_reported_once_all_others_are_connected() {
    let mut shard = Shard::new(5, []);
    shard.log_in(|user| match user {
        0..3 => LoginResult::Ok,
        _ => LoginResult::UserOutOfRange,
    });
    let events: Vec<_> = shard.generator.take_events().collect();
    assert_eq!(events, [Event::LeftOut { phase: 0, users: 2 }]);
    assert_eq!((shard.generator.online(), shard.generator.tally().login_refused), (3, 2));

    // The server is busy: they are still to come.
    let mut shard = Shard::new(5, []);
    shard.log_in(|user| if user < 3 { LoginResult::Ok } else { LoginResult::Busy });
    assert_eq!(shard.generator.take_events().count(), 0);
}

#[test]
fn texts_and_packets_that_are_overdue_do_not_hold_up_a_turn() {
    const RATE: usize = 1_000;
    let social = Phase {
        index: 1,
        start: START + 1,
        chat: Some(Chat { rate: RATE as f64, bytes: 9 }),
        creates: Some(Creates { rate: RATE as f64 }),
        ..Phase::default()
    };
    let mut shard = Shard::new(10, [social]);
    shard.log_in(|_| LoginResult::Ok);
    let late_ns = 11 * NANOS_PER_SECOND;
    let (mut turns, mut all) = (0, 0);
    loop {
        let next_ns = shard.turn_at(late_ns);
        let sent = std::mem::take(&mut shard.network.sent).len();
        assert!(sent <= 512, "{sent} frames in one poll");
        all += sent;
        turns += 1;
        assert!(turns < 1_000, "there is no end to it");
        if next_ns > Some(shard.network.now_ns) {
            break;
        }
    }
    // The first is due at the start, so one more of each than ten seconds have.
    assert_eq!(all, 2 * (10 * RATE + 1), "in {turns} turns");
}

#[test]
fn a_rate_that_is_asked_for_just_before_the_load_begins_counts() {
    let mut shard = Shard::new(100, [open(1, START + 1, 0)]);
    shard.log_in(|_| LoginResult::Ok);
    shard.generator.change_rate(START + 1, 50);
    for step in 0..200 {
        shard.turn_at(NANOS_PER_SECOND + step * 10 * MILLISECOND);
        shard.answer_after(0);
    }
    assert_eq!(shard.generator.tally().offered, 100, "two seconds of it");
}

#[test]
fn a_rate_of_an_earlier_load_is_not_that_of_the_next() {
    let first = Phase { seconds: Some(2), ..open(1, START + 1, 0) };
    let mut shard = Shard::new(100, [first, open(2, START + 3, 0)]);
    shard.log_in(|_| LoginResult::Ok);
    shard.turn_at(NANOS_PER_SECOND);
    shard.generator.change_rate(START + 2, 50);
    for step in 0..300 {
        shard.turn_at(NANOS_PER_SECOND + step * 10 * MILLISECOND);
        shard.answer_after(0);
    }
    assert_eq!(shard.generator.tally().offered, 50, "the second from START + 2 on");
}

/// 20 s at 1,000/s, of which the server stands still for some seconds from the ninth on.
fn frozen(users: u32, seconds: u64) -> Shard {
    let mut shard = Shard::new(users, [Phase { seconds: Some(20), ..open(1, START + 1, 1_000) }]);
    shard.log_in(|_| LoginResult::Ok);
    shard.run(27, |ms| (9_000..9_000 + seconds * 1_000).contains(&ms));
    shard
}

/// Whether a percentile is this many seconds, to three digits.
fn is_at(values: &Latencies, quantile: f64, seconds: f64) -> bool {
    (values.value_at_quantile(quantile) as f64 / 1e6 / seconds - 1.0).abs() < 0.002
}

/// Whoever waits for a server that stands still sends nothing meanwhile. What was due all the same
/// waits as long as it would have: a fifth of all, evenly between 0 and 4 s.
#[test]
fn shakes_that_a_frozen_server_kept_from_being_sent_are_in_the_percentiles() {
    let mut shard = frozen(100, 4);
    let tally = *shard.generator.tally();
    assert_eq!((tally.offered, tally.timed_out), (20_000, 0));
    assert_eq!((tally.skipped_waiting, tally.answered), (3_900, 16_100));
    let of = shard.histograms();
    let latency = of(Segment::Latency);
    assert_eq!(latency.len(), tally.offered, "every shake that was due");
    for (quantile, seconds) in [(0.5, 0.0001), (0.9, 2.0), (0.99, 3.8), (0.999, 3.98), (1.0, 4.0)] {
        let found = latency.value_at_quantile(quantile);
        assert!(is_at(&latency, quantile, seconds), "{quantile}: {found} µs, not {seconds} s");
    }
    assert!((latency.mean() / 0.400e6 - 1.0).abs() < 0.01, "{}", latency.mean());
    assert_eq!(of(Segment::LatencyAtLeast).len(), 0);
    // What was sent alone looks as if little had happened.
    let sent = of(Segment::LatencySent);
    assert_eq!((sent.len(), sent.value_at_quantile(0.99)), (tally.sent, 100));
    assert!(shard.generator.take_events().any(|it| matches!(it, Event::Settled { phase: 1, .. })));
}

/// Of 8 s, what was due in the first 3 runs into the time-out of 5 s, sent or not.
#[test]
fn what_is_not_answered_in_time_is_a_bound() {
    let mut shard = frozen(1_000, 8);
    let tally = *shard.generator.tally();
    let of = shard.histograms();
    let (latency, bounds) = (of(Segment::Latency), of(Segment::LatencyAtLeast));
    assert_eq!(latency.len(), 20_000);
    assert_eq!(bounds.len(), 3_000);
    assert!(is_at(&bounds, 0.0, 5.0) && is_at(&bounds, 1.0, 5.0));
    assert!(is_at(&latency, 0.99, 5.0) && is_at(&latency, 0.7, 2.0));
    assert!(tally.timed_out > 0 && tally.timed_out < 3_000, "{tally:?}");
    assert_eq!(of(Segment::LatencySent).len(), tally.answered + tally.timed_out);
    assert_eq!(tally.late_turns, 0, "none of it is the client's doing");
}

/// A shake that is due while its user is not logged in waits until the user is back; the one that
/// was under way when the connection went away is never answered.
#[test]
fn users_who_are_offline_are_late_until_they_are_back() {
    let mut shard = Shard::new(1, [Phase { seconds: Some(1), ..open(1, START + 1, 10) }]);
    shard.log_in(|_| LoginResult::Ok);
    shard.turn_at(1_000 * MILLISECOND);
    let lost = ConnId { slot: 0, generation: 0 };
    shard.generator.closed(&mut shard.network, lost, Closed::ByPeer);
    // Due at 1.1 and 1.2 s; back at 1.25 s.
    shard.turn_at(1_100 * MILLISECOND);
    shard.turn_at(1_200 * MILLISECOND);
    shard.turn_at(1_250 * MILLISECOND);
    let back = ConnId { slot: 1, generation: 0 };
    shard.generator.connected(&mut shard.network, back);
    shard.receive(back, &Frame::LoginResponse { user: 0, result: LoginResult::Ok as u32 });
    let tally = *shard.generator.tally();
    assert_eq!((tally.offered, tally.lost, tally.skipped_offline), (3, 1, 2));
    let of = shard.histograms();
    let (latency, bounds) = (of(Segment::Latency), of(Segment::LatencyAtLeast));
    assert_eq!((latency.len(), of(Segment::LatencySent).len(), bounds.len()), (3, 0, 1));
    assert!(is_at(&latency, 0.3, 0.05) && is_at(&latency, 0.6, 0.15) && is_at(&bounds, 1.0, 5.0));
}

/// What is still under way or waits when the client ends has lasted so long or longer.
#[test]
fn a_client_that_ends_leaves_no_shake_out() {
    let mut shard = Shard::new(1, [open(1, START + 1, 10)]);
    shard.log_in(|_| LoginResult::Ok);
    shard.turn_at(1_000 * MILLISECOND);
    shard.turn_at(1_100 * MILLISECOND);
    shard.generator.end(START * NANOS_PER_SECOND + 1_300 * MILLISECOND);
    let of = shard.histograms();
    let bounds = of(Segment::LatencyAtLeast);
    assert_eq!((of(Segment::Latency).len(), bounds.len()), (2, 2));
    assert!(is_at(&bounds, 0.0, 0.2) && is_at(&bounds, 1.0, 0.3));
}

/// A client that was stopped finds most users waiting for what it sends first when it goes on. All
/// that was due meanwhile is late by its doing, sent or not.
#[test]
fn a_client_that_was_stopped_is_late_with_what_it_did_not_send_either() {
    for pacing in [Pacing::Even, Pacing::Prototype] {
        let load = Load::Open { rate: Rate::Fixed(1_000), pacing };
        let phase =
            Phase { index: 1, start: START + 1, seconds: Some(20), load, ..Phase::default() };
        let mut shard = Shard::new(1_000, [phase]);
        shard.log_in(|_| LoginResult::Ok);
        let stopped = 9_000..11_000;
        for ms in (1_000..22_000).filter(|ms| !stopped.contains(ms)) {
            // As many turns as there is something to do; answers come with the next millisecond.
            shard.answer_after(0);
            while shard.turn_at(ms * MILLISECOND) == Some(shard.network.now_ns) {}
        }
        let tally = *shard.generator.tally();
        assert_eq!(tally.offered, 20_000, "{pacing:?}");
        assert!((1_990..=2_010).contains(&tally.late_turns), "{pacing:?}: {tally:?}");
        assert!(tally.late_sends <= tally.late_turns && tally.skipped_waiting > 900, "{tally:?}");
        assert_eq!(shard.histograms()(Segment::Latency).len(), 20_000);
    }
}

/// One that is behind lets the other end take what it was sent, turn by turn. It does not wait for
/// answers: a server that gives none gets all that is due.
#[test]
fn who_is_behind_gives_way_after_each_turn_and_waits_for_no_answer() {
    const TURN: usize = 64;
    let mut shard = Shard::new(1_000, [open(1, START + 1, 1_000)]);
    shard.log_in(|_| LoginResult::Ok);
    let before = shard.network.sent.len();
    for ms in 1_000..=1_010 {
        shard.turn_at(ms * MILLISECOND);
    }
    assert_eq!(shard.network.sent.len(), before + 11);
    assert_eq!(shard.network.gave_way_after, [0; 0], "it is not behind");
    while shard.turn_at(1_500 * MILLISECOND) == Some(shard.network.now_ns) {}
    assert_eq!(shard.network.sent.len(), before + 501);
    let turns: Vec<_> = (1..=490 / TURN).map(|turn| before + 11 + turn * TURN).collect();
    assert_eq!(shard.network.gave_way_after, turns);
}
