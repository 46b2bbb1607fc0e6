//! Servers and clients of the benchmark: started, watched, and gone with this process.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use ebpf::proc::{ProcReader, ThreadsReading};
use host::namespace::{Netns, enter};

/// Connecting a million users takes 22 s, and no load here is longer than a minute.
const LONGEST: Duration = Duration::from_secs(180);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// lab-server.
    Ours,
    /// The plain epoll twin.
    Twin,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ours => "lab-server",
            Kind::Twin => "epoll twin",
        }
    }
}

/// What is measured once.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) users: u32,
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
    /// Threads of the server.
    pub(crate) threads: usize,
    /// Shards of the client.
    pub(crate) client_shards: usize,
    /// Server and client on a CPU of their own, 0 and 1.
    pub(crate) apart: bool,
    pub(crate) namespace: Option<&'a Netns>,
}

/// Shakes of a whole load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) offered: u64,
    pub(crate) answered: u64,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) offered: u64,
    pub(crate) answered: u64,
    /// CPU time of the server for each answer, in microseconds.
    pub(crate) server_us: f64,
    /// CPU time of the client for each answer, in microseconds.
    pub(crate) client_us: f64,
    /// Anonymous memory of server and client with all users logged in, in bytes.
    pub(crate) memory: [u64; 2],
    /// What the client says of its whole load in the end.
    pub(crate) totals: Totals,
    /// The client's own line about latency, over the whole load.
    pub(crate) latency: String,
}

/// A process whose memory and CPU time are read.
struct Watched {
    pid: u32,
    before: ThreadsReading,
}

impl Watched {
    fn new(pid: u32) -> Self {
        Self { pid, before: ProcReader::default().threads(pid) }
    }

    /// Its anonymous memory in bytes, and its CPU time since this was asked before, in
    /// microseconds.
    fn second(&mut self) -> (u64, f64) {
        let now = ProcReader::default().threads(self.pid);
        let grown = now.since(&self.before);
        self.before = now;
        let ran_ns: u64 = grown.threads.iter().flatten().map(|(_, thread)| thread.ran_ns).sum();
        (grown.rss_anon_bytes.unwrap_or(0), ran_ns as f64 / 1000.0)
    }
}

/// A child that is killed when this is dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Command, namespace: Option<&Netns>) -> anyhow::Result<Guard> {
    let namespace = namespace.map(|it| it.as_fd().try_clone_to_owned()).transpose()?;
    // SAFETY: between fork and exec only system calls are made, on a descriptor that is open.
    unsafe {
        command.pre_exec(move || {
            let signal = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(signal)?;
            namespace.as_ref().map_or(Ok(()), |namespace| enter(namespace.as_fd()))
        });
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(Guard(command.spawn()?))
}

/// The first line that has `mark`, and the words behind the mark.
fn words_after(lines: impl Iterator<Item = std::io::Result<String>>, mark: &str) -> Option<String> {
    lines.map_while(Result::ok).find_map(|line| Some(line.split_once(mark)?.1.to_owned()))
}

fn start_server(kind: Kind, setting: &Setting<'_>) -> anyhow::Result<(Guard, String)> {
    let threads = setting.threads.to_string();
    let cpus: &[&str] = if setting.apart { &["--cpus", "0"] } else { &[] };
    match kind {
        Kind::Ours => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
            let users = setting.users.to_string();
            command.args(["server", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
            command.args(["--users", &users, "--shards", &threads, "--congestion", "cubic"]);
            command.args(cpus);
            let mut server = start(command, setting.namespace)?;
            let stderr: ChildStderr = server.0.stderr.take().context("piped")?;
            let rest = words_after(BufReader::new(stderr).lines(), "listen on ");
            let rest = rest.context("the server does not listen")?;
            let address = rest.split(',').next().unwrap_or_default().to_owned();
            Ok((server, address))
        }
        Kind::Twin => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--twin", &threads]).args(cpus);
            let mut twin = start(command, setting.namespace)?;
            let stdout: ChildStdout = twin.0.stdout.take().context("piped")?;
            let address = words_after(BufReader::new(stdout).lines(), "");
            Ok((twin, address.context("the twin does not listen")?))
        }
    }
}

/// A word's number behind a name, as in `offered 5000`.
fn number(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    words.nth(1)?.parse().ok()
}

/// Starts a server and a client, and measures the load between its first and its last second.
pub(crate) fn measure(kind: Kind, setting: &Setting<'_>) -> anyhow::Result<Measured> {
    let (server, address) = start_server(kind, setting)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    let text = |number: u32| number.to_string();
    let users = format!("0..{}", setting.users);
    command.args(["client", "--server", &address, "--users", &users, "--congestion", "cubic"]);
    command.args(["--rate", &text(setting.rate), "--seconds", &text(setting.seconds + 2)]);
    command.args(["--shards", &setting.client_shards.to_string()]);
    if setting.apart {
        command.args(["--cpus", "1"]);
    }
    let mut client = start(command, setting.namespace)?;
    let stdout = client.0.stdout.take().context("piped")?;
    let mut processes = [Watched::new(server.0.id()), Watched::new(client.0.id())];
    let mut measured = Measured {
        offered: 0,
        answered: 0,
        server_us: f64::NAN,
        client_us: f64::NAN,
        memory: [0; 2],
        totals: Totals::default(),
        latency: String::new(),
    };
    let started = Instant::now();
    let mut seconds = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        // The client says something every second, also when it gets nowhere.
        anyhow::ensure!(started.elapsed() < LONGEST, "{} does not end in time", kind.name());
        if let Some(latency) = line.trim_start().strip_prefix("latency ") {
            measured.latency = latency.trim().to_owned();
        }
        if !line.contains("online") {
            let totals = &mut measured.totals;
            totals.offered = number(&line, "offered").unwrap_or(totals.offered);
            totals.answered = number(&line, "answered").unwrap_or(totals.answered);
        }
        let Some(offered) = number(&line, "offered").filter(|_| line.contains("online")) else {
            continue;
        };
        if offered == 0 || seconds > setting.seconds {
            continue;
        }
        let now = processes.each_mut().map(Watched::second);
        if seconds == 0 {
            measured.memory = now.map(|(memory, _)| memory);
        } else {
            measured.offered += offered;
            measured.answered += number(&line, "answered").unwrap_or(0);
            let us = now.map(|(_, cpu_us)| cpu_us);
            let add = |sum: &mut f64, us: f64| *sum = if sum.is_nan() { us } else { *sum + us };
            add(&mut measured.server_us, us[0]);
            add(&mut measured.client_us, us[1]);
        }
        seconds += 1;
    }
    anyhow::ensure!(measured.answered > 0, "nothing was answered by {}", kind.name());
    measured.server_us /= measured.answered as f64;
    measured.client_us /= measured.answered as f64;
    Ok(measured)
}
