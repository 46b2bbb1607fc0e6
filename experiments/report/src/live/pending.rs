//! A command on its way to the run of this process.

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::command::RunCommand;

/// What became of a command: a sentence for a person either way.
pub type CommandResult = Result<String, String>;

/// A command, and where its result goes.
#[derive(Debug)]
pub struct PendingCommand {
    /// The command.
    pub command: RunCommand,
    /// Takes the result. Dropped, the run could not take the command just then.
    pub result: oneshot::Sender<CommandResult>,
}

impl PendingCommand {
    /// Sends a command to a run in this process and waits for its result.
    pub(super) async fn send(run: &UnboundedSender<Self>, command: RunCommand) -> CommandResult {
        let (result, received) = oneshot::channel();
        run.send(Self { command, result }).map_err(|_| "the run is over".to_owned())?;
        received.await.unwrap_or_else(|_| Err("not now: no phase is under way".to_owned()))
    }
}
