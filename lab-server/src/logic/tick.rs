//! Connections that come and go, and what falls due.

use platform::SPIN_PER_POLL_NS;
use shard::ConnId;
use wire::ErrorCode;

use crate::io::Io;
use crate::logic::connection::Session;
use crate::logic::pushes::Pushes;
use crate::logic::state::{Logic, PATIENCE_NS, TICK_NS, Timer};

/// Packets that expire in one tick at most, so that requests are answered in between: at 1 µs each,
/// and 5 for the message to the creator.
const EXPIRED_PER_TICK: usize = 32;

/// Things that fall due and are done in one tick: at 5 µs each 0.1 ms, for thousands of peers can
/// have begun a frame at the same time.
const DUE_PER_TICK: usize = 16;

impl Logic {
    /// A peer connected.
    pub fn accepted(&mut self, io: &mut impl Io, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, Session::default);
        }
        self.sessions[slot] = Session::fresh(conn);
        self.wheel.insert(io.now_ns() + PATIENCE_NS, Timer::Login(conn));
    }

    /// A connection is gone without this shard having closed it.
    pub fn closed(&mut self, io: &mut impl Io, conn: ConnId) {
        self.end_session(io, conn);
        self.handle_local(io);
    }

    /// Everything that happened was handled: does what is due by now. Returns when something is due
    /// next, in nanoseconds.
    pub fn tick(&mut self, io: &mut impl Io) -> Option<u64> {
        let now_ns = io.now_ns();
        self.spin_left_ns = SPIN_PER_POLL_NS;
        if self.wheel.next_ns().is_some_and(|next| next <= now_ns) {
            let mut due = Vec::new();
            self.wheel.expire_at_most(DUE_PER_TICK, now_ns, |timer| due.push(timer));
            for timer in due {
                self.expired(io, timer);
            }
        }
        for _ in 0..EXPIRED_PER_TICK {
            let Some(packet) = self.packets.due(now_ns) else { break };
            if io.refuses_money() {
                break;
            }
            self.packet_expired(io, packet);
        }
        self.generate(io);
        self.push_due(io);
        let now = self.go_on(io).then_some(now_ns);
        let times = [
            now,
            self.wheel.next_ns(),
            self.next_expiry_ns(io, now_ns),
            self.generators.next_ns(),
            self.pushes.first().map(Pushes::next_ns),
        ];
        times.into_iter().flatten().min()
    }

    /// When to look after packets that expire. While no money may move those that are due wait, and
    /// are looked after a tick later.
    fn next_expiry_ns(&self, io: &impl Io, now_ns: u64) -> Option<u64> {
        let next_ns = self.packets.next_ns()?;
        let waits = next_ns <= now_ns && io.refuses_money();
        Some(if waits { now_ns + TICK_NS } else { next_ns })
    }

    fn expired(&mut self, io: &mut impl Io, timer: Timer) {
        match timer {
            Timer::Login(conn) => {
                if self.session(conn).is_some_and(|session| !session.is_online()) {
                    self.refuse(io, conn, ErrorCode::LoginTimeout, u32::MAX);
                }
            }
            Timer::Frame(conn) => {
                let now_ns = io.now_ns();
                let Some(session) = self.session(conn) else { return };
                match session.half_for_ns(now_ns) {
                    None => session.timed = false,
                    Some(half_ns) if half_ns + TICK_NS >= PATIENCE_NS => {
                        self.refuse(io, conn, ErrorCode::FrameTimeout, u32::MAX);
                    }
                    Some(half_ns) => {
                        self.wheel.insert(now_ns + PATIENCE_NS - half_ns, Timer::Frame(conn));
                    }
                }
            }
        }
    }
}
