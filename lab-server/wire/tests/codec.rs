//! The codec both ways, on every kind of frame, on its prefixes, on random and on recorded bytes.

use proptest::prelude::*;
use wire::{
    Command, Decoded, EncodeError, Frame, HEADER_LEN, MAX_CHAT_TEXT, MAX_FRAME, MAX_PUSH_PAYLOAD,
    MAX_RECIPIENTS, Malformed, UserList, decode,
};

const UNIX_SECONDS: u64 = 1_795_300_000;

/// Encodes, decodes, and cuts the frame at every byte.
fn check(frame: Frame<'_>) {
    let mut bytes = [0xaa; MAX_FRAME + 8];
    let len = frame.encode(UNIX_SECONDS, &mut bytes).expect("fits");
    assert_eq!(len, frame.encoded_len());
    assert!(bytes[len..].iter().all(|byte| *byte == 0xaa), "wrote beyond its length");
    for extra in [0, 1, 8] {
        assert_eq!(
            decode(&bytes[..len + extra]),
            Decoded::Frame { frame, unix_seconds: UNIX_SECONDS, length: len }
        );
    }
    for cut in 0..len {
        assert_eq!(decode(&bytes[..cut]), Decoded::Incomplete, "cut at {cut}");
        let mut short = vec![0; cut];
        let refused = frame.encode(UNIX_SECONDS, &mut short);
        assert_eq!(refused, Err(EncodeError::NoRoom { need: len, have: cut }));
        assert!(short.iter().all(|byte| *byte == 0), "a refused frame wrote something");
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

fn fixed_frame() -> impl Strategy<Value = Frame<'static>> {
    let w = any::<u32>;
    prop_oneof![
        w().prop_map(|user| Frame::LoginRequest { user }),
        (w(), w()).prop_map(|(user, result)| Frame::LoginResponse { user, result }),
        w().prop_map(|user| Frame::ShakeRequest { user }),
        (w(), w(), w(), w()).prop_map(|(user, result, packet, amount)| Frame::ShakeResponse {
            user,
            result,
            packet,
            amount
        }),
        (w(), w(), w(), any::<[u32; 3]>()).prop_map(|(packet, amount, count, users)| {
            Frame::SendPacket { packet, amount, count, users }
        }),
        (w(), w()).prop_map(|(user, packet)| Frame::ClaimRequest { user, packet }),
        (w(), w()).prop_map(|(packet, amount)| Frame::ClaimResponse { packet, amount }),
        any::<u64>().prop_map(|client_ns| Frame::Ping { client_ns }),
        any::<u64>().prop_map(|client_ns| Frame::Pong { client_ns }),
        (w(), w(), w()).prop_map(|(message, to, outcome)| Frame::ChatReceipt {
            message,
            to,
            outcome
        }),
        (w(), w(), w()).prop_map(|(request, packet, result)| Frame::CreatePacketResponse {
            request,
            packet,
            result
        }),
        (w(), w(), w(), w()).prop_map(|(packet, amount, count, creator)| Frame::PacketNotice {
            packet,
            amount,
            count,
            creator
        }),
        (w(), w(), w()).prop_map(|(packet, amount, shares)| Frame::PacketRefund {
            packet,
            amount,
            shares
        }),
        (w(), w()).prop_map(|(code, command)| Frame::Error { code, command }),
    ]
}

proptest! {
    #[test]
    fn fixed_frames_survive_the_wire(frame in fixed_frame()) {
        check(frame);
    }

    #[test]
    fn frames_with_a_tail_survive_the_wire(
        ids in any::<[u32; 3]>(),
        due_ns in any::<u64>(),
        tail in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        check(Frame::ChatRequest { message: ids[0], to: ids[1], text: &tail });
        check(Frame::ChatDelivery { message: ids[0], from: ids[1], text: &tail });
        check(Frame::Push { sequence: ids[0], due_ns, payload: &tail });
        let users = UserList::from_be_bytes(&tail[..tail.len() / 4 * 4]).expect("whole users");
        if !users.is_empty() {
            check(Frame::CreatePacket {
                request: ids[0], amount: ids[1], count: ids[2], recipients: users,
            });
        }
    }

    #[test]
    fn random_bytes_never_panic_and_never_grow(bytes in bytes(64)) {
        match decode(&bytes) {
            Decoded::Frame { frame, unix_seconds, length } => {
                prop_assert!(length <= bytes.len());
                let mut again = vec![0; length];
                prop_assert_eq!(frame.encode(unix_seconds, &mut again), Ok(length));
                prop_assert_eq!(&again[..], &bytes[..length]);
            }
            Decoded::Incomplete => {}
            Decoded::Malformed(malformed) => {
                // No continuation helps: more bytes give the same or a more exact refusal.
                let mut longer = bytes.clone();
                longer.extend([0; 64]);
                prop_assert!(matches!(decode(&longer), Decoded::Malformed(_)), "{malformed}");
            }
        }
    }

    #[test]
    fn one_flipped_byte_is_a_frame_or_refused(
        frame in fixed_frame(), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut bytes = [0; MAX_FRAME];
        let len = frame.encode(UNIX_SECONDS, &mut bytes).expect("fits");
        bytes[at.index(len)] = to;
        if let Decoded::Frame { length, .. } = decode(&bytes) {
            prop_assert!((HEADER_LEN..=MAX_FRAME).contains(&length));
        }
    }
}

#[test]
fn lengths_at_the_edge() {
    let long = vec![7; MAX_FRAME + 1];
    let mut out = vec![0; 2 * MAX_FRAME];
    check(Frame::ChatRequest { message: 1, to: 2, text: &long[..MAX_CHAT_TEXT] });
    check(Frame::Push { sequence: 1, due_ns: 2, payload: &long[..MAX_PUSH_PAYLOAD] });
    let users = UserList::from_be_bytes(&long[..4 * MAX_RECIPIENTS]).expect("whole users");
    check(Frame::CreatePacket { request: 1, amount: 2, count: 3, recipients: users });
    for too_long in [
        Frame::ChatRequest { message: 1, to: 2, text: &long[..=MAX_CHAT_TEXT] },
        Frame::Push { sequence: 1, due_ns: 2, payload: &long[..=MAX_PUSH_PAYLOAD] },
    ] {
        let len = too_long.encoded_len();
        assert_eq!(too_long.encode(0, &mut out), Err(EncodeError::TooLong { len }));
    }
    let no_users = UserList::from_be_bytes(&[]).expect("whole users");
    let empty = Frame::CreatePacket { request: 1, amount: 2, count: 3, recipients: no_users };
    assert!(matches!(empty.encode(0, &mut out), Err(EncodeError::TooLong { .. })));
    assert_eq!(UserList::from_be_bytes(&[1, 2, 3]), None);
}

#[test]
fn refusals_come_as_early_as_the_bytes_show_them() {
    let length = |length, command| Decoded::Malformed(Malformed::Length { length, command });
    let cases: &[(&[u8], Decoded<'_>)] = &[
        (&[], Decoded::Incomplete),
        (&[0], Decoded::Incomplete),
        (&[0, 0], length(0, None)),
        (&[0, 11], length(11, None)),
        (&[0, 12], Decoded::Incomplete),
        (&[0x10, 1], length(4097, None)),
        (&[0xff, 0xff], length(65535, None)),
        (&[0, 16, 0, 2], Decoded::Incomplete),
        (&[0, 17, 0, 2], length(17, Some(2))),
        (&[0, 44, 0, 2], length(44, Some(2))),
        (&[0, 16, 0, 7], Decoded::Malformed(Malformed::Command { command: 7 })),
        (&[0, 16, 1, 0x10], Decoded::Malformed(Malformed::Command { command: 0x110 })),
        (&[0, 29, 1, 5], length(29, Some(0x105))),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode(bytes), *expected, "{bytes:?}");
    }
}

#[test]
fn command_ids_are_unique_and_known() {
    for (at, command) in Command::ALL.into_iter().enumerate() {
        assert_eq!(Command::from_id(command.id()), Some(command));
        assert!(Command::ALL[..at].iter().all(|other| other.id() != command.id()));
        assert_eq!(command.is_extension(), at > 6);
    }
}

/// Every frame recorded from the running prototype decodes, and encodes to the same bytes.
#[test]
fn frames_recorded_from_the_prototype() {
    let mut seen = 0;
    for line in include_str!("prototype-frames.txt").lines().filter(|line| !line.starts_with('#')) {
        let hex = line.rsplit('\t').next().expect("a last column");
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        let Decoded::Frame { frame, unix_seconds, length } = decode(&bytes) else {
            panic!("not a frame: {line}");
        };
        assert_eq!(length, bytes.len());
        let mut again = [0; 64];
        assert_eq!(frame.encode(unix_seconds, &mut again), Ok(length));
        assert_eq!(&again[..length], &bytes[..]);
        seen += 1;
        let expected = match seen {
            6 => Frame::ShakeResponse { user: 0, result: 14, packet: 0x0010_0000, amount: 223 },
            9 => Frame::SendPacket {
                packet: 0x0020_0000,
                amount: 188,
                count: 3,
                users: [530, 256, 498],
            },
            10 => Frame::ClaimRequest { user: 0, packet: 0x0020_0000 },
            _ => continue,
        };
        assert_eq!(frame, expected, "{line}");
    }
    assert_eq!(seen, 18);
}
