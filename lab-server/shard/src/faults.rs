//! Failures between a shard and its rings, call by call, and what must hold then: whatever a peer
//! is sent is its own answer, whole and in order.

use std::cell::RefCell;
use std::io;

use io_uring::IoUring;

/// A call that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Entries are handed over.
    Enter,
    /// A file comes or goes.
    Update,
}

/// How it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// With this errno, and nothing was taken.
    Refused(i32),
    /// With this errno, after everything was carried out.
    Late(i32),
    /// Not at all, but at most so many entries were taken.
    Partial(u32),
}

type Plan = Box<dyn FnMut(Call) -> Option<Fault>>;

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
}

/// What is to happen to a call of this thread.
pub(crate) fn of(call: Call) -> Option<Fault> {
    PLAN.with_borrow_mut(|plan| plan.as_mut().and_then(|plan| plan(call)))
}

impl Fault {
    pub(crate) fn enter(self, ring: &IoUring, wait: usize) -> io::Result<usize> {
        match self {
            Fault::Refused(errno) => Err(io::Error::from_raw_os_error(errno)),
            Fault::Late(errno) => {
                ring.submit_and_wait(wait)?;
                Err(io::Error::from_raw_os_error(errno))
            }
            // SAFETY: it submits what `submit_and_wait` would, only less of it.
            Fault::Partial(most) => unsafe {
                ring.submitter().enter::<libc::sigset_t>(most, 0, 0, None)
            },
        }
    }
}

mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::ready_queues::Queue;
    use crate::{Closed, ConnId, Handler, Limits, ListenOptions, Net, Next, bind_listener};

    /// Nothing here takes longer.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Errors that pass, and some of those that do not.
    const PASSING: [i32; 4] = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM];
    const FATAL: [i32; 3] = [libc::EBADF, libc::EFAULT, libc::EINVAL];

    /// Says everything twice, and good-bye when asked to.
    #[derive(Default)]
    struct Echo {
        accepted: usize,
        /// Lines that were understood, by peer.
        understood: BTreeMap<usize, usize>,
    }

    impl Handler for Echo {
        fn accepted(&mut self, _: &mut Net, _: ConnId) {
            self.accepted += 1;
        }

        fn connected(&mut self, _: &mut Net, _: ConnId) {}

        fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in bytes[..whole].split_inclusive(|byte| *byte == b'\n') {
                for _ in 0..2 {
                    net.send_with(id, line.len(), |space| space.copy_from_slice(line));
                }
                if line.ends_with(b"bye\n") {
                    net.finish(id);
                }
                let text = std::str::from_utf8(line).expect("text");
                let peer = text.split(' ').next().and_then(|peer| peer.parse().ok());
                *self.understood.entry(peer.expect("a number")).or_default() += 1;
            }
            whole
        }

        fn closed(&mut self, _: &mut Net, _: ConnId, _: Closed) {}
        fn notified(&mut self, _: &mut Net) {}
        fn polled(&mut self, _: &mut Net) -> Next {
            Next::Whenever
        }
    }

    /// The round in which a peer says good-bye.
    fn bye(peer: usize) -> usize {
        if peer % 5 == 2 { 2 } else { ROUNDS }
    }

    /// What a peer says in a round; long enough here and there to need more than one share.
    fn says(peer: usize, round: usize) -> String {
        let word = char::from(b'a' + (peer % 26) as u8).to_string();
        let long = [3, 300, 17, 1500][(peer + round) % 4];
        let bye = if round == bye(peer) { "bye" } else { "" };
        format!("{peer} {round} {} {bye}\n", word.repeat(long))
    }

    /// What it must be answered: everything twice, up to its good-bye.
    fn answers(peer: usize) -> String {
        (0..ROUNDS.min(bye(peer) + 1)).map(|round| says(peer, round).repeat(2)).collect()
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// What became of a talk between some peers and a shard.
    struct Talk {
        ended: io::Result<()>,
        streams: Vec<String>,
        turned_away: u64,
        calls: usize,
        /// What ended says so again.
        over: bool,
    }

    const ROUNDS: usize = 4;

    /// Lets `peers` talk for some rounds, under a plan that is told how often it was asked before.
    fn talk(
        peers: usize,
        per_ring: u32,
        mut plan: impl FnMut(usize, Call) -> Option<Fault> + 'static,
    ) -> Talk {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let options = ListenOptions { address, backlog: 64, cpu: None, congestion: None };
        let socket = bind_listener(&options).expect("a free port");
        let address: SocketAddr =
            rustix::net::getsockname(&socket).expect("bound").try_into().expect("an address");
        let mut net = Net::new(Limits::new(peers as u32, per_ring, 4096), None).expect("epoll");
        net.listen(socket).expect("listening");
        let calls = Rc::new(RefCell::new(0));
        let counted = Rc::clone(&calls);
        let counting = move |call| {
            let number = counted.replace_with(|calls| *calls + 1);
            plan(number, call)
        };
        PLAN.set(Some(Box::new(counting)));
        let mut echo = Echo::default();
        let mut streams: Vec<_> = (0..peers).map(|_| connect(address)).collect();
        let ended = rounds(&mut net, &mut echo, &mut streams);
        let mut over = ended.is_ok();
        if ended.is_err() {
            // The shard would end now. Whatever is tried all the same, nothing is sent.
            let ids: Vec<_> = net.ids().collect();
            for id in ids {
                net.send_with(id, 6, |space| space.copy_from_slice(b"wrong\n"));
            }
            over = net.flush().is_err() && net.poll(&mut echo, false).is_err();
        }
        let turned_away = net.counters().turned_away;
        drop(net);
        PLAN.set(None);
        let read = |stream: &mut TcpStream| {
            let mut bytes = Vec::new();
            // A reset is an end as well: what came before it counts.
            let _ = stream.read_to_end(&mut bytes);
            String::from_utf8(bytes).expect("text")
        };
        let streams = streams.iter_mut().map(read).collect();
        let calls = *calls.borrow();
        Talk { ended, streams, turned_away, calls, over }
    }

    fn rounds(net: &mut Net, echo: &mut Echo, streams: &mut [TcpStream]) -> io::Result<()> {
        let peers = streams.len();
        while echo.accepted + (net.counters().turned_away as usize) < peers {
            net.poll(echo, false)?;
        }
        for round in 0..ROUNDS {
            for (peer, stream) in streams.iter_mut().enumerate() {
                // One that was turned away, or has said good-bye, may be closed.
                let _ = stream.write_all(says(peer, round).as_bytes());
            }
            // Until everybody was understood who is still there.
            let here = peers - net.counters().turned_away as usize;
            let all = |echo: &Echo| {
                let mut lines = echo.understood.iter();
                echo.understood.len() == here
                    && lines.all(|(peer, lines)| *lines > round.min(bye(*peer)))
            };
            let start = Instant::now();
            while !all(echo) {
                net.poll(echo, false)?;
                assert!(start.elapsed() < PATIENCE, "round {round}: {:?}", echo.understood);
            }
        }
        Ok(())
    }

    /// Every peer has its answers, in order and no others; all of them unless the shard ended.
    fn check(talk: &Talk, what: &str) {
        for (peer, stream) in talk.streams.iter().enumerate() {
            let expected = answers(peer);
            let right = match talk.ended {
                Ok(()) => *stream == expected,
                Err(_) => expected.starts_with(stream),
            };
            assert!(right, "{what}: peer {peer} was sent {stream:?}, not {expected:?}");
        }
        assert!(talk.over, "{what}: it goes on after {:?}", talk.ended);
    }

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
        let late = [libc::EINTR, libc::EBUSY].map(Fault::Late);
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
            (true, Fault::Refused(libc::ENOMEM)),
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
        // Some calls are no submissions and did not fail.
        assert!(ended > tried / 2, "{ended} of {tried}");
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
                let fault = match choices[number % choices.len()] {
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
}
