//! What a coordinator receives: the lines of its programs, parsed, and news of the place where they
//! run.

use host::program::Who;
use serde::de::DeserializeOwned;

/// A message to the coordinator.
#[derive(Debug)]
pub(crate) enum Message<News> {
    /// A line of the server.
    Server(service::Line),
    /// A line of a client.
    Client(u32, workload::Line),
    /// A line that cannot be read.
    Unreadable(Who, String),
    /// The output of a program has ended.
    Ended(Who),
    /// News of the place.
    Place(News),
}

/// A line as JSON of a type, if it is that.
pub(crate) fn parsed<T: DeserializeOwned>(line: &str) -> Option<T> {
    serde_json::from_str(line).ok()
}

impl<News> Message<News> {
    /// A line of the server or a client, or the end of its output.
    pub(crate) fn of_program(who: Who, line: Option<&str>) -> Self {
        let Some(line) = line else { return Self::Ended(who) };
        let message = match who {
            Who::Server => parsed(line).map(Self::Server),
            Who::Client(number) => parsed(line).map(|line| Self::Client(number, line)),
            // A place that starts hogs reads their lines.
            Who::Hog(_) => None,
        };
        message.unwrap_or_else(|| Self::Unreadable(who, line.to_owned()))
    }
}
