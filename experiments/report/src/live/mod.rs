//! The live page of a run: the charts of its report while it goes on, its figures for Prometheus,
//! and what a person may tell it to do.
//!
//! Owns: a thread that reads the files of a run as they grow, and serves them. Must not know: how a
//! run is carried out; what it is told to do goes to it as a [`RunCommand`]. Nothing of a run waits
//! for it: it reads what was written, once a second.

mod command;
mod control;
mod feed;
mod http;
mod metrics;
mod pending;
mod socket;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ::control::{Access, Token, TokenError, listen};
use interrupts::Interrupts;
use tokio::sync::watch;

use crate::assemble::{ReportError, assert_run};
pub use command::RunCommand;
pub use control::ControlHandle;
use feed::Feed;
pub use pending::{CommandResult, PendingCommand};
pub use socket::{ControlSocket, SOCKET, listen as accept_commands};

/// How often files are read.
const EVERY: Duration = Duration::from_secs(1);

/// How long open pages are given to hear of the end.
const GOODBYE: Duration = Duration::from_secs(2);

/// The page has time: a run next to it has not.
const NICENESS: i32 = 10;

/// Why there is no live page.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The address cannot be taken.
    #[error("the live page cannot listen on {address}: give another --live")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// There is no run.
    #[error(transparent)]
    NoRun(#[from] ReportError),
    /// There is no secret for those who may command.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The system refuses something else.
    #[error("the live page cannot be served")]
    System(#[from] io::Error),
}

/// A page that is being served. It ends when this is dropped, after a last look at the files.
#[derive(Debug)]
pub struct Live {
    /// For a person, token included.
    address: String,
    /// Whether it is to end.
    ending: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Takes an address for a page, before anything else is begun.
///
/// # Errors
/// With the address, when another program has it or it is none of this machine.
pub fn bind(address: SocketAddr) -> Result<TcpListener, LiveError> {
    let listener =
        TcpListener::bind(address).map_err(|source| LiveError::Address { address, source })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Live {
    /// Serves the page of the run in a directory, also by these further names of this machine;
    /// commands go to `control`.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        listener: TcpListener,
        directory: &Path,
        control: ControlHandle,
        names: &[String],
    ) -> Result<Self, LiveError> {
        let address = listener.local_addr()?;
        let token = Token::new()?;
        let access = Access::of_page(token.clone(), address, names)?;
        // What follows the # stays in the browser: a page that everybody here may see needs no
        // more.
        let given = if access.is_reached_from_outside() { '?' } else { '#' };
        let shown = format!("http://{address}/{given}token={}", token.secret());
        let (ending, ended) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let directory = directory.to_owned();
        let thread = std::thread::Builder::new().name("lab-live".to_owned()).spawn(move || {
            // On Linux the niceness is the thread's own. Where it cannot be set, it is in the way
            // a little.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            runtime.block_on(serve(listener, directory, access, control, ended));
        })?;
        Ok(Self { address: shown, ending, thread: Some(thread) })
    }

    /// The address for a person, token included.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.ending.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, and a run does not fail for its page.
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    directory: PathBuf,
    access: Access,
    control: ControlHandle,
    mut ended: watch::Receiver<bool>,
) {
    let feed = Arc::new(Mutex::new(Feed::open(&directory)));
    let (tick, ticks) = watch::channel(0_u64);
    let state = http::AppState::new(Arc::clone(&feed), ticks, control, directory);
    let routes = http::router(&state, &access);
    let mut stop = ended.clone();
    let server = tokio::spawn(async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        let stopped = async move {
            let _ = stop.wait_for(|stop| *stop).await;
        };
        listen(listener, routes, stopped).await;
    });
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let last = tokio::select! {
            _ = every.tick() => false,
            _ = ended.wait_for(|ended| *ended) => true,
        };
        feed::locked(&feed).read();
        tick.send_modify(|tick| *tick += 1);
        if last {
            break;
        }
    }
    // Streams end when there are no more ticks.
    drop(tick);
    let _ = tokio::time::timeout(GOODBYE, server).await;
}

/// Serves the page of a run that another process carries out, or that is over, until it is
/// interrupted. It answers to further names of this machine.
///
/// # Errors
/// When there is no run, or the address cannot be taken.
pub async fn watch(
    directory: &Path,
    listen: SocketAddr,
    names: &[String],
) -> Result<(), LiveError> {
    assert_run(directory)?;
    let mut interrupts = Interrupts::listen()?;
    let run = ControlHandle::Socket(directory.join(SOCKET));
    let live = Live::start(bind(listen)?, directory, run, names)?;
    text::say!("live page: {}", live.address());
    interrupts.next().await;
    Ok(())
}
