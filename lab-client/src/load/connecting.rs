//! Users connect and log in, and come back when a connection is lost.

use platform::NANOS_PER_SECOND;
use rand::Rng;

use shard::{Closed, ConnId};
use wire::{Frame, LoginResult};

use crate::load::attributing::Served;
use crate::load::failures::ConnectFailure;
use crate::load::state::{Event, LoadGenerator, NO_CONN, Timer, User, UserState};
use crate::transport::Transport;

/// Connections begun in one poll, so that answers are read in between.
const CONNECTS_PER_POLL: usize = 32;

/// A handshake that takes longer than this is given up.
const HANDSHAKE_NS: u64 = 10 * NANOS_PER_SECOND;

/// The first back-off; each further one is twice as long, up to the longest, and each is drawn
/// between half and one and a half times that.
const BACK_OFF_NS: u64 = NANOS_PER_SECOND / 10;
const LONGEST_BACK_OFF_NS: u64 = 10 * NANOS_PER_SECOND;

/// Ports tried for one connection before it is given up for now.
const PORTS_PER_TRY: u8 = 8;

impl LoadGenerator {
    /// Begins the connections that are due.
    pub(super) fn connect_due(&mut self, net: &mut impl Transport) {
        let now_ns = net.now_ns();
        for _ in 0..CONNECTS_PER_POLL {
            if self.connecting.next_ns().is_none_or(|due| due > now_ns) {
                return;
            }
            let user = self.connecting.retries.pop_front().unwrap_or_else(|| {
                self.connecting.next_user += 1;
                self.connecting.next_user - 1
            });
            self.connecting.begun += 1;
            self.begin(net, user);
        }
    }

    fn begin(&mut self, net: &mut impl Transport, user: u32) {
        let flow = self.share.global(user) - self.rules.first_flow;
        let mut why = ConnectFailure::NoSlot;
        for _ in 0..PORTS_PER_TRY {
            let ports = self.users[user as usize].ports;
            match net.open(self.rules.flows.of(flow, u32::from(ports))) {
                Ok(conn) => return self.begun(net, user, conn),
                Err(error) => {
                    why = ConnectFailure::from(&error);
                    if !is_taken(&error) {
                        break;
                    }
                    self.tally.ports_taken += 1;
                    self.users[user as usize].ports = ports.wrapping_add(1);
                }
            }
        }
        self.count_failure(why);
        self.back_off(net.now_ns(), user);
    }

    fn begun(&mut self, net: &mut impl Transport, user: u32, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, u32::MAX);
        }
        self.by_slot[slot] = user;
        let at = &mut self.users[user as usize];
        at.conn = conn;
        at.state = UserState::Handshake;
        self.tally.connects += 1;
        self.connecting.under_way += 1;
        self.wheel.insert(net.now_ns() + HANDSHAKE_NS, Timer::Handshake(user, conn));
    }

    /// A connection is established: the user logs in.
    pub fn connected(&mut self, net: &mut impl Transport, conn: ConnId) {
        let Some(user) = self.user_of(conn) else { return };
        net.send(conn, &Frame::LoginRequest { user: self.share.global(user) });
        if self.rules.own_commands {
            net.send(conn, &Frame::Ping { client_ns: net.now_ns() });
        }
    }

    pub(super) fn logged_in(&mut self, net: &mut impl Transport, user: u32, result: u32) {
        let at = &mut self.users[user as usize];
        if at.state != UserState::Handshake {
            self.tally.nonsense += 1;
            return;
        }
        self.connecting.under_way -= 1;
        if result == LoginResult::Ok as u32 {
            at.state = UserState::Online;
            at.tries_or_claims = 0;
            self.online += 1;
            self.tally.logins += 1;
            self.serve_waiting(net.now_ns(), user, Served::ByLogin);
            self.report_established(net.now_ns());
            self.keep_closed_load(net, Some(user));
            return;
        }
        self.tally.login_refused += 1;
        let conn = at.conn;
        net.close(conn);
        self.users[user as usize].conn = NO_CONN;
        if result == LoginResult::Busy as u32 {
            self.back_off(net.now_ns(), user);
        } else {
            self.leave_out(net.now_ns(), user);
        }
    }

    /// The user does not come back.
    pub(super) fn leave_out(&mut self, now_ns: u64, user: u32) {
        let at = &mut self.users[user as usize];
        if at.state != UserState::Out {
            at.state = UserState::Out;
            self.connecting.out += 1;
            self.report_established(now_ns);
        }
    }

    /// Reports once when all users of a phase are logged in, or all but those who cannot be.
    pub(super) fn report_established(&mut self, now_ns: u64) {
        let (connecting, online) = (&mut self.connecting, self.online);
        let phase = connecting.phase;
        if connecting.reported || online.saturating_add(connecting.out) < connecting.target {
            return;
        }
        connecting.reported = true;
        self.events.push(if online >= connecting.target {
            Event::Established { phase, at_ns: now_ns }
        } else {
            Event::LeftOut { phase, users: connecting.target - online }
        });
    }

    pub(super) fn handshake_late(&mut self, net: &mut impl Transport, user: u32, conn: ConnId) {
        let at = &self.users[user as usize];
        if at.conn == conn && at.state == UserState::Handshake {
            net.close(conn);
            self.handshake_failed(net.now_ns(), user, ConnectFailure::Late);
        }
    }

    fn handshake_failed(&mut self, now_ns: u64, user: u32, why: ConnectFailure) {
        self.connecting.under_way -= 1;
        self.count_failure(why);
        self.back_off(now_ns, user);
    }

    fn count_failure(&mut self, why: ConnectFailure) {
        self.tally.connect_failed += 1;
        *self.failures.entry(why).or_default() += 1;
    }

    /// A connection is gone without this client having closed it.
    pub fn closed(&mut self, net: &mut impl Transport, conn: ConnId, why: Closed) {
        let Some(user) = self.user_of(conn) else { return };
        match self.users[user as usize].state {
            UserState::Handshake => self.handshake_failed(net.now_ns(), user, why.into()),
            UserState::Online => {
                self.tally.connections_lost += 1;
                self.lose(user);
                self.back_off(net.now_ns(), user);
                self.keep_closed_load(net, None);
            }
            // Replaced: the server closes the connection after it has said so.
            UserState::Idle | UserState::BackingOff | UserState::Out => {
                self.users[user as usize].conn = NO_CONN;
            }
        }
    }

    /// The user is not online any more; what was under way is lost.
    pub(super) fn lose(&mut self, user: u32) {
        self.online -= 1;
        self.forget_shake(user);
        let at = &mut self.users[user as usize];
        self.receipts.in_flight_lost += at.unanswered();
        self.receipts.overtaken += at.overtaken();
        self.receipts.last_answers += at.take_last_answers();
        (at.owed, at.tries_or_claims) = (0, 0);
        if at.due_ns != 0 {
            at.due_ns = 0;
            let phase = at.phase;
            self.tally.lost += 1;
            self.tallies[usize::from(phase)].lost += 1;
            // It is never answered, and so not in time.
            self.recorder.record_at_least(phase, self.rules.timeout_ns);
            self.closed_load_freed(phase);
        }
    }

    fn back_off(&mut self, now_ns: u64, user: u32) {
        let at = &mut self.users[user as usize];
        let (tries, ports) = (at.tries_or_claims, at.ports);
        *at = User { tries_or_claims: tries.saturating_add(1), ports, ..User::default() };
        if !self.rules.reconnect {
            return self.leave_out(now_ns, user);
        }
        at.state = UserState::BackingOff;
        let mean = (BACK_OFF_NS << tries.min(10)).min(LONGEST_BACK_OFF_NS);
        let wait = self.random.random_range(mean / 2..mean + mean / 2);
        self.wheel.insert(now_ns + wait, Timer::Reconnect(user));
    }
}

fn is_taken(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable)
}
