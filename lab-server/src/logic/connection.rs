//! A connection as the logic knows it.

use shard::ConnId;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LoginState {
    /// No connection, or one that is being closed.
    #[default]
    Gone,
    /// Connected and not logged in.
    Fresh,
    Online,
}

/// A connection as the logic knows it: 24 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    generation: u32,
    pub(super) user: u32,
    /// When the frame that is half there was begun, in nanoseconds; 0 when none is.
    pub(super) half_since_ns: u64,
    /// The SET, by its place among those of this shard.
    pub(super) set: u16,
    pub(super) state: LoginState,
    /// The peer has used an extension command, so that it can read one.
    pub(super) extended: bool,
    /// A timer for a half frame is running.
    pub(super) timed: bool,
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

    pub(super) fn half_since_ns(&self) -> Option<u64> {
        (self.half_since_ns != 0).then_some(self.half_since_ns)
    }

    /// The connection in this slot, if a user is logged in on it who can read extension commands.
    pub(super) fn pushable(&self, slot: u32) -> Option<ConnId> {
        (self.is_online() && self.extended).then_some(ConnId { slot, generation: self.generation })
    }
}
