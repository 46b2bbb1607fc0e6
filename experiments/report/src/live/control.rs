//! How commands of a page reach a run: in its own process, or over its socket.

use std::path::PathBuf;

use tokio::sync::mpsc::UnboundedSender;

use super::command::RunCommand;
use super::pending::{CommandResult, PendingCommand};
use super::socket;

/// Where commands go.
#[derive(Clone, Debug)]
pub enum ControlHandle {
    /// To the run of this process.
    Run(UnboundedSender<PendingCommand>),
    /// To the run of another one, over its socket.
    Socket(PathBuf),
}

impl ControlHandle {
    /// Sends a command and waits for its result.
    pub(super) async fn send(&self, command: RunCommand) -> CommandResult {
        match self {
            ControlHandle::Run(run) => PendingCommand::send(run, command).await,
            ControlHandle::Socket(path) => socket::send(path, &command).await,
        }
    }
}
