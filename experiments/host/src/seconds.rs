//! The seconds that a command watches, until there were enough or it is interrupted.
//!
//! Must not know: what is watched.

use std::io;
use std::time::Duration;

use interrupts::Interrupts;
use tokio::time::{Interval, MissedTickBehavior};

/// Seconds to come.
pub(crate) struct Seconds {
    ticks: Interval,
    interrupts: Interrupts,
    left: Option<u64>,
}

impl Seconds {
    /// The first one begins now; `None` for as many as there are until an interrupt.
    ///
    /// # Errors
    /// When the system does not tell of interrupts.
    pub(crate) async fn begin(count: Option<u64>) -> io::Result<Self> {
        let interrupts = Interrupts::listen()?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        // After a stop the seconds that are over are one.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        Ok(Self { ticks, interrupts, left: count })
    }

    /// Waits until another second is over. Returns false when it was the last, or an interrupt
    /// came.
    pub(crate) async fn next(&mut self) -> bool {
        if self.left == Some(0) {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        tokio::select! {
            _ = self.ticks.tick() => true,
            () = self.interrupts.next() => false,
        }
    }
}
