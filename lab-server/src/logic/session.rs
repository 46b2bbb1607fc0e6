//! Frames from clients, and what each is answered with.

use accounting::Money;
use journal::Record;
use shard::ConnId;
use wire::{
    ChatOutcome, Command, CreateResult, Decoded, ErrorCode, Frame, LoginResult, ShakeResult,
    UserList, decode,
};

use crate::directory::home_of;
use crate::io::Io;
use crate::logic::connection::LoginState;
use crate::logic::state::{Logic, PATIENCE_NS, Timer};
use crate::message::{Message, Parcel};
use crate::packets::{self, Draft, Refused};
use crate::sets::Queued;

impl Logic {
    /// Bytes arrived; returns how many were used up, the rest is the beginning of a frame.
    pub fn received(&mut self, io: &mut impl Io, conn: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.session(conn).is_some() {
            match decode(&bytes[used..]) {
                Decoded::Frame { frame, length, .. } => {
                    used += length;
                    self.frame(io, conn, &frame);
                }
                Decoded::Incomplete => break,
                Decoded::Malformed(malformed) => {
                    self.refuse(io, conn, malformed.code(), malformed.command());
                }
            }
        }
        self.time_half_frame(io, conn, used, bytes.len());
        self.handle_local(io);
        used
    }

    /// Starts the clock on a frame that was begun, once for each.
    fn time_half_frame(&mut self, io: &mut impl Io, conn: ConnId, used: usize, len: usize) {
        let now_ns = io.now_ns();
        let Some(session) = self.session(conn) else { return };
        if used == len {
            session.is_whole();
            return;
        }
        session.is_half(now_ns, used > 0);
        if !session.timed {
            session.timed = true;
            self.wheel.insert(now_ns + PATIENCE_NS, Timer::Frame(conn));
        }
    }

    fn frame(&mut self, io: &mut impl Io, conn: ConnId, frame: &Frame<'_>) {
        let command = frame.command();
        let Some(session) = self.session(conn) else { return };
        session.extended |= command.is_extension();
        let (user, set, online) = (session.user, session.set, session.is_online());
        let id = u32::from(command.id());
        match *frame {
            Frame::LoginRequest { user } if !online => self.login(io, conn, user),
            Frame::LoginRequest { .. } => {
                self.refuse(io, conn, ErrorCode::AlreadyLoggedIn, id);
            }
            _ if !online => self.refuse(io, conn, ErrorCode::NotLoggedIn, id),
            Frame::ShakeRequest { .. } => {
                session.tail.shake();
                self.shake(io, conn, user, set);
            }
            Frame::ClaimRequest { packet, .. } => self.claim(io, conn, user, packet),
            Frame::Ping { client_ns } => {
                self.counters.pings += 1;
                io.send(conn, &Frame::Pong { client_ns });
            }
            Frame::ChatRequest { message, to, text } => {
                self.chat(io, conn, user, message, to, text);
            }
            Frame::CreatePacket { request, amount, count, recipients } => {
                let creator = Creator { conn, user, set };
                self.create(io, creator, request, amount, count, recipients);
            }
            _ => {
                debug_assert!(!is_from_client(command));
                self.refuse(io, conn, ErrorCode::WrongDirection, id);
            }
        }
    }

    fn login(&mut self, io: &mut impl Io, conn: ConnId, user: u32) {
        if user >= self.rules.users {
            self.counters.user_out_of_range += 1;
            let result = LoginResult::UserOutOfRange.code();
            io.send(conn, &Frame::LoginResponse { user, result });
            self.end_session(io, conn);
            io.finish(conn);
            return;
        }
        // Sent before the answer, so that a peer that acts on the answer finds the user in the
        // directory.
        let enter = Message::Enter { user, at: self.address(conn) };
        if !self.post(io, home_of(user, self.shards), enter) {
            io.send(conn, &Frame::LoginResponse { user, result: LoginResult::Busy.code() });
            self.end_session(io, conn);
            io.finish(conn);
            return;
        }
        let set = self.sets.join();
        self.online += 1;
        self.counters.logins += 1;
        if let Some(session) = self.session(conn) {
            session.state = LoginState::Online;
            session.user = user;
            session.set = set;
        }
        io.send(conn, &Frame::LoginResponse { user, result: LoginResult::Ok.code() });
    }

    fn shake(&mut self, io: &mut impl Io, conn: ConnId, user: u32, set: u16) {
        self.counters.shakes += 1;
        for slowness in &mut self.slowness {
            slowness.handle(user, io.now_ns(), &mut self.spin_left_ns, |ns| io.spin(ns));
        }
        let mut refused = false;
        let mut refuses = || {
            refused = io.refuses_money();
            refused
        };
        let (result, packet, amount) = if !self.meter.admit(io.unix_second()) {
            self.counters.overloaded += 1;
            (ShakeResult::Overloaded, 0, 0)
        } else {
            match self.sets.pop(set, &mut refuses) {
                Some(Queued::Packet { packet, amount }) => {
                    return self.grant(io, conn, (user, set), packet, amount);
                }
                Some(Queued::Notice { packet, amount, count, users, named }) => {
                    self.counters.noticed += 1;
                    if let Some(home) = packets::home_of(packet, self.shards) {
                        self.post(io, home, Message::Entitle { packet, named, user });
                    }
                    io.send(conn, &Frame::SendPacket { packet, amount, count, users });
                    return;
                }
                None if refused => {
                    self.counters.ledger_refused += 1;
                    self.counters.no_packet += 1;
                    (ShakeResult::NoPacket, 0, 0)
                }
                None if self.supply_finished => {
                    self.counters.all_taken += 1;
                    (ShakeResult::AllTaken, 0, 0)
                }
                None => {
                    self.counters.no_packet += 1;
                    (ShakeResult::NoPacket, 0, 0)
                }
            }
        };
        io.send(conn, &Frame::ShakeResponse { user, result: result.code(), packet, amount });
    }

    fn grant(
        &mut self,
        io: &mut impl Io,
        conn: ConnId,
        (user, set): (u32, u16),
        packet: u32,
        amount: u32,
    ) {
        self.counters.granted += 1;
        let noted = self.session(conn).is_some_and(|session| session.tail.grant(amount));
        if !noted {
            self.unconfirmed(Money::share(amount));
        }
        let set = self.sets.number_of(set);
        io.record(|| Record::Granted { set, packet, amount, user });
        let result = ShakeResult::Granted.code();
        io.send_recorded(conn, &Frame::ShakeResponse { user, result, packet, amount });
    }

    fn claim(&mut self, io: &mut impl Io, conn: ConnId, user: u32, packet: u32) {
        self.counters.claims += 1;
        if !self.ask_for_share(io, conn, user, packet) {
            self.counters.claims_refused += 1;
            io.send(conn, &Frame::ClaimResponse { packet, amount: 0 });
        }
    }

    /// Asks a packet's home for a share; false when that cannot be.
    fn ask_for_share(&mut self, io: &mut impl Io, conn: ConnId, user: u32, packet: u32) -> bool {
        let Some(home) = packets::home_of(packet, self.shards) else { return false };
        if !self.under_way.takes_mail(user, io.unix_second(), 1, self.rules.budgets) {
            self.counters.claims_over_budget += 1;
            return false;
        }
        let reply = self.address(conn);
        self.post(io, home, Message::Claim { packet, user, reply })
    }

    fn chat(
        &mut self,
        io: &mut impl Io,
        conn: ConnId,
        from: u32,
        message: u32,
        to: u32,
        text: &[u8],
    ) {
        self.counters.chats += 1;
        let outcome = if to >= self.rules.users {
            self.counters.chats_offline += 1;
            ChatOutcome::Offline
        } else {
            let reply = self.address(conn);
            if self.under_way.takes_chat(from, io.unix_second(), self.rules.budgets) {
                let parcel = Parcel::Chat { message, from, reply, text: text.into() };
                let forward = Message::Forward { user: to, parcel };
                if self.post(io, home_of(to, self.shards), forward) {
                    return;
                }
            } else {
                self.counters.chats_over_budget += 1;
            }
            self.counters.chats_busy += 1;
            ChatOutcome::Busy
        };
        io.send(conn, &Frame::ChatReceipt { message, to, outcome: outcome.code() });
    }

    fn create(
        &mut self,
        io: &mut impl Io,
        creator: Creator,
        request: u32,
        amount: u32,
        count: u32,
        recipients: UserList<'_>,
    ) {
        let made = if recipients.iter().any(|user| user >= self.rules.users) {
            Err(CreateResult::UnknownRecipient)
        } else {
            let recipients = recipients.iter().collect();
            let draft =
                Draft { amount, count, recipients, creator: creator.user, set: creator.set };
            self.create_within_budget(io, &draft).map_err(|refused| match refused {
                Refused::ImpossibleSplit => CreateResult::ImpossibleSplit,
                Refused::NoRoom | Refused::OverBudget | Refused::NoLedger => CreateResult::Busy,
            })
        };
        if made.is_err() {
            self.counters.packets_refused += 1;
        }
        // A refusal says nothing of the ledger, and does not wait for it.
        match made {
            Ok(packet) => {
                let result = CreateResult::Ok.code();
                let answer = Frame::CreatePacketResponse { request, packet, result };
                io.send_recorded(creator.conn, &answer);
            }
            Err(refused) => {
                let result = refused.code();
                io.send(creator.conn, &Frame::CreatePacketResponse { request, packet: 0, result });
            }
        }
    }

    /// Makes a packet of a user, who has a budget of open packets, and of mail for the notices.
    fn create_within_budget(&mut self, io: &mut impl Io, draft: &Draft) -> Result<u32, Refused> {
        let (second, budgets) = (io.unix_second(), self.rules.budgets);
        let (user, notices) = (draft.creator, draft.recipients.len());
        let fits = self.under_way.takes_mail(user, second, notices, budgets);
        let made = if fits { self.make_packet(io, draft) } else { Err(Refused::OverBudget) };
        if fits && made.is_err() {
            self.under_way.mail_answered(user, notices);
        }
        self.counters.packets_over_budget += u64::from(made == Err(Refused::OverBudget));
        made
    }
}

/// The user who wants to create a packet.
#[derive(Clone, Copy)]
struct Creator {
    conn: ConnId,
    user: u32,
    set: u16,
}

fn is_from_client(command: Command) -> bool {
    matches!(
        command,
        Command::LoginRequest
            | Command::ShakeRequest
            | Command::ClaimRequest
            | Command::Ping
            | Command::ChatRequest
            | Command::CreatePacket
    )
}
