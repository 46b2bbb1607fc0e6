//! A program of a run, here or there: a child of this process, or one that an agent is told of.

use std::io;
use std::process::ExitStatus;

use fleet::link::Orders;
use fleet::protocol::What;
use host::namespace::Netns;
use host::program::{self, Who};
use rustix::fd::OwnedFd;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;
use tuning::Limit;

use crate::heard::Heard;

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
    /// Starts one here, as [`program::Program::start`] does. What it says goes to `heard`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(
        who: Who,
        config: &impl Serialize,
        namespace: Option<&Netns>,
        keep: Vec<OwnedFd>,
        limits: &[Limit],
        heard: UnboundedSender<Heard>,
    ) -> io::Result<Self> {
        // Nothing listens any more when the run is over.
        let take = move |line: Option<String>| drop(heard.send(Heard::line(who, line.as_deref())));
        program::Program::start(who, config, namespace, keep, limits, take).map(Self::Here)
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub(crate) async fn tell(&mut self, command: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(command)?;
        match self {
            Self::Here(child) => child.tell_line(line).await,
            Self::There { who, orders } => {
                orders.give(What::Tell { who: *who, line });
                Ok(())
            }
        }
    }

    /// Closes its input, which ends it.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Here(child) => child.end(),
            Self::There { who, orders } => orders.give(What::Close { who: *who }),
        }
    }

    /// Waits until it has ended. An agent waits for its own.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Here(child) => child.wait().await,
            Self::There { .. } => Ok(ExitStatus::default()),
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Here(child) => child.kill(),
            Self::There { orders, .. } => orders.give(What::Stop {}),
        }
    }
}
