//! The peers of the benchmark, in processes of their own.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Socket, Type};
use wire::{Frame, UserList};

/// Connections of one process: a table of descriptors may have room for 20,000.
pub(crate) const PER_PROCESS: u32 = 10_000;

/// How peers behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A shake now and then, each answered before that user's next.
    Behaves,
    /// Pings without end; the answers are read.
    Pings,
    /// The same with shakes.
    Shakes,
    /// The same with packets for a thousand users.
    Packets,
    /// A byte of a frame a second. One that is closed for that comes again.
    Drips,
}

const KINDS: [(&str, Kind); 5] = [
    ("behaves", Kind::Behaves),
    ("pings", Kind::Pings),
    ("shakes", Kind::Shakes),
    ("packets", Kind::Packets),
    ("drips", Kind::Drips),
];

/// Peers of one kind in a process, which ends with this one: it reads its standard input.
pub(crate) struct Load {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Load {
    /// Begins, and waits until all of these users (the first, and how many) are logged in.
    pub(crate) fn begin(
        kind: Kind,
        address: SocketAddrV4,
        (first, peers): (u32, u32),
        rate: u32,
    ) -> anyhow::Result<Self> {
        let name = KINDS.iter().find(|(_, one)| *one == kind).map_or("", |(name, _)| name);
        let numbers = [first, peers, rate].map(|number| number.to_string());
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--load", name, &address.to_string()])
            .args(numbers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line == "begun\n", "{name}: {line:?}");
        Ok(Self { child, lines })
    }

    /// Ends, in order.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        std::io::copy(&mut self.lines, &mut std::io::stderr())?;
        ensure!(self.child.wait()?.success(), "a process of peers failed");
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It has ended, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process of peers does: kind, address, first user, peers, rate.
pub(crate) fn carry_out(arguments: &[String]) -> anyhow::Result<()> {
    let [name, address, numbers @ ..] = arguments else { bail!("{arguments:?}") };
    let kind = KINDS.iter().find(|(one, _)| one == name).context("an unknown kind")?.1;
    let address: SocketAddrV4 = address.parse()?;
    let numbers = numbers.iter().map(|number| number.parse()).collect::<Result<Vec<u32>, _>>()?;
    let [first, peers, rate] = numbers.as_slice() else { bail!("{arguments:?}") };
    let peers = (*first..first + peers).map(|user| login(address, user));
    let peers = peers.collect::<anyhow::Result<Vec<_>>>()?;
    println!("begun");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        // It says nothing: it is closed when all is over.
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let over = || over.load(Ordering::Relaxed);
    match kind {
        Kind::Behaves => behave(&peers, *rate, over),
        Kind::Drips => drip(peers, (address, *first), *rate, over),
        Kind::Pings => flood(&peers, &bytes_of(&Frame::Ping { client_ns: 5 }).repeat(3000), over),
        Kind::Shakes => {
            flood(&peers, &bytes_of(&Frame::ShakeRequest { user: 0 }).repeat(4000), over)
        }
        Kind::Packets => {
            // Those who ping can read notices, and came before these.
            let from = first.saturating_sub(200);
            let users: Vec<u8> = (from..from + 1018).flat_map(u32::to_be_bytes).collect();
            let recipients = UserList::from_be_bytes(&users).context("users")?;
            let frame = Frame::CreatePacket { request: 0, amount: 2000, count: 1, recipients };
            flood(&peers, &bytes_of(&frame).repeat(16), over)
        }
    }
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; frame.encoded_len()];
    frame.encode(0, &mut bytes).expect("fits");
    bytes
}

fn login(address: SocketAddrV4, user: u32) -> anyhow::Result<TcpStream> {
    // An address for each process: one has ports for 28,000 connections.
    let source = Ipv4Addr::new(127, 0, 1, 1 + (user / PER_PROCESS) as u8);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.write_all(&bytes_of(&Frame::LoginRequest { user }))?;
    stream.read_exact(&mut [0; 20]).context("no login")?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Calls `act` with 0, 1, 2, … at a rate, and makes up for what it was late.
fn paced(
    rate: u32,
    over: impl Fn() -> bool,
    mut act: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (start, mut done) = (Instant::now(), 0);
    while !over() {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as usize;
        for number in done..due {
            act(number)?;
        }
        done = done.max(due);
        let next = Duration::from_secs_f64((done + 1) as f64 / f64::from(rate));
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
    Ok(())
}

fn behave(peers: &[TcpStream], rate: u32, over: impl Fn() -> bool) -> anyhow::Result<()> {
    let request = bytes_of(&Frame::ShakeRequest { user: 0 });
    paced(rate, over, |number| {
        let mut peer = &peers[number % peers.len()];
        let mut answers = [0; 4096];
        // Notices of packets come as well.
        while peer.read(&mut answers).is_ok_and(|len| len > 0) {}
        peer.write_all(&request).context("a user who behaves was cut off")
    })
}

fn drip(
    mut peers: Vec<TcpStream>,
    (address, first): (SocketAddrV4, u32),
    rate: u32,
    over: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let request = bytes_of(&Frame::ShakeRequest { user: 0 });
    let count = peers.len();
    paced(rate, over, |number| {
        let (place, byte) = (number % count, number / count % request.len());
        let mut answers = [0; 4096];
        let mut peer = &peers[place];
        while peer.read(&mut answers).is_ok_and(|len| len > 0) {}
        match peer.write(&request[byte..=byte]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                peers[place] = login(address, first + place as u32)?;
            }
            _ => {}
        }
        Ok(())
    })
}

fn flood(peers: &[TcpStream], requests: &[u8], over: impl Fn() -> bool) -> anyhow::Result<()> {
    let mut answers = vec![0; 65_536];
    let mut places = vec![0; peers.len()];
    while !over() {
        for (mut peer, at) in peers.iter().zip(&mut places) {
            // What it has read does not matter, only that it reads.
            let _ = peer.read(&mut answers);
            let sent = peer.write(&requests[*at..]).unwrap_or(0);
            *at = (*at + sent) % requests.len();
        }
        // Those who behave share this CPU, and in the real-time class nobody else lets them.
        std::thread::yield_now();
    }
    Ok(())
}
