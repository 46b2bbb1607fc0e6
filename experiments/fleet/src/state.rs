//! The directory in which an agent keeps what no coordinator has yet: one process at a time has it,
//! the agent as long as it runs. Must not know: what is kept.

use std::io;
use std::path::Path;

use platform::LockFile;

/// The name of its lock. It stays when the agent has ended.
const LOCK: &str = "agent.lock";

/// The right to the state of an agent, until it is dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: LockFile,
}

impl StateLock {
    /// Takes the right to a directory; `by` says for people who takes it. The inner error is who
    /// has it.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub fn take(state: &Path, by: &str) -> io::Result<Result<Self, String>> {
        Ok(LockFile::take(&state.join(LOCK), by)?.map(|file| Self { _file: file }))
    }

    /// The same for who is no agent, and makes nothing there: an agent might not be allowed to open
    /// a file of root's. `None` where no agent that locks its state has been.
    ///
    /// # Errors
    /// When the lock cannot be opened.
    pub fn take_again(state: &Path, by: &str) -> io::Result<Result<Option<Self>, String>> {
        if !state.join(LOCK).exists() {
            return Ok(Ok(None));
        }
        Ok(Self::take(state, by)?.map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_an_agent_is_its_own_while_it_lives() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path();
        let none = StateLock::take_again(state, "clean").expect("readable").expect("free");
        assert!(none.is_none() && std::fs::read_dir(state).expect("there").next().is_none());
        let agent = StateLock::take(state, "agent a, process 1").expect("made").expect("free");
        let held = |by| StateLock::take(state, by).expect("opened").expect_err("held");
        assert_eq!(held("agent b"), "agent a, process 1");
        let again = StateLock::take_again(state, "clean").expect("opened");
        assert_eq!(again.expect_err("held"), "agent a, process 1");
        drop(agent);
        let clean = StateLock::take_again(state, "clean").expect("opened").expect("free");
        assert!(clean.is_some());
        assert_eq!(held("agent c"), "clean");
    }
}
