//! Which users are to connect, and how fast.

use std::collections::VecDeque;

use platform::NANOS_PER_SECOND;
use workload::{Connect, Share};

/// Handshakes of a shard under way at a time: enough to keep both ends busy on one machine, and far
/// from the backlog of a listening socket.
pub(super) const HANDSHAKES: usize = 256;

/// Who is to connect, and how fast.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    pub(super) phase: u16,
    pub(super) start_ns: u64,
    /// Connections per second; no limit when `None`.
    pub(super) rate: Option<f64>,
    pub(super) begun: u64,
    /// Users below this number (within the shard) are to be logged in.
    pub(super) target: u32,
    pub(super) next_user: u32,
    /// Users whose back-off is over.
    pub(super) retries: VecDeque<u32>,
    pub(super) under_way: usize,
    /// Users who are not going to be logged in any more.
    pub(super) out: u32,
    /// That all users of the phase are logged in, or cannot be, has been reported.
    pub(super) reported: bool,
}

impl Connecting {
    pub(super) fn start(&mut self, phase: u16, share: &Share, connect: Connect, start_ns: u64) {
        self.phase = phase;
        self.start_ns = start_ns;
        self.rate = connect.rate.map(|rate| share.of_rate(rate));
        self.begun = 0;
        self.target = self.target.max(share.below(connect.users));
        self.reported = false;
    }

    pub(super) fn retry(&mut self, user: u32) {
        self.retries.push_back(user);
    }

    pub(super) fn waits(&self) -> bool {
        self.next_user < self.target || !self.retries.is_empty()
    }

    pub(super) fn due_ns(&self) -> u64 {
        match self.rate {
            None => 0,
            Some(rate) => {
                let ahead_ns = (self.begun as f64 / rate * NANOS_PER_SECOND as f64) as u64;
                self.start_ns.saturating_add(ahead_ns)
            }
        }
    }

    /// When the next connection is due; `None` when none waits, or only for others to finish.
    pub(super) fn next_ns(&self) -> Option<u64> {
        (self.waits() && self.under_way < HANDSHAKES).then(|| self.due_ns())
    }
}
