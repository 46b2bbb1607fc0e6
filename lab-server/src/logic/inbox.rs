//! Messages from other shards, from the control thread, and from the shard to itself.

use accounting::Money;
use journal::{OpenPacket, Record};
use platform::Slowness;

use service::Notices;
use shard::ConnId;
use wire::{ChatOutcome, ErrorCode, Frame};

use crate::directory::{Address, home_of};
use crate::io::Io;
use crate::logic::state::Logic;
use crate::message::{Message, Notice, Parcel};
use crate::packets::{Draft, Expired, NO_CREATOR, Refused};
use crate::sets::Queued;

impl Logic {
    /// A message for the shard; what it brings about is done when this returns, but for notices
    /// to more users than one poll tells.
    pub fn handle(&mut self, io: &mut impl Io, message: Message) {
        self.dispatch(io, message);
        self.handle_local(io);
    }

    /// Handles this shard's messages to itself, and what they bring about, as far as the bound of a
    /// poll allows.
    pub(super) fn handle_local(&mut self, io: &mut impl Io) {
        while let Some(message) = self.local.next() {
            self.dispatch(io, message);
        }
    }

    /// A poll is over, and another bound begins: goes on with the notices that the one before left
    /// waiting. Returns whether some still wait.
    pub fn go_on(&mut self, io: &mut impl Io) -> bool {
        self.local.begin_poll();
        self.handle_local(io);
        !self.local.is_empty()
    }

    fn dispatch(&mut self, io: &mut impl Io, message: Message) {
        match message {
            Message::Enter { user, at } => {
                if let Some(older) = self.directory.enter(user, at) {
                    self.post(io, usize::from(older.shard), Message::Replace { at: older });
                }
            }
            Message::Leave { user, at } => self.directory.leave(user, at),
            Message::Replace { at } => {
                self.refuse(io, at.conn, ErrorCode::Replaced, u32::MAX);
            }
            Message::Forward { user, parcel } => match self.directory.find(user) {
                Some(at) => self.forward(io, at, user, parcel),
                None => self.undeliverable(io, user, &parcel),
            },
            Message::Deliver { at, user, parcel } => self.deliver(io, at.conn, user, &parcel),
            Message::Receipt { at, from, message, to, outcome } => {
                self.under_way.chat_answered(from);
                if self.session(at.conn).is_some() {
                    io.send(at.conn, &Frame::ChatReceipt { message, to, outcome: outcome.code() });
                }
            }
            Message::Claim { packet, user, reply } => self.answer_claim(io, packet, user, reply),
            Message::Claimed { at, user, packet, amount } => {
                self.under_way.mail_answered(user, 1);
                self.claimed(io, at.conn, packet, amount);
            }
            Message::Entitle { packet, named, user } => self.entitle(io, packet, named, user),
            Message::Packet { set, packet, amount } => self.put_packet(io, set, packet, amount),
            Message::Reached { next } => io.record(|| Record::Next { shaken: next, sent: 0 }),
            Message::Send(draft) => {
                if self.make_packet(io, &draft).is_err() {
                    self.counters.packets_refused += 1;
                }
            }
            Message::Supply { finished } => self.supply_finished = finished,
            Message::Start(spec) => self.start_generator(io, spec),
            Message::StopGenerator(id) => self.generators.stop(id),
            Message::Push(spec) => self.set_pushes(io, spec),
            Message::Slow(order) => self.slowness.push(Slowness::new(*order)),
            Message::EndSlow { id, until_ns } => {
                self.slowness.iter_mut().for_each(|slowness| slowness.end_at(id, until_ns));
            }
            // Known to the loop around the logic, which does not pass them on.
            Message::Snapshot { .. } | Message::Recorded | Message::Stop => {}
        }
    }

    fn put_packet(&mut self, io: &mut impl Io, set: u32, packet: u32, amount: u32) {
        if io.refuses_money() {
            self.counters.ledger_refused += 1;
        } else if self.sets.put_packet(set as usize, packet, amount) {
            io.record(|| Record::Created { set, packet, amount });
        } else {
            self.counters.queue_overflow += 1;
        }
    }

    fn entitle(&mut self, io: &mut impl Io, packet: u32, named: u32, user: u32) {
        if io.refuses_money() {
            self.counters.ledger_refused += 1;
        } else if self.packets.entitle(packet, named, user) {
            io.record(|| Record::Entitled { packet, named, user });
        }
    }

    /// Forwards a parcel to the shard that holds the user's connection.
    fn forward(&mut self, io: &mut impl Io, at: Address, user: u32, parcel: Parcel) {
        let to = usize::from(at.shard);
        if to == self.me {
            return self.deliver(io, at.conn, user, &parcel);
        }
        // A chat text that finds no room gets a receipt; keep what the receipt needs.
        let chat = match &parcel {
            Parcel::Chat { message, from, reply, .. } => Some((*message, *from, *reply)),
            _ => None,
        };
        if self.post(io, to, Message::Deliver { at, user, parcel }) {
            return;
        }
        match chat {
            Some((message, from, reply)) => {
                self.counters.chats_busy += 1;
                self.receipt(io, (reply, from), message, user, ChatOutcome::Busy);
            }
            None => self.counters.notices_overflow += 1,
        }
    }

    fn deliver(&mut self, io: &mut impl Io, conn: ConnId, user: u32, parcel: &Parcel) {
        let session = self.session(conn).filter(|session| session.is_online());
        let Some(session) = session.filter(|session| session.user == user) else {
            return self.undeliverable(io, user, parcel);
        };
        let (extended, set) = (session.extended, session.set);
        match parcel {
            Parcel::Notice(notice) => self.notice(io, conn, user, set, extended, notice),
            Parcel::Refund { packet, amount, shares } => {
                if extended {
                    let refund =
                        Frame::PacketRefund { packet: *packet, amount: *amount, shares: *shares };
                    io.send(conn, &refund);
                }
            }
            Parcel::Chat { .. } if !extended => self.undeliverable(io, user, parcel),
            Parcel::Chat { message, from, reply, text } => {
                io.send(conn, &Frame::ChatDelivery { message: *message, from: *from, text });
                self.counters.chats_delivered += 1;
                self.receipt(io, (*reply, *from), *message, user, ChatOutcome::Delivered);
            }
        }
    }

    fn notice(
        &mut self,
        io: &mut impl Io,
        conn: ConnId,
        user: u32,
        set: u16,
        extended: bool,
        notice: &Notice,
    ) {
        let Notice { packet, amount, count, creator, three } = *notice;
        match (self.rules.notices, three) {
            (Notices::Answer, Some(users)) => {
                let waiting = Queued::Notice { packet, amount, count, users, named: user };
                if self.sets.put_notice(set, waiting) {
                    self.counters.notices_queued += 1;
                } else {
                    self.counters.notices_overflow += 1;
                }
            }
            (Notices::Push, Some(users)) => {
                self.counters.notices_pushed += 1;
                io.send(conn, &Frame::SendPacket { packet, amount, count, users });
            }
            (_, None) if extended => {
                self.counters.notices_pushed += 1;
                io.send(conn, &Frame::PacketNotice { packet, amount, count, creator });
            }
            (_, None) => self.counters.notices_unsupported += 1,
        }
    }

    /// The user of a parcel is not logged in, or cannot read it.
    fn undeliverable(&mut self, io: &mut impl Io, user: u32, parcel: &Parcel) {
        match parcel {
            Parcel::Notice(_) => self.counters.notices_offline += 1,
            Parcel::Refund { .. } => {}
            Parcel::Chat { message, from, reply, .. } => {
                self.counters.chats_offline += 1;
                self.receipt(io, (*reply, *from), *message, user, ChatOutcome::Offline);
            }
        }
    }

    fn receipt(
        &mut self,
        io: &mut impl Io,
        (at, from): (Address, u32),
        message: u32,
        to: u32,
        outcome: ChatOutcome,
    ) {
        // A receipt that finds no room is lost: mail_overflow counts it.
        self.post(io, usize::from(at.shard), Message::Receipt { at, from, message, to, outcome });
    }

    /// Makes a packet for named users and tells them.
    pub(super) fn make_packet(&mut self, io: &mut impl Io, draft: &Draft) -> Result<u32, Refused> {
        if io.refuses_money() {
            self.counters.ledger_refused += 1;
            return Err(Refused::NoLedger);
        }
        let packet = self.packets.make(draft, io.now_ns())?;
        self.record_opened(io, packet, draft);
        self.counters.packets_sent += 1;
        self.sets.get(draft.set).ledger.create(Money::shares(draft.count, draft.amount));
        let three = <[u32; 3]>::try_from(draft.recipients.as_slice()).ok();
        let Draft { amount, count, creator, .. } = *draft;
        let notice = Notice { packet, amount, count, creator, three };
        for user in draft.recipients.iter().copied() {
            let forward = Message::Forward { user, parcel: Parcel::Notice(notice) };
            if !self.post_recorded(io, home_of(user, self.shards), forward) {
                self.counters.notices_overflow += 1;
            }
        }
        Ok(packet)
    }

    fn record_opened(&self, io: &mut impl Io, packet: u32, draft: &Draft) {
        let Some((deadline_ns, waiting)) = self.packets.terms(packet) else { return };
        let deadline_ns = io.unix_ns(deadline_ns);
        let set = self.sets.number_of(draft.set);
        let Draft { amount: left, count: shares, creator, .. } = *draft;
        io.record(|| {
            let waiting = waiting.to_vec();
            let open = OpenPacket { set, creator, left, shares, deadline_ns, waiting };
            Record::Opened { packet, open }
        });
    }

    /// A message that waited for the durable ledger goes on its way, to this shard itself too.
    pub fn release(&mut self, io: &mut impl Io, to: usize, message: Message) {
        let (amount, is_notice) = match &message {
            Message::Claimed { amount, .. } => (*amount, false),
            Message::Forward { parcel: Parcel::Notice(_), .. } => (0, true),
            _ => (0, false),
        };
        if !self.post(io, to, message) {
            self.undelivered(amount);
            self.counters.notices_overflow += u64::from(is_notice);
        }
        self.handle_local(io);
    }

    fn answer_claim(&mut self, io: &mut impl Io, packet: u32, user: u32, reply: Address) {
        let claimed = if io.refuses_money() {
            self.counters.ledger_refused += 1;
            None
        } else {
            self.packets.claim(packet, user, io.now_ns(), &mut self.random)
        };
        if let Some(claimed) = claimed {
            self.sets.get(claimed.set).ledger.claim(Money::share(claimed.amount));
            io.record(|| Record::Claimed { packet, user, amount: claimed.amount });
        }
        let amount = claimed.map_or(0, |claimed| claimed.amount);
        let (to, answer) =
            (usize::from(reply.shard), Message::Claimed { at: reply, user, packet, amount });
        let sent = match claimed {
            Some(_) => self.post_recorded(io, to, answer),
            // It says nothing of the ledger, and does not wait for it.
            None if !io.keeps_share_of(reply) => self.post(io, to, answer),
            // But it must not overtake a share.
            None if io.has_room() => {
                io.hold_refusal(to, answer);
                true
            }
            // What waits has a bound, and a refusal is worth less than what it would keep out.
            None => {
                self.counters.ledger_overflow += 1;
                true
            }
        };
        if !sent {
            self.undelivered(amount);
        }
    }

    fn claimed(&mut self, io: &mut impl Io, conn: ConnId, packet: u32, amount: u32) {
        let Some(session) = self.session(conn) else { return self.undelivered(amount) };
        let noted = amount == 0 || session.tail.claim(amount);
        if amount == 0 {
            self.counters.claims_refused += 1;
        } else {
            self.counters.claims_granted += 1;
        }
        if !noted {
            self.unconfirmed(Money::share(amount));
        }
        io.send(conn, &Frame::ClaimResponse { packet, amount });
    }

    fn undelivered(&mut self, amount: u32) {
        if amount > 0 {
            self.counters.undelivered_shares += 1;
            self.counters.undelivered_cents += u64::from(amount);
        }
    }

    pub(super) fn packet_expired(&mut self, io: &mut impl Io, packet: u32) {
        let Some(expired) = self.packets.expire(packet) else { return };
        self.counters.packets_expired += 1;
        let back = Money::shares(expired.shares, expired.amount);
        self.sets.get(expired.set).ledger.refund(back);
        let Expired { amount, shares, .. } = expired;
        io.record(|| Record::Refunded { packet, shares, amount });
        if expired.creator != NO_CREATOR {
            let parcel = Parcel::Refund { packet, amount, shares };
            let home = home_of(expired.creator, self.shards);
            self.post_recorded(io, home, Message::Forward { user: expired.creator, parcel });
        }
    }
}
