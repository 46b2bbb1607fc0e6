//! Commands from another process of the same user: a socket in the run's directory, a command a
//! line of JSON, its result a line of JSON.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;

use super::command::RunCommand;
use super::pending::{CommandResult, PendingCommand};

/// Its name in the directory of a run.
pub const SOCKET: &str = "orders.sock";

/// A command is shorter than this.
const LONGEST: u64 = 64 * 1024;

/// A run that answers at all answers within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that takes commands for a run, until it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

/// Takes commands for a run in the directory `directory`.
///
/// # Errors
/// When there can be no socket there: paths of sockets have 107 bytes at most.
pub fn listen(directory: &Path, run: UnboundedSender<PendingCommand>) -> io::Result<ControlSocket> {
    let path = directory.join(SOCKET);
    let listener = match UnixListener::bind(&path) {
        // One that was killed leaves its socket, that no process listens at.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left(&path) => {
            std::fs::remove_file(&path)?;
            UnixListener::bind(&path)
        }
        bound => bound,
    }?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A peer that goes away before the answer did not want it.
            tokio::spawn(converse(stream, run.clone()));
        }
    });
    Ok(ControlSocket { path, task })
}

fn is_left(path: &Path) -> bool {
    let connected = std::os::unix::net::UnixStream::connect(path);
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        // No process listens at it any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, run: UnboundedSender<PendingCommand>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    BufReader::new(from).take(LONGEST).read_line(&mut line).await?;
    let result = match serde_json::from_str::<RunCommand>(&line) {
        Ok(command) => PendingCommand::send(&run, command).await,
        Err(error) => Err(error.to_string()),
    };
    let reply = serde_json::to_string(&Reply::from(result))?;
    to.write_all(format!("{reply}\n").as_bytes()).await
}

/// A result as a line says it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Done(String),
    Error(String),
}

impl From<CommandResult> for Reply {
    fn from(result: CommandResult) -> Self {
        match result {
            Ok(done) => Reply::Done(done),
            Err(why) => Reply::Error(why),
        }
    }
}

/// Sends a command to the run behind a socket and waits for its result.
pub(super) async fn send(path: &Path, command: &RunCommand) -> CommandResult {
    match tokio::time::timeout(PATIENCE, exchange(path, command)).await {
        Ok(Ok(Reply::Done(done))) => Ok(done),
        Ok(Ok(Reply::Error(why))) => Err(why),
        Ok(Err(_)) => Err("the run does not go on: no process takes its orders".to_owned()),
        Err(_) => Err(format!("the run does not answer within {} s", PATIENCE.as_secs())),
    }
}

async fn exchange(path: &Path, command: &RunCommand) -> io::Result<Reply> {
    let (from, mut to) = UnixStream::connect(path).await?.into_split();
    let command = serde_json::to_string(command)?;
    to.write_all(format!("{command}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(from).take(LONGEST).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_a_line_of_json() {
        for (result, line) in [
            (Ok("done so".to_owned()), r#"{"done":"done so"}"#),
            (Err("not now".to_owned()), r#"{"error":"not now"}"#),
        ] {
            let reply = Reply::from(result);
            assert_eq!(serde_json::to_string(&reply).expect("JSON"), line);
            assert_eq!(serde_json::from_str::<Reply>(line).expect("a reply"), reply);
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_taken_and_one_that_listens_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let (tell, _given) = tokio::sync::mpsc::unbounded_channel();
        drop(UnixListener::bind(directory.path().join(SOCKET)).expect("a socket"));
        assert!(directory.path().join(SOCKET).exists(), "left behind");
        let socket = listen(directory.path(), tell.clone()).expect("taken over");
        let again = listen(directory.path(), tell).expect_err("a process listens");
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!directory.path().join(SOCKET).exists());
    }
}
