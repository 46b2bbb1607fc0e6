//! What a coordinator hears of its fleet.

use std::sync::Arc;

use crate::epoch::Leader;
use crate::protocol::HostReport;
use host::Room;
use host::program::Who;

/// Something that a fleet says.
#[derive(Debug)]
pub enum FromFleet {
    /// A line of a program, as it is.
    Line(Who, String),
    /// The output of a program has ended.
    Silence(Who),
    /// Something about a host.
    Host(HostNews),
}

/// What a host says beside the lines of its programs, and what becomes of it.
#[derive(Debug)]
pub enum HostNews {
    /// A batch begins: what comes until its end belongs together.
    Batch,
    /// The batch is over.
    Merged {
        /// Of whom.
        host: String,
        /// Its number.
        number: u64,
        /// Its place in the stream.
        place: u64,
        /// Whether something is open that later batches of this host will close.
        open: bool,
        /// What the batch has of the backlog of the coordinator, as long as it waits.
        room: Option<Room>,
    },
    /// A host reports something.
    Reported(String, HostReport),
    /// Nothing is heard of it.
    Lost(String),
    /// It is heard of again.
    Back(String),
    /// It does not work for this run any more, and why.
    Gone(String, String),
    /// It did not do what it was told, and why.
    Refused(String, String),
    /// Another coordinator has taken the run over.
    TakenOver(Leader),
}

/// Called with everything that a fleet says.
pub type Listener = Arc<dyn Fn(FromFleet) + Send + Sync>;
