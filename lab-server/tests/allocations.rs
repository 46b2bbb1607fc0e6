//! The warm request path allocates nothing: not the logic alone, and not a live shard on sockets.
//!
//! One test, for the allocator counts whatever else runs in the process.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lab_server::io::Io;
use lab_server::logic::{Logic, Rules};
use lab_server::message::Message;
use lab_server::overload::Budget;
use lab_server::sets::new_online;
use lab_server::under_way::UnderWay;
use platform::NANOS_PER_SECOND;
use service::{Budgets, Config, Notices};

use shard::ConnId;
use wire::{Decoded, Frame, MAX_FRAME, ShakeResult, decode};

use common::{Live, Peer, bytes_of, small};

/// Counts of allocations, by thread: more places than threads that live at a time, and thread ids
/// are handed out one after the other.
static COUNTS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

thread_local! {
    /// The thread's place among [`COUNTS`], once it is known.
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn place_of(thread: rustix::thread::Pid) -> usize {
    thread.as_raw_nonzero().get() as usize % COUNTS.len()
}

/// Counts every allocation for the thread that makes it.
struct Counting;

impl Counting {
    fn count() {
        // A thread that ends has no thread locals any more; its count is not read.
        let _ = PLACE.try_with(|place| {
            if place.get() == usize::MAX {
                place.set(place_of(rustix::thread::gettid()));
            }
            COUNTS[place.get()].fetch_add(1, Ordering::Relaxed);
        });
    }
}

// SAFETY: everything is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted(thread: rustix::thread::Pid) -> u64 {
    COUNTS[place_of(thread)].load(Ordering::Relaxed)
}

/// Encodes into one buffer, as sockets do.
struct Buffer {
    bytes: [u8; MAX_FRAME],
    used: usize,
    now_ns: u64,
}

impl Io for Buffer {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn unix_second(&self) -> u64 {
        self.now_ns / NANOS_PER_SECOND
    }

    fn send(&mut self, _: ConnId, frame: &Frame<'_>) {
        self.used = frame.encode(self.unix_second(), &mut self.bytes).expect("fits");
    }

    fn finish(&mut self, _: ConnId) {
        panic!("nothing is closed here");
    }

    fn post(&mut self, _: usize, _: Message) -> bool {
        panic!("a single shard writes to no other");
    }
}

const USERS: u32 = 1_000;

/// A second of shakes by every user, a packet for every other; returns how many were granted.
fn a_second(logic: &mut Logic, io: &mut Buffer, packet: &mut u32) -> u32 {
    let mut granted = 0;
    let mut request = [0; 16];
    for slot in 0..USERS {
        if slot % 2 == 0 {
            let set = *packet % 4;
            *packet += 1;
            logic.handle(io, Message::Packet { set, packet: *packet, amount: 50 });
        }
        let len = Frame::ShakeRequest { user: slot }.encode(0, &mut request).expect("fits");
        let conn = ConnId { slot, generation: 0 };
        assert_eq!(logic.received(io, conn, &request[..len]), len);
        match decode(&io.bytes[..io.used]) {
            Decoded::Frame { frame: Frame::ShakeResponse { result, .. }, .. } => {
                granted += u32::from(result == ShakeResult::Granted as u32);
            }
            other => panic!("{other:?}"),
        }
        io.now_ns += NANOS_PER_SECOND / u64::from(USERS);
        logic.tick(io);
    }
    granted
}

fn check_logic() {
    let rules = Rules {
        users: USERS,
        notices: Notices::Push,
        packet_life_ns: NANOS_PER_SECOND,
        queue_bound: 4096,
        packets_bound: 100,
        budgets: Budgets::default(),
        seed: 1,
    };
    let (online, budget) = (new_online(4), Budget::new(Some(u64::from(USERS) * 9 / 10)));
    let users = UnderWay::new(USERS);
    let mut logic = Logic::new(0, 1, Arc::new(rules), online, budget, users, NANOS_PER_SECOND);
    let mut io = Buffer { bytes: [0; MAX_FRAME], used: 0, now_ns: NANOS_PER_SECOND };
    for user in 0..USERS {
        let conn = ConnId { slot: user, generation: 0 };
        logic.accepted(&mut io, conn);
        logic.received(&mut io, conn, &bytes_of(&Frame::LoginRequest { user }));
    }
    let mut packet = 0;
    // Long enough for the deadlines of the logins to have come and gone.
    for _ in 0..12 {
        a_second(&mut logic, &mut io, &mut packet);
    }
    let me = rustix::thread::gettid();
    let before = counted(me);
    let granted: u32 = (0..10).map(|_| a_second(&mut logic, &mut io, &mut packet)).sum();
    let after = counted(me);
    assert_eq!(after - before, 0, "allocations in {} shakes", 10 * USERS);
    assert!((1_000..10 * USERS).contains(&granted), "{granted} were granted");
    let counters = logic.counters();
    assert!(counters.no_packet > 0 && counters.overloaded > 0, "all kinds of answers");
}

/// Shakes in batches and one by one, and reads the answers; returns how many brought a packet.
fn shake(peers: &mut [Peer], answers: &mut [u8], rounds: usize) -> usize {
    let shake = [&[0, 16, 0, 2][..], &[0; 12]].concat();
    let mut granted = 0;
    for round in 0..rounds {
        let batch = if round % 2 == 0 { 1 } else { 20 };
        for peer in &mut *peers {
            peer.stream.write_all(&shake.repeat(batch)).expect("sent");
        }
        for peer in &mut *peers {
            let answers = &mut answers[..28 * batch];
            peer.stream.read_exact(answers).expect("answered");
            granted += answers.chunks(28).filter(|answer| answer[16..20] == [0, 0, 0, 14]).count();
        }
    }
    granted
}

fn check_live() {
    let live = Live::start(&Config { sets: 4, ..small() });
    live.generate(1_000);
    let mut peers: Vec<_> = (0..10).map(|user| Peer::login(live.address(), user)).collect();
    let mut answers = vec![0; 28 * 20];
    shake(&mut peers, &mut answers, 3_000);
    let counts = || -> Vec<u64> { live.server().threads().iter().map(|at| counted(*at)).collect() };
    let shakes = live.totals().counters.shakes;
    let (before, began) = (counts(), Instant::now());
    let granted = shake(&mut peers, &mut answers, 1_000);
    let (after, took) = (counts(), began.elapsed());
    let shakes = live.totals().counters.shakes - shakes;
    assert_eq!(shakes, 105_000);
    assert!(granted > 100, "{granted} packets");
    // glommio's executor allocates a little each time it looks round, about 15 times a second
    // whatever the load, however long that takes here: not one for a thousand shakes, and far fewer
    // than one a poll.
    let allowed = shakes / 1000 + (20.0 * took.as_secs_f64()) as u64;
    for (before, after) in before.iter().zip(&after) {
        let made = after - before;
        assert!(made <= allowed, "{made} allocations of a shard in {shakes} shakes");
    }
    live.end();
}

#[test]
fn the_warm_request_path_allocates_nothing() {
    check_logic();
    check_live();
}
