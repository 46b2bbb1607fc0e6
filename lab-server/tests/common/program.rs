//! The program with a durable ledger, as a child: to be killed, and started again.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use accounting::Ledger;
use accounting::server::Sample;
use rustix::process::{Pid, Signal, kill_process};
use service::{Line, Ready};

/// A running server, killed with the test.
pub(crate) struct Program {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) ready: Ready,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It is gone already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub(crate) fn start(ledger: &Path, shards: u32, more: &[&str]) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_lab-server"));
        Self::start_by(command, ledger, shards, more)
    }

    /// On a small disk of its own, which only it sees.
    pub(crate) fn start_on_disk(of_kib: u32, disk: &Path) -> Self {
        let mount = format!(r#"mount -t tmpfs -o size={of_kib}k none "$0" && exec "$@""#);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &mount]).arg(disk);
        command.arg(env!("CARGO_BIN_EXE_lab-server"));
        let ledger = disk.join("ledger");
        Self::start_by(command, &ledger, 2, &["--packets-per-second", "20000"])
    }

    fn start_by(mut command: Command, ledger: &Path, shards: u32, more: &[&str]) -> Self {
        let shards = shards.to_string();
        let users: &[&str] = if more.contains(&"--users") { &[] } else { &["--users", "100"] };
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--pipe"])
            .args(["--shards", &shards, "--sets", "8", "--steering", "hash"])
            .args(["--ledger-history", "--ledger"])
            .arg(ledger)
            .args(users)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut text = String::new();
        lines.read_line(&mut text).expect("a line");
        let Ok(Line::Ready(ready)) = serde_json::from_str(&text) else { panic!("{text}") };
        Self { child, lines, ready }
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.ready.listen.parse().expect("an address")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Reads its lines until one is as wanted.
    pub(crate) fn wait_for(&mut self, wanted: impl Fn(&Line) -> bool) {
        let lines = self.lines.by_ref().lines();
        let mut lines =
            lines.map(|line| serde_json::from_str(&line.expect("text")).expect("a line"));
        assert!(lines.any(|line| wanted(&line)), "it ended");
    }

    /// Kills it, at whatever it is.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is gone");
    }

    /// A file of one of its threads under `/proc`.
    pub(crate) fn of_thread(&self, thread: i32, file: &str) -> PathBuf {
        format!("/proc/{}/task/{thread}/{file}", self.child.id()).into()
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> Vec<i32> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let entries = std::fs::read_dir(tasks).expect("it runs").map(|entry| entry.expect("one"));
        entries
            .map(|entry| entry.file_name().to_string_lossy().parse().expect("a number"))
            .collect()
    }

    /// Waits for its end after SIGTERM: the code, and the books that it closed.
    pub(crate) fn end(&mut self) -> (Option<i32>, Ledger) {
        self.end_with(|_| {})
    }

    /// The same; `each` gets the samples that were not read before.
    pub(crate) fn end_with(&mut self, mut each: impl FnMut(&Sample)) -> (Option<i32>, Ledger) {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        let mut books = None;
        for line in self.lines.by_ref().lines() {
            match serde_json::from_str(&line.expect("text")).expect("a line") {
                Line::Sample(sample) => each(&sample),
                Line::Ended(ledger) => books = Some(ledger),
                Line::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
        (self.child.wait().expect("it ends").code(), books.expect("closed books"))
    }
}
