//! What a program writes: lines on their way to standard output and standard error.
//!
//! A thread for each of the two waits for who reads them; nobody else does. Owns: lines that wait,
//! within a bound, and the count of those that found no room. Must not know: what a line says.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use platform::{Priority, set_priority};
use rustix::event::{PollFd, PollFlags, poll};

use crate::shards::locked;
use interrupts::Interrupts;

/// Bytes that wait for a reader: a minute of a client with 54 shards, which says about a megabyte a
/// second, and hours of a small one.
const MOST_WAITING: usize = 64 << 20;

/// What must not be lost finds this much room beyond that.
const RESERVE: usize = 8 << 20;

/// At the end, a reader that takes nothing for so long gets nothing more. One that was stopped for
/// five seconds gets all.
const PATIENCE: Duration = Duration::from_secs(10);

/// A panic waits so long for its words to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// While a reader is waited for, this often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<String>,
    /// Bytes of these, and of what is being written.
    bytes: usize,
    /// Bytes written since the beginning.
    written: u64,
    /// Lines that a person has not been told of, because there was no room.
    left_out: u64,
    /// Nobody will ever read it.
    is_broken: bool,
}

#[derive(Debug)]
struct Stream {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    most: usize,
}

impl Stream {
    /// Starts to write to a descriptor.
    fn start(name: &str, descriptor: OwnedFd, most: usize) -> io::Result<Arc<Self>> {
        let stream = Arc::new(Self { waiting: Mutex::default(), changed: Condvar::new(), most });
        let writes = Arc::clone(&stream);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writes.write_all(&descriptor))?;
        Ok(stream)
    }

    fn write_all(&self, to: &OwnedFd) {
        // Not in the place of a shard that runs. Where that is refused, it is in the way a little.
        let _ = set_priority(None, Priority::Batch);
        let mut waiting = locked(&self.waiting);
        loop {
            let Some(line) = waiting.lines.pop_front() else {
                waiting =
                    self.changed.wait(waiting).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            };
            drop(waiting);
            let mut bytes = line.as_bytes();
            let mut broken = false;
            while !bytes.is_empty() && !broken {
                match write_some(to.as_fd(), bytes) {
                    Ok(written) => {
                        bytes = &bytes[written..];
                        locked(&self.waiting).written += written as u64;
                    }
                    Err(_) => broken = true,
                }
            }
            waiting = locked(&self.waiting);
            waiting.bytes -= line.len();
            if broken {
                *waiting = Waiting { is_broken: true, ..Waiting::default() };
            }
            self.changed.notify_all();
        }
    }

    /// Puts a line on its way, if the bound and a `reserve` beyond it leave room for it.
    fn put(&self, line: String, reserve: usize) -> bool {
        let mut waiting = locked(&self.waiting);
        if waiting.is_broken {
            return true;
        }
        if waiting.bytes > self.most + reserve {
            return false;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        self.changed.notify_all();
        true
    }

    /// As [`Self::put`], for people, who are told how many lines are missing where there are any.
    fn say(&self, mut line: String) {
        let missing = std::mem::take(&mut locked(&self.waiting).left_out);
        if missing > 0 {
            line = format!("({missing} lines are left out here: they were not read)\n{line}");
        }
        if !self.put(line, RESERVE) {
            locked(&self.waiting).left_out += missing + 1;
        }
    }

    /// Bytes written so far; `None` when nothing waits.
    fn progress(&self) -> Option<u64> {
        let waiting = locked(&self.waiting);
        (waiting.bytes > 0).then_some(waiting.written)
    }

    /// Waits until everything is written, or for so long.
    fn wait(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut waiting = locked(&self.waiting);
        while waiting.bytes > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(waiting, left);
            waiting = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

/// Writes as much as goes at once, and waits before until something does.
fn write_some(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(rustix::io::Errno::INTR) => {}
            // Whoever shares a pipe with it may have made it so that it does not wait.
            Err(rustix::io::Errno::AGAIN) => {
                match poll(&mut [PollFd::new(&to, PollFlags::OUT)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Standard output and standard error of a program. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Output {
    out: Arc<Stream>,
    err: Arc<Stream>,
}

impl Output {
    /// Takes over what the program writes. The two threads bear its name.
    ///
    /// # Errors
    /// What the system says when it refuses a thread or a descriptor.
    pub fn start(program: &str) -> io::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        let err = io::stderr().as_fd().try_clone_to_owned()?;
        Self::to(program, out, err, MOST_WAITING)
    }

    fn to(program: &str, out: OwnedFd, err: OwnedFd, most: usize) -> io::Result<Self> {
        Ok(Self {
            out: Stream::start(&format!("{program}-out"), out, most)?,
            err: Stream::start(&format!("{program}-err"), err, most)?,
        })
    }

    /// Tells a person something on standard output.
    pub fn say(&self, line: &str) {
        self.out.say(format!("{line}\n"));
    }

    /// Tells a person of something that went wrong, or of how it goes, on standard error.
    pub fn tell(&self, line: &str) {
        self.err.say(format!("{line}\n"));
    }

    /// A line for a recorder. Returns whether there was room for it, of which there is more for one
    /// that must not be lost.
    pub(crate) fn record(&self, mut line: String, is_vital: bool) -> bool {
        line.push('\n');
        self.out.put(line, if is_vital { RESERVE } else { 0 })
    }

    /// Waits until everything is read, as long as something is: until nothing was for ten seconds,
    /// or a signal comes.
    ///
    /// # Errors
    /// What the machine says when it refuses signals.
    pub async fn finish(&self) -> io::Result<()> {
        let mut signals = Interrupts::listen()?;
        for stream in [&self.out, &self.err] {
            let mut seen = (stream.progress(), Instant::now());
            while seen.0.is_some() && seen.1.elapsed() < PATIENCE {
                tokio::select! {
                    () = signals.next() => return Ok(()),
                    () = tokio::time::sleep(LOOK) => {}
                }
                let now = stream.progress();
                if now != seen.0 {
                    seen = (now, Instant::now());
                }
            }
        }
        Ok(())
    }

    /// Has panics say what they say this way: a thread that panics does not wait for a reader for
    /// long.
    pub fn take_panics(&self) {
        let err = Arc::clone(&self.err);
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("of no name").to_owned();
            err.say(format!("thread {name}: {panic}\n"));
            err.wait(LAST_WORDS);
        }));
    }
}

/// Writes why a program ends on standard error, where nobody may read it any more.
pub fn last_words(words: &str) {
    let Ok(err) = io::stderr().as_fd().try_clone_to_owned() else { return };
    if let Ok(stream) = Stream::start("lab-last-words", err, MOST_WAITING) {
        stream.say(format!("{words}\n"));
        stream.wait(LAST_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, Read};

    use super::*;

    /// Nothing here takes longer.
    const TIME: Duration = Duration::from_secs(20);

    fn output(most: usize) -> (Output, PipeReader, PipeReader) {
        let (out_reads, out) = io::pipe().expect("a pipe");
        let (err_reads, err) = io::pipe().expect("a pipe");
        (Output::to("test", out.into(), err.into(), most).expect("threads"), out_reads, err_reads)
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_matters_arrives_when_there_is_one() {
        const MOST: usize = 1 << 20;
        let (output, reads, _err) = output(MOST);
        let line = "x".repeat(9_999);
        let (mut taken, mut refused) = (0, 0);
        // Until long after pipe and queue are full.
        while refused < 100 {
            let is_taken = output.record(line.clone(), false);
            taken += usize::from(is_taken);
            refused += usize::from(!is_taken);
        }
        assert!(taken * 10_000 <= MOST + (1 << 20), "{taken} are more than bound and pipe hold");
        assert!(output.record("the end".to_owned(), true), "there is room for it");
        let mut lines = BufReader::new(reads).lines().map_while(Result::ok);
        assert_eq!(lines.by_ref().take(taken).filter(|it| it.len() == 9_999).count(), taken);
        assert_eq!(lines.next().as_deref(), Some("the end"));
        output.out.wait(TIME);
        assert_eq!(output.out.progress(), None);
    }

    #[test]
    fn a_person_is_told_how_many_lines_are_missing() {
        let (output, reads, _err) = output(0);
        let line = "x".repeat(1 << 20);
        let fits = RESERVE / line.len();
        // One is being written, and does not count; so one may find room more or less.
        for _ in 0..fits + 20 {
            output.say(&line);
        }
        let mut lines = BufReader::new(reads).lines().map_while(Result::ok);
        let count = |lines: &mut dyn Iterator<Item = String>, until: &str| {
            lines.take_while(|it| it != until).fold((0, None), |(seen, missing), line| {
                let told = line.strip_prefix('(').and_then(|it| it.split(' ').next()?.parse().ok());
                (seen + usize::from(told.is_none()), missing.or(told))
            })
        };
        let told = std::thread::scope(|scope| {
            let reader = scope.spawn(|| count(&mut lines, "end"));
            output.out.wait(TIME);
            output.say("end");
            reader.join().expect("no panic")
        });
        let (seen, missing): (usize, Option<usize>) = told;
        assert_eq!(seen + missing.expect("lines were left out"), fits + 20);
    }

    #[test]
    fn a_reader_that_has_gone_is_not_waited_for() {
        let (output, reads, err) = output(1 << 20);
        drop((reads, err));
        for _ in 0..1_000 {
            output.say(&"x".repeat(9_999));
            output.tell("also here");
            output.record("and here".to_owned(), true);
        }
        output.out.wait(TIME);
        output.err.wait(TIME);
        assert_eq!((output.out.progress(), output.err.progress()), (None, None));
    }

    #[test]
    fn a_full_disk_is_as_good_as_nobody() {
        let full = || OwnedFd::from(std::fs::File::create("/dev/full").expect("it is there"));
        let output = Output::to("test", full(), full(), 1 << 20).expect("threads");
        output.say("one");
        output.tell("other");
        output.out.wait(TIME);
        output.err.wait(TIME);
        assert_eq!((output.out.progress(), output.err.progress()), (None, None));
    }

    #[test]
    fn a_pipe_that_does_not_wait_gets_everything_as_well() {
        let (mut reads, writes) = io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writes, true).expect("it can be set");
        let stream = Stream::start("stdout", writes.into(), 64 << 20).expect("a thread");
        let line = "y".repeat(1 << 20);
        (0..8).for_each(|_| assert!(stream.put(line.clone(), 0)));
        let mut bytes = vec![0; 8 << 20];
        reads.read_exact(&mut bytes).expect("all of it");
        assert!(bytes.iter().all(|byte| *byte == b'y'));
    }
}
