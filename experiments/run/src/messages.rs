//! What a coordinator receives: the lines of its programs, parsed, and news of the place where they
//! run.

use host::Room;
use host::program::{Line, Who};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

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

/// Messages that wait. What programs say has a bound of its own, for each: a line keeps its room as
/// long as its message waits.
#[derive(Debug)]
pub(crate) struct Inbox<News>(UnboundedReceiver<(Message<News>, Option<Room>)>);

/// Where messages are sent to.
#[derive(Debug)]
pub(crate) struct Outlet<News>(UnboundedSender<(Message<News>, Option<Room>)>);

/// An inbox, and where it is sent to.
pub(crate) fn inbox<News>() -> (Outlet<News>, Inbox<News>) {
    let (sender, receiver) = unbounded_channel();
    (Outlet(sender), Inbox(receiver))
}

impl<News> Clone for Outlet<News> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<News> Outlet<News> {
    /// Sends a message. Nothing listens any more when the run is over.
    pub(crate) fn send(&self, message: Message<News>) {
        let _ = self.0.send((message, None));
    }

    /// The same of what a line of a program says, or its end.
    pub(crate) fn send_line(
        &self,
        line: Option<Line>,
        message: impl FnOnce(Option<&str>) -> Message<News>,
    ) {
        let message = message(line.as_ref().map(|line| line.text.as_str()));
        let _ = self.0.send((message, line.and_then(|line| line.room)));
    }
}

impl<News> Inbox<News> {
    /// The next message; `None` when none will come.
    pub(crate) async fn recv(&mut self) -> Option<Message<News>> {
        Some(self.0.recv().await?.0)
    }

    /// The next message, if it is there.
    pub(crate) fn try_recv(&mut self) -> Result<Message<News>, TryRecvError> {
        Ok(self.0.try_recv()?.0)
    }
}
