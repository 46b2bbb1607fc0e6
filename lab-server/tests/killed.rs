//! A server with a durable ledger that is killed, again and again, at any instant under load: what
//! its users were told is in the ledger afterwards, once.
//!
//! `LAB_KILLS` says how often (10 unless it says otherwise).

mod common;

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use journal::{Directory, Record, audit, recover};
use lab_server::packets::FIRST_SENT;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use service::Line;
use wire::{CreateResult, Frame, ShakeResult, UserList};

use common::program::Program;
use common::{PATIENCE, Peer, frame_of};
use needs::test;

needs::main!();

/// Users who shake, create and claim.
const USERS: u32 = 8;

/// What users were told.
#[derive(Debug, Default)]
struct Receipts {
    /// Shaken packets: amount and user.
    granted: HashMap<u32, (u32, u32)>,
    /// Sent packets: cents and shares.
    created: HashMap<u32, (u32, u32)>,
    /// Shares, by packet and user: cents.
    claimed: HashMap<(u32, u32), u32>,
    /// What was told twice.
    twice: Vec<String>,
}

impl Receipts {
    fn grant(&mut self, packet: u32, amount: u32, user: u32) {
        if self.granted.insert(packet, (amount, user)).is_some() {
            self.twice.push(format!("packet {packet} was granted twice"));
        }
    }

    fn create(&mut self, packet: u32, amount: u32, count: u32) {
        if self.created.insert(packet, (amount, count)).is_some() {
            self.twice.push(format!("packet {packet} was made twice"));
        }
    }

    fn claim(&mut self, packet: u32, user: u32, amount: u32) {
        if self.claimed.insert((packet, user), amount).is_some() {
            self.twice.push(format!("user {user} got two shares of packet {packet}"));
        }
    }
}

/// A user: shakes, and now and then creates a packet and claims a share of it, until the server is
/// gone. What the answers say is written down.
fn user(
    address: SocketAddrV4,
    user: u32,
    receipts: &Mutex<Receipts>,
    told: &Sender<()>,
    strict: bool,
) {
    let mut peer = Peer::connect(address);
    peer.send(&Frame::LoginRequest { user });
    if peer.next().is_none() {
        return;
    }
    let note = |act: &dyn Fn(&mut Receipts)| {
        act(&mut receipts.lock().expect("no panic"));
        let _ = told.send(());
    };
    for number in 0.. {
        peer.send(&Frame::ShakeRequest { user });
        match number % 16 {
            3 => create(&mut peer, user, number),
            _ => peer.send(&Frame::Ping { client_ns: 1 }),
        }
        loop {
            let Some(bytes) = peer.next() else { return };
            match frame_of(&bytes) {
                Frame::ShakeResponse { packet, amount: amount @ 1.., .. } => {
                    note(&|it| it.grant(packet, amount, user));
                }
                Frame::CreatePacketResponse { result: 1.., .. } if !strict => break,
                Frame::ClaimResponse { amount: 0, .. } if !strict => break,
                Frame::CreatePacketResponse { packet, result, .. } => {
                    assert_eq!(result, 0, "made");
                    note(&|it| it.create(packet, 300, 3));
                    peer.send(&Frame::ClaimRequest { user, packet });
                }
                Frame::ClaimResponse { packet, amount } => {
                    assert!(amount > 0, "the first claim of packet {packet}");
                    note(&|it| it.claim(packet, user, amount));
                    break;
                }
                Frame::Pong { .. } => break,
                _ => {}
            }
        }
    }
}

fn create(peer: &mut Peer, user: u32, request: u32) {
    let users = [user, (user + 1) % USERS, (user + 2) % USERS];
    let bytes: Vec<u8> = users.iter().flat_map(|user| user.to_be_bytes()).collect();
    let recipients = UserList::from_be_bytes(&bytes).expect("whole users");
    peer.send(&Frame::CreatePacket { request, amount: 300, count: 3, recipients });
}

/// What users were told is in the ledger: the same packets, users and cents.
fn check(ledger: &Path, receipts: &Receipts) -> journal::Audit {
    let storage = Directory::open(ledger).expect("a directory");
    let (mut granted, mut opened, mut claimed) = (HashMap::new(), HashMap::new(), HashMap::new());
    let audit = audit(&storage, |record| match record {
        Record::Granted { packet, amount, user, .. } => {
            granted.insert(*packet, (*amount, *user));
        }
        Record::Opened { packet, open } => {
            opened.insert(*packet, (open.left, open.shares));
        }
        Record::Claimed { packet, user, amount } => {
            claimed.insert((*packet, *user), *amount);
        }
        _ => {}
    });
    let audit = audit.expect("readable");
    assert_eq!(audit.faults, Vec::<String>::new());
    assert!(audit.complete && audit.ledger.is_balanced());
    assert_eq!(receipts.twice, Vec::<String>::new());
    let missing = |what: &str, lost: usize| assert_eq!(lost, 0, "{what} that users were told of");
    missing("grants", lost(&receipts.granted, &granted));
    missing("packets", lost(&receipts.created, &opened));
    missing("shares", lost(&receipts.claimed, &claimed));
    audit
}

fn lost<K: std::hash::Hash + Eq, V: PartialEq>(
    told: &HashMap<K, V>,
    kept: &HashMap<K, V>,
) -> usize {
    told.iter().filter(|(key, value)| kept.get(key) != Some(value)).count()
}

/// Users at work until the server is gone; strict ones are refused nothing.
fn work(
    address: SocketAddrV4,
    receipts: &Arc<Mutex<Receipts>>,
    strict: bool,
) -> (Vec<JoinHandle<()>>, Receiver<()>) {
    let (told, seen) = channel();
    let threads = (0..USERS).map(|id| {
        let (receipts, told) = (Arc::clone(receipts), told.clone());
        std::thread::spawn(move || user(address, id, &receipts, &told, strict))
    });
    (threads.collect(), seen)
}

#[test]
fn nothing_that_a_user_was_told_is_lost_however_often_the_server_is_killed() {
    let kills: u64 =
        std::env::var("LAB_KILLS").map_or(10, |kills| kills.parse().expect("a number"));
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    let receipts = Arc::new(Mutex::new(Receipts::default()));
    let mut random = Pcg64Mcg::seed_from_u64(kills);
    for kill in 0..kills {
        let shards = random.random_range(1..=3);
        // Few wait in queues, so that a thousand snapshots of them have room.
        let options = ["--packets-per-second", "20000", "--queue", "64"];
        let mut program = Program::start(&ledger, shards, &options);
        let found = program.ready.ledger.clone().expect("a ledger");
        assert_eq!(found.epoch, kill);
        let (users, seen) = work(program.address(), &receipts, true);
        // At an instant of its own in each life: after so many answers with money.
        for _ in 0..random.random_range(1..400) {
            seen.recv().expect("users are told of money");
        }
        program.kill();
        users.into_iter().for_each(|user| user.join().expect("no answer was wrong"));
        if kills < 50 || kill % 50 == 0 {
            check(&ledger, &receipts.lock().expect("no panic"));
        }
    }
    // One that ends in order commits everything; without generators nothing is made.
    let mut program = Program::start(&ledger, 2, &[]);
    let before = program.ready.ledger.clone().expect("a ledger");
    let peer = Peer::login(program.address(), 99);
    drop(peer);
    let (code, books) = program.end();
    assert_eq!(code, Some(0));
    let receipts = receipts.lock().expect("no panic");
    let audit = check(&ledger, &receipts);
    assert_eq!((audit.ledger, audit.epochs), (books, kills + 1));
    assert_eq!(books.remaining.amount, before.cents_remaining, "generators stand still");
    assert!(receipts.granted.len() as u64 > 5 * kills && !receipts.claimed.is_empty());
    let (granted, claimed) = (receipts.granted.len(), receipts.claimed.len());
    println!("{kills} kills: {granted} grants and {claimed} shares told, 0 lost, 0 double");
}

#[test]
fn open_packets_keep_their_ids_and_deadlines_and_queues_their_packets() {
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    let mut program = Program::start(&ledger, 1, &["--packet-life", "600"]);
    let mut creator = Peer::login_extended(program.address(), 1);
    create(&mut creator, 1, 5);
    let mut packet = None;
    while packet.is_none() {
        let bytes = creator.next().expect("an answer");
        if let Frame::CreatePacketResponse { packet: made, result: 0, .. } = frame_of(&bytes) {
            packet = Some(made);
        }
    }
    let packet = packet.expect("made");
    program.kill();
    let storage = Directory::open(&ledger).expect("a directory");
    let before = recover(&storage).expect("readable").state;
    let program = Program::start(&ledger, 3, &["--packet-life", "600"]);
    let after = recover(&storage).expect("readable").state;
    let of = |state: &journal::State| {
        let open = &state.open[&packet];
        (open.deadline_ns, open.left, open.shares, open.waiting.clone(), open.creator)
    };
    assert_eq!(of(&after), of(&before));
    let mut claimer = Peer::login(program.address(), 2);
    claimer.send(&Frame::ClaimRequest { user: 2, packet });
    let bytes = claimer.next().expect("an answer");
    let Frame::ClaimResponse { packet: of, amount: 1.. } = frame_of(&bytes) else {
        panic!("{bytes:?}")
    };
    assert_eq!(of, packet);
    // A second server does not touch it.
    let second = Command::new(env!("CARGO_BIN_EXE_lab-server"))
        .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--ledger"])
        .arg(&ledger)
        .output()
        .expect("the program");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another server uses"), "{said}");
}

#[test]
fn a_full_disk_stops_the_money_and_nothing_else_until_there_is_room() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut program = Program::start_on_disk(256, directory.path());
    // Open, so that the disk stays when the server and its namespace are gone.
    let seen_by_it = format!("/proc/{}/root{}", program.child.id(), directory.path().display());
    let disk = std::fs::File::open(seen_by_it).expect("its disk");
    let ledger = format!("/proc/self/fd/{}/ledger", disk.as_raw_fd());
    let receipts = Arc::new(Mutex::new(Receipts::default()));
    let (users, seen) = work(program.address(), &receipts, false);
    let said = |what: &'static str| {
        move |line: &Line| match line {
            Line::Error(error) => error.contains(what),
            _ => false,
        }
    };
    program.wait_for(said("No space left on device"));
    program.wait_for(
        |line| matches!(line, Line::Sample(sample) if sample.counters.ledger_refused > 0),
    );
    // Everything but money goes on, for users who come now, too.
    let mut peer = Peer::login_extended(program.address(), 99);
    peer.ping();
    assert_eq!(peer.shake(), (ShakeResult::NoPacket.code(), 0));
    // A user who wants to give is refused at once, and waits for nothing afterwards.
    create(&mut peer, 1, 5);
    let bytes = peer.next().expect("an answer");
    let busy = CreateResult::Busy.code();
    let is_busy = match frame_of(&bytes) {
        Frame::CreatePacketResponse { packet: 0, result, .. } => result == busy,
        _ => false,
    };
    assert!(is_busy, "{bytes:?}");
    peer.ping();
    // So is one who claims, although the shards have records that they cannot write.
    let packet = FIRST_SENT + 1;
    peer.send(&Frame::ClaimRequest { user: 99, packet });
    let bytes = peer.next().expect("an answer");
    let refused = match frame_of(&bytes) {
        Frame::ClaimResponse { packet: of, amount: 0 } => of == packet,
        _ => false,
    };
    assert!(refused, "{bytes:?}");
    let enlarged = Command::new("nsenter")
        .args(["--mount", "--target", &program.child.id().to_string()])
        .args(["mount", "-o", "remount,size=64m"])
        .arg(directory.path())
        .status();
    assert!(enlarged.expect("nsenter").success());
    program.wait_for(said("the disk takes it again"));
    while seen.try_recv().is_ok() {}
    for _ in 0..100 {
        seen.recv_timeout(PATIENCE).expect("money moves again");
    }
    program.kill();
    users.into_iter().for_each(|user| user.join().expect("no answer was wrong"));
    let receipts = receipts.lock().expect("no panic");
    check(Path::new(&ledger), &receipts);
    assert!(receipts.granted.len() > 100);
}
