//! What the server sends, and what a user makes of it.

use attribution::Segment;
use service::Notices;
use shard::{Closed, ConnId};
use wire::{ChatOutcome, CreateResult, Decoded, ErrorCode, Frame, ShakeResult, decode};

use crate::load::attributing::Served;
use crate::load::state::{LoadGenerator, UserState};
use crate::transport::Transport;

impl LoadGenerator {
    /// Bytes arrived; returns how many were used up, the rest is the beginning of a frame.
    pub fn received(&mut self, net: &mut impl Transport, conn: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(user) = self.user_of(conn) {
            match decode(&bytes[used..]) {
                Decoded::Frame { frame, length, .. } => {
                    used += length;
                    self.frame(net, user, conn, &frame);
                }
                Decoded::Incomplete => break,
                Decoded::Malformed(_) => {
                    // What follows a malformed frame cannot be decoded either.
                    self.tally.nonsense += 1;
                    net.close(conn);
                    self.closed(net, conn, Closed::FrameTooLong);
                }
            }
        }
        used
    }

    fn frame(&mut self, net: &mut impl Transport, user: u32, conn: ConnId, frame: &Frame<'_>) {
        match *frame {
            Frame::LoginResponse { result, .. } => self.logged_in(net, user, result),
            Frame::ShakeResponse { result, packet, amount, .. } => {
                self.shake_answered(net, user, result, packet, amount);
            }
            Frame::SendPacket { packet, .. } => {
                self.noticed(net, user, conn, packet);
                if self.rules.notices == Notices::Answer {
                    self.users[user as usize].tail.shake();
                    self.answer(net, user, Answer::Noticed);
                }
            }
            Frame::PacketNotice { packet, .. } => self.noticed(net, user, conn, packet),
            Frame::ClaimResponse { amount, .. } => self.claim_answered(user, amount),
            Frame::Pong { .. } => {}
            Frame::ChatDelivery { message, from, text } => {
                self.chat_came(net, conn, message, from, text);
            }
            Frame::ChatReceipt { outcome, .. } => {
                *match ChatOutcome::from_code(outcome) {
                    Some(ChatOutcome::Delivered) => &mut self.tally.chats_delivered,
                    Some(ChatOutcome::Offline) => &mut self.tally.chats_offline,
                    Some(ChatOutcome::Busy) | None => &mut self.tally.chats_busy,
                } += 1;
            }
            Frame::CreatePacketResponse { request, result, .. } => {
                self.create_answered(request, result == CreateResult::Ok.code());
            }
            Frame::PacketRefund { amount, shares, .. } => {
                self.tally.refunds += 1;
                self.receipts.refunded += accounting::Money::shares(shares, amount);
            }
            Frame::Push { sequence, due_ns, .. } => {
                self.pushed(net.now_ns(), user, sequence, due_ns);
            }
            Frame::Error { code, .. } => self.told_error(net.now_ns(), user, code),
            Frame::LoginRequest { .. }
            | Frame::ShakeRequest { .. }
            | Frame::ClaimRequest { .. }
            | Frame::Ping { .. }
            | Frame::ChatRequest { .. }
            | Frame::CreatePacket { .. } => self.tally.nonsense += 1,
        }
    }

    fn shake_answered(
        &mut self,
        net: &mut impl Transport,
        user: u32,
        result: u32,
        packet: u32,
        amount: u32,
    ) {
        let tail = &mut self.users[user as usize].tail;
        tail.shake();
        let answer = match ShakeResult::from_code(result) {
            Some(ShakeResult::Granted) => {
                self.receipts.grant(packet, amount);
                // Without room for it, more may be missing than was lost.
                let _ = tail.grant(amount);
                Answer::Granted
            }
            Some(ShakeResult::Overloaded) => Answer::Overloaded,
            Some(ShakeResult::NoPacket | ShakeResult::AllTaken) => Answer::Empty,
            None => {
                self.tally.nonsense += 1;
                Answer::Empty
            }
        };
        self.answer(net, user, answer);
    }

    /// A shake is answered: the oldest that was not.
    fn answer(&mut self, net: &mut impl Transport, user: u32, answer: Answer) {
        let now_ns = net.now_ns();
        self.serve_waiting(now_ns, user, Served::ByAnswer);
        let at = &mut self.users[user as usize];
        if at.owed > 0 {
            at.owed -= 1;
            self.tally.late_answers += 1;
            self.tallies[usize::from(at.phase)].late_answers += 1;
            return;
        }
        if at.due_ns == 0 {
            self.tally.unexpected += 1;
            return;
        }
        let latency_ns = now_ns.saturating_sub(at.due_ns);
        let (phase, due_ns) = (at.phase, at.due_ns);
        at.due_ns = 0;
        for tally in [&mut self.tally, &mut self.tallies[usize::from(phase)]] {
            tally.answered += 1;
            tally.granted += u64::from(answer == Answer::Granted);
            tally.overloaded += u64::from(answer == Answer::Overloaded);
            tally.empty += u64::from(matches!(answer, Answer::Empty | Answer::Noticed));
            tally.noticed += u64::from(answer == Answer::Noticed);
        }
        self.recorder.record(phase, Segment::LatencySent, latency_ns);
        self.attribute_answer(user, due_ns, latency_ns);
        self.forget_shake(user);
        let global = self.share.global(user);
        for slowness in &mut self.slowness {
            slowness.handle(global, now_ns, &mut self.spin_left_ns, |ns| net.spin(ns));
        }
        self.closed_load_freed(phase);
        self.keep_closed_load(net, None);
    }

    fn pushed(&mut self, now_ns: u64, user: u32, sequence: u32, due_ns: u64) {
        let phase = self.phase_index();
        self.tally.pushes += 1;
        let at = &mut self.users[user as usize];
        if at.pushes != 0 && sequence > at.pushes {
            self.tally.pushes_missed += u64::from(sequence - at.pushes);
        }
        at.pushes = sequence.wrapping_add(1);
        self.recorder.record(phase, Segment::Push, now_ns.saturating_sub(due_ns));
    }

    fn told_error(&mut self, now_ns: u64, user: u32, code: u32) {
        self.tally.errors += 1;
        if code == ErrorCode::Replaced as u32 {
            self.tally.replaced += 1;
            if self.users[user as usize].state == UserState::Online {
                self.lose(user);
            }
            self.leave_out(now_ns, user);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Granted,
    Empty,
    Overloaded,
    Noticed,
}
