//! Who gets how much, over several shards in simulation: packets spread over SETs by their users,
//! and the limit of shakes per second.

mod sim;

use std::sync::atomic::Ordering;

use lab_server::directory::Address;
use lab_server::generator::{GeneratorSpec, PacketKind};
use lab_server::message::Message;
use lab_server::overload::Budget;
use platform::NANOS_PER_SECOND;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use service::Notices;
use wire::{ChatOutcome, Decoded, Frame, ShakeResult, UserList, decode};

use sim::{Cluster, Out, START_NS, rules};

const MILLISECOND: u64 = 1_000_000;

/// Logs a user in on a shard.
fn login(cluster: &mut Cluster, shard: usize, user: u32) -> Address {
    let at = cluster.connect(shard);
    cluster.frame(at, &Frame::LoginRequest { user });
    at
}

fn deliver_all(cluster: &mut Cluster) {
    while cluster.deliver() {}
}

/// Reads what the server sent, as frames.
fn read(cluster: &mut Cluster, mut each: impl FnMut(Address, &Frame<'_>)) {
    while let Some(out) = cluster.take_out() {
        if let Out::Frame(at, bytes) = out {
            let Decoded::Frame { frame, .. } = decode(&bytes) else { panic!("{bytes:?}") };
            each(at, &frame);
        }
    }
}

fn order(rate: u32, seed: u64) -> GeneratorSpec {
    let (total, from_ns, until_ns) = (None, None, None);
    GeneratorSpec { id: 1, kind: PacketKind::Shaken, rate, total, seed, from_ns, until_ns }
}

/// Packets in the books of each SET.
fn created(cluster: &Cluster) -> Vec<u64> {
    let sets = cluster.shards.iter().flat_map(|logic| logic.sets().iter());
    sets.map(|(_, set)| set.ledger.created.count).collect()
}

/// Packets come evenly over the second and over SETs with uneven numbers of users, who come and go.
fn check_spread(seed: u64) {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let shards = random.random_range(2..=5);
    let sets = random.random_range(shards..=3 * shards);
    let rate = random.random_range(1..2_000);
    let rules =
        lab_server::logic::Rules { queue_bound: 1 << 20, ..rules(1_000, Notices::Push, seed) };
    let mut cluster = Cluster::new(shards, sets, None, rules);
    let mut users = 0..;
    let mut online = Vec::new();
    cluster.tell(0, Message::Start(order(rate, seed)));
    deliver_all(&mut cluster);
    let mut share = vec![0.0; sets];
    let mut before = 0;
    for _ in 0..200 {
        // Mostly on the first shards, so that their SETs have more.
        for _ in 0..random.random_range(0..8) {
            let shard = random.random_range(0..shards).min(random.random_range(0..shards));
            if let Some(user) = users.next().filter(|user| *user < 1_000) {
                online.push(login(&mut cluster, shard, user));
            }
        }
        for _ in 0..random.random_range(0..6) {
            if !online.is_empty() {
                let at = online.swap_remove(random.random_range(0..online.len()));
                cluster.disconnect(at);
            }
        }
        let weights: Vec<f64> =
            cluster.online.iter().map(|set| f64::from(set.users.load(Ordering::Relaxed))).collect();
        let all: f64 = weights.iter().sum();
        let passing = random.random_range(1..40 * MILLISECOND);
        cluster.pass(passing);
        deliver_all(&mut cluster);
        read(&mut cluster, |_, _| {});
        let given = created(&cluster);
        let made: u64 = given.iter().sum();
        for (share, weight) in share.iter_mut().zip(&weights) {
            let part = if all == 0.0 { 1.0 / sets as f64 } else { weight / all };
            *share += (made - before) as f64 * part;
        }
        before = made;
        for (set, (given, share)) in given.iter().zip(&share).enumerate() {
            assert!(
                *given as f64 <= share + 1.0 + 1e-6,
                "SET {set} has {given} of {share}, {seed}"
            );
        }
        // The k-th is due k / rate after the start.
        let due = u128::from(cluster.wires.now_ns - START_NS) * u128::from(rate)
            / u128::from(NANOS_PER_SECOND);
        assert_eq!(u128::from(made), due + 1, "rate {rate}, seed {seed}");
    }
    let uneven: Vec<u32> =
        cluster.online.iter().map(|set| set.users.load(Ordering::Relaxed)).collect();
    assert!(uneven.iter().max() > uneven.iter().min(), "{uneven:?}");
}

#[test]
fn no_set_is_more_than_one_packet_ahead_of_its_share() {
    for seed in 0..30 {
        check_spread(seed);
    }
}

/// A second over the limit, `weights[i]` parts of the shakes on shard `i`; all else goes on.
fn check_limit(limit: u64, weights: &[u64]) {
    let mut cluster =
        Cluster::new(weights.len(), 8, Some(limit), rules(1_000, Notices::Push, limit));
    let shards = weights.len();
    let users: Vec<Address> =
        (0..shards).map(|shard| login(&mut cluster, shard, shard as u32)).collect();
    deliver_all(&mut cluster);
    read(&mut cluster, |_, _| {});
    let offered: u64 = weights.iter().sum();
    for second in 1..=2u32 {
        let rounds = 2 * limit / offered + 1;
        let (mut admitted, mut refused) = (0, 0);
        for round in 0..rounds {
            let from_start = NANOS_PER_SECOND * round / rounds;
            let now_ns = START_NS + u64::from(second) * NANOS_PER_SECOND + from_start;
            cluster.pass(now_ns - cluster.wires.now_ns);
            for (at, weight) in users.iter().zip(weights) {
                for _ in 0..*weight {
                    cluster.frame(*at, &Frame::ShakeRequest { user: 0 });
                }
            }
            read(&mut cluster, |_, frame| match frame {
                Frame::ShakeResponse { result: 17, .. } => refused += 1,
                Frame::ShakeResponse { .. } => admitted += 1,
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(admitted + refused, rounds * offered, "every shake is answered");
        assert!(admitted <= limit, "{admitted} of {limit} over {weights:?}");
        assert!(admitted * 100 >= limit * 98, "{admitted} of {limit} over {weights:?}");
        check_the_rest_works(&mut cluster, users[0], 100 * second);
    }
}

/// Over the limit one can still log in, create, claim and chat.
fn check_the_rest_works(cluster: &mut Cluster, shaker: Address, user: u32) {
    cluster.frame(shaker, &Frame::ShakeRequest { user: 0 });
    let mut result = 0;
    read(cluster, |_, frame| {
        if let Frame::ShakeResponse { result: code, .. } = frame {
            result = *code;
        }
    });
    assert_eq!(result, ShakeResult::Overloaded as u32);
    let last = cluster.shards.len() - 1;
    let at = [0, last, 0].map(|shard| cluster.connect(shard));
    for (at, user) in at.iter().zip(user..) {
        cluster.frame(*at, &Frame::LoginRequest { user });
        cluster.frame(*at, &Frame::Ping { client_ns: 0 });
    }
    deliver_all(cluster);
    let recipients: Vec<u8> = (user..user + 3).flat_map(u32::to_be_bytes).collect();
    let recipients = UserList::from_be_bytes(&recipients).expect("three users");
    cluster.frame(at[0], &Frame::CreatePacket { request: 1, amount: 90, count: 3, recipients });
    cluster.frame(at[0], &Frame::ChatRequest { message: 2, to: user + 1, text: b"busy?" });
    deliver_all(cluster);
    let mut notices = Vec::new();
    let (mut logins, mut chats) = (0, 0);
    read(cluster, |at, frame| match frame {
        Frame::LoginResponse { result: 0, .. } => logins += 1,
        Frame::SendPacket { packet, .. } => notices.push((at, *packet)),
        Frame::ChatReceipt { outcome, .. } if *outcome == ChatOutcome::Delivered.code() => {
            chats += 1;
        }
        _ => {}
    });
    assert_eq!((logins, notices.len(), chats), (3, 3, 1));
    for (at, packet) in notices {
        cluster.frame(at, &Frame::ClaimRequest { user: 0, packet });
    }
    deliver_all(cluster);
    let mut cents = 0;
    read(cluster, |_, frame| {
        if let Frame::ClaimResponse { amount, .. } = frame {
            cents += amount;
        }
    });
    assert_eq!(cents, 90);
}

#[test]
fn the_limit_is_kept_within_two_percent_over_all_shards() {
    for limit in [50, 1_000, 20_000] {
        for weights in [&[1, 1][..], &[9, 1], &[5, 0, 1], &[1, 2, 3, 4, 5]] {
            check_limit(limit, weights);
        }
    }
}

/// What one changes at run time counts from the next second.
#[test]
fn a_limit_can_be_changed_and_lifted() {
    let mut cluster = Cluster::new(2, 4, Some(10), rules(10, Notices::Push, 1));
    let at = login(&mut cluster, 1, 5);
    let admitted = |cluster: &mut Cluster, limit| {
        Budget::set_limit(&cluster.budget, limit);
        cluster.pass(NANOS_PER_SECOND);
        for _ in 0..100 {
            cluster.frame(at, &Frame::ShakeRequest { user: 5 });
        }
        let mut admitted = 0;
        read(cluster, |_, frame| {
            admitted += u32::from(matches!(frame, Frame::ShakeResponse { result: 15, .. }));
        });
        admitted
    };
    assert_eq!(admitted(&mut cluster, Some(10)), 10);
    assert_eq!(admitted(&mut cluster, Some(60)), 60);
    assert_eq!(admitted(&mut cluster, None), 100);
    assert_eq!(admitted(&mut cluster, Some(0)), 0);
}

#[test]
fn a_generator_ends_when_there_is_nothing_more_to_make() {
    let mut cluster = Cluster::new(2, 4, None, rules(10, Notices::Push, 1));
    let past = Some(START_NS - 1);
    for (order, made) in [
        (GeneratorSpec { total: Some(0), ..order(5, 1) }, 0),
        (GeneratorSpec { until_ns: past, ..order(5, 1) }, 0),
        (GeneratorSpec { rate: 0, ..order(5, 1) }, 0),
        (GeneratorSpec { total: Some(3), ..order(5, 1) }, 3),
    ] {
        cluster.tell(0, Message::Start(order));
        deliver_all(&mut cluster);
        cluster.pass(NANOS_PER_SECOND);
        let gauges = cluster.shards[0].gauges();
        assert_eq!((gauges.generators, gauges.generated), (0, made), "{order:?}");
    }
}
