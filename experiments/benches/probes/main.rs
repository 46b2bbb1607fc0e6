//! What the probes cost: the same run with them and without, in turns, at 60,000 requests a second
//! and at saturation.
//!
//! `cargo bench -p experiments --bench probes` runs in full, some six minutes on two cores, as
//! root; `-- --softirqs` has them timed too. Among the tests it runs small and checks counts alone.
//! A recorded run is in `ebpf/COST.md`.

use std::path::Path;
use std::process::{Command, ExitCode};

use analysis::summary::Summary;
use anyhow::Context;
use serde_json::Value;
use spec::machine::Machine;

/// How much is run.
struct Size {
    users: u32,
    rate: u32,
    in_flight: u32,
    seconds: u32,
    saturated_seconds: u32,
    /// Pairs of runs.
    rounds: u32,
    /// Whether softirqs are timed, too.
    softirqs: bool,
}

const FULL: Size = Size {
    users: 10_000,
    rate: 60_000,
    in_flight: 400,
    seconds: 6,
    saturated_seconds: 12,
    rounds: 8,
    softirqs: false,
};

const SMALL: Size = Size {
    users: 500,
    rate: 500,
    in_flight: 10,
    seconds: 1,
    saturated_seconds: 1,
    rounds: 1,
    softirqs: true,
};

/// CPU time more for each request, in microseconds.
const MORE_US: f64 = 1.0;

/// The part of the saturated throughput that may be lost.
const LOST: f64 = 0.05;

/// What a run came to.
#[derive(Clone, Copy, Debug)]
struct Measured {
    offered: u64,
    answered: u64,
    /// CPU time of the whole machine, the recorder's too, for each answer.
    machine_us: f64,
    /// That of server and client alone.
    programs_us: f64,
    saturated_per_s: f64,
    explained: bool,
}

fn main() -> ExitCode {
    // Cargo passes `--bench` when it runs benchmarks, and nothing when it runs tests.
    let full = std::env::args().any(|argument| argument == "--bench");
    if !full {
        return needs::alone("probes_explain_what_a_small_run_sends", || {
            let ran = needs::root().then(|| run(&SMALL, false).expect("it runs"));
            assert!(ran != Some(false), "the run is not what it must be");
        });
    }
    let softirqs = std::env::args().any(|argument| argument == "--softirqs");
    match run(&Size { softirqs, ..FULL }, true) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("probes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(size: &Size, full: bool) -> anyhow::Result<bool> {
    println!("{}", serde_json::to_string(&Machine::this())?);
    let mut pairs = Vec::new();
    for round in 0..size.rounds {
        // What drifts with time hits both: every second pair runs the other way round.
        let (first, second) = (round % 2 == 1, round % 2 == 0);
        let (one, other) = (measure(size, first)?, measure(size, second)?);
        let (off, on) = if first { (other, one) } else { (one, other) };
        show("off", &off);
        show("on", &on);
        pairs.push((off, on));
    }
    let all_answered = pairs.iter().all(|(off, on)| {
        off.answered == off.offered && on.answered == on.offered && off.offered == on.offered
    });
    let explained = pairs.iter().all(|(off, on)| on.explained && !off.explained);
    let more = |cost: fn(&Measured) -> f64| median(&pairs, |off, on| cost(on) - cost(off));
    let (machine, programs) = (more(|it| it.machine_us), more(|it| it.programs_us));
    let lost = median(&pairs, |off, on| 1.0 - on.saturated_per_s / off.saturated_per_s);
    let mark = |reached: bool| if reached { "reached" } else { "MISSED " };
    println!("{}  the same requests, all answered", mark(all_answered));
    println!("{}  explained with probes, and not without", mark(explained));
    println!(
        "{}  CPU a request at {}/s: {machine:+.2} µs (server and client alone {programs:+.2} µs), \
         {MORE_US} allowed",
        mark(machine <= MORE_US),
        size.rate
    );
    println!(
        "{}  saturated: {:+.1}% throughput, -{:.0}% allowed",
        mark(lost <= LOST),
        -lost * 100.0,
        LOST * 100.0
    );
    let counts = all_answered && explained;
    Ok(counts && (!full || (machine <= MORE_US && lost <= LOST)))
}

fn show(probes: &str, it: &Measured) {
    println!(
        "probes {probes:3}  answered {} of {}  CPU µs a request: machine {:.2}, server and client \
         {:.2}  saturated {:.0}/s",
        it.answered, it.offered, it.machine_us, it.programs_us, it.saturated_per_s
    );
}

/// The median over pairs of runs, which are alike in everything else.
fn median(pairs: &[(Measured, Measured)], figure: impl Fn(&Measured, &Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = pairs.iter().map(|(off, on)| figure(off, on)).collect();
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

fn measure(size: &Size, probes: bool) -> anyhow::Result<Measured> {
    let directory = tempfile::tempdir()?;
    let (file, out) = (directory.path().join("probes.ron"), directory.path().join("run"));
    let Size { users, rate, in_flight, seconds, saturated_seconds, .. } = size;
    let text = format!(
        r#"(
            name: "probes", users: {users}, probes: {probes}, softirqs: {softirqs},
            server: (shards: 1, cpus: [0]), client: (shards: 1, cpus: [{cpu}]),
            validity: (late_share: 1.0, client_busy_share: 1.0, because: "saturated on purpose"),
            phases: [
                (name: "connect", connect: (), until: Established, longest_s: 60),
                (name: "line", seconds: {seconds}, shake: Open(rate: Fixed({rate}))),
                (name: "saturated", seconds: {saturated_seconds},
                    shake: Closed(in_flight: {in_flight})),
            ],
        )"#,
        softirqs = size.softirqs,
        probes = if probes { "Required" } else { "Off" },
        cpu = usize::from(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1)),
    );
    std::fs::write(&file, text)?;
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("run")
        .args([&file, Path::new("--out"), &out])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Percentiles that the clients' own lateness made void (exit status 4) are not asked for here.
    let ran = matches!(output.status.code(), Some(0 | 4));
    anyhow::ensure!(ran, "lab run ended with {}: {said}", output.status);
    let summary: Summary = serde_json::from_slice(&std::fs::read(out.join("summary.json"))?)?;
    anyhow::ensure!(summary.phases.iter().all(|phase| phase.load_valid), "{said}");
    let [_, line, saturated] = summary.phases.as_slice() else {
        anyhow::bail!("three phases were planned");
    };
    let cpu = line.cpu_us_per_request;
    let samples = std::fs::read_to_string(out.join("samples.jsonl"))?;
    let machine_us = machine_us(&samples, "line")? / line.shake.answered as f64;
    Ok(Measured {
        offered: line.shake.offered,
        answered: line.shake.answered,
        machine_us,
        programs_us: cpu.server.zip(cpu.client).map(|(a, b)| a + b).context("no CPU time")?,
        saturated_per_s: saturated.shake.answered as f64 / f64::from(*saturated_seconds),
        explained: line.segments_us.server_wait.p50.is_some(),
    })
}

/// CPU time of all that ran on the machine during a phase, in microseconds: what its CPUs were not
/// idle. The tick's own shares of it would be coarse; idle time is kept by the clock.
fn machine_us(samples: &str, phase: &str) -> anyhow::Result<f64> {
    let lines = samples.lines().map(serde_json::from_str::<Value>);
    let mut busy_us = 0.0;
    for line in lines {
        let line = line?;
        if line["of"] != "machine" || line["phase"] != phase {
            continue;
        }
        let cpus = line["cpus"].as_array().context("no account of the CPUs")?;
        let idle: Option<f64> = cpus.iter().map(|cpu| cpu["idle_us"].as_f64()).sum();
        busy_us += cpus.len() as f64 * 1e6 - idle.context("no idle time")?;
    }
    Ok(busy_us)
}
