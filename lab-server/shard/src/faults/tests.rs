//! Each error at each call, and at each operation.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::talk::{Echo, PATIENCE, Talk, answers, check, check_but_for, connect, talk, talk_with};
use super::{Call, Fault, PLAN};
use crate::ready_queues::Queue;
use crate::registered::{ATTEMPTS, pause_after};
use crate::setbacks;
use crate::{Closed, ConnId, Handler, Limits, ListenOptions, Net, Next, bind_listener};

/// What `io_uring_enter` gives that passes, and what does not: those of `io_uring_enter(2)`,
/// and some that it has given or may give one day.
const PASSING: [i32; 4] = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM];
const FATAL: [i32; 13] = [
    libc::EBADF,
    libc::EBADFD,
    libc::EBADR,
    libc::ECANCELED,
    libc::EEXIST,
    libc::EFAULT,
    libc::EINVAL,
    libc::EIO,
    libc::ENXIO,
    libc::EOPNOTSUPP,
    libc::EOWNERDEAD,
    libc::EPERM,
    libc::ETIME,
];

/// The same of one operation on a socket: what passes, and what is the end of its connection.
const MADE_UP_FOR: [i32; 4] = [libc::EAGAIN, libc::EINTR, libc::ENOBUFS, libc::ENOMEM];
const BREAKING: [i32; 12] = [
    libc::EBADF,
    libc::ECANCELED,
    libc::ECONNABORTED,
    libc::ECONNRESET,
    libc::EFAULT,
    libc::EHOSTUNREACH,
    libc::EINVAL,
    libc::EIO,
    libc::ENOTCONN,
    libc::EOPNOTSUPP,
    libc::EPIPE,
    libc::ETIMEDOUT,
];

/// Fails the call `at`, or from there on every one.
fn failing(at: usize, for_ever: bool, fault: Fault) -> Talk {
    talk(7, 3, move |number, call| {
        let now = number == at || (for_ever && number > at);
        (now && call == Call::Enter).then_some(fault)
    })
}

#[test]
fn what_passes_once_at_any_call_is_not_seen() {
    let calls = failing(usize::MAX, false, Fault::Partial(0)).calls;
    assert!(calls > 20, "{calls} calls");
    let refused = PASSING.map(Fault::Refused);
    let late = PASSING.map(Fault::Late);
    let partial = [0, 1, 2].map(Fault::Partial);
    for fault in refused.into_iter().chain(late).chain(partial) {
        for at in 0..calls {
            let talk = failing(at, false, fault);
            let what = format!("{fault:?} at {at}");
            assert!(talk.ended.is_ok(), "{what}: {:?}", talk.ended);
            check(&talk, &what);
        }
    }
}

#[test]
fn what_does_not_pass_ends_the_shard_and_sends_nothing_more() {
    let calls = failing(usize::MAX, false, Fault::Partial(0)).calls;
    let once = FATAL.map(|errno| (false, Fault::Refused(errno)));
    let others = [
        (false, Fault::Late(libc::EINVAL)),
        (false, Fault::Late(libc::ECANCELED)),
        (true, Fault::Partial(0)),
    ];
    let (mut ended, mut tried) = (0, 0);
    for (for_ever, fault) in once.into_iter().chain(others) {
        for at in 0..calls {
            tried += 1;
            let talk = failing(at, for_ever, fault);
            let what = format!("{fault:?} at {at}, for ever: {for_ever}");
            ended += usize::from(talk.ended.is_err());
            if let Err(error) = &talk.ended {
                assert!(error.to_string().contains("given up"), "{what}: {error}");
            }
            check(&talk, &what);
        }
    }
    // Another talk may need fewer calls.
    assert!(ended > tried / 2, "{ended} of {tried}");
}

/// The pauses before so many attempts after the first.
fn pauses(attempts: usize) -> Vec<Duration> {
    (1..=attempts as u32).map(pause_after).collect()
}

#[test]
fn pauses_double_and_are_a_tenth_of_a_second_in_all() {
    let all = pauses(ATTEMPTS as usize - 1);
    assert_eq!(all[0], Duration::from_micros(25));
    assert!(all.windows(2).all(|two| two[1] == 2 * two[0]), "{all:?}");
    let sum: Duration = all.iter().sum();
    assert!((100..=105).contains(&sum.as_millis()), "{sum:?}");
}

/// While a ring takes nothing it is entered again after longer and longer pauses, a bounded
/// number of times. What has passed by then is not seen, and else no ring is entered again.
/// Nobody says good-bye here: a shutdown that completes meanwhile would begin the pauses anew.
#[test]
fn what_does_not_pass_at_once_is_tried_again_after_longer_and_longer_pauses() {
    let calls = talk(2, 1, |_, _| None).calls;
    let attempts = ATTEMPTS as usize;
    let tries = [(libc::EAGAIN, 1), (libc::EAGAIN, 5), (libc::EAGAIN, attempts - 1)];
    let for_ever = PASSING.map(|errno| (errno, usize::MAX));
    for (errno, times) in tries.into_iter().chain(for_ever) {
        let mut reached = 0;
        for at in 0..calls {
            let refused = Rc::new(RefCell::new(0));
            let counted = Rc::clone(&refused);
            let talk = talk(2, 1, move |number, call| {
                let now = call == Call::Enter && number >= at && number - at < times;
                *counted.borrow_mut() += usize::from(now);
                now.then_some(Fault::Refused(errno))
            });
            let (refused, what) = (*refused.borrow(), format!("{errno} from {at}, {times}"));
            check(&talk, &what);
            if refused == 0 {
                continue;
            }
            reached += 1;
            assert_eq!(refused, times.min(attempts), "{what}");
            assert_eq!(talk.ended.is_ok(), times < attempts, "{what}: {:?}", talk.ended);
            assert_eq!(talk.pauses, pauses(times.min(attempts - 1)), "{what}");
        }
        assert!(reached > calls / 2, "{reached} of {calls}");
    }
}

/// Each entry that is taken begins the pauses anew.
#[test]
fn a_ring_that_takes_a_little_at_a_time_is_not_given_up() {
    let talk = talk(2, 3, |number, call| match (call, number % 8) {
        (Call::Enter, 7) => Some(Fault::Partial(1)),
        (Call::Enter, _) => Some(Fault::Refused(libc::EAGAIN)),
        _ => None,
    });
    assert!(talk.ended.is_ok(), "{:?}", talk.ended);
    check(&talk, "an entry in eight calls");
    assert!(talk.pauses.len() > 6 * ATTEMPTS as usize, "{}", talk.pauses.len());
    assert!(talk.pauses.chunks(7).all(|some| some == &pauses(7)[..some.len()]));
}

/// Lets the operation `at` complete with an errno.
fn failing_operation(at: usize, errno: i32) -> Talk {
    // These two say that an event will follow, and in truth one does.
    talk_with(7, 3, errno == libc::EAGAIN, move |number, call| {
        (number == at && call.slot().is_some()).then_some(Fault::Completed(errno))
    })
}

#[test]
fn an_operation_that_fails_and_may_pass_is_made_up_for() {
    let operations = failing_operation(usize::MAX, 0).operations;
    assert!(operations > 40, "{operations} operations");
    for errno in MADE_UP_FOR {
        let mut failed = 0;
        for at in 0..operations {
            let talk = failing_operation(at, errno);
            let what = format!("errno {errno} of operation {at}");
            failed += talk.failed.len();
            assert!(talk.ended.is_ok() && talk.gone.is_empty(), "{what}: {:?}", talk.ended);
            check(&talk, &what);
        }
        assert!(failed > operations / 2, "{failed} of {operations}");
    }
}

#[test]
fn an_operation_that_fails_for_good_costs_its_own_peer_only() {
    let operations = failing_operation(usize::MAX, 0).operations;
    for errno in BREAKING {
        let (mut failed, mut gone) = (0, 0);
        for at in 0..operations {
            let talk = failing_operation(at, errno);
            let what = format!("errno {errno} of operation {at}");
            (failed, gone) = (failed + talk.failed.len(), gone + talk.gone.len());
            assert!(talk.ended.is_ok(), "{what}: {:?}", talk.ended);
            assert!(talk.gone.is_subset(&talk.failed), "{what}: {:?} gone", talk.gone);
            check_but_for(&talk, &talk.failed, &what);
        }
        assert!(failed > operations / 2, "{failed} of {operations}");
        // Who has said good-bye goes in silence.
        assert!(gone > operations / 2, "{gone} of {operations}");
    }
}

#[test]
fn a_file_that_cannot_be_registered_costs_its_own_peer_only() {
    let refuse = |at: usize| {
        let mut updates = 0;
        talk(7, 3, move |_, call| {
            updates += usize::from(call == Call::Update);
            (call == Call::Update && updates == at).then_some(Fault::Refused(libc::ENOMEM))
        })
    };
    for at in 1..=7 {
        let mut talk = refuse(at);
        assert!(talk.ended.is_ok() && talk.turned_away == 1, "{at}: {:?}", talk.ended);
        assert_eq!(talk.streams[at - 1], "");
        talk.streams[at - 1] = answers(at - 1);
        check(&talk, &format!("file {at} refused"));
    }
}

#[test]
fn room_that_is_none_is_no_movement() {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let options = ListenOptions { address, backlog: 1, cpu: None, congestion: None };
    let socket = bind_listener(&options).expect("a free port");
    let address: SocketAddr =
        rustix::net::getsockname(&socket).expect("bound").try_into().expect("an address");
    let mut limits = Limits::new(1, 1, 4096);
    limits.stall_ns = 100_000_000;
    let (mut net, mut echo) = (Net::new(limits, None).expect("epoll"), Echo::default());
    net.listen(socket).expect("listening");
    let _deaf = connect(address);
    while echo.accepted == 0 {
        net.poll(&mut echo, false).expect("poll");
    }
    let id = net.ids().next().expect("it is there");
    let start = Instant::now();
    while let Some(slot) = net.slots.get(id) {
        assert!(start.elapsed() < PATIENCE, "it is tried again for ever");
        if slot.backlog.is_none() {
            // Its kernel has taken what was left for it: until that is full, too.
            net.send_with(id, 1000, |space| space.fill(b'x'));
            net.flush().expect("sent");
            continue;
        }
        slot.writable = true;
        net.queues.join(Queue::Busy, id, slot);
        net.poll(&mut echo, false).expect("poll");
    }
}

/// Reads what comes, says it back, and notes why connections are gone.
#[derive(Default)]
struct Witness {
    accepted: Vec<ConnId>,
    heard: Vec<u8>,
    gone: Vec<(u32, Closed)>,
}

impl Handler for Witness {
    fn accepted(&mut self, _: &mut Net, id: ConnId) {
        self.accepted.push(id);
    }

    fn connected(&mut self, _: &mut Net, _: ConnId) {}

    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
        self.heard.extend(bytes);
        net.send_with(id, bytes.len(), |space| space.copy_from_slice(bytes));
        bytes.len()
    }

    fn closed(&mut self, _: &mut Net, id: ConnId, why: Closed) {
        self.gone.push((id.slot, why));
    }

    fn notified(&mut self, _: &mut Net) {}
    fn polled(&mut self, _: &mut Net) -> Next {
        Next::Whenever
    }
}

/// What the operations on the socket of slot 0 came to, when so many of a kind fail.
struct Failed {
    /// Attempts at it, and polls meanwhile.
    attempts: u32,
    polls: u64,
    witness: Witness,
    put_off: u64,
    /// What the peers in slots 0 and 1 were told.
    answers: [Vec<u8>; 2],
}

/// Two peers ask once each; of the first one's operations of a kind, so many find no memory.
fn without_memory(of: fn(u32) -> Call, times: u32, errno: i32) -> Failed {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let options = ListenOptions { address, backlog: 64, cpu: None, congestion: None };
    let socket = bind_listener(&options).expect("a free port");
    let address: SocketAddr =
        rustix::net::getsockname(&socket).expect("bound").try_into().expect("an address");
    // 80 ms in all.
    let limits = Limits { retry_ns: 10_000, ..Limits::new(2, 8, 4096) };
    let mut net = Net::new(limits, None).expect("epoll");
    net.listen(socket).expect("listening");
    let mut witness = Witness::default();
    let mut streams: Vec<_> = (0..2).map(|_| connect(address)).collect();
    let start = Instant::now();
    let mut polls = 0;
    let mut poll = |net: &mut Net, witness: &mut Witness| {
        net.poll(witness, false).expect("poll");
        polls += 1;
        assert!(start.elapsed() < PATIENCE);
    };
    while witness.accepted.len() < 2 {
        poll(&mut net, &mut witness);
    }
    let attempts = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&attempts);
    PLAN.set(Some(Box::new(move |call| {
        let failing = of(0);
        if call != failing {
            return None;
        }
        *counted.borrow_mut() += 1;
        (*counted.borrow() <= times).then_some(Fault::Completed(errno))
    })));
    streams.iter_mut().for_each(|stream| stream.write_all(b"hello").expect("room"));
    let mut answers = [Vec::new(), Vec::new()];
    streams.iter().for_each(|stream| stream.set_nonblocking(true).expect("set"));
    let mut slept = 0;
    while witness.gone.is_empty() && answers.iter().any(|answer| answer.len() < 5) {
        poll(&mut net, &mut witness);
        // Nothing keeps it from sleeping until the pause is over.
        slept += u32::from(!net.has_work() && net.next_deadline_ns().is_some());
        for (stream, answer) in streams.iter_mut().zip(&mut answers) {
            let mut bytes = [0; 64];
            let read = stream.read(&mut bytes).unwrap_or(0);
            answer.extend(&bytes[..read]);
        }
    }
    PLAN.set(None);
    assert!(slept > 0, "it waits");
    let put_off = net.counters().put_off;
    net.ids().collect::<Vec<_>>().into_iter().for_each(|id| net.close(id));
    let attempts = *attempts.borrow();
    Failed { attempts, polls, witness, put_off, answers }
}

#[test]
fn a_socket_without_memory_is_tried_a_bounded_number_of_times_and_costs_no_polls() {
    for of in [Call::Receive, Call::Send] {
        for errno in [libc::ENOBUFS, libc::ENOMEM, libc::EINTR] {
            let what = format!("{:?} {errno}", of(0));
            let failed = without_memory(of, u32::MAX, errno);
            assert_eq!(failed.witness.gone, [(0, Closed::Broken(errno))], "{what}: the reason");
            assert_eq!(failed.attempts, setbacks::ATTEMPTS, "{what}");
            assert!(failed.polls > 10 * u64::from(failed.attempts), "{what}: {}", failed.polls);
            assert_eq!(failed.put_off, u64::from(failed.attempts), "{what}: counted");
            assert_eq!(failed.answers, [b"".to_vec(), b"hello".to_vec()], "{what}: the other one");
            // There is memory again.
            let failed = without_memory(of, 5, errno);
            assert_eq!(failed.witness.gone, [], "{what}");
            assert_eq!(failed.answers, [b"hello", b"hello"].map(|it| it.to_vec()), "{what}");
            assert_eq!(failed.put_off, 5, "{what}");
            assert_eq!(failed.witness.heard.len(), 10, "{what}: nothing twice");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Many peers, several rings, failures wherever chance puts them.
    #[test]
    fn streams_are_right_under_random_failures(
        choices in proptest::collection::vec(0usize..40, 64),
        peers in 20usize..60,
        per_ring in 3u32..40,
    ) {
        let talk = talk(peers, per_ring, move |number, call| {
            let choice = choices[number % choices.len()];
            if call.slot().is_some() {
                // Not EAGAIN, the first: no event follows here.
                return MADE_UP_FOR.get(choice + 1).copied().map(Fault::Completed);
            }
            let fault = match choice {
                choice @ 0..4 => Fault::Refused(PASSING[choice]),
                choice @ 4..8 => Fault::Late(PASSING[choice - 4]),
                choice @ 8..16 => Fault::Partial(choice as u32 - 8),
                _ => return None,
            };
            (call == Call::Enter).then_some(fault)
        });
        prop_assert!(talk.ended.is_ok(), "{:?}", talk.ended);
        check(&talk, "random failures");
    }
}
