//! A connection as the logic knows it.

use accounting::Tail;
use platform::NANOS_PER_SECOND;
use shard::ConnId;

/// Nanoseconds of the unit in which the age of half a frame is kept: 32 bits of it last 49 days,
/// and half a frame a few seconds.
const MILLISECOND_NS: u64 = NANOS_PER_SECOND / 1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LoginState {
    /// No connection, or one that is being closed.
    #[default]
    Gone,
    /// Connected and not logged in.
    Fresh,
    Online,
}

/// A connection as the logic knows it: 28 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    generation: u32,
    pub(super) user: u32,
    /// When the frame that is half there was begun, in milliseconds that wrap; 0 when none is.
    half_since_ms: u32,
    /// Money of the last answers.
    pub(super) tail: Tail,
    /// The SET, by its place among those of this shard.
    pub(super) set: u16,
    pub(super) state: LoginState,
    /// The peer has used an extension command, so that it can read one.
    pub(super) extended: bool,
    /// A timer for a half frame is running.
    pub(super) timed: bool,
}

const _: () = assert!(std::mem::size_of::<Session>() == 28);

fn milliseconds(now_ns: u64) -> u32 {
    // 0 says that no frame is half there: a millisecond in 49 days is one late.
    ((now_ns / MILLISECOND_NS) as u32).max(1)
}

impl Session {
    pub(super) fn fresh(conn: ConnId) -> Self {
        Self { generation: conn.generation, state: LoginState::Fresh, ..Self::default() }
    }

    pub(super) fn is_of(&self, conn: ConnId) -> bool {
        self.state != LoginState::Gone && self.generation == conn.generation
    }

    pub(super) fn is_online(&self) -> bool {
        self.state == LoginState::Online
    }

    /// How long a frame has been half there, in nanoseconds.
    pub(super) fn half_for_ns(&self, now_ns: u64) -> Option<u64> {
        let since_ms = Some(self.half_since_ms).filter(|since_ms| *since_ms != 0)?;
        Some(u64::from(milliseconds(now_ns).wrapping_sub(since_ms)) * MILLISECOND_NS)
    }

    /// No frame is half there.
    pub(super) fn is_whole(&mut self) {
        self.half_since_ms = 0;
    }

    /// A frame is half there; with `anew` another one than before.
    pub(super) fn is_half(&mut self, now_ns: u64, anew: bool) {
        if anew || self.half_since_ms == 0 {
            self.half_since_ms = milliseconds(now_ns);
        }
    }

    /// The connection in this slot, if a user is logged in on it who can read extension commands.
    pub(super) fn pushable(&self, slot: u32) -> Option<ConnId> {
        (self.is_online() && self.extended).then_some(ConnId { slot, generation: self.generation })
    }
}
