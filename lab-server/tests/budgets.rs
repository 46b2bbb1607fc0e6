//! What one user can take from a server, in simulation: nothing that stays, and no more than a
//! budget of what others need, too.

mod sim;

use accounting::server::Gauges;
use lab_server::directory::Address;
use lab_server::logic::Rules;
use lab_server::message::{Message, Parcel};
use lab_server::packets::FIRST_SENT;
use platform::NANOS_PER_SECOND;
use service::{Budgets, Notices};
use wire::{ChatOutcome, CreateResult, Decoded, Frame, UserList, decode};

use sim::{Cluster, Out, rules};

const BUDGETS: Budgets = Budgets { packets: 5, mail: 20, chats: 10 };

/// A server whose users 0, 1, … are logged in, on one shard after the other.
fn server(shards: usize, users: u32, budgets: Budgets) -> (Cluster, Vec<Address>) {
    server_of(shards, Rules { budgets, ..rules(users, Notices::Push, 1) })
}

fn server_of(shards: usize, rules: Rules) -> (Cluster, Vec<Address>) {
    let users = rules.users;
    let mut cluster = Cluster::new(shards, 8, None, rules);
    let peers = (0..users).map(|user| login(&mut cluster, user, user as usize % shards));
    let peers = peers.collect();
    read(&mut cluster, |_, _| {});
    (cluster, peers)
}

fn login(cluster: &mut Cluster, user: u32, shard: usize) -> Address {
    let at = cluster.connect(shard);
    cluster.frame(at, &Frame::LoginRequest { user });
    cluster.frame(at, &Frame::Ping { client_ns: 0 });
    at
}

/// Delivers all messages, and reads what the server sent.
fn read(cluster: &mut Cluster, mut each: impl FnMut(Address, &Frame<'_>)) {
    while cluster.deliver() {}
    while let Some(out) = cluster.take_out() {
        match out {
            Out::Frame(at, bytes) => {
                let Decoded::Frame { frame, .. } = decode(&bytes) else { panic!("{bytes:?}") };
                each(at, &frame);
            }
            Out::Closed(at) => panic!("{at:?} was closed"),
        }
    }
}

fn create(cluster: &mut Cluster, at: Address, count: u32, recipients: &[u32]) {
    let bytes: Vec<u8> = recipients.iter().flat_map(|user| user.to_be_bytes()).collect();
    let recipients = UserList::from_be_bytes(&bytes).expect("whole users");
    cluster.frame(at, &Frame::CreatePacket { request: 1, amount: 300, count, recipients });
}

/// Creates packets for one user until one is refused; the ids, and what the last came to.
fn create_until_refused(cluster: &mut Cluster, at: Address, to: u32) -> (Vec<u32>, CreateResult) {
    let mut packets = Vec::new();
    loop {
        create(cluster, at, 1, &[to]);
        let mut last = None;
        read(cluster, |_, frame| {
            if let Frame::CreatePacketResponse { packet, result, .. } = *frame {
                last = Some((packet, CreateResult::from_code(result).expect("a result")));
            }
        });
        match last.expect("every creation is answered") {
            (packet, CreateResult::Ok) => packets.push(packet),
            (_, refused) => return (packets, refused),
        }
        assert!(packets.len() < 100, "no budget");
    }
}

fn gauges(cluster: &Cluster) -> Vec<Gauges> {
    cluster.shards.iter().map(|shard| shard.gauges()).collect()
}

/// The answers to claims that one user sent together: how many brought a share.
fn claim(cluster: &mut Cluster, at: Address, packets: &[u32]) -> (usize, usize) {
    for packet in packets {
        cluster.frame(at, &Frame::ClaimRequest { user: 0, packet: *packet });
    }
    let (mut granted, mut refused) = (0, 0);
    read(cluster, |to, frame| {
        if let Frame::ClaimResponse { amount, .. } = frame {
            assert_eq!(to, at);
            *(if *amount > 0 { &mut granted } else { &mut refused }) += 1;
        }
    });
    (granted, refused)
}

/// Time hardly passes: whatever waits for the end of a packet's life would still be there.
#[test]
fn a_user_that_creates_and_claims_in_a_loop_leaves_nothing_behind() {
    const PACKETS: u32 = 200_000;
    // All mail that can be: the packets of a life of 5 s.
    let (mut cluster, peers) = server(2, 2, Budgets { mail: u16::MAX, ..Budgets::default() });
    let mut most = Gauges::default();
    for number in 0..PACKETS {
        create(&mut cluster, peers[1], 1, &[1]);
        let mut made = 0;
        read(&mut cluster, |_, frame| {
            if let Frame::SendPacket { packet, .. } | Frame::PacketNotice { packet, .. } = frame {
                made = *packet;
            }
        });
        assert_eq!(claim(&mut cluster, peers[1], &[made]), (1, 0), "packet {number}");
        if number % 60_000 == 59_999 {
            cluster.pass(NANOS_PER_SECOND);
            for now in gauges(&cluster) {
                most.packets_open = most.packets_open.max(now.packets_open);
                most.timers = most.timers.max(now.timers);
            }
        }
    }
    // The timers are those of the two logins.
    assert_eq!((most.packets_open, most.timers), (0, 1));
    let counters = cluster.counters();
    let count = u64::from(PACKETS);
    assert_eq!((counters.packets_sent, counters.claims_granted), (count, count));
    assert_eq!((counters.packets_expired, counters.packets_refused), (0, 0));
    assert_eq!(cluster.ledger().claimed.count, count);
}

#[test]
fn open_packets_have_a_budget() {
    let (mut cluster, peers) = server(2, 4, BUDGETS);
    let (packets, refused) = create_until_refused(&mut cluster, peers[0], 1);
    assert_eq!((packets.len(), refused), (5, CreateResult::Busy));
    assert_eq!(cluster.counters().packets_over_budget, 1);
    // Of another user it takes nothing.
    assert_eq!(create_until_refused(&mut cluster, peers[2], 1).0.len(), 5);
    // What is over, claimed or expired, counts no more.
    assert_eq!(claim(&mut cluster, peers[1], &packets[..2]), (2, 0));
    assert_eq!(create_until_refused(&mut cluster, peers[0], 1).0.len(), 2);
    cluster.pass(6 * NANOS_PER_SECOND);
    read(&mut cluster, |_, _| {});
    assert_eq!(cluster.counters().packets_expired, 10);
    assert_eq!(create_until_refused(&mut cluster, peers[0], 1).0.len(), 5);
    let counters = cluster.counters();
    assert_eq!((counters.packets_over_budget, counters.packets_refused), (4, 4));
}

#[test]
fn open_packets_of_a_user_are_counted_on_all_shards_together() {
    let (mut cluster, peers) = server(2, 4, BUDGETS);
    let mut packets = Vec::new();
    for _ in 0..3 {
        create(&mut cluster, peers[0], 1, &[1]);
        read(&mut cluster, |_, frame| {
            if let Frame::CreatePacketResponse { packet, .. } = *frame {
                packets.push(packet);
            }
        });
    }
    cluster.disconnect(peers[0]);
    let again = login(&mut cluster, 0, 1);
    assert_eq!(create_until_refused(&mut cluster, again, 3).0.len(), 2);
    // One on the other shard is over: claimed there, by somebody else.
    assert_eq!(claim(&mut cluster, peers[1], &packets[..1]), (1, 0));
    assert_eq!(create_until_refused(&mut cluster, again, 3).0.len(), 1);
    assert_eq!(cluster.under_way.open(0), 5);
    // Each shard looks at all of them.
    cluster.disconnect(again);
    let again = login(&mut cluster, 0, 0);
    assert_eq!(create_until_refused(&mut cluster, again, 1), (vec![], CreateResult::Busy));
    assert_eq!(create_until_refused(&mut cluster, peers[2], 1).0.len(), 5, "another user's");
    cluster.pass(6 * NANOS_PER_SECOND);
    read(&mut cluster, |_, _| {});
    assert_eq!((cluster.counters().packets_expired, cluster.under_way.open(0)), (10, 0));
    assert_eq!(create_until_refused(&mut cluster, again, 1).0.len(), 5);
    assert_eq!(cluster.counters().packets_over_budget, 5);
}

/// Claims of what the other shard would know, and texts for somebody whose home that is.
fn ask(cluster: &mut Cluster, at: Address, times: u32) {
    let other = 1 - u32::from(at.shard);
    for number in 0..times {
        cluster.frame(at, &Frame::ClaimRequest { user: 0, packet: FIRST_SENT + other });
        let text = b"hello";
        cluster.frame(at, &Frame::ChatRequest { message: number, to: 2 + other, text });
    }
}

/// Claims and texts that are on their way.
fn asked(cluster: &Cluster) -> (usize, usize) {
    let chat = |message: &&Message| match message {
        Message::Forward { parcel, .. } => matches!(parcel, Parcel::Chat { .. }),
        _ => false,
    };
    let claims = cluster.messages().filter(|it| matches!(it, Message::Claim { .. })).count();
    (claims, cluster.messages().filter(chat).count())
}

/// On the same shard, or another; while the connection before is still there, or after.
#[test]
fn who_connects_again_has_what_is_left_of_a_second_and_no_new_budget() {
    for (shard, replaces) in [(0, true), (0, false), (1, true), (1, false)] {
        let (mut cluster, peers) = server(2, 4, BUDGETS);
        ask(&mut cluster, peers[0], 8);
        assert_eq!(asked(&cluster), (8, 8));
        if !replaces {
            cluster.disconnect(peers[0]);
        }
        let again = login(&mut cluster, 0, shard);
        ask(&mut cluster, again, 15);
        let what = format!("again on shard {shard}, replacing: {replaces}");
        assert_eq!(asked(&cluster), (20, 10), "{what}");
        let counters = cluster.counters();
        assert_eq!((counters.claims_over_budget, counters.chats_over_budget), (3, 13), "{what}");
        create(&mut cluster, again, 1, &[2]);
        assert_eq!(cluster.counters().packets_over_budget, 1, "{what}: its notice");
        // Answers count for the user, whether or not their connection is still there.
        while cluster.deliver() {}
        while cluster.take_out().is_some() {}
        ask(&mut cluster, again, 21);
        assert_eq!(asked(&cluster), (20, 10), "{what}");
        cluster.disconnect(again);
        cluster.pass(NANOS_PER_SECOND);
        let again = login(&mut cluster, 0, shard);
        ask(&mut cluster, again, 21);
        assert_eq!(asked(&cluster), (40, 20), "{what}: a new second");
    }
}

#[test]
fn claims_under_way_have_a_budget_and_others_their_own() {
    let (mut cluster, peers) = server(2, 4, BUDGETS);
    // Packets that live on the other shard: each claim waits for its answer.
    let (packets, _) = create_until_refused(&mut cluster, peers[1], 0);
    let many: Vec<u32> = packets.iter().copied().cycle().take(50).collect();
    for packet in &many {
        cluster.frame(peers[0], &Frame::ClaimRequest { user: 0, packet: *packet });
    }
    assert_eq!(cluster.messages().count(), 20, "on their way");
    assert_eq!(cluster.counters().claims_over_budget, 30);
    cluster.frame(peers[2], &Frame::ClaimRequest { user: 2, packet: packets[0] });
    assert_eq!(cluster.messages().count(), 21, "another user's");
    let (mut answers, mut granted) = ([0, 0], 0);
    read(&mut cluster, |at, frame| {
        if let Frame::ClaimResponse { amount, .. } = frame {
            answers[usize::from(at == peers[2])] += 1;
            granted += u32::from(*amount > 0);
        }
    });
    assert_eq!((answers, granted), ([50, 1], 5), "every claim is answered");
    // What was answered counts no more.
    assert_eq!(claim(&mut cluster, peers[0], &many[..20]), (0, 20));
    assert_eq!(cluster.counters().claims_over_budget, 30);
}

#[test]
fn lost_answers_are_forgotten_when_their_second_is_over() {
    let (mut cluster, peers) = server(2, 2, BUDGETS);
    let far = FIRST_SENT + 1;
    for second in 0..3 {
        for _ in 0..25 {
            cluster.frame(peers[0], &Frame::ClaimRequest { user: 0, packet: far });
        }
        assert_eq!(cluster.counters().claims_over_budget, 5 * (second + 1));
        // The claims arrive, and their answers find no room.
        cluster.wires.dropped_per_mille = 1000;
        read(&mut cluster, |_, _| {});
        cluster.wires.dropped_per_mille = 0;
        cluster.pass(NANOS_PER_SECOND);
    }
    assert_eq!(cluster.wires.dropped.len(), 60);
}

#[test]
fn notices_count_as_mail_of_the_creator_until_the_second_is_over() {
    let budgets = Budgets { packets: 100, ..BUDGETS };
    let (mut cluster, peers) = server(2, 8, budgets);
    let to: Vec<u32> = (0..8).collect();
    let mut results = Vec::new();
    for _ in 0..2 {
        for _ in 0..3 {
            create(&mut cluster, peers[0], 8, &to);
        }
        read(&mut cluster, |_, frame| {
            if let Frame::CreatePacketResponse { result, .. } = *frame {
                results.push(CreateResult::from_code(result).expect("a result"));
            }
        });
        cluster.pass(NANOS_PER_SECOND);
    }
    let (ok, busy) = (CreateResult::Ok, CreateResult::Busy);
    assert_eq!(results, [ok, ok, busy, ok, ok, busy]);
    assert_eq!(cluster.counters().packets_over_budget, 2);
    // One that is impossible costs nothing.
    for _ in 0..9 {
        create(&mut cluster, peers[0], 9, &to);
    }
    create(&mut cluster, peers[0], 8, &to);
    let mut last = None;
    read(&mut cluster, |_, frame| {
        if let Frame::CreatePacketResponse { result, .. } = *frame {
            last = CreateResult::from_code(result);
        }
    });
    assert_eq!(last, Some(ok));
}

/// Frames of one peer, all at once, that would have the shard write itself 40,000 messages.
#[test]
fn messages_of_a_shard_to_itself_have_a_bound() {
    const PACKETS: u32 = 40;
    let (mut cluster, peers) = server(1, 1_018, Budgets { mail: u16::MAX, ..Budgets::default() });
    let to: Vec<u8> = (0..1_000u32).flat_map(u32::to_be_bytes).collect();
    let recipients = UserList::from_be_bytes(&to).expect("whole users");
    let frame = Frame::CreatePacket { request: 1, amount: 1_000, count: 1_000, recipients };
    let mut bytes = vec![0; frame.encoded_len()];
    frame.encode(0, &mut bytes).expect("fits");
    cluster.receive(peers[0], &bytes.repeat(PACKETS as usize));
    let (mut created, mut notices) = (0, 0);
    read(&mut cluster, |_, frame| match frame {
        Frame::CreatePacketResponse { result, .. } => created += u32::from(*result == 0),
        Frame::PacketNotice { .. } => notices += 1,
        other => panic!("{other:?}"),
    });
    let counters = cluster.counters();
    assert_eq!((created, notices), (32, 16_384), "within open packets, and within the bound");
    assert_eq!(counters.local_overflow, 32_000 - 16_384);
    assert_eq!(counters.notices_overflow, counters.local_overflow);
    assert!(cluster.ledger().is_balanced());
}

/// One packet names a thousand users; those who ask something meanwhile do not wait until all of
/// them are told.
#[test]
fn notices_are_told_in_parts_and_nobody_waits_for_them() {
    let rules = Rules { packets_bound: 1_000, ..rules(1_018, Notices::Push, 1) };
    let (mut cluster, peers) = server_of(1, rules);
    let mut packets = Vec::new();
    for _ in 0..50 {
        create(&mut cluster, peers[7], 1, &[8]);
        read(&mut cluster, |_, frame| {
            if let Frame::PacketNotice { packet, .. } = frame {
                packets.push(*packet);
            }
        });
    }
    cluster.settles = false;
    let to: Vec<u32> = (0..1_000).collect();
    create(&mut cluster, peers[0], 250, &to);
    (0..9).for_each(|_| create(&mut cluster, peers[1], 250, &to));
    let mut told = Vec::new();
    let mut heard = |cluster: &mut Cluster| {
        let (mut notices, mut shares) = (0u32, 0);
        read(cluster, |at, frame| match frame {
            Frame::PacketNotice { .. } => notices += 1,
            Frame::ClaimResponse { amount, .. } if at == peers[8] => {
                shares += u32::from(*amount > 0);
            }
            _ => {}
        });
        told.push(notices);
        (notices, shares)
    };
    heard(&mut cluster);
    for packet in packets {
        cluster.frame(peers[8], &Frame::ClaimRequest { user: 8, packet });
        assert_eq!(heard(&mut cluster).1, 1, "answered at once");
        cluster.pass(0);
        heard(&mut cluster);
    }
    loop {
        cluster.pass(0);
        if heard(&mut cluster).0 == 0 {
            break;
        }
    }
    assert!(told.iter().all(|told| *told <= 32), "{told:?}");
    // Four packets are what the budget of a user allows, and another has made one.
    assert_eq!(told.iter().sum::<u32>(), 5 * 1_000);
    assert_eq!(cluster.counters().notices_overflow, 0);
}

#[test]
fn chat_texts_under_way_have_a_budget() {
    let (mut cluster, peers) = server(2, 4, BUDGETS);
    for round in 1..=2 {
        for message in 0..15 {
            cluster.frame(peers[0], &Frame::ChatRequest { message, to: 1, text: b"hello" });
        }
        cluster.frame(peers[2], &Frame::ChatRequest { message: 99, to: 1, text: b"and I" });
        let (mut busy, mut delivered) = (0, 0);
        read(&mut cluster, |_, frame| {
            if let Frame::ChatReceipt { outcome, .. } = frame {
                busy += u32::from(*outcome == ChatOutcome::Busy.code());
                delivered += u32::from(*outcome == ChatOutcome::Delivered.code());
            }
        });
        assert_eq!((busy, delivered), (5, 11), "round {round}");
        let counters = cluster.counters();
        assert_eq!((counters.chats_over_budget, counters.chats_busy), (5 * round, 5 * round));
    }
}
