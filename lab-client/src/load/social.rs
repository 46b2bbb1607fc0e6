//! What users do besides shaking: claim shares of packets sent to them, chat, create packets.

use rand::Rng;
use shard::ConnId;
use wire::{Frame, MAX_CHAT_TEXT, UserList};

use crate::load::state::{LoadGenerator, UserState};
use crate::transport::Transport;

/// The first byte of a text that wants an answer, and of an answer, which wants none.
const ASKS: u8 = b'?';
const ANSWERS: u8 = b'!';

/// Texts have no meaning.
static TEXT: [u8; MAX_CHAT_TEXT] = [b'.'; MAX_CHAT_TEXT];

/// Recipients of a created packet.
const RECIPIENTS: u32 = 3;

/// Cents of a created packet, as the prototype draws them.
const AMOUNTS: std::ops::RangeInclusive<u32> = 10..=309;

/// Texts of one poll, and packets, so that answers are read and shakes are sent in between.
const EACH_PER_POLL: usize = 256;

/// Users asked at random before an event is given up: with half of them online, all but one of 2^16
/// events find one.
const ATTEMPTS: usize = 16;

impl LoadGenerator {
    /// Sends the texts and creates the packets that are due by now. Returns whether there is more.
    pub(super) fn socialize(&mut self, net: &mut impl Transport) -> bool {
        let now_ns = net.now_ns();
        for _ in 0..EACH_PER_POLL {
            if !self.social.chats.take(now_ns) {
                break;
            }
            let to = self.random.random_range(0..self.share.total_users);
            if let Some(conn) = self.random_online() {
                self.send_chat(net, conn, to, ASKS);
            }
        }
        for _ in 0..EACH_PER_POLL {
            if !self.social.creates.take(now_ns) {
                break;
            }
            if let Some(conn) = self.random_online() {
                self.create_packet(net, conn);
            }
        }
        self.social.next_ns().is_some_and(|next| next <= now_ns)
    }

    fn random_online(&mut self) -> Option<ConnId> {
        if self.online == 0 {
            return None;
        }
        (0..ATTEMPTS)
            .map(|_| self.random.random_range(0..self.users.len()))
            .map(|user| &self.users[user])
            .find(|user| user.state == UserState::Online)
            .map(|user| user.conn)
    }

    fn send_chat(&mut self, net: &mut impl Transport, conn: ConnId, to: u32, kind: u8) {
        self.social.number = self.social.number.wrapping_add(1);
        let message = self.social.number;
        let mut text = TEXT;
        text[0] = kind;
        self.tally.chats += 1;
        if let Some(user) = self.user_of(conn) {
            self.keep_shake(user);
        }
        let text = &text[..self.social.bytes.max(1)];
        net.send(conn, &Frame::ChatRequest { message, to, text });
    }

    pub(super) fn chat_came(
        &mut self,
        net: &mut impl Transport,
        conn: ConnId,
        _message: u32,
        from: u32,
        text: &[u8],
    ) {
        self.tally.chats_received += 1;
        if text.first() == Some(&ASKS) {
            self.send_chat(net, conn, from, ANSWERS);
        }
    }

    fn create_packet(&mut self, net: &mut impl Transport, conn: ConnId) {
        let total = self.share.total_users;
        let wanted = RECIPIENTS.min(total);
        let mut recipients: Vec<u32> = Vec::new();
        while recipients.len() < wanted as usize {
            let user = self.random.random_range(0..total);
            if !recipients.contains(&user) {
                recipients.push(user);
            }
        }
        let bytes: Vec<u8> = recipients.iter().flat_map(|user| user.to_be_bytes()).collect();
        let Some(recipients) = UserList::from_be_bytes(&bytes) else { return };
        let amount = self.random.random_range(AMOUNTS);
        // The answer repeats the number: with the amount in it, the receipts need no table.
        let request = amount << 8 | wanted;
        self.tally.creates += 1;
        if let Some(user) = self.user_of(conn) {
            self.keep_shake(user);
        }
        net.send(conn, &Frame::CreatePacket { request, amount, count: wanted, recipients });
    }

    pub(super) fn create_answered(&mut self, request: u32, created: bool) {
        if created {
            self.tally.created += 1;
            self.receipts.created += accounting::Money::shares(request & 0xff, request >> 8);
        } else {
            self.tally.creates_refused += 1;
        }
    }

    /// A packet was sent to the user: a share of it is claimed at once.
    pub(super) fn noticed(
        &mut self,
        net: &mut impl Transport,
        user: u32,
        conn: ConnId,
        packet: u32,
    ) {
        self.tally.notices += 1;
        self.tally.claims += 1;
        let at = &mut self.users[user as usize];
        if at.state == UserState::Online {
            at.tries_or_claims = at.tries_or_claims.saturating_add(1);
        }
        self.keep_shake(user);
        net.send(conn, &Frame::ClaimRequest { user: self.share.global(user), packet });
    }

    pub(super) fn claim_answered(&mut self, user: u32, amount: u32) {
        let at = &mut self.users[user as usize];
        if at.state == UserState::Online {
            at.tries_or_claims = at.tries_or_claims.saturating_sub(1);
        }
        if amount == 0 {
            self.tally.claims_refused += 1;
        } else {
            self.tally.claims_granted += 1;
            self.receipts.claimed += accounting::Money::share(amount);
            // Without room for it, more may be missing than was lost.
            let _ = at.tail.claim(amount);
        }
    }
}
