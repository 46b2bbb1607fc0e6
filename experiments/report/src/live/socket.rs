//! Orders from another process of the same user: a socket in the run's directory, an order a line
//! of JSON, the answer a line of JSON.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;

use super::orders::{Answer, Given, Order, give as give_here};

/// Its name in the directory of a run.
pub const SOCKET: &str = "orders.sock";

/// An order is shorter than this.
const LONGEST: u64 = 64 * 1024;

/// A run that answers at all answers within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that takes orders for a run, until it is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

/// Takes orders for a run in the directory `directory`.
///
/// # Errors
/// When there can be no socket there: paths of sockets have 107 bytes at most.
pub fn listen(directory: &Path, run: UnboundedSender<Given>) -> io::Result<Socket> {
    let path = directory.join(SOCKET);
    let listener = match UnixListener::bind(&path) {
        // One that was killed leaves its socket, behind which nobody listens.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left(&path) => {
            std::fs::remove_file(&path)?;
            UnixListener::bind(&path)
        }
        bound => bound,
    }?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever goes away before the answer did not want it.
            tokio::spawn(converse(stream, run.clone()));
        }
    });
    Ok(Socket { path, task })
}

fn is_left(path: &Path) -> bool {
    let connected = std::os::unix::net::UnixStream::connect(path);
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
        // Nobody listens behind it any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, run: UnboundedSender<Given>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    BufReader::new(from).take(LONGEST).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Order>(&line) {
        Ok(order) => give_here(&run, order).await,
        Err(error) => Err(error.to_string()),
    };
    let answer = match answer {
        Ok(done) => json!({ "done": done }),
        Err(why) => json!({ "error": why }),
    };
    to.write_all(format!("{answer}\n").as_bytes()).await
}

/// Gives an order to the run behind a socket.
pub(super) async fn give(path: &Path, order: &Order) -> Answer {
    match tokio::time::timeout(PATIENCE, exchange(path, order)).await {
        Ok(Ok(answer)) => match (answer["done"].as_str(), answer["error"].as_str()) {
            (Some(done), _) => Ok(done.to_owned()),
            (None, why) => Err(why.unwrap_or("the run says nothing").to_owned()),
        },
        Ok(Err(_)) => Err("the run does not go on: nobody takes its orders".to_owned()),
        Err(_) => Err(format!("the run does not answer within {} s", PATIENCE.as_secs())),
    }
}

async fn exchange(path: &Path, order: &Order) -> io::Result<Value> {
    let (from, mut to) = UnixStream::connect(path).await?.into_split();
    let order = serde_json::to_string(order)?;
    to.write_all(format!("{order}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(from).take(LONGEST).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_is_taken_and_one_that_listens_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let (tell, _given) = tokio::sync::mpsc::unbounded_channel();
        drop(UnixListener::bind(directory.path().join(SOCKET)).expect("a socket"));
        assert!(directory.path().join(SOCKET).exists(), "left behind");
        let socket = listen(directory.path(), tell.clone()).expect("taken over");
        let again = listen(directory.path(), tell).expect_err("somebody listens");
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!directory.path().join(SOCKET).exists());
    }
}
