//! The program with a durable ledger: started again with other users, its threads and their open
//! files, and what it does to the disk when no money moves.

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use journal::{Directory, audit, recover};
use service::Line;
use wire::{CreateResult, Frame, LoginResult, UserList};

use common::program::Program;
use common::{PATIENCE, Peer, frame_of};

/// A user sends a packet of three shares of 300 cents in all, and is told its id.
fn create(peer: &mut Peer, users: [u32; 3]) -> u32 {
    create_if_admitted(peer, users).expect("admitted")
}

/// The same; `None` when there is no room for it.
fn create_if_admitted(peer: &mut Peer, users: [u32; 3]) -> Option<u32> {
    let bytes: Vec<u8> = users.iter().flat_map(|user| user.to_be_bytes()).collect();
    let recipients = UserList::from_be_bytes(&bytes).expect("whole users");
    peer.send(&Frame::CreatePacket { request: 7, amount: 300, count: 3, recipients });
    loop {
        let bytes = peer.next().expect("an answer");
        if let Frame::CreatePacketResponse { packet, result, .. } = frame_of(&bytes) {
            let admitted = result == CreateResult::Ok.code();
            assert!(admitted || result == CreateResult::Busy.code(), "{result}");
            return admitted.then_some(packet);
        }
    }
}

/// A user claims a share and is told what it is worth.
fn claim(peer: &mut Peer, user: u32, packet: u32) -> u32 {
    peer.send(&Frame::ClaimRequest { user, packet });
    loop {
        let bytes = peer.next().expect("an answer");
        if let Frame::ClaimResponse { packet: of, amount } = frame_of(&bytes) {
            assert_eq!(of, packet);
            return amount;
        }
    }
}

#[test]
fn a_user_who_is_no_more_keeps_the_money_until_the_packet_expires_and_may_come_back() {
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    let users = |users| ["--packet-life", "600", "--users", users];
    let mut program = Program::start(&ledger, 2, &users("100"));
    let packet = create(&mut Peer::login_extended(program.address(), 1), [1, 50, 51]);
    program.kill();

    // Fewer: who is no more cannot log in, and nobody else has the right to the share.
    let mut program = Program::start(&ledger, 3, &users("10"));
    let found = program.ready.ledger.clone().expect("a ledger");
    assert_eq!((found.packets_open, found.cents_remaining), (1, 300));
    let mut gone = Peer::connect(program.address());
    gone.send(&Frame::LoginRequest { user: 50 });
    gone.expect(&Frame::LoginResponse { user: 50, result: LoginResult::UserOutOfRange.code() });
    let stranger = &mut Peer::login(program.address(), 2);
    assert_eq!(claim(stranger, 2, packet), 0);
    let first = claim(&mut Peer::login(program.address(), 1), 1, packet);
    assert!(first > 0);
    program.kill();

    // More again: they have what they had.
    let mut program = Program::start(&ledger, 1, &users("1000"));
    let found = program.ready.ledger.clone().expect("a ledger");
    assert_eq!((found.packets_open, found.cents_remaining), (1, u64::from(300 - first)));
    let second = claim(&mut Peer::login(program.address(), 50), 50, packet);
    let third = claim(&mut Peer::login(program.address(), 51), 51, packet);
    assert!(second > 0 && third > 0 && first + second + third == 300);
    let (code, books) = program.end();
    assert_eq!(code, Some(0));
    assert_audited(&ledger, &books);
    assert_eq!((books.claimed.count, books.claimed.amount), (3, 300));
}

/// On whichever shard each connection comes to be: of sixteen hardly all on the same.
#[test]
fn open_packets_have_one_budget_for_all_connections_of_a_user_and_a_restart_counts_them_again() {
    const LOGINS: usize = 16;
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    let options = ["--packet-life", "600", "--user-packets", "5"];
    let create_each = |program: &Program, user| -> Vec<u32> {
        let login = |_| Peer::login_extended(program.address(), user);
        let created = (0..LOGINS).map(|at| create_if_admitted(&mut login(at), [1, 2, 3]));
        created.collect::<Vec<_>>().into_iter().flatten().collect()
    };
    let mut program = Program::start(&ledger, 4, &options);
    let packets = create_each(&program, 7);
    assert_eq!(packets.len(), 5);
    assert_eq!(create_each(&program, 8).len(), 5, "another user's");
    program.kill();

    let mut program = Program::start(&ledger, 3, &options);
    assert_eq!(create_each(&program, 7).len(), 0);
    for user in 1..=3 {
        assert!(claim(&mut Peer::login(program.address(), user), user, packets[0]) > 0);
    }
    assert_eq!(create_each(&program, 7).len(), 1, "one of five is over");
    let (code, books) = program.end();
    assert_eq!(code, Some(0));
    assert_eq!((books.created.count, books.claimed.count), (3 * 11, 3));
    assert_audited(&ledger, &books);
}

#[test]
fn what_goes_back_to_a_creator_who_is_no_more_is_booked_as_refunded() {
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    let mut program = Program::start(&ledger, 2, &["--packet-life", "1"]);
    let mut creator = Peer::login_extended(program.address(), 90);
    create(&mut creator, [90, 91, 92]);
    program.kill();
    let mut program = Program::start(&ledger, 3, &["--users", "10"]);
    let refunded = |line: &Line| match line {
        Line::Sample(sample) => sample.ledger.refunded.amount == 300,
        _ => false,
    };
    program.wait_for(refunded);
    let (code, books) = program.end();
    assert_eq!(code, Some(0));
    assert_eq!((books.refunded.amount, books.remaining.amount), (300, 0));
    assert_audited(&ledger, &books);
}

/// The ledger is in order, and comes to these books.
fn assert_audited(ledger: &Path, books: &accounting::Ledger) {
    let storage = Directory::open(ledger).expect("a directory");
    let audit = audit(&storage, |_| {}).expect("readable");
    assert_eq!(audit.faults, Vec::<String>::new());
    assert_eq!((&audit.ledger, audit.complete), (books, true));
    assert_eq!(&recover(&storage).expect("readable").state.ledger(), books);
}

/// Segments that a thread has open, those that were removed too.
fn segments(program: &Program, thread: i32) -> HashSet<PathBuf> {
    let entries = fs::read_dir(program.of_thread(thread, "fd")).expect("it runs");
    // A descriptor may be closed meanwhile.
    let files = entries.filter_map(|entry| fs::read_link(entry.expect("one").path()).ok());
    files.filter(|file| file.to_string_lossy().contains(".segment")).collect()
}

#[test]
fn no_shard_keeps_a_file_of_the_ledger_open() {
    const SHARDS: u32 = 3;
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    for _ in 0..2 {
        let options = ["--packets-per-second", "20000"];
        let mut program = Program::start(&ledger, SHARDS, &options);
        let start = Instant::now();
        // Those who write have them open, one a shard.
        let main = program.child.id().cast_signed();
        while segments(&program, main).len() < SHARDS as usize {
            assert!(start.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        for thread in program.ready.threads.clone() {
            assert_eq!(segments(&program, thread), HashSet::new(), "thread {thread}");
        }
        program.kill();
    }
}

/// How often each thread that writes the ledger was given a CPU, and how often it called `write`.
fn turns_and_writes(program: &Program) -> Vec<(u64, u64)> {
    let read = |thread, file| fs::read_to_string(program.of_thread(thread, file)).expect("it runs");
    let mut threads = program.threads();
    threads.retain(|thread| read(*thread, "comm").starts_with("lab-server-l"));
    let turns = |thread| read(thread, "schedstat").split_whitespace().nth(2)?.parse().ok();
    let writes = |thread| {
        let io = read(thread, "io");
        io.lines().find_map(|line| line.strip_prefix("syscw: "))?.parse().ok()
    };
    let each = threads.into_iter();
    each.map(|it| (turns(it).expect("turns"), writes(it).expect("writes"))).collect()
}

#[test]
fn shakes_without_a_packet_touch_no_disk() {
    const SHAKES: u64 = 10_000;
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    let mut program = Program::start(&ledger, 2, &[]);
    let mut peers = [1, 2, 3, 4].map(|user| Peer::login_extended(program.address(), user));
    let start = Instant::now();
    // Asleep, once they have begun.
    let mut before = turns_and_writes(&program);
    while before.len() < 2 || turns_and_writes(&program) != before {
        assert!(start.elapsed() < PATIENCE);
        before = turns_and_writes(&program);
        peers.iter_mut().for_each(Peer::ping);
    }
    let files = || -> Vec<_> {
        let entries = fs::read_dir(&ledger).expect("a directory").map(|entry| entry.expect("one"));
        let file = |entry: fs::DirEntry| (entry.file_name(), entry.metadata().expect("one").len());
        entries.map(file).collect()
    };
    let kept = files();
    for _ in 0..SHAKES / 4 {
        for peer in &mut peers {
            assert_eq!(peer.shake().1, 0);
        }
    }
    // Its threads did not run at all: they wrote nothing, and synced nothing.
    assert_eq!(turns_and_writes(&program), before);
    assert_eq!(files(), kept);
    // One packet makes one of them write.
    create(&mut peers[0], [1, 2, 3]);
    let after = turns_and_writes(&program);
    let wrote = before.iter().zip(&after).filter(|(before, after)| before.1 < after.1).count();
    assert_eq!(wrote, 1, "{before:?}, then {after:?}");
    let (mut shakes, mut records) = (0, 0);
    program.end_with(|sample| {
        shakes += sample.counters.shakes;
        records += sample.counters.ledger_records;
    });
    assert_eq!((shakes, records), (SHAKES, 1));
}
