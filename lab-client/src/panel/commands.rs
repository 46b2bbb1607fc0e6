//! What can be asked of a client. The same commands come over HTTP and as lines of JSON over a
//! pipe.

use serde::{Deserialize, Serialize};
use shard::SlowOrder;

use super::hub::Hub;
use crate::message::Message;
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

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A rate and nothing that has one.
    #[error("no open load is under way whose rate could be changed")]
    NoOpenLoad,
    /// An inbox is full.
    #[error(transparent)]
    InboxFull(#[from] control::InboxFull),
}

impl Command {
    /// Checks a command and carries it out.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn carry_out(self, hub: &Hub) -> Result<(), CommandError> {
        match self {
            Command::Phase(phase) => {
                phase.check().map_err(CommandError::Invalid)?;
                hub.begin(&phase);
                hub.post_all(|| Message::Phase(phase.clone()))
            }
            Command::EndPhase { index, end } => {
                hub.end(index, end);
                hub.post_all(|| Message::EndPhase { index, end })
            }
            Command::Rate { qps } => hub.change_rate(qps),
            Command::Slow(order) => hub.post_all(|| Message::Slow(Box::new(order))),
            Command::EndSlow { id, until_ns } => hub.post_all(|| Message::EndSlow { id, until_ns }),
            Command::Stop {} => hub.post_all(|| Message::Stop),
        }
    }
}
