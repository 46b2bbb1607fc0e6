//! Runs that a command of `lab` has carried out by a `lab run` of its own, one at a time.
//!
//! Owns: that none outlives the command, however this ends. Must not know: what is run, and why.

use std::pin::pin;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use interrupts::{Interrupted, Interrupts};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::runtime::Runtime;

/// A run that was interrupted has put everything right within this time, or it is killed: all its
/// waits together last two minutes at most, and summary and page are made after them.
const ENDS: Duration = Duration::from_secs(180);

/// What carries runs out. An interrupt is listened to from its beginning on.
pub(crate) struct Children {
    runtime: Runtime,
    interrupts: Interrupts,
}

impl Children {
    /// None yet.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let interrupts = {
            let _runtime = runtime.enter();
            Interrupts::listen()?
        };
        Ok(Self { runtime, interrupts })
    }

    /// Carries a run out. An interrupt interrupts it, and comes back when it has ended.
    ///
    /// # Errors
    /// What the system says, or [`Interrupted`].
    pub(crate) fn output(&mut self, command: Command) -> anyhow::Result<Output> {
        let mut command = tokio::process::Command::from(command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for this process, which hands it on.
            .process_group(0)
            .kill_on_drop(true);
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            // When this process is killed the run is interrupted, and puts everything right itself.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let interrupts = &mut self.interrupts;
        self.runtime.block_on(async {
            let child = command.spawn()?;
            let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
            let mut output = pin!(child.wait_with_output());
            tokio::select! {
                output = &mut output => return Ok(output?),
                () = interrupts.next() => {}
            }
            let interrupted = async {
                loop {
                    if let Some(pid) = pid {
                        // It has ended by now, or it hears it.
                        let _ = kill_process(pid, Signal::TERM);
                    }
                    // Each further interrupt is handed on as well: the run waits for less then.
                    tokio::select! {
                        _ = &mut output => return,
                        () = interrupts.next() => {}
                    }
                }
            };
            // Dropped after that time, it is killed.
            let _ = tokio::time::timeout(ENDS, interrupted).await;
            Err(Interrupted.into())
        })
    }
}
