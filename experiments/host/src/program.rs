//! Programs that this one starts: its children, which die with it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tuning::Limit;
use tuning::profile::Resource;

use crate::backlog::{Backlog, Room};
use crate::namespace::{Netns, enter};
use crate::orphans::{STARTED_BY, started_by};
use crate::privileges::Privileges;

/// A small program whose output has ended has itself ended in so many milliseconds.
const SOON: usize = 1_000;

/// A program reads what it is told within this time, or it hangs: a pipe has room for dozens of
/// lines, and a thread that does nothing else reads them.
const TELLS: Duration = Duration::from_secs(10);

/// A line of a program may be this long, in bytes: a second of a shard, slow requests included, has
/// 1 MiB at most, and the books of a million users 32 MiB.
const LONGEST_LINE: u64 = 256 << 20;

/// So much is handed on of a line that is longer.
const SHOWN: usize = 200;

/// The next line of a program; `None` at the end. Of one that is longer than it may be, only the
/// begin is handed on, which no reader takes for a whole one. What is no text is handed on as such.
async fn next_line(
    output: &mut (impl AsyncBufRead + Unpin),
    longest: u64,
) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = (&mut *output).take(longest).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read as u64 == longest {
        line.truncate(SHOWN);
        line.extend_from_slice("… and more than a line may have".as_bytes());
        loop {
            let rest = output.fill_buf().await?;
            let (used, end) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (rest.len(), rest.is_empty()),
            };
            output.consume(used);
            if end {
                break;
            }
        }
    }
    let text = String::from_utf8(line);
    let lossy =
        |error: std::string::FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
    Ok(Some(text.unwrap_or_else(lossy)))
}

/// What a program has said and nobody has taken in, in bytes: a minute of a shard with probes, and
/// more than the books of a million users. Beyond it the program's output is not read, which its
/// own bounded queue then counts and says.
const WAITING: u32 = 64 << 20;

/// What a line takes in memory beside its text.
const BESIDE: usize = 128;

/// A line of a program.
#[derive(Debug)]
pub struct Line {
    /// The line, without its end.
    pub text: String,
    /// What it has of the program's backlog, as long as it waits.
    pub room: Option<Room>,
}

/// Hands on each line of an output, as fast as lines are taken in, and then that it has ended.
async fn hand_on(
    mut output: impl AsyncBufRead + Unpin,
    waiting: Backlog,
    mut on_line: impl FnMut(Option<Line>),
) {
    while let Ok(Some(text)) = next_line(&mut output, LONGEST_LINE).await {
        let room = waiting.room(text.len() + BESIDE).await;
        on_line(Some(Line { text, room }));
    }
    on_line(None);
}

/// Which program says something.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The server.
    Server,
    /// A client process.
    Client(u32),
    /// A process that takes the CPU, by the number of its fault.
    Hog(u32),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Server => f.write_str("server"),
            Who::Client(number) => write!(f, "client {number}"),
            Who::Hog(fault) => write!(f, "hog of fault {fault}"),
        }
    }
}

/// A program.
#[derive(Debug)]
pub struct Program {
    who: Who,
    child: Box<Child>,
    /// Its input; `None` once it was closed.
    input: Option<ChildStdin>,
}

/// What a program is given: all that it could not get by itself.
#[derive(Debug)]
pub struct Given<'a> {
    /// The namespace that it is in, if it is not that of this process.
    pub namespace: Option<&'a Netns>,
    /// Descriptors that it inherits under their numbers.
    pub descriptors: Vec<OwnedFd>,
    /// Limits that are raised, as far as they may be.
    pub limits: &'a [Limit],
    /// The nice level that it begins with, if it is to have one below that of this process.
    pub nice: Option<i8>,
    /// Whether it is an ordinary program, though this process keeps in the background.
    pub leaves_background: bool,
    /// As whom it runs.
    pub privileges: &'a Privileges,
}

impl<'a> Given<'a> {
    /// The place and the limits of this process, as somebody.
    pub fn as_here(privileges: &'a Privileges) -> Self {
        let descriptors = Vec::new();
        let (namespace, limits, nice) = (None, &[][..], None);
        Self { namespace, descriptors, limits, nice, leaves_background: false, privileges }
    }
}

/// Limits that root is not held to and a user is: memory of rings, threads.
const FREE: [Limit; 2] = [
    Limit { resource: Resource::Memlock, least: u64::MAX },
    Limit { resource: Resource::Nproc, least: u64::MAX },
];

/// Half of the memory that is short, to the kernel's eyes, beside what a program has of it.
const FIRST_TO_GO: i32 = 500;

/// How soon this process goes when memory is short.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Whether this process's programs would not go before it when memory is short.
fn goes_first() -> bool {
    let own = std::fs::read_to_string(OOM_SCORE).ok().and_then(|it| it.trim().parse().ok());
    own.is_some_and(|own: i32| own < FIRST_TO_GO)
}

/// Makes this process go before its parent. Between fork and exec: system calls only.
fn go_first() -> io::Result<()> {
    let (flags, mode) = (rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty());
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, mode)?;
    rustix::io::write(&file, b"500")?;
    Ok(())
}

const _: () = assert!(FIRST_TO_GO == 500);

/// The variable by which an agent is told its password. Its programs, which read what strangers
/// send, do not inherit it.
pub const NATS_PASSWORD: &str = "LAB_NATS_PASSWORD";

impl Program {
    /// Starts `lab server`, `lab client` or `lab hog` with a configuration as JSON, as somebody
    /// without rights. `on_line` has each of its lines as it is, and `None` at the end.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        who: Who,
        config: &impl Serialize,
        given: Given<'_>,
        mut on_line: impl FnMut(Option<Line>) + Send + 'static,
    ) -> io::Result<Self> {
        let config = serde_json::to_string(config)?;
        let arguments: &[&str] = match who {
            Who::Server => &["server", "--pipe", "--control", "127.0.0.1:0"],
            Who::Client(_) => &["client", "--pipe", "--control", "127.0.0.1:0"],
            Who::Hog(_) => &["hog"],
        };
        let descent = given.privileges.descent();
        let (path, executable) = executable(descent.changes_user())?;
        let mut command = Command::new(path);
        command
            .arg0("lab")
            .env(STARTED_BY, started_by()?)
            .env_remove(NATS_PASSWORD)
            .args(arguments)
            .args(["--config", &config])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal is for this process, which tells its programs in its own time.
            .process_group(0)
            .kill_on_drop(true);
        let mut limits = given.limits.to_vec();
        if descent.changes_user() {
            limits.extend(FREE);
        }
        let (nice, keep, leaves) = (given.nice, given.descriptors, given.leaves_background);
        let namespace = given.namespace.map(|namespace| namespace.as_fd().try_clone_to_owned());
        let namespace = namespace.transpose()?;
        let parent = rustix::process::getpid();
        let raises = goes_first();
        // SAFETY: between fork and exec only system calls are made, on descriptors that are open.
        unsafe {
            command.pre_exec(move || {
                // The first to go when memory is short is who asked for it: who records the run
                // stays, and tells. Nothing depends on it where it is not allowed.
                if raises {
                    let _ = go_first();
                }
                // A limit that may not be raised is no reason not to run.
                let _ = tuning::raise_limits(&limits);
                if leaves {
                    platform::set_priority(None, platform::Priority::Normal)?;
                }
                nice.map_or(Ok(()), renice)?;
                keep.iter().try_for_each(|fd| ebpf::keep_on_exec(fd.as_fd()))?;
                namespace.as_ref().map_or(Ok(()), |namespace| enter(namespace.as_fd()))?;
                descent.go()?;
                // Another user is another process to the kernel, which forgets this.
                die_with(parent)
            });
        }
        let mut child = command.spawn()?;
        drop(executable);
        let input = child.stdin.take();
        let output = child.stdout.take();
        tokio::spawn(async move {
            match output {
                Some(output) => {
                    hand_on(BufReader::new(output), Backlog::new(WAITING), on_line).await;
                }
                None => on_line(None),
            }
        });
        Ok(Self { who, child: Box::new(child), input })
    }

    /// Its process; `None` once it has ended and was waited for.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Tells it a line. One that does not take it in time is ended: it would take the rest of it
    /// for the begin of the next one.
    ///
    /// # Errors
    /// When it does not listen any more; [`io::ErrorKind::TimedOut`] when it was ended.
    pub async fn tell_line(&mut self, line: String) -> io::Result<()> {
        self.tell_line_within(TELLS, line).await
    }

    async fn tell_line_within(&mut self, most: Duration, mut line: String) -> io::Result<()> {
        let Some(input) = &mut self.input else {
            return Err(io::Error::other(format!("{} was told to end", self.who)));
        };
        line.push('\n');
        if let Ok(told) = tokio::time::timeout(most, input.write_all(line.as_bytes())).await {
            return told;
        }
        self.input = None;
        self.kill();
        let why = format!("it has not read what it was told for {} s", most.as_secs_f64());
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    /// Closes its input, which ends it.
    pub fn end(&mut self) {
        self.input = None;
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What the system says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits until it has ended, at most for a time; how it ended, if it has.
    pub async fn ended_within(&mut self, most: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(most, self.child.wait()).await.ok()?.ok()
    }

    /// The same of one whose output has ended: it is about to.
    pub fn ended_soon(&mut self) -> Option<ExitStatus> {
        for _ in 0..SOON {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // It has ended already, or it ends now.
        drop(self.child.start_kill());
    }
}

/// This program: its path, or an open file that a user may execute who may not enter its directory.
fn executable(by_somebody_else: bool) -> io::Result<(PathBuf, Option<File>)> {
    if !by_somebody_else {
        return Ok((std::env::current_exe()?, None));
    }
    let file = File::open("/proc/self/exe")?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())), Some(file)))
}

/// Has the kernel end this process with its parent, unless that has ended already.
fn die_with(parent: rustix::process::Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    match rustix::process::getppid() {
        Some(now) if now == parent => Ok(()),
        _ => Err(rustix::io::Errno::SRCH.into()),
    }
}

/// Sets the nice level of the calling thread.
fn renice(nice: i8) -> io::Result<()> {
    // SAFETY: a plain system call; on Linux 0 names the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, libc::c_int::from(nice)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that stands still takes what fits into the pipe, and is ended then.
    #[tokio::test]
    async fn a_program_that_does_not_read_is_not_told_for_ever() {
        let mut child = Command::new("sleep")
            .arg("3600")
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("sleep");
        let input = child.stdin.take();
        let mut program = Program { who: Who::Client(3), child: Box::new(child), input };
        let soon = Duration::from_millis(100);
        let line = "x".repeat(1 << 20);
        let error = program.tell_line_within(soon, line.clone()).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(!program.wait().await.expect("it has ended").success());
        let error = program.tell_line(line).await.expect_err("it is told nothing more");
        assert_eq!(error.to_string(), "client 3 was told to end");
    }

    /// An output without an end is read as far as there is room, and further as lines are taken in.
    #[tokio::test]
    async fn what_a_program_says_waits_within_a_bound() {
        const LINES: usize = 10;
        let waiting = Backlog::new(u32::try_from(LINES * BESIDE).expect("small"));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let endless = BufReader::new(tokio::io::repeat(b'\n'));
        let handing = tokio::spawn(hand_on(endless, waiting, move |line| drop(tell.send(line))));
        // The other task has the same thread, and goes on until it waits.
        let everything = async || {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        };
        for _ in 0..3 {
            everything().await;
            assert_eq!(told.len(), LINES, "no more is read");
            let taken: Vec<_> = (0..4).filter_map(|_| told.try_recv().ok()).collect();
            everything().await;
            assert_eq!(told.len(), LINES - 4, "they are still held");
            drop(taken);
        }
        handing.abort();
    }

    #[tokio::test]
    async fn a_line_that_is_longer_than_the_backlog_waits_alone() {
        let said = [&[b'x'; 1000][..], b"\nlast"].concat();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let said = std::io::Cursor::new(said);
        tokio::spawn(hand_on(said, Backlog::new(300), move |line| drop(tell.send(line))));
        let mut next = async || told.recv().await.expect("it goes on");
        let first = next().await.expect("a line");
        assert_eq!(first.text.len(), 1000);
        drop(first);
        assert_eq!(next().await.expect("a line").text, "last");
        assert!(next().await.is_none());
    }

    #[tokio::test]
    async fn a_line_without_an_end_and_one_that_is_no_text_end_nothing() {
        let said = [&b"one\n"[..], &[b'x'; 1000], b"\ntwo\n\xff\xfe\nlast"].concat();
        let mut output = BufReader::with_capacity(7, &said[..]);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut output, 300).await.expect("read") {
            lines.push(line);
        }
        let cut = format!("{}… and more than a line may have", "x".repeat(SHOWN));
        assert_eq!(lines, ["one", &cut, "two", "\u{fffd}\u{fffd}", "last"]);
    }
}
