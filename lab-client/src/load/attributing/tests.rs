//! What is entered of shakes whose instants are given.

use std::net::Ipv4Addr;
use std::sync::Arc;

use attribution::{Cause, CauseRows, Spent, TracedThread};
use platform::Clock;
use service::Notices;
use workload::{Flows, Share};

use super::*;
use crate::load::state::Rules;
use crate::traces::tests::ServerIsStopped;

const CLIENT: u16 = 1;
const SERVER: u16 = 2;

fn check(request: Request, due_ns: u64, served: Served, expected: &[(Cause, u64)]) {
    let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1024);
    let over = Over { phase: 0, from, due_ns, latency_ns: 1_000 };
    let attributed = over.look_up_rest(&ServerIsStopped(Doing::Asleep), request, served);
    let found: Vec<_> = attributed.causes_ns.named().filter(|(_, ns)| *ns > 0).collect();
    assert_eq!(found, expected, "{request:?}");
}

/// Its user waits for a request that reached the server at 200 and has not been read.
#[test]
fn a_shake_that_waits_for_a_request_is_late_for_what_keeps_that() {
    let request =
        Request { server_ready_ns: Some(200), ready_ns: None, server_slot: SERVER, ..HALF };
    let stopped = Cause::ServerStopped;
    check(request, 500, Served::Not, &[(stopped, 1_000)]);
    check(request, 150, Served::Not, &[(Cause::NetworkDelay, 50), (stopped, 950)]);
    // What kept it before that request was sent is not known, or else the server has not read
    // anything since.
    check(
        request,
        40,
        Served::Not,
        &[(Cause::NetworkDelay, 100), (Cause::Unexplained, 60), (stopped, 840)],
    );
    let behind = Request { unread_ns: Some(30), ..request };
    check(behind, 40, Served::Not, &[(stopped, 1_000)]);
    // Answered at last, and read when the shake was served.
    let answered = Request {
        server_read_ns: Some(1_300),
        answered_ns: Some(1_350),
        ready_ns: Some(1_500),
        ..request
    };
    check(answered, 500, Served::ByAnswer, &[(Cause::NetworkDelay, 150), (stopped, 850)]);
}

/// Of each connection there is one request, whose client runs.
struct Half(Request);

impl TraceReader for Half {
    fn has(&self, _: SocketAddrV4, _: u64) -> bool {
        true
    }

    fn prepare(&self, _: SocketAddrV4) {}

    fn request(&self, _: SocketAddrV4) -> Option<Request> {
        Some(self.0)
    }

    fn request_behind(&self, _: SocketAddrV4, request: Request) -> Request {
        Request { beside: true, ..request }
    }

    fn spent(&self, slot: u16, from_ns: u64, to_ns: u64) -> Spent {
        assert_eq!(slot, CLIENT, "the server is another host's");
        Spent::all(Doing::Run, to_ns - from_ns)
    }

    fn thread(&self, _: u16, _: u64, _: u64) -> Option<TracedThread> {
        None
    }
}

const HALF: Request = Request {
    sequence: 1,
    end: 21,
    answer: 1,
    sent_ns: 100,
    server_ready_ns: None,
    server_read_ns: None,
    answered_ns: None,
    ready_ns: Some(700),
    read_ns: None,
    losses: 0,
    mixed: false,
    beside: false,
    unread_ns: None,
    client_slot: CLIENT,
    server_slot: 0,
};

fn generator(users: u32, join: bool, request: Request) -> LoadGenerator {
    let share = Share { total_users: users, first: 0, end: users, shard: 0, shards: 1 };
    let sources = vec![Ipv4Addr::LOCALHOST];
    let rules = Rules {
        seed: 7,
        timeout_ns: 5_000,
        late_ns: 1,
        notices: Notices::Push,
        own_commands: true,
        flows: Flows { sources, first_port: 1024, last_port: 60_000, but: 0 },
        first_flow: 0,
        reconnect: true,
        slow_kept: 8,
        join,
    };
    let mut generator = LoadGenerator::new(share, Arc::new(rules), Clock::with_offset(0), 0);
    generator.set_traces(Some(Arc::new(Half(request))));
    generator
}

fn rows(generator: &mut LoadGenerator) -> CauseRows {
    let all: Vec<_> = generator.causes().take().collect();
    let [(3, rows)] = &all[..] else { panic!("{all:?}") };
    rows.clone()
}

#[test]
fn on_a_fleet_a_sample_of_what_was_never_sent_is_explained() {
    const USERS: u32 = 6_400;
    let mut generator = generator(USERS, true, HALF);
    for user in 0..USERS {
        generator.attribute_skipped((3, user), 5_000_000 + u64::from(user) * 16_666, 400_000);
    }
    let rows = rows(&mut generator);
    assert_eq!(rows.requests + rows.unsampled, u64::from(USERS));
    // One in 64.
    assert!((50..=150).contains(&rows.requests), "{}", rows.requests);
    let busy_us: u64 = rows.sums.iter().map(|sum| sum.causes_us[Cause::ClientBusy]).sum();
    assert_eq!(busy_us, 400 * rows.requests);
}

#[test]
fn on_a_fleet_a_shake_that_waits_is_joined_with_what_it_waits_for() {
    let user = 5;
    let from = generator(9, true, HALF).flow_of(user);
    let joined = |sequence: &u32| Request { sequence: *sequence, ..HALF }.is_joined(from);
    let sequence = (0..).find(joined).expect("one in 64");
    let in_sample = Request { sequence, ..HALF };
    let mut one = generator(9, true, in_sample);
    one.attribute_unsent((3, user), 300, 600, Served::ByAnswer);
    let [sampled] = &one.take_sampled()[..] else { panic!("one") };
    let ClientSide { request, evidence } = sampled.client_side;
    assert_eq!((sampled.due_ns, request.sent_ns, request.read_ns), (300, 100, Some(900)));
    assert_eq!(evidence.client_receive, Spent::all(Doing::Run, 200));
    // It was not answered in time: the client's own part is known, as far as it goes.
    one.attribute_unsent((3, user), 300_000, 5_000, Served::Not);
    let rows = rows(&mut one);
    assert_eq!((rows.requests, rows.unsampled), (1, 0));
    // One that is not in the sample counts as such.
    let not = (0..).find(|sequence| !joined(sequence)).expect("63 in 64");
    let mut other = generator(9, true, Request { sequence: not, ..HALF });
    other.attribute_unsent((3, user), 300, 600, Served::ByAnswer);
    assert!(other.take_sampled().is_empty());
    assert_eq!(self::rows(&mut other).unsampled, 1);
}

#[test]
fn a_shake_is_found_after_its_user_has_sent_something_else() {
    let mut generator = generator(9, false, HALF);
    let (user, from) = (2, generator.flow_of(2));
    let find = |generator: &LoadGenerator| {
        let traces = generator.traces.clone().expect("traces");
        generator.request_of(traces.as_ref(), (user, from)).expect("a request").beside
    };
    // None is under way, or the latest request is an earlier one.
    generator.keep_shake(user);
    generator.users[2].due_ns = 101;
    generator.keep_shake(user);
    assert!(!find(&generator));
    generator.users[2].due_ns = 90;
    generator.keep_shake(user);
    assert!(find(&generator));
    generator.forget_shake(user);
    assert!(!find(&generator));
}
