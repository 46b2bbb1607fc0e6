//! Programs that this one starts: its children, which die with it.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tuning::Limit;

use crate::namespace::{Netns, enter};

/// A small program whose output has ended has itself ended in so many milliseconds.
const SOON: usize = 1_000;

/// Which program says something.
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

/// A program.
#[derive(Debug)]
pub struct Program {
    who: Who,
    child: Box<Child>,
    /// Its input; `None` once it was closed.
    input: Option<ChildStdin>,
}

impl Program {
    /// Starts `lab server`, `lab client` or `lab hog` with a configuration as JSON, in a namespace
    /// if there is one. `on_line` has each of its lines as it is, and `None` at the end. It
    /// inherits the descriptors `keep` under their numbers, and its limits are raised as far as
    /// they may be.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        who: Who,
        config: &impl Serialize,
        namespace: Option<&Netns>,
        keep: Vec<OwnedFd>,
        limits: &[Limit],
        mut on_line: impl FnMut(Option<String>) + Send + 'static,
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
            // Ctrl-C at the terminal is for this process, which tells its programs in its own time.
            .process_group(0)
            .kill_on_drop(true);
        let limits = limits.to_vec();
        let namespace = namespace.map(|namespace| namespace.as_fd().try_clone_to_owned());
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
                    on_line(Some(line));
                }
            }
            on_line(None);
        });
        Ok(Self { who, child: Box::new(child), input })
    }

    /// Its process; `None` once it has ended and was waited for.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Tells it a line.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub async fn tell_line(&mut self, mut line: String) -> io::Result<()> {
        let Some(input) = &mut self.input else {
            return Err(io::Error::other(format!("{} was told to end", self.who)));
        };
        line.push('\n');
        input.write_all(line.as_bytes()).await
    }

    /// Closes its input, which ends it.
    pub fn end(&mut self) {
        self.input = None;
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What the system says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits until it has ended, at most for a time; how it ended, if it has.
    pub async fn ended_within(&mut self, most: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(most, self.child.wait()).await.ok()?.ok()
    }

    /// The same of one whose output has ended: it is about to.
    pub fn ended_soon(&mut self) -> Option<ExitStatus> {
        for _ in 0..SOON {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // It has ended already, or it ends now.
        drop(self.child.start_kill());
    }
}

fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}
