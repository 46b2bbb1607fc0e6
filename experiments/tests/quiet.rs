//! The lab does not disturb itself: its programs are known by their names, the one that records
//! keeps in the background, and a machine that stands still is seen.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Running, assert_exit, json, lab, lines, said};
use needs::test;
use rustix::process::Signal;

needs::main!();

/// A run of some seconds at a low rate; as root with a hog, too, that does next to nothing.
fn experiment(directory: &Path, seconds: u32, more: &str) -> String {
    let file = directory.join("quiet.ron");
    let text = format!(
        "(name: \"quiet\", users: 200, network: (namespace: Host), \
         validity: (late_share: 1.0, client_busy_share: 1.0, because: \"other tests\"), phases: [\
         (name: \"connect\", connect: (rate: 1000), until: Established, longest_s: 30), \
         (name: \"shake\", seconds: {seconds}, shake: Open(rate: Fixed(100)), \
         packets: (rate: 5), {more})])"
    );
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("UTF-8").to_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

const HOG: &str = "faults: [Hog(cpus: [0], busy: 0.01, nice: 19)]";

/// A thread: its name, and its policy as the kernel numbers it.
#[derive(Debug)]
struct Thread {
    name: String,
    policy: u32,
}

/// SCHED_OTHER, SCHED_BATCH and SCHED_IDLE.
const NORMAL: u32 = 0;
const BATCH: u32 = 3;
const IDLE: u32 = 5;

fn name_of(task: &Path) -> Option<String> {
    Some(std::fs::read_to_string(task.join("comm")).ok()?.trim().to_owned())
}

fn threads(process: u32) -> Vec<Thread> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let thread = |task: &Path| {
        let name = name_of(task)?;
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        let policy = stat.rsplit_once(')')?.1.split_whitespace().nth(38)?.parse().ok()?;
        Some(Thread { name, policy })
    };
    let all = tasks.flatten().filter_map(|task| thread(&task.path()));
    // Workers that the kernel lends to io_uring have names of its own.
    all.filter(|thread| !thread.name.starts_with("iou-")).collect()
}

/// The children of a process that have become what they are, with the word they were started with.
fn children(process: u32) -> Vec<(String, u32)> {
    let of = |directory: &Path| {
        let id: u32 = directory.file_name()?.to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(directory.join("status")).ok()?;
        let command = std::fs::read_to_string(directory.join("cmdline")).ok()?;
        let is_child = status.lines().any(|line| line == format!("PPid:\t{process}"));
        let word = command.split('\0').nth(1)?;
        let is_program = ["server", "client", "hog"].contains(&word);
        (is_child && is_program).then(|| (word.to_owned(), id))
    };
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    entries.filter_map(|entry| of(&entry.path())).collect()
}

#[test]
fn every_thread_bears_the_name_of_its_program_and_the_recorder_yields() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = experiment(directory.path(), 6, if is_root() { HOG } else { "" });
    let out = directory.path().join("run");
    let out = out.to_str().expect("UTF-8");
    let running = Running::start(&["run", &file, "--out", out, "--live", "127.0.0.1:0"]);
    running.wait_for("shake 2/");
    let programs = children(running.id());
    assert_eq!(programs.len(), if is_root() { 3 } else { 2 }, "{programs:?}");
    for (word, id) in &programs {
        let own = format!("lab-{word}");
        let process = name_of(Path::new(&format!("/proc/{id}"))).expect("it runs");
        assert_eq!(process, own);
        let threads = threads(*id);
        for thread in &threads {
            assert!(thread.name.starts_with(&own), "{word} has {thread:?}");
            let number = thread.name.strip_prefix(&format!("{own}-"));
            let is_shard = number.is_some_and(|it| it.parse::<u32>().is_ok());
            // What the shards' reports are written by yields to the shards; they and hogs do not.
            let expected = if is_shard || word == "hog" { NORMAL } else { BATCH };
            assert_eq!(thread.policy, expected, "{word}: {thread:?}");
        }
        let shards = threads.iter().filter(|thread| thread.policy == NORMAL).count();
        assert!(shards > 0, "{threads:?}");
    }
    let own = threads(running.id());
    for thread in &own {
        let is_own = thread.name == "lab" || thread.name.starts_with("lab-");
        let is_others = ["server", "client", "hog", "agent"]
            .iter()
            .any(|it| thread.name.starts_with(&format!("lab-{it}")));
        assert!(is_own && !is_others, "{thread:?}");
    }
    let recorder = own.iter().find(|thread| thread.name == "lab").expect("it records");
    let expected = if platform::may_return() { IDLE } else { BATCH };
    let helped = lines(Path::new(out), "samples.jsonl").iter().any(|row| row["helped"] == 1);
    assert!(recorder.policy == expected || helped, "{own:?}");
    running.assert_completed();
    let samples = lines(Path::new(out), "samples.jsonl");
    let own = samples.iter().filter(|row| row["of"] == "coordinator");
    assert!(own.clone().count() >= 6, "a row of each second");
    assert!(own.clone().all(|row| row["cpu_us"].is_u64()));
    let summary = json(Path::new(out), "summary.json");
    let shake = &summary["phases"][1];
    let each = shake["lab"]["cpu_us_per_second"].as_f64().expect("a number");
    let share = shake["lab"]["cpu_share"].as_f64().expect("a number");
    let cpus = std::thread::available_parallelism().expect("CPUs").get() as f64;
    assert!(each > 0.0 && (share - each / cpus / 1e6).abs() < 1e-9, "{shake}");
}

/// Threads of normal priority have every CPU, twice over. At idle priority the recorder would have
/// next to nothing, and give no order.
#[test]
fn on_a_busy_machine_orders_are_given_and_signals_heard() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = experiment(directory.path(), 600, "");
    let out = directory.path().join("run");
    let over = AtomicBool::new(false);
    let code = std::thread::scope(|scope| {
        for _ in 0..2 * std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let running = Running::start(&["run", &file, "--out", out.to_str().expect("UTF-8")]);
        running.wait_for("shake 4/");
        running.signal(Signal::INT);
        let code = running.exit_code();
        over.store(true, Ordering::Relaxed);
        code
    });
    assert_eq!(code, Some(5), "interrupted, and ended in order");
    let warnings: Vec<_> =
        lines(&out, "events.jsonl").into_iter().filter(|it| it["event"] == "warning").collect();
    let is_still = |what: &str| what.contains("stood still") || what.contains("does not end");
    let still = warnings.iter().filter(|it| it["what"].as_str().is_some_and(is_still));
    assert_eq!(still.count(), 0, "{warnings:?}");
    assert_eq!(json(&out, "summary.json")["ledger"]["balanced"], true);
}

/// Every second of every CPU has a row, whoever runs the lab; what the rows say is in the summary.
#[test]
fn stalls_are_watched_without_probes() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = experiment(directory.path(), 3, "");
    let out = directory.path().join("run");
    let arguments =
        ["run", &file, "--out", out.to_str().expect("UTF-8"), "--set", "probes=\"Off\""];
    let output = lab(&arguments);
    assert_exit(&output, 0);
    let rows: Vec<_> =
        lines(&out, "samples.jsonl").into_iter().filter(|row| row["source"] == "stalls").collect();
    let summary = json(&out, "summary.json");
    let stalls = &summary["phases"][1]["stalls"];
    let of_phase = |row: &&serde_json::Value| row["phase"] == "shake";
    let cpus = std::thread::available_parallelism().expect("CPUs").get();
    assert_eq!(rows.iter().filter(of_phase).count(), 3 * cpus, "{rows:?}");
    let sum = |name: &str| -> u64 {
        rows.iter().filter(of_phase).map(|row| row[name].as_u64().expect("a number")).sum()
    };
    assert!(sum("steps") > 0, "{rows:?}");
    assert_eq!(stalls["count"], sum("stalls"));
    assert_eq!(stalls["total_us"], sum("stalled_us"));
    for row in &rows {
        let late = row["late_buckets_us"].as_array().expect("buckets");
        let counted: u64 = late.iter().filter_map(|it| it[1].as_u64()).sum();
        assert_eq!(row["steps"], counted, "{row}");
        assert_eq!(row["real_time"], is_root(), "{row}");
    }
    let text = said(&output);
    assert!(text.contains("the lab itself took"), "{text}");
    let longest_us = stalls["longest"]["us"].as_u64().unwrap_or(0);
    assert_eq!(text.contains("shake: the machine stood still"), longest_us >= 1_000, "{text}");
}
