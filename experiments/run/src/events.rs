//! What the phases of a run wait for.

use report::live::CommandResult;
use tokio::sync::oneshot;

/// Something that the waiting in a phase reacts to.
#[derive(Debug)]
pub(crate) enum PhaseEvent {
    /// A client has logged in all users of a phase.
    Established,
    /// Nothing of a phase is under way at a client any more.
    Settled,
    /// The run must end, and why: a condition of the experiment holds, or something that it cannot
    /// do without is missing.
    Abort(String),
    /// Ctrl-C.
    Interrupt,
    /// A person wants the phase to end; the result goes there.
    EndPhase(oneshot::Sender<CommandResult>),
    /// A host or a program is missing or there again, or an answer has come.
    PlaceChanged,
    /// The time waited for has come.
    Deadline,
}
