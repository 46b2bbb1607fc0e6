//! The life of a control thread: it reads reports until all shards have ended.

use std::time::Duration;

use axum::Router;
use interrupts::Interrupts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::listen::listen;
use crate::output::Output;
use crate::shards::Shards;

/// Where lines for a recorder go. Not bounded: they are put into a queue that is, at once.
pub type Lines<L> = UnboundedSender<L>;

/// Bytes of a command that comes over the pipe. Longer lines are none.
const LONGEST: u64 = 1 << 20;

/// Shards that were told to stop answer what was read for a second. A signal that finds them there
/// after three more ends the program without them.
const GRACE: Duration = Duration::from_secs(4);

/// A full inbox is tried again this often.
const RETRY: Duration = Duration::from_millis(1);

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
        self.shards().post_running(Self::stop_message)
    }

    /// A shard has ended, in order or because it could not go on. No other shard can serve its
    /// users: after a failure all end.
    fn shard_ended(&self, shard: usize, ended: Result<(), String>, lines: &Lines<Self::Line>) {
        self.shards().end(shard);
        if let Err(reason) = ended {
            let failure = format!("shard {shard} ended: {reason}");
            // A recorder that has gone misses the line; the failure is kept all the same.
            let _ = lines.send(self.error_line(failure.clone()));
            self.shards().add_failure(failure);
        }
    }

    /// Begins an end in good order, after which the program stops by itself; a second signal does
    /// not wait for that. Returns whether there is something to be ended first.
    fn wind_down(&self) -> bool {
        false
    }

    /// The line that says that something went wrong.
    fn error_line(&self, error: String) -> Self::Line;

    /// Whether a recorder that is far behind must get this line all the same: those that come once.
    fn is_vital(line: &Self::Line) -> bool;

    /// Shows a line to a person, when there is no recorder.
    fn show(&self, line: &Self::Line, output: &Output);
}

/// How a program is reached.
#[derive(Debug)]
pub struct Interface {
    /// Where HTTP comes in.
    pub listener: TcpListener,
    /// What it may ask.
    pub routes: Router,
    /// Whether commands come over standard input, and lines go to standard output.
    pub pipe: bool,
    /// What the program writes.
    pub output: Output,
}

/// Serves until all shards have ended, which SIGTERM, SIGINT, SIGHUP and, with a pipe, the end of
/// standard input tell them to. `first` and `last` are the first and last line for a recorder.
///
/// # Errors
/// What the machine says when it refuses signals or events, and shards that do not end.
pub async fn serve<P: Program>(
    program: &P,
    interface: Interface,
    first: P::Line,
    last: impl FnOnce() -> P::Line,
) -> anyhow::Result<()> {
    let Interface { listener, routes, pipe, output } = interface;
    let (lines, to_write) = unbounded_channel();
    let writer = tokio::spawn(write_lines(program.clone(), to_write, pipe, output));
    let http = tokio::spawn(listen(listener, routes, std::future::pending()));
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
    let mut signals = Interrupts::listen()?;
    let mut reports = std::pin::pin!(read_reports(program, lines));
    let failed = tokio::select! {
        ended = &mut reports => return ended,
        () = program.shards().failed() => true,
        () = signals.next() => false,
        () = read_commands(program, lines, pipe) => false,
    };
    if !failed && program.wind_down() {
        tokio::select! {
            ended = &mut reports => return ended,
            () = program.shards().failed() => {}
            () = signals.next() => {}
        }
    }
    tokio::select! {
        ended = &mut reports => ended,
        () = stop(program, &mut signals) => {
            let running: Vec<String> =
                program.shards().running().map(|shard| shard.to_string()).collect();
            anyhow::bail!("shards that were told to end did not: {}", running.join(", "))
        }
    }
}

/// Has all shards end; returns when a signal finds some that did not for long.
async fn stop<P: Program>(program: &P, signals: &mut Interrupts) {
    let began = tokio::time::Instant::now();
    while !program.stop() {
        // An inbox is full; its shard is reading.
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = signals.next() => {
                if began.elapsed() >= GRACE {
                    return;
                }
            }
        }
    }
    loop {
        signals.next().await;
        if began.elapsed() >= GRACE {
            return;
        }
    }
}

async fn read_reports<P: Program>(program: &P, lines: &Lines<P::Line>) -> anyhow::Result<()> {
    let shards = program.shards();
    let reports = shards.reports();
    let eventfd = reports.eventfd(0).try_clone_to_owned()?;
    // SAFETY: an owned descriptor stays open and the same until it is dropped.
    let eventfd = unsafe { AsyncFd::register_with_interest(eventfd, Interest::READABLE) }
        .map_err(|failed| failed.into_parts().1)?;
    while shards.running().next().is_some() {
        // Edge-triggered: the eventfd need not be read to notify again.
        eventfd.readable().await?.clear_ready();
        while reports.drain(0, 64, |report| program.handle(report, lines)) {}
    }
    Ok(())
}

async fn write_lines<P: Program>(
    program: P,
    mut lines: UnboundedReceiver<P::Line>,
    pipe: bool,
    output: Output,
) {
    let mut lost = 0_u64;
    while let Some(line) = lines.recv().await {
        if !pipe {
            program.show(&line, &output);
            continue;
        }
        let record = |line: &P::Line, is_vital| {
            // A line always has a form in JSON.
            serde_json::to_string(line).is_ok_and(|text| output.record(text, is_vital))
        };
        let is_vital = P::is_vital(&line);
        if lost > 0 {
            let why = format!("{lost} lines were not read in time and are lost");
            if record(&program.error_line(why), is_vital) {
                lost = 0;
            }
        }
        lost += u64::from(!record(&line, is_vital));
    }
}

/// Carries out the commands that come over the pipe; returns when it ends.
async fn read_commands<P: Program>(program: &P, lines: &Lines<P::Line>, pipe: bool) {
    if !pipe {
        return std::future::pending().await;
    }
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut input).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let is_whole = line.last() == Some(&b'\n') || (line.len() as u64) < LONGEST;
        if !is_whole {
            let error = format!("a command has {LONGEST} bytes at most; what comes is not one");
            let _ = lines.send(program.error_line(error));
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        let done = serde_json::from_str(text)
            .map_err(|error| error.to_string())
            .and_then(|command| program.carry_out(command));
        if let Err(error) = done {
            let _ = lines.send(program.error_line(format!("command {text}: {error}")));
        }
    }
}
