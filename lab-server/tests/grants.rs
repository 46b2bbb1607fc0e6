//! Many grants by the program: from a shake to the disk, and from there to the audit, which must
//! have each as its user was told.
//!
//! `LAB_GRANTS` says how many (20,000 unless it says otherwise).

mod common;

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use journal::{Directory, Record, audit};
use wire::Frame;

use common::program::Program;
use common::{Peer, bytes_of, frame_of};

/// Connections, a user each.
const USERS: u32 = 8;

/// Shakes of a user under way.
const WINDOW: usize = 256;

/// A grant, as a user was told: packet, cents, user.
type Grant = (u32, u32, u32);

/// Shakes until all users together were granted so many, and returns what this one was.
fn shake(address: SocketAddrV4, user: u32, left: &AtomicU64) -> Vec<Grant> {
    let mut peer = Peer::login(address, user);
    let shakes = bytes_of(&Frame::ShakeRequest { user }).repeat(WINDOW);
    let mut granted = Vec::new();
    while left.load(Ordering::Relaxed) > 0 {
        peer.send_bytes(&shakes);
        let before = granted.len();
        for _ in 0..WINDOW {
            let bytes = peer.next().expect("an answer");
            match frame_of(&bytes) {
                Frame::ShakeResponse { packet, amount: amount @ 1.., .. } => {
                    granted.push((packet, amount, user));
                }
                Frame::ShakeResponse { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let more = (granted.len() - before) as u64;
        // Only this many are asked for; a few more come.
        let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(more))
        });
    }
    granted
}

/// The users' grants by packet, each once.
fn by_packet(users: Vec<Vec<Grant>>) -> Vec<(u32, u32)> {
    let mut told = Vec::new();
    for (packet, amount, user) in users.into_iter().flatten() {
        let packet = packet as usize;
        if told.len() <= packet {
            told.resize(packet + 1, (0, 0));
        }
        assert_eq!(told[packet], (0, 0), "packet {packet} was granted twice");
        told[packet] = (amount, user);
    }
    told
}

#[test]
fn every_grant_is_audited_as_its_user_was_told() {
    let asked: u64 =
        std::env::var("LAB_GRANTS").map_or(20_000, |grants| grants.parse().expect("a number"));
    let root = tempfile::tempdir().expect("a directory");
    let ledger = root.path().join("ledger");
    let mut program = Program::start(&ledger, 2, &["--packets-per-second", "1000000"]);
    let (address, left) = (program.address(), Arc::new(AtomicU64::new(asked)));
    let start = Instant::now();
    let users = (0..USERS).map(|user| {
        let left = Arc::clone(&left);
        std::thread::spawn(move || shake(address, user, &left))
    });
    let users: Vec<_> = users.collect();
    let users = users.into_iter().map(|user| user.join().expect("answers"));
    let told = by_packet(users.collect());
    let (shaken_s, audited) = (start.elapsed().as_secs_f64(), Instant::now());
    let (code, books) = program.end();
    assert_eq!(code, Some(0));
    let storage = Directory::open(&ledger).expect("a directory");
    let (mut grants, mut wrong) = (0, 0);
    let audit = audit(&storage, |record| {
        if let Record::Granted { packet, amount, user, .. } = record {
            grants += 1;
            wrong += u64::from(told.get(*packet as usize) != Some(&(*amount, *user)));
        }
    });
    let audit = audit.expect("readable");
    assert_eq!(audit.faults, Vec::<String>::new());
    assert!(audit.complete && audit.ledger.is_balanced());
    assert_eq!(audit.ledger, books);
    let received = told.iter().filter(|(amount, _)| *amount > 0).count() as u64;
    assert!(grants >= asked);
    assert_eq!((received, wrong, audit.grants.count), (grants, 0, grants));
    println!(
        "{grants} grants in {shaken_s:.1} s, {} records audited in {:.1} s: imbalance 0",
        audit.records,
        audited.elapsed().as_secs_f64()
    );
}
