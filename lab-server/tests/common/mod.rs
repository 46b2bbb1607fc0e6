//! A live server in this process, and blocking clients that speak frames: for tests on sockets.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod program;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use accounting::Ledger;
use accounting::server::Counters;
use lab_server::generator::{GeneratorSpec, PacketKind};
use lab_server::message::Message;
use lab_server::server::Server;
use service::{Config, Steering};
use wire::{Decoded, Frame, MAX_FRAME, ShakeResult, decode};

/// A test that waits longer for anything has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A small server on a free port. By hash, so that one client's connections fall to all shards.
pub(crate) fn small() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().expect("an address"),
        users: 10_000,
        shards: Some(2),
        sets: 8,
        steering: Steering::Hash,
        ..Config::default()
    }
}

/// What all shards together have counted and hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) counters: Counters,
    pub(crate) ledger: Ledger,
    pub(crate) connections: u32,
    pub(crate) online: u64,
}

/// A running server, which ends with the test, whatever becomes of that.
pub(crate) struct Live(Option<Server>);

impl Live {
    pub(crate) fn start(config: &Config) -> Self {
        Self(Some(Server::start(config).expect("a server")))
    }

    pub(crate) fn server(&self) -> &Server {
        self.0.as_ref().expect("not ended")
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.server().address()
    }

    /// Red packets for users who shake, so that the books have something in them.
    pub(crate) fn generate(&self, rate: u32) {
        let (total, from_ns, until_ns) = (None, None, None);
        let order = GeneratorSpec {
            id: 1,
            kind: PacketKind::Shaken,
            rate,
            total,
            seed: 7,
            from_ns,
            until_ns,
        };
        self.server().tell(0, Message::Start(order));
    }

    /// The state of all shards; the books of every SET are balanced whenever one looks.
    pub(crate) fn totals(&self) -> Totals {
        let snapshots = self.server().snapshots(PATIENCE).expect("every shard answers");
        let mut counters = Counters::default();
        for snapshot in &snapshots {
            counters.add(&snapshot.counters);
            for (set, _, ledger) in &snapshot.sets {
                assert!(ledger.is_balanced(), "SET {set}: {ledger:?}");
            }
        }
        Totals {
            counters,
            ledger: snapshots.iter().map(|snapshot| &snapshot.ledger).sum(),
            connections: snapshots.iter().map(|snapshot| snapshot.connections).sum(),
            online: snapshots.iter().map(|snapshot| snapshot.gauges.users_online).sum(),
        }
    }

    /// Asks for the state until it is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Totals) -> bool) -> Totals {
        let start = Instant::now();
        loop {
            let totals = self.totals();
            if wanted(&totals) {
                return totals;
            }
            assert!(start.elapsed() < PATIENCE, "no {what}: {totals:?}");
            std::thread::yield_now();
        }
    }

    /// Ends in order: with balanced books, and no shard has panicked.
    pub(crate) fn end(mut self) -> Totals {
        let totals = self.totals();
        assert!(totals.ledger.is_balanced(), "{:?}", totals.ledger);
        self.0.take().expect("not ended").stop().expect("no shard has panicked");
        totals
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(server) = self.0.take() {
            // The test has failed already; why it could not stop adds nothing.
            let _ = server.stop();
        }
    }
}

/// The bytes of a frame, written at second 0.
pub(crate) fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; frame.encoded_len()];
    frame.encode(0, &mut bytes).expect("fits");
    bytes
}

/// The frame in these bytes, all of them.
pub(crate) fn frame_of(bytes: &[u8]) -> Frame<'_> {
    match decode(bytes) {
        Decoded::Frame { frame, length, .. } if length == bytes.len() => frame,
        other => panic!("{bytes:?} are {other:?}"),
    }
}

/// A client's connection. It is shut down when dropped: shards of another server in this process
/// may hold copies of its descriptor, for they copy the table of descriptors when they start.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Peer {
    pub(crate) fn connect(address: SocketAddrV4) -> Self {
        Self::over(TcpStream::connect(address).expect("connects"))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream, unread: Vec::new() }
    }

    /// A connection on which a user has logged in.
    pub(crate) fn login(address: SocketAddrV4, user: u32) -> Self {
        let mut peer = Self::connect(address);
        peer.send(&Frame::LoginRequest { user });
        peer.expect(&Frame::LoginResponse { user, result: 0 });
        peer
    }

    /// The same, by a user who speaks this project's commands.
    pub(crate) fn login_extended(address: SocketAddrV4, user: u32) -> Self {
        let mut peer = Self::login(address, user);
        peer.ping();
        peer
    }

    pub(crate) fn ping(&mut self) {
        self.send(&Frame::Ping { client_ns: 5 });
        self.expect(&Frame::Pong { client_ns: 5 });
    }

    pub(crate) fn send(&mut self, frame: &Frame<'_>) {
        self.send_bytes(&bytes_of(frame));
    }

    /// Sends bytes; a connection that is closed meanwhile is no error here, reading tells.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if !is_gone(error.kind()) => panic!("cannot send: {error}"),
            _ => {}
        }
    }

    /// The bytes of the next frame; `None` when the server has closed.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let mut chunk = [0; MAX_FRAME];
        loop {
            match decode(&self.unread) {
                Decoded::Frame { length, .. } => {
                    let rest = self.unread.split_off(length);
                    return Some(std::mem::replace(&mut self.unread, rest));
                }
                Decoded::Incomplete => {}
                Decoded::Malformed(why) => panic!("the server sent nonsense: {why}"),
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.unread.is_empty(), "half a frame: {:?}", self.unread);
                    return None;
                }
                Ok(len) => self.unread.extend_from_slice(&chunk[..len]),
                Err(error) if is_gone(error.kind()) => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Waits for a frame, which must be this one.
    pub(crate) fn expect(&mut self, frame: &Frame<'_>) {
        let bytes = self.next().unwrap_or_else(|| panic!("closed instead of {frame:?}"));
        assert_eq!(frame_of(&bytes), *frame);
    }

    /// Everything that comes until the server closes.
    pub(crate) fn rest(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Shakes and returns the result and the amount.
    pub(crate) fn shake(&mut self) -> (u32, u32) {
        self.send(&Frame::ShakeRequest { user: 0 });
        let bytes = self.next().expect("an answer");
        match frame_of(&bytes) {
            Frame::ShakeResponse { result, amount, .. } => (result, amount),
            other => panic!("{other:?} instead of the answer to a shake"),
        }
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

/// How late this machine lets a thread run at worst, for as long as this is there.
pub(crate) struct Lateness {
    stop: Sender<()>,
    thread: JoinHandle<Duration>,
}

impl Lateness {
    pub(crate) fn watch() -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            loop {
                let start = Instant::now();
                let woken = stopped.recv_timeout(EVERY);
                worst = worst.max(start.elapsed().saturating_sub(EVERY));
                if woken != Err(RecvTimeoutError::Timeout) {
                    return worst;
                }
            }
        });
        Self { stop, thread }
    }

    /// The worst so far.
    pub(crate) fn end(self) -> Duration {
        drop(self.stop);
        self.thread.join().expect("it sleeps")
    }
}

/// A user who behaves, on a thread of its own, and notes how long each answer takes.
pub(crate) struct Bystander {
    stop: Sender<()>,
    thread: JoinHandle<(Vec<Duration>, u64)>,
    quiet_median: Duration,
}

/// How often the bystander shakes.
const EVERY: Duration = Duration::from_millis(2);

/// It shakes this often at least, however soon the others are gone.
const LEAST: usize = 20;

/// Answers from which the time that an undisturbed one takes is known.
const UNDISTURBED: usize = 100;

impl Bystander {
    /// Logs in, and measures how long an answer takes while nothing else goes on.
    pub(crate) fn start(address: SocketAddrV4, user: u32) -> Self {
        let mut peer = Peer::login(address, user);
        let mut quiet: Vec<_> = (0..UNDISTURBED).map(|_| timed_shake(&mut peer).0).collect();
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let (mut times, mut cents) = (Vec::new(), 0);
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout)
                || times.len() < LEAST
            {
                let (took, amount) = timed_shake(&mut peer);
                times.push(took);
                cents += u64::from(amount);
            }
            (times, cents)
        });
        Self { stop, thread, quiet_median: median(&mut quiet) }
    }

    /// Every shake was answered; half of them as fast as before or within a scheduler's whim, and
    /// none took a second.
    pub(crate) fn end(self) {
        drop(self.stop);
        let (mut times, cents) = self.thread.join().expect("it was answered all along");
        assert!(cents > 0 || times.len() < 500, "no packet in {} shakes", times.len());
        let most = *times.iter().max().expect("not empty");
        let median = median(&mut times);
        let allowed = (10 * self.quiet_median).max(Duration::from_millis(5));
        assert!(median <= allowed, "{median:?}, undisturbed {:?}", self.quiet_median);
        assert!(most < Duration::from_secs(1), "an answer took {most:?}");
    }
}

fn timed_shake(peer: &mut Peer) -> (Duration, u32) {
    let start = Instant::now();
    let (result, amount) = peer.shake();
    assert!(ShakeResult::from_code(result).is_some(), "result {result}");
    (start.elapsed(), amount)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
