//! Peers that do all they can to keep a shard busy, and everybody else, who must not be kept
//! waiting for them.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use service::{Config, Line, Ready};
use wire::{Frame, UserList};

use common::{Bystander, Live, PATIENCE, Peer, bytes_of, small};

/// The program with one shard, killed with the test.
struct Program {
    child: Child,
    ready: Ready,
    lines: Option<JoinHandle<usize>>,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab-server"))
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--pipe"])
            .args(["--shards", "1", "--sets", "8", "--users", "10000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut text = String::new();
        lines.read_line(&mut text).expect("a line");
        let Ok(Line::Ready(ready)) = serde_json::from_str(&text) else { panic!("{text}") };
        let lines = Some(std::thread::spawn(move || lines.lines().count()));
        Self { child, ready, lines }
    }

    fn address(&self) -> SocketAddrV4 {
        self.ready.listen.parse().expect("an address")
    }

    /// The status of an answer over HTTP.
    fn status_of(&self, path: &str) -> u16 {
        let control: SocketAddr = self.ready.control.parse().expect("an address");
        let mut stream = TcpStream::connect(control).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {control}\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("{answer}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended by itself, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.lines.take().map(JoinHandle::join);
    }
}

/// What a flood consists of.
#[derive(Clone, Copy)]
enum Kind {
    Pings,
    Shakes,
    /// Packets for more users than anybody else names.
    Packets,
}

/// So many bytes of a kind of request, over and over.
fn requests(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Pings => bytes_of(&Frame::Ping { client_ns: 5 }).repeat(3000),
        Kind::Shakes => bytes_of(&Frame::ShakeRequest { user: 0 }).repeat(4000),
        Kind::Packets => {
            let users: Vec<u8> = (0..1018u32).flat_map(u32::to_be_bytes).collect();
            let recipients = UserList::from_be_bytes(&users).expect("users");
            let frame = Frame::CreatePacket { request: 0, amount: 2000, count: 1, recipients };
            bytes_of(&frame).repeat(16)
        }
    }
}

/// Peers that ask as fast as they can; some never read an answer.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    /// `each` peers of each kind, users from `first` on.
    fn start(address: SocketAddrV4, first: u32, each: u32, kinds: &[Kind], reads: bool) -> Self {
        let mut peers = Vec::new();
        for (user, kind) in (first..).zip(kinds.repeat(each as usize)) {
            let mut stream = TcpStream::connect(address).expect("connects");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(&bytes_of(&Frame::LoginRequest { user })).expect("sent");
            stream.read_exact(&mut [0; 20]).expect("logged in");
            stream.set_nonblocking(true).expect("a socket");
            peers.push((stream, requests(kind), 0));
        }
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let mut answers = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let mut moved = 0;
                for (stream, requests, at) in &mut peers {
                    if reads {
                        moved += stream.read(&mut answers).unwrap_or(0);
                    }
                    // One that is closed sends nothing any more.
                    let sent = stream.write(&requests[*at..]).unwrap_or(0);
                    *at = (*at + sent) % requests.len();
                    counted.fetch_add(sent as u64, Ordering::Relaxed);
                    moved += sent;
                }
                if moved == 0 {
                    std::thread::yield_now();
                }
            }
        });
        Self { stop, sent, thread }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until it has sent so much.
    fn wait_for(&self, bytes: u64) {
        let start = Instant::now();
        while self.sent() < bytes {
            assert!(start.elapsed() < PATIENCE, "{} bytes sent", self.sent());
            std::thread::yield_now();
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only sends");
    }
}

#[test]
fn a_flood_keeps_nobody_from_health_from_logging_in_or_from_stopping_the_server() {
    let mut program = Program::start();
    let kinds = [Kind::Pings, Kind::Shakes, Kind::Packets];
    let flood = Flood::start(program.address(), 0, 90, &kinds, true);
    flood.wait_for(16 << 20);
    for user in 0..20 {
        let before = flood.sent();
        assert_eq!(program.status_of("/health"), 200);
        let mut newcomer = Peer::login(program.address(), 5_000 + user);
        for _ in 0..5 {
            newcomer.shake();
        }
        // It goes on all the while: the next one comes into the flood as well.
        flood.wait_for(before + (256 << 10));
    }
    let start = Instant::now();
    kill_process(Pid::from_child(&program.child), Signal::TERM).expect("it runs");
    let code = program.child.wait().expect("it ends").code();
    let took = start.elapsed();
    flood.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(1), "it took {took:?} to end");
}

/// Peers that ask without end and never read are not read on; those who behave do not notice.
#[test]
fn peers_that_ask_without_end_and_never_read_cost_the_others_nothing() {
    let live = Live::start(&Config { shards: Some(1), ..small() });
    live.generate(2_000);
    let bystander = Bystander::start(live.address(), 9_999);
    let flood = Flood::start(live.address(), 0, 300, &[Kind::Pings], false);
    flood.wait_for(64 << 20);
    // Sooner or later their buffers are full, and the server has room for others all the while.
    let (mut asked, start) = (0, Instant::now());
    let mut before = 0;
    while before != flood.sent() || asked < 20 {
        before = flood.sent();
        Peer::login(live.address(), 5_000).shake();
        asked += 1;
        assert!(start.elapsed() < PATIENCE, "they are read on: {before} bytes");
    }
    bystander.end();
    let totals = live.totals();
    assert_eq!(totals.counters.not_reading, 0, "nobody is closed before its time");
    flood.end();
    live.end();
}
