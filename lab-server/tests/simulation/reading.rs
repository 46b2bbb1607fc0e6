//! What peers make of what the server says, and what it must not say.

use std::collections::HashSet;

use service::Notices;

use accounting::Money;
use shard::ConnId;
use wire::{ChatOutcome, CreateResult, Decoded, Frame, LoginResult, ShakeResult, decode};

use super::sim::Out;
use super::{ALL, Key, Model, Sent, key};

impl Model {
    /// Reads what the server did.
    pub(super) fn read(&mut self) {
        while let Some(out) = self.cluster.take_out() {
            match out {
                Out::Closed(at) => {
                    self.remove(key(at));
                }
                Out::Frame(at, bytes) => {
                    let Decoded::Frame { frame, length, .. } = decode(&bytes) else {
                        panic!("no frame: {bytes:?}");
                    };
                    assert_eq!(length, bytes.len());
                    let peer = self.peers.get_mut(&key(at)).expect("sent to an open connection");
                    assert!(!peer.told_error, "{frame:?} after an error");
                    assert!(
                        peer.extended || !frame.command().is_extension(),
                        "{frame:?} to a prototype"
                    );
                    self.answer(key(at), &frame);
                }
            }
        }
    }

    fn answer(&mut self, key: Key, frame: &Frame<'_>) {
        let peer = self.peers.get_mut(&key).expect("open");
        match *frame {
            Frame::LoginResponse { user, result } => {
                assert!(peer.user.is_none());
                if result == LoginResult::Ok as u32 {
                    peer.user = Some(user);
                }
            }
            Frame::ShakeResponse { result, packet, amount, .. } => {
                peer.shakes_answered += 1;
                if result == ShakeResult::Granted as u32 {
                    assert!(self.granted_ids.insert(packet), "{packet:#x} was granted twice");
                    self.granted += Money::share(amount);
                }
            }
            Frame::SendPacket { packet, amount, count, users } => {
                self.told_of_three(key, packet, amount, count, users);
            }
            Frame::PacketNotice { packet, amount, count, .. } => {
                let sent = &self.packets[&packet];
                assert_eq!((sent.amount, sent.count), (amount, count));
                assert!(sent.named.contains(&peer.user.expect("logged in")));
                peer.told.push(packet);
            }
            Frame::ClaimResponse { packet, amount } => {
                peer.claims_answered += 1;
                if amount > 0 {
                    self.claimed_share(key, packet, amount);
                }
            }
            Frame::ChatDelivery { message, text, .. } => self.chat_came(key, message, text),
            Frame::ChatReceipt { message, outcome, .. } => {
                let chat = self.chats.get_mut(&(key, message)).expect("a chat of this peer");
                assert_eq!(chat.receipt, None, "two receipts");
                assert_eq!(
                    chat.delivered == 1,
                    outcome == ChatOutcome::Delivered.code(),
                    "{outcome}"
                );
                chat.receipt = Some(outcome);
            }
            Frame::CreatePacketResponse { request, packet, result } => {
                self.create_answered(key, request, packet, result);
            }
            Frame::PacketRefund { packet, amount, shares } => {
                let sent = self.packets.get_mut(&packet).expect("created before");
                assert_eq!(sent.creator, peer.user);
                assert!(!sent.refunded && sent.claimed + amount <= sent.amount);
                assert!(sent.claims + shares <= sent.count);
                sent.refunded = true;
            }
            Frame::Error { .. } => peer.told_error = true,
            Frame::Pong { .. } => {}
            _ => panic!("{frame:?} was not asked for"),
        }
    }

    fn told_of_three(&mut self, key: Key, packet: u32, amount: u32, count: u32, users: [u32; 3]) {
        let peer = self.peers.get_mut(&key).expect("open");
        let user = peer.user.expect("logged in");
        peer.told.push(packet);
        let sent = self.packets.entry(packet).or_insert_with(|| Sent {
            amount,
            count,
            named: users.into(),
            ..Sent::default()
        });
        assert_eq!((sent.amount, sent.count), (amount, count));
        if self.notices == Notices::Answer {
            // The user who gets the notice gets the right with it.
            peer.shakes_answered += 1;
            sent.named.insert(user);
        } else {
            assert!(users.contains(&user), "{user} is none of {users:?}");
        }
        for (user, amount) in self.early.remove(&packet).unwrap_or_default() {
            self.check_claim(packet, user, amount);
        }
    }

    fn claimed_share(&mut self, key: Key, packet: u32, amount: u32) {
        let user = self.peers[&key].user.expect("logged in");
        self.claimed += Money::share(amount);
        if self.packets.contains_key(&packet) {
            self.check_claim(packet, user, amount);
        } else {
            self.early.entry(packet).or_default().push((user, amount));
        }
    }

    fn check_claim(&mut self, packet: u32, user: u32, amount: u32) {
        let sent = self.packets.get_mut(&packet).expect("known");
        assert!(sent.named.contains(&user), "{user} was not named in {packet:#x}");
        let first = sent.claimed_by.insert(user);
        assert!(first || self.notices == Notices::Answer, "{user} claimed {packet:#x} twice");
        sent.claims += 1;
        sent.claimed += amount;
        assert!(sent.claims <= sent.count && sent.claimed <= sent.amount && !sent.refunded);
    }

    fn chat_came(&mut self, key: Key, message: u32, text: &[u8]) {
        let word = |at: usize| u32::from_be_bytes(text[at..at + 4].try_into().expect("four"));
        let conn = ConnId { slot: word(2), generation: word(6) };
        let from = (u16::from_be_bytes([text[0], text[1]]), conn);
        let chat = self.chats.get_mut(&(from, message)).expect("was sent");
        assert_eq!(Some(chat.to), self.peers[&key].user);
        chat.delivered += 1;
        assert_eq!(chat.delivered, 1);
    }

    fn create_answered(&mut self, key: Key, request: u32, packet: u32, result: u32) {
        let peer = self.peers.get_mut(&key).expect("open");
        let place = peer.creates.iter().position(|(number, ..)| *number == request);
        let (_, amount, count, recipients) = peer.creates.remove(place.expect("was asked for"));
        let named: HashSet<u32> = recipients.iter().copied().collect();
        let expected = if recipients.contains(&ALL) {
            CreateResult::UnknownRecipient
        } else if count == 0 || amount < count || count as usize > named.len() {
            CreateResult::ImpossibleSplit
        } else if result == CreateResult::Busy.code() {
            CreateResult::Busy
        } else {
            CreateResult::Ok
        };
        assert_eq!(
            CreateResult::from_code(result),
            Some(expected),
            "{amount} in {count} for {recipients:?}"
        );
        if expected != CreateResult::Ok {
            self.refused += 1;
            return;
        }
        self.created += 1;
        self.created_shares += u64::from(count);
        let creator = peer.user;
        let sent = Sent { amount, count, named, creator, ..Sent::default() };
        assert!(self.packets.insert(packet, sent).is_none(), "{packet:#x} exists already");
    }
}
