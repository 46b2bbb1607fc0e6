//! What can be asked of a client. The same commands come over HTTP and as lines of JSON over a
//! pipe.

use platform::SlowOrder;
use serde::{Deserialize, Serialize};

use crate::phase::Phase;

/// A command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Carry out a phase when its second comes.
    Phase(Box<Phase>),
    /// End a phase before a Unix second.
    EndPhase {
        /// Which.
        index: u16,
        /// The first second that is not part of it.
        end: u64,
    },
    /// Change the rate of the open load from the next second on.
    Rate {
        /// Shakes per second, over all clients.
        qps: u32,
    },
    /// Spend time on a share of the answers: a fault on purpose.
    Slow(SlowOrder),
    /// End that at an instant of the monotonic clock at the latest.
    EndSlow {
        /// The order's own number.
        id: u32,
        /// The instant in nanoseconds.
        until_ns: u64,
    },
    /// Write the last counters and end.
    Stop {},
}

/// The articles' own way to change the rate: `GET /qps?qps=60000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Qps {
    qps: u32,
}

impl From<Qps> for Command {
    fn from(asked: Qps) -> Self {
        Self::Rate { qps: asked.qps }
    }
}
