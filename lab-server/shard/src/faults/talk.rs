//! Peers who talk with a shard while calls and operations of its rings fail, and whether each was
//! sent its own answers. Must not know: which failures there are.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Call, FAILED, Fault, PAUSES, PLAN};
use crate::{Closed, ConnId, Handler, Limits, ListenOptions, Net, Next, bind_listener};

/// Nothing here takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Says everything twice, and good-bye when asked to.
#[derive(Default)]
pub(super) struct Echo {
    pub(super) accepted: usize,
    /// Peers by slot. They are accepted in their order, and no slot is used again.
    peers: BTreeMap<u32, usize>,
    /// Those whose connection is gone.
    gone: BTreeSet<usize>,
    /// Lines that were understood, by peer.
    understood: BTreeMap<usize, usize>,
}

impl Handler for Echo {
    fn accepted(&mut self, net: &mut Net, id: ConnId) {
        self.peers.insert(id.slot, self.accepted + net.counters().turned_away as usize);
        self.accepted += 1;
    }

    fn connected(&mut self, _: &mut Net, _: ConnId) {}

    fn received(&mut self, net: &mut Net, id: ConnId, bytes: &[u8]) -> usize {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in bytes[..whole].split_inclusive(|byte| *byte == b'\n') {
            if line == b"\n" {
                continue;
            }
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

    fn closed(&mut self, _: &mut Net, id: ConnId, _: Closed) {
        self.gone.insert(self.peers[&id.slot]);
    }

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
pub(super) fn answers(peer: usize) -> String {
    (0..ROUNDS.min(bye(peer) + 1)).map(|round| says(peer, round).repeat(2)).collect()
}

pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What became of a talk between some peers and a shard.
pub(super) struct Talk {
    pub(super) ended: io::Result<()>,
    pub(super) streams: Vec<String>,
    pub(super) turned_away: u64,
    /// How often a ring was entered, and how many operations there were.
    pub(super) calls: usize,
    pub(super) operations: usize,
    /// Peers of whom an operation was told to fail, and those who were told to be gone.
    pub(super) failed: BTreeSet<usize>,
    pub(super) gone: BTreeSet<usize>,
    /// How long was waited between attempts.
    pub(super) pauses: Vec<Duration>,
    /// What ended says so again.
    pub(super) over: bool,
}

pub(super) const ROUNDS: usize = 4;

/// Lets `peers` talk for some rounds, under a plan that is told how many calls of this kind, or
/// operations, were before.
pub(super) fn talk(
    peers: usize,
    per_ring: u32,
    plan: impl FnMut(usize, Call) -> Option<Fault> + 'static,
) -> Talk {
    talk_with(peers, per_ring, false, plan)
}

/// What was counted under a plan, and the slots of operations that it failed.
#[derive(Default)]
struct Planned {
    enters: usize,
    updates: usize,
    operations: usize,
    failed: BTreeSet<u32>,
}

impl Planned {
    fn number(&mut self, call: Call) -> usize {
        let count = match call {
            Call::Enter => &mut self.enters,
            Call::Update => &mut self.updates,
            _ => &mut self.operations,
        };
        std::mem::replace(count, *count + 1)
    }
}

/// The same; with `nudges` a peer who waits says an empty line, as a kernel that has nothing to
/// receive, or no room, tells later that it has.
pub(super) fn talk_with(
    peers: usize,
    per_ring: u32,
    nudges: bool,
    mut plan: impl FnMut(usize, Call) -> Option<Fault> + 'static,
) -> Talk {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let options = ListenOptions { address, backlog: 64, cpu: None, congestion: None };
    let socket = bind_listener(&options).expect("a free port");
    let address: SocketAddr =
        rustix::net::getsockname(&socket).expect("bound").try_into().expect("an address");
    let mut net = Net::new(Limits::new(peers as u32, per_ring, 4096), None).expect("epoll");
    net.listen(socket).expect("listening");
    let planned = Rc::new(RefCell::new(Planned::default()));
    let counted = Rc::clone(&planned);
    let counting = move |call: Call| {
        let number = counted.borrow_mut().number(call);
        let fault = plan(number, call);
        let failed = call.slot().filter(|_| fault.is_some());
        counted.borrow_mut().failed.extend(failed);
        fault
    };
    FAILED.take();
    PAUSES.take();
    PLAN.set(Some(Box::new(counting)));
    let mut echo = Echo::default();
    let mut streams: Vec<_> = (0..peers).map(|_| connect(address)).collect();
    let ended = rounds(&mut net, &mut echo, &mut streams, nudges);
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
    PLAN.set(None);
    if ended.is_ok() {
        // Not left to the kernel, which takes rings apart in its own time.
        let ids: Vec<_> = net.ids().collect();
        ids.into_iter().for_each(|id| net.close(id));
    }
    drop(net);
    let read = |stream: &mut TcpStream| {
        let mut bytes = Vec::new();
        // A reset is an end as well: what came before it counts.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8(bytes).expect("text")
    };
    let streams = streams.iter_mut().map(read).collect();
    let Planned { enters: calls, operations, failed, .. } = planned.take();
    let failed = failed.iter().map(|slot| echo.peers[slot]).collect();
    let (gone, pauses) = (echo.gone, PAUSES.take());
    Talk { ended, streams, turned_away, calls, operations, failed, gone, pauses, over }
}

fn rounds(
    net: &mut Net,
    echo: &mut Echo,
    streams: &mut [TcpStream],
    nudges: bool,
) -> io::Result<()> {
    let peers = streams.len();
    let start = Instant::now();
    while echo.accepted + (net.counters().turned_away as usize) < peers {
        net.poll(echo, false)?;
        assert!(start.elapsed() < PATIENCE, "{} accepted", echo.accepted);
    }
    for round in 0..ROUNDS {
        for (peer, stream) in streams.iter_mut().enumerate() {
            // One that was turned away, or has said good-bye, may be closed.
            let _ = stream.write_all(says(peer, round).as_bytes());
        }
        // Until everybody was understood who is still there, and in the end has the answers.
        let start = Instant::now();
        while !understood(echo, round) || (round + 1 == ROUNDS && owes(net)) {
            if net.poll(echo, false)? == 0 && nudges {
                streams.iter_mut().for_each(|stream| drop(stream.write_all(b"\n")));
            }
            assert!(start.elapsed() < PATIENCE, "round {round}: {:?}", echo.understood);
        }
    }
    Ok(())
}

fn understood(echo: &Echo, round: usize) -> bool {
    let here = echo.peers.values().filter(|peer| !echo.gone.contains(peer));
    let lines = |peer| echo.understood.get(peer).copied().unwrap_or_default();
    here.into_iter().all(|peer| lines(peer) > round.min(bye(*peer)))
}

fn owes(net: &mut Net) -> bool {
    let ids: Vec<_> = net.ids().collect();
    let waits = |id: &ConnId| net.slots.get(*id).is_some_and(|slot| slot.backlog.is_some());
    ids.iter().any(waits)
}

/// Every peer has its answers, in order and no others; all of them unless the shard ended.
pub(super) fn check(talk: &Talk, what: &str) {
    check_but_for(talk, &BTreeSet::new(), what);
}

/// The same; some may have lost the rest.
pub(super) fn check_but_for(talk: &Talk, cut: &BTreeSet<usize>, what: &str) {
    for (peer, stream) in talk.streams.iter().enumerate() {
        let expected = answers(peer);
        let right = match talk.ended {
            Ok(()) if !cut.contains(&peer) => *stream == expected,
            _ => expected.starts_with(stream),
        };
        assert!(right, "{what}: peer {peer} was sent {stream:?}, not {expected:?}");
    }
    assert!(talk.over, "{what}: it goes on after {:?}", talk.ended);
}
