//! The programs of a run: children of this process, or of an agent that is told what to do.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddrV4;
use std::process::ExitStatus;
use std::time::Duration;

use fleet::link::Orders;
use fleet::protocol::What;
use host::program::{self, Who};
use serde::Serialize;
use service::Command as ServerCommand;
use tokio::time::Instant;
use workload::Command as ClientCommand;

/// A program whose output has ended has itself ended within this time, or it hangs: the kernel
/// closes a million sockets first.
const CLOSING: Duration = Duration::from_secs(30);

/// A program of a run.
#[derive(Debug)]
pub(crate) enum Program {
    /// A child of this process.
    Here(program::Program),
    /// A child of an agent.
    There {
        /// Which.
        who: Who,
        /// What its agent is told.
        orders: Orders,
    },
}

impl Program {
    /// Tells it something. Whether it has heard, or has ended: of one that was ended because it did
    /// not read, the end of its output is heard as well.
    async fn tell(&mut self, command: &impl Serialize) -> io::Result<bool> {
        let line = serde_json::to_string(command)?;
        match self {
            Self::Here(child) => match child.tell_line(line).await {
                // One that does not listen has ended, and the end of its output is heard.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
                told => told.map(|()| true),
            },
            Self::There { who, orders } => {
                orders.give(What::Tell { who: *who, line });
                Ok(true)
            }
        }
    }

    /// Closes its input, which ends it.
    fn end(&mut self) {
        match self {
            Self::Here(child) => child.end(),
            Self::There { who, orders } => orders.give(What::Close { who: *who }),
        }
    }

    /// Waits until it has ended. An agent waits for its own.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Here(child) => child.wait().await,
            Self::There { .. } => Ok(ExitStatus::default()),
        }
    }

    /// Ends it at once.
    fn kill(&mut self) {
        match self {
            Self::Here(child) => child.kill(),
            Self::There { orders, .. } => orders.give(What::Stop {}),
        }
    }
}

/// The server and the clients of a run.
#[derive(Debug)]
pub(crate) struct Programs {
    server: Program,
    clients: Vec<Program>,
    /// Where the server listens; port 0 until it does.
    pub(crate) server_address: SocketAddrV4,
    /// Those that were ended because they did not read what they were told.
    deaf: BTreeSet<Who>,
}

impl Programs {
    /// A server that is to listen at an address, and clients, which may come later.
    pub(crate) fn new(
        server: Program,
        clients: Vec<Program>,
        server_address: SocketAddrV4,
    ) -> Self {
        Self { server, clients, server_address, deaf: BTreeSet::new() }
    }

    /// Adds the next client.
    pub(crate) fn add_client(&mut self, client: Program) {
        self.clients.push(client);
    }

    /// How many clients there are.
    pub(crate) fn clients(&self) -> u32 {
        self.clients.len() as u32
    }

    /// Tells all clients something.
    ///
    /// # Errors
    /// When one does not listen any more.
    pub(crate) async fn tell_clients(&mut self, command: &ClientCommand) -> io::Result<()> {
        for (number, client) in (0..).zip(&mut self.clients) {
            if !client.tell(command).await? {
                self.deaf.insert(Who::Client(number));
            }
        }
        Ok(())
    }

    /// Tells the server something.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub(crate) async fn tell_server(&mut self, command: &ServerCommand) -> io::Result<()> {
        if !self.server.tell(command).await? {
            self.deaf.insert(Who::Server);
        }
        Ok(())
    }

    /// Whether a program was ended because it did not read what it was told.
    pub(crate) fn was_deaf(&self, who: Who) -> bool {
        self.deaf.contains(&who)
    }

    /// How a program ended whose output has ended, and which process it was; `None` when it is not
    /// a child of this one, or does not end.
    pub(crate) async fn ended(&mut self, who: Who) -> Option<(u32, ExitStatus)> {
        let program = match who {
            Who::Server => &mut self.server,
            Who::Client(number) => self.clients.get_mut(number as usize)?,
            Who::Hog(_) => return None,
        };
        let Program::Here(child) = program else { return None };
        let pid = child.pid()?;
        let status = child.ended_within(CLOSING).await?;
        Some((pid, status))
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Program> {
        std::iter::once(&mut self.server).chain(&mut self.clients)
    }

    /// Closes the input of all, which ends them.
    pub(crate) fn end(&mut self) {
        self.all().for_each(Program::end);
    }

    /// Ends all at once.
    pub(crate) fn kill(&mut self) {
        self.all().for_each(Program::kill);
    }

    /// Waits until all have ended, or a deadline. Returns how those ended that failed.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn wait(&mut self, deadline: Instant) -> io::Result<Vec<ExitStatus>> {
        let mut failed = Vec::new();
        for program in self.all() {
            if let Ok(status) = tokio::time::timeout_at(deadline, program.wait()).await {
                let status = status?;
                if !status.success() {
                    failed.push(status);
                }
            }
        }
        Ok(failed)
    }
}
