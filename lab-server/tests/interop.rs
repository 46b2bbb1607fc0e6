//! Frames recorded from the Go prototype, byte for byte through a live server: its client's bytes
//! get the answers that the prototype's server gave, but for times, shares and who is named in a
//! grant.

mod common;

use lab_server::message::Message;
use lab_server::packets::{Draft, NO_CREATOR};
use service::{Config, Notices};
use wire::{ChatOutcome, Frame, LoginResult};

use common::{Live, Peer, frame_of, small};

/// Bytes of the header that carry the time of writing.
const TIME: std::ops::Range<usize> = 4..12;
/// Bytes of a shake's answer that carry the user: the prototype leaves them 0 when it grants.
const USER: std::ops::Range<usize> = 12..16;
/// Bytes of a shake's answer that carry the packet.
const PACKET: std::ops::Range<usize> = 20..24;
/// Bytes of a claim's answer that carry the share.
const SHARE: std::ops::Range<usize> = 16..20;

/// A recorded frame: which peer of ours the prototype was, who sent it, what it was, its bytes.
struct Recorded {
    peer: &'static str,
    sent_by_us: bool,
    what: &'static str,
    bytes: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let text = include_str!("../wire/tests/prototype-frames.txt");
    text.lines().filter(|line| !line.starts_with('#')).map(read_line).collect()
}

fn read_line(line: &'static str) -> Recorded {
    let columns: Vec<_> = line.split('\t').collect();
    let [peer, direction, what, hex] = columns[..] else { panic!("four columns: {line}") };
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    let bytes = (0..hex.len()).step_by(2).map(byte).collect();
    Recorded { peer, sent_by_us: direction == ">", what, bytes }
}

/// The next frame that comes is this one, but for the bytes given.
fn expect(peer: &mut Peer, recorded: &Recorded, but: &[std::ops::Range<usize>]) {
    let mut said = peer.next().unwrap_or_else(|| panic!("closed instead of {}", recorded.what));
    let mut expected = recorded.bytes.clone();
    assert_eq!(said.len(), expected.len(), "{}: {:?}", recorded.what, frame_of(&said));
    let mut time = [0; 8];
    time.copy_from_slice(&said[TIME]);
    // A real time, within a day of the test's own clock.
    let now = platform::realtime_ns() / platform::NANOS_PER_SECOND;
    assert!(u64::from_be_bytes(time).abs_diff(now) < 86_400, "{}", recorded.what);
    for range in but.iter().chain([&TIME]) {
        said[range.clone()].fill(0);
        expected[range.clone()].fill(0);
    }
    assert_eq!(said, expected, "{}: {:?}", recorded.what, frame_of(&said));
}

fn server(notices: Notices) -> Live {
    Live::start(&Config { notices, shards: Some(1), sets: 1, ..small() })
}

/// A packet to be shaken, as a generator would make it.
fn packet(live: &Live, packet: u32, amount: u32) {
    live.server().tell(0, Message::Packet { set: 0, packet, amount });
}

/// A packet for three users, as the control interface would make it.
fn send(live: &Live, amount: u32, users: [u32; 3]) {
    let draft = Draft { amount, count: 3, recipients: users.to_vec(), creator: NO_CREATOR, set: 0 };
    live.server().tell(0, Message::Send(Box::new(draft)));
}

/// What was recorded from the prototype's server, with ours in its place.
fn as_server(notices: Notices) {
    let live = server(notices);
    let recorded = recorded();
    let mut frames = recorded.iter().filter(|frame| frame.peer == "server");
    let mut next = |sent_by_us: bool| {
        let frame = frames.next().expect("more frames");
        assert_eq!(frame.sent_by_us, sent_by_us, "{}", frame.what);
        frame
    };
    let mut peer = Peer::connect(live.address());
    peer.send_bytes(&next(true).bytes);
    expect(&mut peer, next(false), &[]);
    peer.send_bytes(&next(true).bytes);
    expect(&mut peer, next(false), &[]);

    packet(&live, 0x0010_0000, 223);
    live.wait_for("packet", |totals| totals.ledger.created.count == 1);
    peer.send_bytes(&next(true).bytes);
    expect(&mut peer, next(false), &[USER]);

    // The prototype answered one shake with a packet and with a notice; here each takes one. Its
    // second packet had the first one's id again, ours never have.
    packet(&live, 0x0010_0001, 154);
    live.wait_for("packet", |totals| totals.ledger.created.count == 2);
    let shake = next(true);
    peer.send_bytes(&shake.bytes);
    expect(&mut peer, next(false), &[USER, PACKET]);
    send(&live, 188, [530, 256, 498]);
    if notices == Notices::Answer {
        live.wait_for("notice", |totals| totals.counters.notices_queued == 1);
        peer.send_bytes(&shake.bytes);
    }
    expect(&mut peer, next(false), &[]);
    peer.send_bytes(&next(true).bytes);
    expect(&mut peer, next(false), &[SHARE]);
    assert!(frames.next().is_none());
    let claimed = live.totals().ledger.claimed;
    assert_eq!(claimed.count, 1);
    assert!((1..=126).contains(&claimed.amount), "{claimed:?}: up to twice the mean of 188 in 3");
    live.end();
}

/// What the prototype's client sent, to our server; and what we answered then.
fn as_client(notices: Notices) {
    let live = server(notices);
    let recorded = recorded();
    let mut frames = recorded.iter().filter(|frame| frame.peer == "client");
    let mut next = |sent_by_us: bool| {
        let frame = frames.next().expect("more frames");
        assert_eq!(frame.sent_by_us, sent_by_us, "{}", frame.what);
        frame
    };
    // The id of the notice recorded is that of the second packet.
    send(&live, 3, [1, 2, 3]);
    live.wait_for("packet", |totals| totals.counters.notices_offline == 3);
    let mut peer = Peer::connect(live.address());
    peer.send_bytes(&next(false).bytes);
    expect(&mut peer, next(true), &[]);
    let shake = next(false);
    let notice = next(true);
    if notices == Notices::Answer {
        send(&live, 250, [0, 17, 99]);
        live.wait_for("notice", |totals| totals.counters.notices_queued == 1);
        peer.send_bytes(&shake.bytes);
        expect(&mut peer, notice, &[]);
    } else {
        send(&live, 250, [0, 17, 99]);
        expect(&mut peer, notice, &[]);
    }
    peer.send_bytes(&next(false).bytes);
    expect(&mut peer, next(true), &[SHARE]);
    packet(&live, 0x0010_0001, 120);
    live.wait_for("packet", |totals| totals.ledger.created.count == 7);
    peer.send_bytes(&shake.bytes);
    expect(&mut peer, next(true), &[USER]);
    assert!(frames.next().is_none());
    live.end();
}

#[test]
fn the_recording_of_the_server() {
    as_server(Notices::Answer);
    as_server(Notices::Push);
}

#[test]
fn the_recording_of_the_client() {
    as_client(Notices::Answer);
    as_client(Notices::Push);
}

/// In the prototype's way a notice goes to the user of the SET who shakes next, and the right to
/// claim with it.
#[test]
fn a_notice_answered_to_another_entitles_the_other() {
    let live = server(Notices::Answer);
    let mut named = Peer::login(live.address(), 5);
    let mut other = Peer::login(live.address(), 6);
    send(&live, 60, [5, 50, 51]);
    live.wait_for("notice", |totals| totals.counters.notices_queued == 1);
    other.send(&Frame::ShakeRequest { user: 0 });
    let bytes = other.next().expect("a notice");
    let Frame::SendPacket { packet, users: [5, 50, 51], .. } = frame_of(&bytes) else {
        panic!("{:?}", frame_of(&bytes));
    };
    named.send(&Frame::ClaimRequest { user: 0, packet });
    named.expect(&Frame::ClaimResponse { packet, amount: 0 });
    other.send(&Frame::ClaimRequest { user: 5, packet });
    let bytes = other.next().expect("a share");
    let Frame::ClaimResponse { amount: 1.., .. } = frame_of(&bytes) else {
        panic!("{:?}", frame_of(&bytes));
    };
    // The prototype has no packet with such an id, and gave no answer at all.
    other.send(&Frame::ClaimRequest { user: 0, packet: 7 });
    other.expect(&Frame::ClaimResponse { packet: 7, amount: 0 });
    let refused = live.totals().counters;
    assert_eq!((refused.noticed, refused.claims_refused, refused.claims_granted), (1, 2, 1));
    live.end();
}

/// A peer that uses none of our commands never gets one, whatever others do to it.
#[test]
fn a_prototype_peer_never_sees_a_frame_of_ours() {
    let live = server(Notices::Push);
    let mut plain = Peer::login(live.address(), 1);
    let mut extended = Peer::login_extended(live.address(), 2);
    extended.send(&Frame::ChatRequest { message: 1, to: 1, text: b"can you read this?" });
    extended.expect(&Frame::ChatReceipt {
        message: 1,
        to: 1,
        outcome: ChatOutcome::Offline.code(),
    });
    let users = [1u32, 2].map(u32::to_be_bytes).concat();
    let recipients = wire::UserList::from_be_bytes(&users).expect("two users");
    extended.send(&Frame::CreatePacket { request: 1, amount: 10, count: 2, recipients });
    live.wait_for("notices", |totals| {
        totals.counters.notices_unsupported == 1 && totals.counters.notices_pushed == 1
    });
    let (result, _) = plain.shake();
    assert_eq!(result, 15);
    let newer = Peer::login(live.address(), 1);
    assert_eq!(plain.next(), None, "replaced without a word");
    drop(newer);
    let far = u32::MAX;
    let mut stranger = Peer::connect(live.address());
    stranger.send(&Frame::LoginRequest { user: far });
    let result = LoginResult::UserOutOfRange as u32;
    stranger.expect(&Frame::LoginResponse { user: far, result });
    live.end();
}
