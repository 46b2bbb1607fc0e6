//! The `lab` program as its user runs it: started, watched, interrupted, its record read.

// Each test file is a program of its own and uses its part of this.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing that these tests wait for takes longer, also on a machine that does something else, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// No program that these tests run to its end takes longer: some carry out several experiments.
const LONGEST: Duration = Duration::from_secs(600);

/// An experiment file of the repository.
pub(crate) fn experiment(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.ron"))
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    // Tests by sudo are the same as those of root.
    command.args(arguments).env_remove("SUDO_UID").env_remove("SUDO_GID");
    command
}

/// Runs `lab` to its end.
pub(crate) fn lab(arguments: &[&str]) -> Output {
    output(&mut command(arguments))
}

/// Runs a program to its end, and kills it when that does not come.
pub(crate) fn output(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let read = |stream: &mut dyn Read| {
        let mut bytes = Vec::new();
        // What was read until an error is what was said.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    };
    std::thread::scope(|scope| {
        let stdout = scope.spawn(move || read(&mut stdout));
        let stderr = scope.spawn(move || read(&mut stderr));
        let deadline = Instant::now() + LONGEST;
        let status = loop {
            match child.try_wait().expect("our child") {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        // Its streams end with it.
        let status = status.ok_or_else(|| child.kill().and_then(|()| child.wait()));
        let [stdout, stderr] = [stdout, stderr].map(|it| it.join().expect("it reads"));
        let ended = status.is_ok();
        let status = status.unwrap_or_else(|killed| killed.expect("killed"));
        let output = Output { status, stdout, stderr };
        assert!(ended, "{command:?} did not end in {LONGEST:?}: {}", said(&output));
        output
    })
}

/// The exit code, with everything that was said in case it is the wrong one. A machine that does
/// other work meanwhile makes clients late, and then p99 is not valid: tests that ask for counts
/// and money do not ask for a quiet machine.
pub(crate) fn assert_exit(output: &Output, code: i32) {
    let text = said(output);
    if code == 0 && output.status.code() == Some(4) && is_only_late(&text) {
        return;
    }
    assert_eq!(output.status.code(), Some(code), "{text}");
}

/// Whether the only thing wrong with a run is that its clients were late.
fn is_only_late(said: &str) -> bool {
    let mut wrong = said.lines().filter(|line| line.contains(" is not valid: ")).peekable();
    let any = wrong.peek().is_some();
    any && wrong.all(|line| line.contains(": p99 is not valid")) && !said.contains("DO NOT BALANCE")
}

/// Both streams.
pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// A `lab` that is running; it is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Starts `lab`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::of(&mut command(arguments))
    }

    /// Starts a command that becomes `lab`.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("lab starts");
        let (tell, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        // Ends with the program, or with the test that does not listen any more.
        std::thread::spawn(move || {
            let _ = stderr.lines().map_while(Result::ok).try_for_each(|line| tell.send(line));
        });
        Self { child, lines }
    }

    /// Waits for a line of its progress that begins like this, and returns it.
    pub(crate) fn wait_for(&self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with(beginning) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("never said \"{beginning}\", but {seen:#?}");
                }
            }
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it is there");
    }

    /// Waits for its end: completed, and if not all of it is valid, then because its clients were
    /// late, which the machine's other work can make them. What was counted is in its summary.
    #[allow(dead_code, reason = "not every test file waits for a run to complete")]
    pub(crate) fn assert_completed(self) {
        let code = self.exit_code();
        assert!(matches!(code, Some(0 | 4)), "{code:?}");
    }

    /// Waits for its end.
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        wait_until("lab ends", || self.child.try_wait().expect("our child").is_some());
        self.child.wait().expect("our child").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A JSON file of a run.
pub(crate) fn json(directory: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(directory.join(name)).expect("the file is there");
    serde_json::from_str(&text).expect("JSON")
}

/// The whole lines of a file of a run.
pub(crate) fn lines(directory: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(directory.join(name)).expect("the file is there");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// A whole number in JSON, by its path.
pub(crate) fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} of {value}"))
}

/// Holds the identities of a run's summary: shakes in every phase, and the money.
pub(crate) fn assert_adds_up(summary: &Value) {
    for phase in summary["phases"].as_array().expect("phases") {
        let shake = |name: &str| number(phase, &format!("/shake/{name}"));
        assert_eq!(shake("offered"), shake("sent") + shake("skipped"), "{phase}");
        let ended = shake("answered") + shake("timed_out") + shake("lost");
        assert_eq!(shake("sent"), ended + shake("in_flight_at_end"), "{phase}");
        let answered = shake("granted") + shake("empty") + shake("overloaded");
        assert_eq!(shake("answered"), answered, "{phase}");
    }
    let ledger = &summary["ledger"];
    for unit in ["count", "amount"] {
        let money = |name: &str| number(ledger, &format!("/{name}/{unit}"));
        let somewhere = money("granted") + money("claimed") + money("refunded");
        assert_eq!(money("created"), somewhere + money("remaining"), "{ledger}");
        let received = money("granted") + money("claimed") - money("undelivered");
        assert_eq!(money("received_by_clients"), received, "{ledger}");
    }
    assert_eq!(ledger["balanced"], true, "{ledger}");
    assert_eq!(number(ledger, "/double_grants"), 0);
}
