//! What users who behave pay for those who do not: the server's own time for their requests, alone
//! and beside peers that pipeline without end or drip a byte a second.
//!
//! `cargo bench -p lab-server --bench beside` runs in full, for a minute, and wants two CPUs and
//! nothing else running. Among the tests it runs small and checks that everybody is served. Times
//! are compared within the run: the server has one CPU, all peers have the others, and both
//! histograms are its own.

mod load;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use lab_server::server::Server;
use platform::cpus_allowed;
use rustix::thread::{CpuSet, sched_setaffinity};
use service::Config;
use shard::{Durations, Timing};

use load::{Kind, Load, PER_PROCESS};

/// How much is run.
struct Size {
    /// Users who behave, and their requests a second in all.
    users: u32,
    rate: u32,
    /// Peers that pipeline pings, shakes and packets, a third each.
    flooders: u32,
    /// Peers that send a byte of a frame a second.
    dribblers: u32,
    /// Windows of each of the two measurements.
    windows: usize,
}

const FULL: Size =
    Size { users: 20_000, rate: 2_000, flooders: 300, dribblers: 10_000, windows: 50 };

const SMALL: Size =
    Size { users: 1_000, rate: 1_000, flooders: 300, dribblers: 1_000, windows: 20 };

/// What is looked at by itself: the kernel stops a busy thread of the real-time class for 50 ms in
/// each second, and a virtual machine stops now and then. The medians are of windows without that.
const WINDOW: Duration = Duration::from_millis(200);

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().position(|argument| argument == "--load") {
        Some(place) => load::carry_out(&arguments[place + 1..]).map(|()| true),
        // Cargo passes `--bench` when it runs benchmarks, and nothing when it runs tests.
        None if arguments.iter().any(|argument| argument == "--bench") => run(&FULL, true),
        None => run(&SMALL, false),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("beside: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(size: &Size, times: bool) -> anyhow::Result<bool> {
    let cpus = cpus_allowed()?;
    let [first, others @ ..] = cpus.as_slice() else { return Ok(true) };
    if others.is_empty() {
        println!("not measured: server and peers need a CPU each, and there is one");
        return Ok(true);
    }
    let server = Server::start(&Config {
        listen: "127.0.0.1:0".parse()?,
        users: size.users + size.flooders + size.dribblers,
        shards: Some(1),
        cpus: Some(vec![*first]),
        ..Config::default()
    })?;
    let measured = measure(&server, others, size, times);
    server.stop()?;
    measured
}

fn measure(server: &Server, others: &[usize], size: &Size, times: bool) -> anyhow::Result<bool> {
    // The processes of the peers are born with it.
    let mut theirs = CpuSet::new();
    others.iter().for_each(|cpu| theirs.set(*cpu));
    sched_setaffinity(None, &theirs)?;
    let (mut loads, mut first_user) = (Vec::new(), 0);
    let mut begin = |kind, peers: u32, rate| -> anyhow::Result<()> {
        let mut left = peers;
        while left > 0 {
            let some = left.min(PER_PROCESS);
            let rate = (u64::from(rate) * u64::from(some) / u64::from(peers)) as u32;
            loads.push(Load::begin(kind, server.address(), (first_user, some), rate)?);
            (first_user, left) = (first_user + some, left - some);
        }
        Ok(())
    };
    begin(Kind::Behaves, size.users, size.rate)?;
    let alone = windows(server, size.windows)?;
    let each = size.flooders / 3;
    begin(Kind::Drips, size.dribblers, size.dribblers)?;
    for kind in [Kind::Pings, Kind::Shakes, Kind::Packets] {
        begin(kind, each, 0)?;
    }
    let beside = windows(server, size.windows)?;
    for load in loads {
        load.end()?;
    }
    Ok(judge(size, &alone, &beside, times))
}

/// What happened in each of so many windows, after a second to settle.
fn windows(server: &Server, windows: usize) -> anyhow::Result<Vec<Window>> {
    let mut before = None;
    let mut all = Vec::new();
    let start = Instant::now() + Duration::from_secs(1);
    for window in 0..=windows {
        let until = start + WINDOW * window as u32;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        let snapshots = server.snapshots(PATIENCE);
        let snapshot = snapshots.ok().and_then(|mut all| all.pop()).context("no answer")?;
        let now = (snapshot.timing, snapshot.counters.bytes_in);
        if let Some((timing, bytes)) = before.replace(now.clone()) {
            all.push(Window::between(&timing, &now.0, now.1 - bytes));
        }
    }
    Ok(all)
}

/// What a window came to, in microseconds.
struct Window {
    answers: u64,
    answer_p50: u64,
    answer_p99: u64,
    poll_p99: u64,
    poll_max: u64,
    kilobytes: u64,
}

impl Window {
    fn between(before: &Timing, after: &Timing, bytes: u64) -> Self {
        let answers = after.answers.since(&before.answers);
        let polls = after.polls.since(&before.polls);
        // A window in which nothing was answered is as bad as one can be.
        let of = |durations: &Durations, per_mille| {
            durations.per_mille_ns(per_mille).map_or(u64::MAX, |ns| ns / 1000)
        };
        Self {
            answers: answers.count(),
            answer_p50: of(&answers, 500),
            answer_p99: of(&answers, 990),
            poll_p99: of(&polls, 990),
            poll_max: of(&polls, 1000),
            kilobytes: bytes >> 10,
        }
    }
}

fn median(windows: &[Window], of: impl Fn(&Window) -> u64) -> u64 {
    let mut all: Vec<u64> = windows.iter().map(of).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn mean(windows: &[Window]) -> u64 {
    windows.iter().map(|it| it.answers).sum::<u64>() / windows.len() as u64
}

fn judge(size: &Size, alone: &[Window], beside: &[Window], times: bool) -> bool {
    println!("{} users at {}/s, medians of {} windows", size.users, size.rate, size.windows);
    println!("µs         answers   p50   p99  poll p99   max     KB in");
    for (name, windows) in [("alone", alone), ("beside", beside)] {
        println!(
            "{name:8} {:9} {:5} {:5} {:9} {:5} {:9}",
            median(windows, |it| it.answers),
            median(windows, |it| it.answer_p50),
            median(windows, |it| it.answer_p99),
            median(windows, |it| it.poll_p99),
            median(windows, |it| it.poll_max),
            median(windows, |it| it.kilobytes),
        );
    }
    let (with, without) = (median(beside, |it| it.answer_p99), median(alone, |it| it.answer_p99));
    let poll = median(beside, |it| it.poll_p99);
    let served = u64::from(size.rate) / 5 * if times { 95 } else { 50 } / 100;
    let holds = [
        ("all who behave are served", mean(beside) >= served),
        ("p99 at most twice that alone, and a poll", !times || with <= 2 * without + poll),
    ];
    for (what, holds) in holds {
        println!("{}  {what}", if holds { "reached" } else { "MISSED " });
    }
    holds.iter().all(|(_, holds)| *holds)
}
