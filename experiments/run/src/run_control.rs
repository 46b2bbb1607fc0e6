//! Commands that a person gives a run while it goes on, over its live page or its socket.
//!
//! Owns: the two ways in. What a command does is the coordinator's.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use report::live::{
    ControlHandle, ControlSocket, Live, PendingCommand, SOCKET, accept_commands, bind,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Where a run gets commands from.
pub(crate) struct RunControl {
    pub(crate) pending: UnboundedReceiver<PendingCommand>,
    /// Kept, so that the wait for a command goes on when no page and no socket is there.
    sender: UnboundedSender<PendingCommand>,
    /// The address of the page, until it is served.
    listener: Option<TcpListener>,
    /// Further names by which it may be asked for.
    names: Vec<String>,
    live: Option<Live>,
    socket: Option<ControlSocket>,
}

impl RunControl {
    /// Takes the address of the page, if one is wanted, which also answers to these names.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn bind(live: Option<SocketAddr>, names: &[String]) -> anyhow::Result<Self> {
        let listener = live.map(bind).transpose()?;
        let (sender, pending) = unbounded_channel();
        Ok(Self { pending, sender, listener, names: names.to_vec(), live: None, socket: None })
    }

    /// Takes commands for the run in a directory. Returns what to tell a person.
    ///
    /// # Errors
    /// When the page cannot be served.
    pub(crate) fn open(&mut self, directory: &Path) -> anyhow::Result<Vec<String>> {
        let mut notices = Vec::new();
        match accept_commands(directory, self.sender.clone()) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => {
                notices.push(format!("{SOCKET}: {error}; lab live can only watch this run"));
            }
        }
        if let Some(listener) = self.listener.take() {
            let run = ControlHandle::Run(self.sender.clone());
            let live = Live::start(listener, directory, run, &self.names)?;
            notices.push(format!("live page: {}", live.address()));
            self.live = Some(live);
        }
        Ok(notices)
    }

    /// Takes none any more. The page goes on until it is dropped.
    pub(crate) fn close(&mut self) -> Option<Live> {
        self.socket = None;
        self.pending.close();
        self.live.take()
    }
}
