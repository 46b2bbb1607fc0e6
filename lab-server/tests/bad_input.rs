//! What a hostile or broken peer can do to a live server: be closed, be counted by kind, and cost
//! the other users nothing.

mod common;

use std::io::Write;
use std::net::{Shutdown, SocketAddrV4};
use std::time::{Duration, Instant};

use accounting::server::Counters;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use service::Config;
use socket2::{Domain, Socket, Type};
use wire::{ChatOutcome, Command, ErrorCode, Frame, LoginResult, UserList};

use common::{Bystander, Lateness, Live, PATIENCE, Peer, Totals, bytes_of, frame_of, small};

/// The user who behaves all along.
const GOOD: u32 = 9_999;

/// Ways for a connection to end, by the names of their counters.
const CLOSED: [&str; 13] = [
    "closed_by_peer",
    "broken",
    "bad_length",
    "unknown_command",
    "wrong_direction",
    "not_logged_in",
    "already_logged_in",
    "user_out_of_range",
    "replaced",
    "login_timeout",
    "frame_timeout",
    "not_reading",
    "turned_away",
];

/// What closed connections were counted as.
fn closings(counters: &Counters) -> Vec<(&'static str, u64)> {
    let named = counters.named().map(|(name, _, value)| (name, value));
    named.filter(|(name, value)| CLOSED.contains(name) && *value > 0).collect()
}

/// A server with a generator and a user who behaves.
fn disturbed(config: &Config) -> (Live, Bystander) {
    let live = Live::start(config);
    live.generate(2_000);
    let bystander = Bystander::start(live.address(), GOOD);
    (live, bystander)
}

/// The user who behaves was not harmed, all others are gone, and what they were closed for is this.
fn check_end(live: Live, bystander: Bystander, expected: &[(&str, u64)]) -> Totals {
    let totals = live.wait_for("end of the others", |totals| totals.connections == 1);
    let mut closed = closings(&totals.counters);
    closed.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(closed, expected);
    assert_eq!(totals.online, 1);
    bystander.end();
    live.end()
}

fn header(length: u16, command: u16) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    bytes[2..4].copy_from_slice(&command.to_be_bytes());
    bytes
}

/// A frame that only a server may send.
fn of_a_server(command: Command) -> Option<Frame<'static>> {
    let text = b"text";
    Some(match command {
        Command::LoginResponse => Frame::LoginResponse { user: 1, result: 0 },
        Command::ShakeResponse => {
            Frame::ShakeResponse { user: 1, result: 14, packet: 1, amount: 1 }
        }
        Command::SendPacket => {
            Frame::SendPacket { packet: 1, amount: 9, count: 3, users: [1, 2, 3] }
        }
        Command::ClaimResponse => Frame::ClaimResponse { packet: 1, amount: 1 },
        Command::Pong => Frame::Pong { client_ns: 1 },
        Command::ChatDelivery => Frame::ChatDelivery { message: 1, from: 2, text },
        Command::ChatReceipt => Frame::ChatReceipt { message: 1, to: 2, outcome: 0 },
        Command::CreatePacketResponse => {
            Frame::CreatePacketResponse { request: 1, packet: 2, result: 0 }
        }
        Command::PacketNotice => Frame::PacketNotice { packet: 1, amount: 2, count: 1, creator: 1 },
        Command::PacketRefund => Frame::PacketRefund { packet: 1, amount: 2, shares: 1 },
        Command::Push => Frame::Push { sequence: 1, due_ns: 2, payload: text },
        Command::Error => Frame::Error { code: 1, command: 2 },
        Command::LoginRequest
        | Command::ShakeRequest
        | Command::ClaimRequest
        | Command::Ping
        | Command::ChatRequest
        | Command::CreatePacket => return None,
    })
}

/// Bytes that end a connection, and what for.
struct Offence {
    bytes: Vec<u8>,
    code: ErrorCode,
    counter: &'static str,
    /// The offending command as the error frame names it.
    command: u32,
    /// The frame is whole and an extension command: even a peer that used none before is told.
    told: bool,
}

/// Everything that a logged-in peer can send wrongly.
fn offences() -> Vec<Offence> {
    let length = |length, id: u16, command| Offence {
        bytes: header(length, id),
        code: ErrorCode::BadLength,
        counter: "bad_length",
        command,
        told: false,
    };
    let unknown = |id: u16| Offence {
        bytes: header(16, id),
        code: ErrorCode::UnknownCommand,
        counter: "unknown_command",
        command: u32::from(id),
        told: false,
    };
    let mut all = vec![
        length(0, 2, u32::MAX),
        length(11, 2, u32::MAX),
        length(4097, 0x0102, u32::MAX),
        length(u16::MAX, 0, u32::MAX),
        length(15, 2, 2),
        length(17, 2, 2),
        length(36, 5, 5),
        length(29, 0x0105, 0x0105),
        length(24, 0x0105, 0x0105),
        length(19, 0x0102, 0x0102),
        unknown(7),
        unknown(0x0110),
        unknown(u16::MAX),
        Offence {
            bytes: bytes_of(&Frame::LoginRequest { user: 3 }),
            code: ErrorCode::AlreadyLoggedIn,
            counter: "already_logged_in",
            command: 0,
            told: false,
        },
    ];
    all.extend(Command::ALL.into_iter().filter_map(of_a_server).map(|frame| Offence {
        bytes: bytes_of(&frame),
        code: ErrorCode::WrongDirection,
        counter: "wrong_direction",
        command: u32::from(frame.command().id()),
        told: frame.command().is_extension(),
    }));
    all
}

/// Adds one to a name's count.
fn count<'a>(counts: &mut Vec<(&'a str, u64)>, name: &'a str) {
    match counts.iter_mut().find(|(other, _)| *other == name) {
        Some((_, count)) => *count += 1,
        None => counts.push((name, 1)),
    }
}

#[test]
fn frames_that_are_none_and_frames_of_a_server() {
    let (live, bystander) = disturbed(&small());
    let mut expected = Vec::new();
    let offences = offences();
    assert_eq!(offences.len(), 14 + 12, "every command of a server is tried");
    for offence in &offences {
        for extended in [false, true] {
            let mut peer = Peer::login(live.address(), 3);
            if extended {
                peer.ping();
            }
            // What comes after the offence is not looked at.
            let mut bytes = offence.bytes.clone();
            bytes.extend(bytes_of(&Frame::ShakeRequest { user: 3 }));
            peer.send_bytes(&bytes);
            let said = peer.rest();
            let (code, command) = (offence.code as u32, offence.command);
            if extended || offence.told {
                assert_eq!(said.len(), 1, "{:?}", offence.bytes);
                assert_eq!(frame_of(&said[0]), Frame::Error { code, command });
            } else {
                assert!(said.is_empty(), "a prototype peer cannot read {said:?}");
            }
            count(&mut expected, offence.counter);
        }
    }
    check_end(live, bystander, &expected);
}

#[test]
fn first_frames_that_are_no_login() {
    let (live, bystander) = disturbed(&small());
    let mut expected = Vec::new();
    let recipients = [0, 0, 0, 5];
    let recipients = UserList::from_be_bytes(&recipients).expect("one user");
    for frame in [
        Frame::ShakeRequest { user: 5 },
        Frame::ClaimRequest { user: 5, packet: 1 },
        Frame::ChatRequest { message: 1, to: GOOD, text: b"hello" },
        Frame::CreatePacket { request: 1, amount: 5, count: 1, recipients },
        Frame::Ping { client_ns: 1 },
        Frame::Push { sequence: 1, due_ns: 1, payload: b"" },
    ] {
        let mut peer = Peer::connect(live.address());
        peer.send(&frame);
        let said = peer.rest();
        if frame.command().is_extension() {
            let command = u32::from(frame.command().id());
            let error = Frame::Error { code: ErrorCode::NotLoggedIn as u32, command };
            assert_eq!(frame_of(&said[0]), error);
        } else {
            assert!(said.is_empty(), "{said:?}");
        }
        count(&mut expected, "not_logged_in");
    }
    for (bytes, counter) in [
        (header(11, 0), "bad_length"),
        (header(17, 0), "bad_length"),
        (header(16, 9), "unknown_command"),
    ] {
        let mut peer = Peer::connect(live.address());
        peer.send_bytes(&bytes);
        assert!(peer.rest().is_empty());
        count(&mut expected, counter);
    }
    // A user beyond the largest is told so in words that the prototype knows.
    for user in [small().users, small().users + 1, u32::MAX] {
        let mut peer = Peer::connect(live.address());
        peer.send(&Frame::LoginRequest { user });
        peer.expect(&Frame::LoginResponse { user, result: LoginResult::UserOutOfRange as u32 });
        assert_eq!(peer.next(), None);
        count(&mut expected, "user_out_of_range");
    }
    check_end(live, bystander, &expected);
}

#[test]
fn the_newer_login_of_a_user_wins() {
    let (live, bystander) = disturbed(&small());
    const USERS: u32 = 16;
    let mut took = Vec::new();
    for user in 0..USERS {
        let extended = user % 2 == 0;
        let mut older = Peer::login(live.address(), user);
        if extended {
            older.ping();
        }
        let mut newer = Peer::login_extended(live.address(), user);
        let start = Instant::now();
        let said = older.rest();
        took.push(start.elapsed());
        let error = Frame::Error { code: ErrorCode::Replaced as u32, command: u32::MAX };
        assert_eq!(said.len(), usize::from(extended));
        assert!(said.iter().all(|said| frame_of(said) == error), "{said:?}");
        // The newer one is who is meant from now on.
        let mut other = Peer::login_extended(live.address(), 100 + user);
        let text: &[u8] = b"which of you?";
        other.send(&Frame::ChatRequest { message: 8, to: user, text });
        newer.expect(&Frame::ChatDelivery { message: 8, from: 100 + user, text });
        other.expect(&Frame::ChatReceipt {
            message: 8,
            to: user,
            outcome: ChatOutcome::Delivered.code(),
        });
        newer.shake();
    }
    // At once; one or the other may have to wait for a CPU.
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
    let replaced = ("replaced", u64::from(USERS));
    check_end(live, bystander, &[replaced, ("closed_by_peer", 2 * u64::from(USERS))]);
}

/// Silence at every point of a frame, before login and after it, all at the same time.
#[test]
fn half_a_frame_and_silence_are_closed_within_ten_seconds() {
    let (live, bystander) = disturbed(&small());
    let address = live.address();
    let (start, lateness) = (Instant::now(), Lateness::watch());
    let mut closed = Vec::new();
    let shake = bytes_of(&Frame::ShakeRequest { user: 0 });
    // Logged in and silent: that is what most users are most of the time.
    let mut idle = Peer::login(address, 500);
    let mut cases: Vec<(Peer, Option<ErrorCode>)> = Vec::new();
    cases.push((Peer::connect(address), None));
    for cut in [1, 3, 11, 15] {
        let mut before = Peer::connect(address);
        before.send_bytes(&shake[..cut]);
        cases.push((before, None));
        let mut silent = Peer::login(address, cut as u32);
        silent.send_bytes(&shake[..cut]);
        cases.push((silent, None));
    }
    let mut extended = Peer::login_extended(address, 50);
    // A whole frame goes before the half one, and is answered.
    extended.send_bytes(&[&bytes_of(&Frame::Ping { client_ns: 5 }), &shake[..2]].concat());
    extended.expect(&Frame::Pong { client_ns: 5 });
    cases.push((extended, Some(ErrorCode::FrameTimeout)));
    for (peer, told) in &mut cases {
        let said = peer.rest();
        let command = u32::MAX;
        let error = told.map(|code| bytes_of(&Frame::Error { code: code as u32, command }));
        let frames: Vec<_> = said.iter().map(|bytes| frame_of(bytes)).collect();
        assert_eq!(frames, error.iter().map(|bytes| frame_of(bytes)).collect::<Vec<_>>());
        closed.push(start.elapsed());
    }
    // Server and test are as late as this machine is.
    let (least, most) = (Duration::from_secs(5), Duration::from_secs(10) + lateness.end());
    assert!(closed.iter().all(|took| (least..most).contains(took)), "{closed:?}, {most:?}");
    idle.shake();
    drop(idle);
    // Before login, the login's own clock runs out with the frame's, and either may count.
    let late = live.wait_for("closings", |totals| totals.connections == 1).counters;
    assert!(late.frame_timeout >= 5, "{:?}", closings(&late));
    assert_eq!(late.frame_timeout + late.login_timeout, 10);
    let timeouts = [("frame_timeout", late.frame_timeout), ("login_timeout", late.login_timeout)];
    check_end(live, bystander, &[timeouts[0], timeouts[1], ("closed_by_peer", 1)]);
}

/// Slowly, byte by byte, is no way around the deadline.
#[test]
fn a_frame_that_drips_is_closed_within_ten_seconds() {
    let (live, bystander) = disturbed(&small());
    let (start, lateness) = (Instant::now(), Lateness::watch());
    let mut peer = Peer::login(live.address(), 1);
    peer.stream.set_read_timeout(Some(Duration::from_millis(900))).expect("a timeout");
    let text = [b'x'; 100];
    let chat = bytes_of(&Frame::ChatRequest { message: 1, to: 2, text: &text });
    let mut dripped = 0;
    for byte in &chat {
        assert!(start.elapsed() < PATIENCE, "still open after {dripped} bytes");
        if peer.stream.write_all(&[*byte]).is_err() {
            break;
        }
        dripped += 1;
        let mut end = [0; 64];
        match std::io::Read::read(&mut peer.stream, &mut end) {
            Ok(0) => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => panic!("{other:?}"),
        }
    }
    let (took, late) = (start.elapsed(), lateness.end());
    assert!(took < Duration::from_secs(10) + late, "closed after {took:?}, {late:?} late");
    assert!(took >= Duration::from_secs(5) && dripped >= 5, "{dripped} bytes");
    check_end(live, bystander, &[("frame_timeout", 1)]);
}

/// A connection whose receive buffer is as small as the kernel allows.
fn narrow(address: SocketAddrV4) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(1).expect("a small buffer");
    socket.connect(&address.into()).expect("connects");
    Peer::over(socket.into())
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split_whitespace().nth(1).expect("resident").parse::<u64>().expect("a number");
    pages * rustix::param::page_size() as u64
}

#[test]
fn peers_that_never_read_are_closed_and_take_no_memory() {
    const DEAF: u32 = 8;
    /// Answers of this much would have to be kept for each if the server kept them.
    const MOST: usize = 256 << 20;
    let (live, bystander) = disturbed(&small());
    let before = resident_bytes();
    let deaf: Vec<_> = (0..DEAF)
        .map(|user| {
            let mut peer = narrow(live.address());
            std::thread::spawn(move || {
                peer.send(&Frame::LoginRequest { user });
                let shakes = bytes_of(&Frame::ShakeRequest { user }).repeat(4096);
                let closed =
                    (0..MOST / shakes.len()).any(|_| peer.stream.write_all(&shakes).is_err());
                assert!(closed, "user {user} sent {MOST} bytes");
            })
        })
        .collect();
    deaf.into_iter().for_each(|deaf| deaf.join().expect("closed"));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    let totals = check_end(live, bystander, &[("not_reading", u64::from(DEAF))]);
    assert!(totals.counters.shakes > 10_000);
}

#[test]
fn without_a_slot_peers_are_turned_away_until_one_leaves() {
    const SLOTS: u32 = 5;
    const MORE: u32 = 40;
    let (live, bystander) =
        disturbed(&Config { connections: Some(SLOTS), shards: Some(1), ..small() });
    let mut inside: Vec<_> = (1..SLOTS).map(|user| Peer::login(live.address(), user)).collect();
    for _ in 0..MORE {
        let mut peer = Peer::connect(live.address());
        peer.send(&Frame::LoginRequest { user: 100 });
        assert_eq!(peer.next(), None, "turned away");
    }
    for peer in &mut inside {
        peer.shake();
    }
    let full = live.totals();
    assert_eq!((full.connections, full.counters.turned_away), (SLOTS, u64::from(MORE)));
    inside.pop();
    live.wait_for("free slot", |totals| totals.connections < SLOTS);
    Peer::login(live.address(), 100).shake();
    drop(inside);
    let left = ("closed_by_peer", u64::from(SLOTS));
    check_end(live, bystander, &[left, ("turned_away", u64::from(MORE))]);
}

/// The limit is that of the whole server, wherever the hash puts its connections.
#[test]
fn all_shards_together_have_as_many_slots_as_were_asked_for() {
    const SLOTS: u32 = 50;
    const MORE: u32 = 150;
    let (live, bystander) =
        disturbed(&Config { connections: Some(SLOTS), shards: Some(4), ..small() });
    let login = |user| {
        let mut peer = Peer::connect(live.address());
        peer.send(&Frame::LoginRequest { user });
        peer.next().map(|_| peer)
    };
    let mut inside: Vec<_> = (0..SLOTS - 1 + MORE).filter_map(login).collect();
    assert_eq!(inside.len() as u32, SLOTS - 1, "and the bystander");
    for peer in &mut inside {
        peer.shake();
    }
    let full = live.totals();
    assert_eq!((full.connections, full.counters.turned_away), (SLOTS, u64::from(MORE)));
    assert_eq!(full.counters.accepted, u64::from(SLOTS));
    // Every seat that is left is taken again, and no more.
    inside.truncate(9);
    live.wait_for("free slots", |totals| totals.connections == 10);
    inside.extend((100..100 + SLOTS).filter_map(login));
    let again = inside.len() as u32 - 9;
    assert_eq!(again, SLOTS - 10);
    drop(inside);
    let gone = u64::from(SLOTS - 1 + again);
    let turned_away = u64::from(MORE + SLOTS - again);
    check_end(live, bystander, &[("closed_by_peer", gone), ("turned_away", turned_away)]);
}

/// Bytes that begin more or less like a frame.
fn noise(random: &mut Pcg64Mcg) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..random.random_range(0..200)).map(|_| random.random()).collect();
    // A length and a command that fit each other, one of them, or neither.
    let known = [(16, 0), (20, 1), (16, 2), (28, 3), (36, 4), (20, 5), (20, 0x0100), (40, 0x0102)];
    let mut pick = || known[random.random_range(0..known.len())];
    let (fitting, other) = (pick(), pick());
    let (length, command): (u16, u16) = match random.random_range(0..4) {
        0 => return bytes,
        1 => (random.random_range(0..60), fitting.1),
        2 => (other.0, fitting.1),
        _ => fitting,
    };
    if bytes.len() >= 4 {
        bytes[..4].copy_from_slice(&header(length, command)[..4]);
    }
    bytes
}

#[test]
fn random_bytes_on_many_connections() {
    const SEED: u64 = 4;
    const CONNECTIONS: u64 = 600;
    let (live, bystander) = disturbed(&small());
    let mut random = Pcg64Mcg::seed_from_u64(SEED);
    for number in 0..CONNECTIONS {
        let mut peer = if number % 2 == 0 {
            Peer::connect(live.address())
        } else {
            Peer::login_extended(live.address(), random.random_range(0..1_000))
        };
        for _ in 0..random.random_range(1..4) {
            peer.send_bytes(&noise(&mut random));
        }
        // Already closed, perhaps.
        let _ = peer.stream.shutdown(Shutdown::Write);
        peer.rest();
    }
    let totals = live.wait_for("end of the noise", |totals| totals.connections == 1);
    let counted: u64 = closings(&totals.counters).iter().map(|(_, count)| count).sum();
    assert_eq!(counted, CONNECTIONS, "each is counted once: {:?}", closings(&totals.counters));
    for kind in ["bad_length", "unknown_command", "wrong_direction", "not_logged_in"] {
        let some = closings(&totals.counters).iter().any(|(name, _)| *name == kind);
        assert!(some, "seed {SEED} has no {kind}");
    }
    bystander.end();
    let start = Instant::now();
    Peer::login(live.address(), 1).shake();
    assert!(start.elapsed() < PATIENCE);
    live.end();
}
