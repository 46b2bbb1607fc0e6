//! What a person or the system ends a program or a command with: Ctrl-C, a signal to terminate, a
//! terminal that was closed. All three mean the same, to server, client and every command of `lab`.
//!
//! Owns: which signals those are. Must not know: what is ended.

use std::io;

use platform::is_signal_ignored;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that interrupt.
const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// An interrupt ended what was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// What interrupts a command.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// `None` under `nohup`, which wants a closed terminal to be ignored.
    hangup: Option<Signal>,
}

impl Interrupts {
    /// Listens from now on, so that an interrupt does not end this process.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> io::Result<Self> {
        let hangup = (!is_signal_ignored(libc::SIGHUP)).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: hangup.transpose()?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// While this lives, an interrupt ends the process at once: nothing is under way that would have to
/// be put right. What listened before listens again afterwards.
pub struct EndsAtOnce(Vec<(libc::c_int, libc::sigaction)>);

impl EndsAtOnce {
    /// From now on.
    pub fn begin() -> Self {
        let heeded = SIGNALS.into_iter().filter(|signal| !is_signal_ignored(*signal));
        Self(heeded.filter_map(|signal| Some((signal, set_default(signal)?))).collect())
    }
}

impl Drop for EndsAtOnce {
    fn drop(&mut self) {
        for (signal, before) in &self.0 {
            // SAFETY: the action is the one that the system had for this signal before.
            unsafe { libc::sigaction(*signal, before, std::ptr::null_mut()) };
        }
    }
}

/// Has a signal end the process; what it did before, or `None` when that cannot be changed.
fn set_default(signal: libc::c_int) -> Option<libc::sigaction> {
    // SAFETY: all zeros are an action: the default one, with no flags and an empty mask.
    let (default, mut before): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: both actions live on this stack, and the default action calls nothing.
    let set = unsafe { libc::sigaction(signal, &raw const default, &raw mut before) };
    (set == 0).then_some(before)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    use super::*;

    /// What a process of the test below does.
    const PART: &str = "LAB_TEST_PART";

    /// In processes of its own, since signals are of the whole process: each is this test again,
    /// with its part.
    #[test]
    fn listening_goes_on_after_a_time_in_which_a_signal_would_have_ended_the_process() {
        const NAME: &str = "tests::\
            listening_goes_on_after_a_time_in_which_a_signal_would_have_ended_the_process";
        if let Ok(part) = std::env::var(PART) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            return runtime.expect("a runtime").block_on(play(&part));
        }
        let me = std::env::current_exe().expect("a program");
        let act = |part: &str| {
            let mut command = std::process::Command::new(&me);
            command.args(["--exact", "--nocapture", NAME]).env(PART, part).process_group(0);
            command.output().expect("runs")
        };
        let survived = act("heeded again");
        assert!(survived.status.success(), "{survived:?}");
        assert!(String::from_utf8_lossy(&survived.stdout).contains("1 passed"), "{survived:?}");
        let ended = act("ends at once");
        assert_eq!(ended.status.signal(), Some(libc::SIGHUP), "{ended:?}");
    }

    fn raise(signal: libc::c_int) {
        // SAFETY: a plain system call.
        unsafe { libc::raise(signal) };
    }

    async fn play(part: &str) {
        let mut interrupts = Interrupts::listen().expect("listens");
        match part {
            "heeded again" => {
                drop(EndsAtOnce::begin());
                raise(libc::SIGHUP);
                interrupts.next().await;
            }
            "ends at once" => {
                let _at_once = EndsAtOnce::begin();
                raise(libc::SIGHUP);
                panic!("still there");
            }
            other => panic!("{other}"),
        }
    }
}
