//! The signals that end a program.

use std::io;

use platform::is_signal_ignored;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT and SIGHUP, all of which mean the same.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` where the starter of the program wants it to outlive the terminal (`nohup`).
    hangup: Option<Signal>,
}

impl Signals {
    /// Takes them from now on.
    ///
    /// # Errors
    /// What the machine says when it refuses.
    pub(crate) fn new() -> io::Result<Self> {
        let hangup = SignalKind::hangup();
        let ignored = is_signal_ignored(hangup.as_raw_value());
        let hangup = (!ignored).then(|| signal(hangup)).transpose()?;
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    /// Waits for the next of them.
    pub(crate) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}
