//! The programs of a run: children of this one, which die with it.

use std::io;
use std::process::{ExitStatus, Stdio};

use rustix::fd::{AsFd, OwnedFd};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::UnboundedSender;
use tuning::Limit;

use crate::fleet::link::{FromFleet, Orders};
use crate::fleet::protocol::What;
use crate::namespace::{Netns, enter};

/// Who says something.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The server.
    Server,
    /// A client process.
    Client(u32),
    /// A process that takes the CPU, by the number of its fault.
    Hog(u32),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Server => f.write_str("server"),
            Who::Client(number) => write!(f, "client {number}"),
            Who::Hog(fault) => write!(f, "hog of fault {fault}"),
        }
    }
}

/// What is heard of a program.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A line of the server.
    Server(lab_server::panel::Line),
    /// A line of a client.
    Client(u32, lab_client::panel::Line),
    /// A line of a hog.
    Hog(u32, crate::hog::Line),
    /// A line that makes no sense.
    Nonsense(Who, String),
    /// Its output has ended.
    Silence(Who),
    /// Something of a host of the fleet.
    Fleet(FromFleet),
}

/// A program.
#[derive(Debug)]
pub(crate) struct Program {
    who: Who,
    place: Place,
}

/// Where it is.
#[derive(Debug)]
enum Place {
    /// A child of this process.
    Here {
        child: Box<Child>,
        /// Its input; `None` once it was closed.
        input: Option<ChildStdin>,
    },
    /// A child of an agent.
    There(Orders),
}

impl Program {
    /// One that an agent is told to start.
    pub(super) fn there(who: Who, orders: Orders) -> Self {
        Self { who, place: Place::There(orders) }
    }

    /// Starts `lab server`, `lab client` or `lab hog` with a configuration as JSON, in a namespace
    /// if there is one. What it says goes to `heard`. It inherits the descriptors `keep` under
    /// their numbers, and its limits are raised as far as they may be.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(
        who: Who,
        config: &impl Serialize,
        namespace: Option<&Netns>,
        keep: Vec<OwnedFd>,
        limits: &[Limit],
        heard: UnboundedSender<Heard>,
    ) -> io::Result<Self> {
        // Nobody listens any more when the run is over.
        let take = move |line: Option<String>| {
            let _ = heard.send(line.map_or(Heard::Silence(who), |line| read(who, &line)));
        };
        Self::start_raw(who, config, namespace, keep, limits, take)
    }

    /// The same; `take` has each of its lines as it is, and `None` at the end.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start_raw(
        who: Who,
        config: &impl Serialize,
        namespace: Option<&Netns>,
        keep: Vec<OwnedFd>,
        limits: &[Limit],
        mut take: impl FnMut(Option<String>) + Send + 'static,
    ) -> io::Result<Self> {
        let config = serde_json::to_string(config)?;
        let arguments: &[&str] = match who {
            Who::Server => &["server", "--pipe", "--control", "127.0.0.1:0"],
            Who::Client(_) => &["client", "--pipe", "--control", "127.0.0.1:0"],
            Who::Hog(_) => &["hog"],
        };
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(arguments)
            .args(["--config", &config])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal is for the run, which tells its programs in its own time.
            .process_group(0)
            .kill_on_drop(true);
        let limits = limits.to_vec();
        let namespace = namespace.map(|it| it.as_fd().try_clone_to_owned());
        let namespace = namespace.transpose()?;
        // SAFETY: between fork and exec only system calls are made, on descriptors that are open.
        unsafe {
            command.pre_exec(move || {
                die_with_parent()?;
                // A limit that may not be raised is no reason not to run.
                let _ = tuning::raise_limits(&limits);
                keep.iter().try_for_each(|fd| ebpf::keep_on_exec(fd.as_fd()))?;
                namespace.as_ref().map_or(Ok(()), |namespace| enter(namespace.as_fd()))
            });
        }
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        tokio::spawn(async move {
            if let Some(output) = output {
                let mut lines = BufReader::new(output).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    take(Some(line));
                }
            }
            take(None);
        });
        Ok(Self { who, place: Place::Here { child: Box::new(child), input } })
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub(crate) async fn tell(&mut self, command: &impl Serialize) -> io::Result<()> {
        self.tell_line(serde_json::to_string(command)?).await
    }

    /// Tells it a line.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub(crate) async fn tell_line(&mut self, mut line: String) -> io::Result<()> {
        let who = self.who;
        match &mut self.place {
            Place::Here { input: Some(input), .. } => {
                line.push('\n');
                input.write_all(line.as_bytes()).await
            }
            Place::Here { input: None, .. } => {
                Err(io::Error::other(format!("{who} was told to end")))
            }
            Place::There(orders) => {
                orders.give(What::Tell { who, line });
                Ok(())
            }
        }
    }

    /// Closes its input, which ends it.
    pub(crate) fn end(&mut self) {
        match &mut self.place {
            Place::Here { input, .. } => *input = None,
            Place::There(orders) => orders.give(What::Close { who: self.who }),
        }
    }

    /// Waits until it has ended. An agent waits for its own.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.place {
            Place::Here { child, .. } => child.wait().await,
            Place::There(_) => Ok(ExitStatus::default()),
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        match &mut self.place {
            // It has ended already, or it ends now.
            Place::Here { child, .. } => drop(child.start_kill()),
            Place::There(orders) => orders.give(What::Stop {}),
        }
    }
}

fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

pub(crate) fn read(who: Who, line: &str) -> Heard {
    fn parsed<T: DeserializeOwned>(line: &str) -> Option<T> {
        serde_json::from_str(line).ok()
    }
    let heard = match who {
        Who::Server => parsed(line).map(Heard::Server),
        Who::Client(number) => parsed(line).map(|line| Heard::Client(number, line)),
        Who::Hog(fault) => parsed(line).map(|line| Heard::Hog(fault, line)),
    };
    heard.unwrap_or_else(|| Heard::Nonsense(who, line.to_owned()))
}
