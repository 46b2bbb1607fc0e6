//! Which process records a run: how people know it, and what it says when another one has taken
//! the run over.

use fleet::Leader;
use spec::machine::host_name;

use crate::directory::unix_now;

/// This process, on this host, since now: for people.
pub(crate) fn this_process() -> String {
    let (process, host) = (std::process::id(), host_name());
    format!("process {process} on {host}, since {}", text::utc(unix_now().as_secs()))
}

/// Another coordinator has taken the run over: this one has ended, and left its files as they were.
#[derive(Debug)]
pub struct TakenOver(pub(crate) Leader);

impl std::fmt::Display for TakenOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = &self.0.who;
        write!(f, "{who}, has taken this run over; this coordinator ends and leaves it alone")
    }
}

impl std::error::Error for TakenOver {}
