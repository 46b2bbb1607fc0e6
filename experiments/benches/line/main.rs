//! What holding the line costs, beside a plain epoll twin of the server in the same run.
//!
//! `cargo bench -p experiments --bench line` runs in full: a million connections and 60,000
//! requests a second, some six minutes on two cores, as root. Among the tests it runs small and
//! checks counts alone. Recorded runs are in `experiments/benches/line/recorded.md`.

mod programs;
mod twin;

use std::process::{Command, ExitCode};

use analysis::summary::Summary;
use anyhow::Context;
use host::namespace::Netns;
use spec::machine::Machine;
use spec::{Experiment, Source};

use programs::{Kind, Measured, Setting, Totals, measure};

/// How much is run.
struct Size {
    /// Users of the whole experiment, and seconds of each of its loads.
    users: u32,
    seconds: u32,
    rates: [u32; 2],
    /// Connections between which memory must grow by a line.
    slope: [u32; 2],
    /// Rounds of the comparison, seconds of each, connections and rate.
    rounds: u32,
    compared_s: u32,
    compared_users: u32,
    compared_rate: u32,
}

const FULL: Size = Size {
    users: 1_000_000,
    seconds: 60,
    rates: [30_000, 60_000],
    slope: [5_000, 18_500],
    rounds: 4,
    compared_s: 8,
    compared_users: 18_500,
    compared_rate: 60_000,
};

const SMALL: Size = Size {
    users: 1_000,
    seconds: 2,
    rates: [500, 1_000],
    slope: [500, 1_500],
    rounds: 1,
    compared_s: 1,
    compared_users: 1_000,
    compared_rate: 1_000,
};

/// The exit status of `lab run` when a phase is not valid.
const INVALID: i32 = 4;

/// Connections of one thread of the twin when a million are to be carried.
const TWIN_CONNECTIONS: u32 = 18_500;

/// Figures that must be reached, and whether they were.
#[derive(Default)]
struct Marks {
    missed: Vec<String>,
}

impl Marks {
    fn hold(&mut self, what: &str, reached: bool, figure: &str) {
        println!("{}  {what}: {figure}", if reached { "reached" } else { "MISSED " });
        if !reached {
            self.missed.push(format!("{what}: {figure}"));
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse::<usize>().ok()
    };
    let done = match after("--twin") {
        Some(threads) => twin::serve(threads, after("--cpus")).map(|()| Marks::default()),
        // Cargo passes `--bench` when it runs benchmarks, and nothing when it runs tests.
        None if arguments.iter().any(|argument| argument == "--bench") => run(&FULL, true),
        None => run(&SMALL, false),
    };
    match done {
        Ok(marks) if marks.missed.is_empty() => ExitCode::SUCCESS,
        Ok(marks) => {
            eprintln!("missed: {}", marks.missed.join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("line: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(size: &Size, full: bool) -> anyhow::Result<Marks> {
    let machine = Machine::this();
    println!("{}", serde_json::to_string(&machine)?);
    let mut marks = Marks::default();
    compare(size, full, &mut marks)?;
    memory(size, full, &mut marks)?;
    three_phases(size, full, &mut marks)?;
    if full && machine.root {
        twin_at_a_million(size)?;
    }
    Ok(marks)
}

fn show(kind: Kind, it: &Measured) {
    println!(
        "{:10}  answered {} of {}  CPU µs a request: server {:.2}, client {:.2}  latency {}",
        kind.name(),
        it.answered,
        it.offered,
        it.server_us,
        it.client_us,
        it.latency
    );
}

/// One thread each, on a CPU of its own: ours and the twin in turns.
fn compare(size: &Size, full: bool, marks: &mut Marks) -> anyhow::Result<()> {
    println!("\n{} connections, {}/s, one thread", size.compared_users, size.compared_rate);
    let setting = Setting {
        users: size.compared_users,
        rate: size.compared_rate,
        seconds: size.compared_s,
        threads: 1,
        client_shards: 1,
        apart: std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1),
        namespace: None,
    };
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        for (place, kind) in [Kind::Ours, Kind::Twin].into_iter().enumerate() {
            let it = measure(kind, &setting)?;
            show(kind, &it);
            costs[place].push(it.server_us);
            if kind == Kind::Twin {
                continue;
            }
            if full {
                let figure = format!("{} of {} offered", it.answered, it.offered);
                // A second's last answers may come in the next.
                let off = it.answered.abs_diff(it.offered);
                let share = off as f64 / it.offered as f64;
                marks.hold("lab-server answers", share < 0.01, &figure);
            } else {
                let Totals { offered, answered } = it.totals;
                let figure = format!("{answered} of {offered} offered");
                marks.hold("lab-server answers", offered > 0 && answered == offered, &figure);
            }
        }
    }
    let [ours, twin] = costs.map(median);
    let figure = format!("{ours:.2} µs of {twin:.2} µs: {:.2} times", ours / twin);
    if full {
        marks.hold("CPU a request at most 1.15 times the twin's", ours <= 1.15 * twin, &figure);
    } else {
        println!("CPU a request: {figure}");
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(low, high)
}

/// Memory as a line over the number of connections on one shard: its slope.
fn memory(size: &Size, full: bool, marks: &mut Marks) -> anyhow::Result<()> {
    println!(
        "\nanonymous memory with {} and {} connections on one shard",
        size.slope[0], size.slope[1]
    );
    let of = |users| {
        measure(
            Kind::Ours,
            &Setting {
                users,
                rate: users / 5,
                seconds: 1,
                threads: 1,
                client_shards: 1,
                apart: false,
                namespace: None,
            },
        )
    };
    let [few, many] = [of(size.slope[0])?, of(size.slope[1])?];
    for (side, name) in ["server", "client"].into_iter().enumerate() {
        let grown = many.memory[side] as f64 - few.memory[side] as f64;
        let slope = grown / f64::from(size.slope[1] - size.slope[0]);
        let figure = format!(
            "{} and {} bytes: {slope:.0} a connection",
            few.memory[side], many.memory[side]
        );
        if full {
            marks.hold(&format!("{name} at most 300 bytes a connection"), slope <= 300.0, &figure);
        } else {
            println!("{name}: {figure}");
        }
    }
    Ok(())
}

/// The experiment of the articles, carried out by the `lab` command.
fn three_phases(size: &Size, full: bool, marks: &mut Marks) -> anyhow::Result<()> {
    println!("\nthree-phases.ron with {} users", size.users);
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/three-phases.ron");
    command.args(["run", file, "--out"]).arg(&out);
    let mut set = |setting: String| {
        command.args(["--set", &setting]);
    };
    set(format!("users={}", size.users));
    // What the probes cost has a benchmark of its own.
    set("probes=Off".to_owned());
    for (phase, rate) in ["30k", "60k"].iter().zip(size.rates) {
        set(format!("phases.{phase}.seconds={}", size.seconds));
        set(format!("phases.{phase}.shake.Open.rate.Fixed={rate}"));
    }
    if !full {
        set("validity.late_share=1.0".to_owned());
        set("network.socket_table=65536".to_owned());
    }
    let status = command.status()?;
    // A load that was not sound is a mark missed, and its figures are still worth seeing.
    let finished = matches!(status.code(), Some(0 | INVALID));
    anyhow::ensure!(finished, "lab run ended with {status}");
    let summary = std::fs::read_to_string(out.join("summary.json")).context("no summary")?;
    let summary: Summary = serde_json::from_str(&summary)?;
    let connect = &summary.phases[0].connections;
    let took = connect.connect_rate.map(|rate| f64::from(size.users) / rate);
    let time = took.map_or("unknown time".to_owned(), |took| format!("{took:.1} s"));
    let figure = format!("{} in {time}, {} lost", connect.established, connect.lost);
    let all = connect.established == u64::from(size.users) && connect.lost == 0;
    let quick = !full || took.is_some_and(|took| took <= 40.0);
    marks.hold("all connections with their logins in at most 40 s", all && quick, &figure);
    for (phase, rate) in summary.phases[1..].iter().zip(size.rates) {
        let shake = &phase.shake;
        let due = u64::from(rate) * u64::from(size.seconds);
        let figure = format!("{} of {due}, {} skipped", shake.answered, shake.skipped);
        let what = format!("every request answered at {rate}/s");
        marks.hold(&what, shake.answered == due && shake.skipped == 0, &figure);
        let because = phase.invalid_because.join("; ");
        // Small, it is a test of counts on a machine that may do other work.
        let is_sound = if full { phase.valid } else { phase.load_valid };
        marks.hold(&format!("a sound load at {rate}/s"), is_sound, &because);
        let per_second = &phase.answered_per_second;
        let figure = format!("{} to {}", per_second.min, per_second.max);
        if full {
            let off = |count: u64| count.abs_diff(u64::from(rate)) as f64 / f64::from(rate);
            let steady = off(per_second.min) <= 0.01 && off(per_second.max) <= 0.01;
            marks.hold(&format!("every second within 1% of {rate}/s"), steady, &figure);
            let p99 = phase.latency_us.p99.unwrap_or(u64::MAX);
            let figure = serde_json::to_string(&phase.latency_us)?;
            marks.hold(&format!("p99 at {rate}/s under 30 ms"), p99 < 30_000, &figure);
        } else {
            println!("every second: {figure}");
        }
        println!(
            "         CPU µs a request: {}",
            serde_json::to_string(&phase.cpu_us_per_request)?
        );
        println!("         memory: {}", serde_json::to_string(&phase.memory)?);
    }
    let figure = serde_json::to_string(&summary.ledger)?;
    marks.hold("the ledger balances", summary.ledger.balanced == Some(true), &figure);
    Ok(())
}

/// The twin under the same load, with as many threads as its descriptors need.
fn twin_at_a_million(size: &Size) -> anyhow::Result<()> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/three-phases.ron");
    let experiment: Experiment = Source::read(file.as_ref(), &[])?.experiment;
    let namespace = Netns::make(&experiment.network, false)?;
    let threads = size.users.div_ceil(TWIN_CONNECTIONS) as usize;
    println!(
        "\nthe twin with {} connections on {threads} threads, {}/s",
        size.users, size.rates[1]
    );
    let it = measure(
        Kind::Twin,
        &Setting {
            users: size.users,
            rate: size.rates[1],
            seconds: 20,
            threads,
            client_shards: 2,
            apart: false,
            namespace: Some(&namespace),
        },
    )?;
    show(Kind::Twin, &it);
    Ok(())
}
