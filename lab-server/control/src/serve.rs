//! The life of a control thread: it reads reports until all shards have ended.

use std::future::IntoFuture;
use std::io::Write;
use std::time::Duration;

use axum::Router;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::shards::Shards;

/// Where lines for a recorder go. Not bounded: a few lines a second and shard.
pub type Lines<L> = UnboundedSender<L>;

/// What a control thread controls.
pub trait Program: Clone + Send + 'static {
    /// What shards are told.
    type Message: Send + 'static;
    /// What shards report.
    type Report: Send + 'static;
    /// What can be asked of it, as a line of JSON.
    type Command: DeserializeOwned;
    /// What it tells a recorder, as a line of JSON.
    type Line: Serialize + Send + 'static;

    /// Its shards.
    fn shards(&self) -> &Shards<Self::Message, Self::Report>;

    /// Handles a report; the last one of a shard goes to [`Self::shard_ended`].
    fn handle(&self, report: Self::Report, lines: &Lines<Self::Line>);

    /// Carries out a command.
    ///
    /// # Errors
    /// Why not, for a person.
    fn carry_out(&self, command: Self::Command) -> Result<(), String>;

    /// The message that tells a shard to stop.
    fn stop_message() -> Self::Message;

    /// Tells the shards to stop. Returns whether all of them were told.
    fn stop(&self) -> bool {
        self.shards().post_all(Self::stop_message).is_ok()
    }

    /// A shard has ended, in order or because it could not go on. No other shard can serve its
    /// users: after a failure all end.
    fn shard_ended(&self, shard: usize, ended: Result<(), String>, lines: &Lines<Self::Line>) {
        self.shards().add_ended();
        if let Err(reason) = ended {
            let failure = format!("shard {shard} ended: {reason}");
            // A recorder that has gone misses the line; the failure is kept all the same.
            let _ = lines.send(self.error_line(failure.clone()));
            self.shards().add_failure(failure);
            self.stop();
        }
    }

    /// Begins an end in good order, after which the program stops by itself; a second signal does
    /// not wait for that. Returns whether there is something to be ended first.
    fn wind_down(&self) -> bool {
        false
    }

    /// The line that says that something went wrong.
    fn error_line(&self, error: String) -> Self::Line;

    /// Shows a line to a person, when there is no recorder.
    fn show(&self, line: &Self::Line);
}

/// Serves until all shards have ended, which SIGTERM, SIGINT and, with `pipe`, the end of standard
/// input tell them to. `first` and `last` are the first and last line for a recorder.
///
/// # Errors
/// What the machine says when it refuses signals or events.
pub async fn serve<P: Program>(
    program: &P,
    listener: TcpListener,
    routes: Router,
    pipe: bool,
    first: P::Line,
    last: impl FnOnce() -> P::Line,
) -> anyhow::Result<()> {
    let (lines, to_write) = unbounded_channel();
    let writer = tokio::spawn(write_lines(program.clone(), to_write, pipe));
    let http = tokio::spawn(axum::serve(listener, routes).into_future());
    // A line is refused only when the writer has ended, which it does not before the lines do.
    let _ = lines.send(first);
    let ended = until_ended(program, &lines, pipe).await;
    http.abort();
    let _ = lines.send(last());
    drop(lines);
    writer.await?;
    ended
}

async fn until_ended<P: Program>(
    program: &P,
    lines: &Lines<P::Line>,
    pipe: bool,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reports = std::pin::pin!(read_reports(program, lines));
    tokio::select! {
        ended = &mut reports => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = read_commands(program, lines, pipe) => {}
    }
    if program.wind_down() {
        tokio::select! {
            ended = &mut reports => return ended,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    while !program.stop() {
        // An inbox is full; its shard is reading.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reports.await
}

async fn read_reports<P: Program>(program: &P, lines: &Lines<P::Line>) -> anyhow::Result<()> {
    let shards = program.shards();
    let reports = shards.reports();
    let eventfd = reports.eventfd(0).try_clone_to_owned()?;
    // SAFETY: an owned descriptor stays open and the same until it is dropped.
    let eventfd = unsafe { AsyncFd::register_with_interest(eventfd, Interest::READABLE) }
        .map_err(|failed| failed.into_parts().1)?;
    while !shards.have_ended() {
        // Edge-triggered: the eventfd need not be read to notify again.
        eventfd.readable().await?.clear_ready();
        while reports.drain(0, 64, |report| program.handle(report, lines)) {}
    }
    Ok(())
}

async fn write_lines<P: Program>(program: P, mut lines: UnboundedReceiver<P::Line>, pipe: bool) {
    while let Some(line) = lines.recv().await {
        if !pipe {
            program.show(&line);
        } else if let Ok(mut text) = serde_json::to_string(&line) {
            text.push('\n');
            // A recorder that has gone is noticed where commands are read.
            let _ = std::io::stdout().write_all(text.as_bytes());
        }
    }
}

/// Carries out the commands that come over the pipe; returns when it ends.
async fn read_commands<P: Program>(program: &P, lines: &Lines<P::Line>, pipe: bool) {
    if !pipe {
        return std::future::pending().await;
    }
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = input.next_line().await {
        let done = serde_json::from_str(&line)
            .map_err(|error| error.to_string())
            .and_then(|command| program.carry_out(command));
        if let Err(error) = done {
            let _ = lines.send(program.error_line(format!("command {line}: {error}")));
        }
    }
}
