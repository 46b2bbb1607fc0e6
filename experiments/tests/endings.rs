//! How runs and commands end that somebody or something ends: programs that are killed, signals at
//! every stage, and words that nobody reads. A run that has begun always leaves a record that says
//! how it ended.

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{Running, assert_exit, json, lab, lines, number, said, wait_until};
use needs::test;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

needs::main!();

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A phase that lasts until something ends the run.
const LONG: &str = r#"(
    name: "long", users: 200, network: (namespace: Host), probes: Off, client: (processes: 2),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "only its end matters"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 30),
        (name: "load", seconds: 600, shake: Open(rate: Fixed(200)), packets: (rate: 20)),
    ],
)"#;

/// Two seconds of load.
const SHORT: &str = r#"(
    name: "short", users: 200, network: (namespace: Host), probes: Off,
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "only its end matters"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 30),
        (name: "load", seconds: 2, shake: Open(rate: Fixed(200)), packets: (rate: 20)),
    ],
)"#;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn file(&self, text: &str) -> PathBuf {
        let file = self.directory.path().join("experiment.ron");
        std::fs::write(&file, text).expect("written");
        file
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    fn start(&self, text: &str) -> Running {
        Running::start(&["run", path(&self.file(text)), "--out", path(&self.out())])
    }
}

/// The processes of a run, by what `lab` has them do.
fn children(parent: u32, what: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let after = stat.rsplit_once(") ").map_or("", |it| it.1);
        if after.split(' ').nth(1) != Some(&parent.to_string()) {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).nth(1) == Some(what.as_bytes()) {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            found.extend(pid.and_then(Pid::from_raw));
        }
    }
    found.sort_by_key(|pid| pid.as_raw_nonzero());
    found
}

/// One program of a run is killed; the run ends, and its record says so.
fn killed(text: &str, what: &str, words: &str) -> (Value, PathBuf, Place) {
    let place = Place::new();
    let run = place.start(text);
    run.wait_for("load 1/");
    let programs = children(run.id(), what);
    let summary = aborted(&place, run, words, || {
        kill_process(*programs.first().expect("it runs"), Signal::KILL).expect("it is there");
    });
    let out = place.out();
    (summary, out, place)
}

/// A run ends because one of its programs does, and its record says so.
fn aborted(place: &Place, run: Running, words: &str, end: impl FnOnce()) -> Value {
    let everybody: Vec<Pid> =
        ["server", "client", "hog"].iter().flat_map(|it| children(run.id(), it)).collect();
    end();
    assert_eq!(run.exit_code(), Some(5), "aborted");
    for pid in everybody {
        wait_until("no program is left", || rustix::process::test_kill_process(pid).is_err());
    }
    let out = place.out();
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "aborted");
    let because = summary["outcome_because"].as_str().expect("a reason");
    assert!(because.contains(words) && because.contains("signal 9 (SIGKILL)"), "{because}");
    let manifest = json(&out, "manifest.json");
    assert_eq!((&manifest["closed"], &manifest["outcome"]), (&true.into(), &"aborted".into()));
    assert!(out.join("report.html").is_file() && out.join("samples.parquet").is_file());
    // What there was is in it.
    assert!(number(&summary, "/phases/1/shake/answered") > 0, "{summary}");
    assert_eq!(summary["phases"][1]["valid"], false);
    summary
}

/// A memory cgroup below that of this process. Its processes are in a group below it, and end with
/// it.
struct MemoryCgroup {
    directory: PathBuf,
    /// What fills it.
    holders: Vec<Child>,
}

impl MemoryCgroup {
    fn make() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own.lines().find_map(|line| line.split_once(":memory:"))?.1.to_owned();
        let parent = PathBuf::from(format!("/sys/fs/cgroup/memory{path}"));
        let directory = parent.join(format!("lab-test-{}", std::process::id()));
        std::fs::create_dir(&directory).ok()?;
        std::fs::create_dir(directory.join(BELOW)).ok()?;
        let cgroup = Self { directory, holders: Vec::new() };
        // What is in memory stays there.
        cgroup.set("memory.swappiness", 0);
        Some(cgroup)
    }

    fn set(&self, file: &str, value: i64) {
        std::fs::write(self.directory.join(file), value.to_string()).expect("written");
    }

    fn used(&self) -> i64 {
        let text =
            std::fs::read_to_string(self.directory.join("memory.usage_in_bytes")).expect("there");
        text.trim().parse().expect("bytes")
    }

    /// A command whose process is inside from its begin on.
    fn inside(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.directory.join(BELOW).join("cgroup.procs"));
        command.arg(program).args(arguments);
        command
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let below = self.directory.join(BELOW);
        let file = below.join("cgroup.procs");
        let tasks = || std::fs::read_to_string(&file).unwrap_or_default();
        for pid in tasks().lines().filter_map(|it| Pid::from_raw(it.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        for holder in &mut self.holders {
            let _ = holder.wait();
        }
        wait_until("it is empty", || tasks().is_empty());
        let _ = std::fs::remove_dir(&below).and_then(|()| std::fs::remove_dir(&self.directory));
    }
}

/// The group of the processes, which has no limit itself.
const BELOW: &str = "box";

/// The kernel kills the server: of all below a cgroup that is full, it is the first to go.
#[test]
fn a_server_that_the_kernel_kills_for_want_of_memory_is_recorded_with_that_reason() {
    const STEP: i64 = 4 << 20;
    // It holds so much until it is killed.
    const HOLD: &str =
        "echo -500 >/proc/self/oom_score_adj; (head -c $0 /dev/zero; exec sleep 600) | tail -c $0";
    if !needs::root() {
        return;
    }
    let cgroup = MemoryCgroup::make();
    if !needs::can("memory cgroup", cgroup.is_some()) {
        return;
    }
    let mut cgroup = cgroup.expect("it is there");
    let place = Place::new();
    let (file, out) = (place.file(LONG), place.out());
    let lab = env!("CARGO_BIN_EXE_lab");
    let run = Running::of(&mut cgroup.inside(lab, &["run", path(&file), "--out", path(&out)]));
    run.wait_for("load 1/");
    let (id, size) = (run.id(), STEP.to_string());
    let server = *children(id, "server").first().expect("it runs");
    let first = format!("/proc/{}/oom_score_adj", server.as_raw_nonzero());
    // A program goes before the recorder by itself, and here before all others.
    assert_eq!(std::fs::read_to_string(&first).expect("there").trim(), "500");
    std::fs::write(first, "1000").expect("written");
    let summary = aborted(&place, run, "server was killed", || {
        // What is only a copy of files goes first.
        let _ = std::fs::write(cgroup.directory.join("memory.force_empty"), "0");
        cgroup.set("memory.limit_in_bytes", cgroup.used() + 4 * STEP);
        wait_until("the server is killed", || {
            let is_over = children(id, "server").is_empty();
            if !is_over && cgroup.holders.len() < 16 {
                let mut holder = cgroup.inside("sh", &["-c", HOLD, &size]);
                holder.stdin(Stdio::null()).stdout(Stdio::null());
                cgroup.holders.push(holder.spawn().expect("sh"));
            }
            is_over
        });
        // The rest of the run has room.
        cgroup.set("memory.limit_in_bytes", -1);
    });
    let because = summary["outcome_because"].as_str().expect("a reason");
    assert!(because.contains("out of memory"), "{because}");
    let name = cgroup.directory.file_name().and_then(|it| it.to_str()).expect("a name");
    assert!(because.contains(name) && !because.contains(BELOW), "{because}");
}

#[test]
fn a_server_that_is_killed_ends_the_run_with_a_record() {
    let (summary, out, _place) = killed(LONG, "server", "server was killed");
    assert_eq!(summary["ledger"]["balanced"], Value::Null, "its books were never closed");
    let warned = |row: &Value| row["event"] == "warning" && row["from"] == "server";
    assert!(lines(&out, "events.jsonl").iter().any(warned));
    assert_exit(&lab(&["report", path(&out)]), 5);
}

#[test]
fn a_client_that_is_killed_ends_the_run_with_a_record() {
    let (summary, _, _place) = killed(LONG, "client", "client 0 was killed");
    assert!(summary["ledger"]["granted"]["count"].is_u64(), "the server closed its books");
    assert_eq!(summary["ledger"]["balanced"], Value::Null, "a client did not");
}

#[test]
fn a_hog_that_is_killed_ends_the_run_with_a_record() {
    let hog = LONG.replace(
        "packets: (rate: 20)),",
        "packets: (rate: 20), faults: [Hog(cpus: [0], busy: 0.05, period_us: 20000)]),",
    );
    let (summary, _, _place) = killed(&hog, "hog", "hog of fault 0 was killed");
    assert_eq!(summary["ledger"]["balanced"], true, "both sides closed their books");
}

#[test]
fn a_run_that_is_being_written_is_not_reported() {
    let place = Place::new();
    let run = place.start(LONG);
    run.wait_for("load 1/");
    let output = lab(&["report", path(&place.out())]);
    assert_exit(&output, 2);
    let said = said(&output);
    assert!(said.contains(&format!("process {} on ", run.id())), "{said}");
    assert!(said.contains("writes this run"), "{said}");
    assert!(!place.out().join("summary.json").exists(), "nothing was made of half a run");
    run.signal(Signal::INT);
    assert_eq!(run.exit_code(), Some(5));
    assert_exit(&lab(&["report", path(&place.out())]), 5);
}

#[test]
fn every_signal_at_every_stage_ends_a_run_with_a_record_and_without_children() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        for stage in ["", "all users", "load 1/"] {
            let place = Place::new();
            let run = place.start(LONG);
            match stage {
                // As soon as it listens: its programs are being started.
                "" => {
                    wait_until("it starts its server", || !children(run.id(), "server").is_empty());
                }
                stage => drop(run.wait_for(stage)),
            }
            let id = run.id();
            let all = ["server", "client"].iter().flat_map(|what| children(id, what));
            let all: Vec<Pid> = all.collect();
            assert!(!all.is_empty(), "{signal:?} at {stage:?}");
            run.signal(signal);
            assert_eq!(run.exit_code(), Some(5), "{signal:?} at {stage:?}");
            for pid in all {
                // One that dies with `lab` may still be dying.
                wait_until("no program is left", || {
                    rustix::process::test_kill_process(pid).is_err()
                });
            }
            let manifest = json(&place.out(), "manifest.json");
            let said = (&manifest["closed"], &manifest["outcome"]);
            assert_eq!(said, (&true.into(), &"interrupted".into()), "{signal:?} at {stage:?}");
            // What was not made because the run never got so far can be made.
            if !stage.is_empty() {
                assert!(place.out().join("summary.json").is_file(), "{signal:?} at {stage:?}");
            }
            assert_exit(&lab(&["report", path(&place.out())]), 5);
        }
    }
}

/// An ending that a person does not want to wait for waits for nothing any more: neither for
/// clients nor for a server that stand still, each of which alone is given a minute.
#[test]
fn a_second_interrupt_ends_the_whole_ending() {
    const MINUTE: Duration = Duration::from_secs(60);
    let place = Place::new();
    let run = place.start(LONG);
    run.wait_for("load 1/");
    let all: Vec<Pid> =
        ["server", "client"].iter().flat_map(|what| children(run.id(), what)).collect();
    assert_eq!(all.len(), 3);
    all.iter().for_each(|pid| kill_process(*pid, Signal::STOP).expect("it is there"));
    run.signal(Signal::INT);
    let out = place.out();
    // Once the first one is heard: two at a time are one.
    let ended = |row: &Value| row["event"] == "phase_ends" && row["phase"] == "load";
    wait_until("the run ends", || lines(&out, "events.jsonl").iter().any(ended));
    run.signal(Signal::INT);
    let began = Instant::now();
    assert_eq!(run.exit_code(), Some(5));
    assert!(began.elapsed() < MINUTE / 2, "{:?}", began.elapsed());
    for pid in all {
        wait_until("no program is left", || rustix::process::test_kill_process(pid).is_err());
    }
    let manifest = json(&out, "manifest.json");
    let said = (&manifest["closed"], &manifest["outcome"]);
    assert_eq!(said, (&true.into(), &"interrupted".into()));
    assert_eq!(json(&out, "summary.json")["outcome"], "interrupted");
}

/// The waits of an ending have a bound together. Clients and a server that stand still are given a
/// minute each without it.
#[test]
fn the_ending_of_an_interrupted_run_has_a_bound() {
    const BOUND: Duration = Duration::from_secs(3);
    const MINUTE: Duration = Duration::from_secs(60);
    let place = Place::new();
    let (file, out) = (place.file(LONG), place.out());
    let run = Running::start(&["run", path(&file), "--out", path(&out), "--end-within", "3"]);
    run.wait_for("load 1/");
    let all: Vec<Pid> =
        ["server", "client"].iter().flat_map(|what| children(run.id(), what)).collect();
    assert_eq!(all.len(), 3);
    all.iter().for_each(|pid| kill_process(*pid, Signal::STOP).expect("it is there"));
    let began = Instant::now();
    run.signal(Signal::INT);
    assert_eq!(run.exit_code(), Some(5));
    let took = began.elapsed();
    assert!(took >= BOUND && took < MINUTE / 2, "{took:?}");
    for pid in all {
        wait_until("no program is left", || rustix::process::test_kill_process(pid).is_err());
    }
    let says = |what: &str| {
        let events = lines(&out, "events.jsonl");
        events.iter().filter(|row| row["what"].as_str().is_some_and(|it| it.contains(what))).count()
    };
    assert!(says("a program does not end: the books are not complete") > 0);
    assert_eq!(says("interrupted again"), 0, "it was interrupted once");
    assert_eq!(json(&out, "summary.json")["outcome"], "interrupted");
}

/// Whether a process has a file open.
fn has_open(process: u32, file: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    open.filter_map(|it| std::fs::read_link(it.path()).ok()).any(|it| it == file)
}

/// A command that has nothing to put right ends by the signal itself, and loses nothing.
#[test]
fn every_signal_ends_a_report_that_is_being_made() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs/first");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let place = Place::new();
        let out = place.out();
        std::fs::create_dir(&out).expect("a directory");
        for file in std::fs::read_dir(&recorded).expect("a run").flatten() {
            std::fs::copy(file.path(), out.join(file.file_name())).expect("copied");
        }
        // So much of it that it takes a while.
        let samples = out.join("samples.jsonl");
        let text = std::fs::read(&samples).expect("it is there");
        std::fs::write(&samples, text.repeat(1 + (64 << 20) / text.len())).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(["report", path(&out)]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::null()).spawn().expect("lab starts");
        wait_until("it reads", || has_open(child.id(), &samples));
        kill_process(Pid::from_child(&child), signal).expect("it is there");
        wait_until("it ends", || child.try_wait().expect("our child").is_some());
        let status = child.wait().expect("our child");
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status:?}");
        std::fs::copy(recorded.join("samples.jsonl"), &samples).expect("copied");
        assert_ne!(lab(&["report", path(&out)]).status.code(), Some(1), "it can be made again");
    }
}

/// `lab validate` hands an interrupt on to the run that it has carried out.
#[test]
fn every_signal_ends_a_validation_and_its_run() {
    if !needs::root() {
        return;
    }
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let place = Place::new();
        let keep = place.directory.path().join("kept");
        std::fs::create_dir(&keep).expect("a directory");
        let validation = Running::start(&["validate", "--rounds", "1", "--keep", path(&keep)]);
        let begun = || {
            let runs = std::fs::read_dir(&keep).expect("a directory").flatten();
            runs.map(|it| it.path().join("run")).find(|run| run.join("events.jsonl").is_file())
        };
        wait_until("a run begins", || begun().is_some());
        let runs = children(validation.id(), "run");
        assert_eq!(runs.len(), 1, "{signal:?}");
        validation.signal(signal);
        assert_eq!(validation.exit_code(), Some(5), "{signal:?}");
        for pid in runs {
            wait_until("its run has ended", || rustix::process::test_kill_process(pid).is_err());
        }
        let manifest = json(&begun().expect("a run"), "manifest.json");
        let said = (&manifest["closed"], &manifest["outcome"]);
        assert_eq!(said, (&true.into(), &"interrupted".into()), "{signal:?}");
    }
}

/// A `lab` whose words go where nobody reads them.
fn unheard(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child: Child = command.spawn().expect("lab starts");
    wait_until("lab ends", || child.try_wait().expect("our child").is_some());
    child.wait().expect("our child")
}

/// A pipe whose reader has gone.
fn broken() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("/dev/full").into()
}

#[test]
fn a_run_does_not_depend_on_who_reads_its_words() {
    type Stream = fn() -> Stdio;
    let cases: [(&str, Stream, Stream); 3] = [
        ("both broken", broken, broken),
        ("both full", full, full),
        ("standard error full", Stdio::null, full),
    ];
    for (case, stdout, stderr) in cases {
        let place = Place::new();
        let (file, out) = (place.file(SHORT), place.out());
        let arguments = ["run", path(&file), "--out", path(&out)];
        let status = unheard(&arguments, stdout(), stderr());
        let summary = json(&out, "summary.json");
        // Whether its clients were late depends on the machine's other work.
        assert!(matches!(status.code(), Some(0 | 4)), "{case}: {status:?}");
        assert_eq!(summary["ledger"]["balanced"], true, "{case}");
        assert_eq!(summary["outcome"], "completed", "{case}");
        assert_eq!(number(&summary, "/phases/1/shake/answered"), 400, "{case}");
        assert!(out.join("report.html").is_file(), "{case}");
    }
}

#[test]
fn commands_that_print_end_quietly_with_a_broken_pipe_and_with_a_sentence_when_it_is_full() {
    let place = Place::new();
    let file = place.file(SHORT);
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs");
    let (first, second) = (runs.join("first"), runs.join("second"));
    let journals = place.directory.path().join("journals");
    let commands: [&[&str]; 9] = [
        &["check", path(&file)],
        &["compare", path(&first), path(&second)],
        &["compare", path(&first), path(&second), "--json"],
        &["plan", path(&first)],
        &["plan", path(&first), "--json"],
        &["tune", "list"],
        &["tune", "show", "low-latency"],
        &["tune", "--journals", path(&journals), "status"],
        &["tune", "script", "low-latency"],
    ];
    for command in commands {
        let log = place.directory.path().join("stderr");
        let said = || Stdio::from(File::create(&log).expect("a file"));
        let heard = unheard(command, Stdio::null(), said());
        assert_eq!(heard.code(), Some(0), "{command:?}");
        let status = unheard(command, broken(), said());
        let words = std::fs::read_to_string(&log).expect("written");
        assert_eq!((status.code(), words.as_str()), (Some(0), ""), "{command:?}");
        let status = unheard(command, full(), said());
        let words = std::fs::read_to_string(&log).expect("written");
        assert_eq!(status.code(), Some(1), "{command:?}: {words}");
        let sentence = "lab: standard output cannot be written: No space left on device";
        assert!(words.starts_with(sentence) && !words.contains("panicked"), "{words}");
    }
}

#[test]
fn probes_end_with_a_sentence_when_their_output_is_full() {
    if !needs::root() {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let place = Place::new();
    let log = place.directory.path().join("stderr");
    let arguments = ["probe", "--port", &port, "--json"];
    let status = unheard(&arguments, full(), File::create(&log).expect("a file").into());
    let words = std::fs::read_to_string(&log).expect("written");
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("standard output cannot be written"), "{words}");
}

/// A closed terminal is nothing to a run that was started with `nohup`.
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let place = Place::new();
    let (file, out) = (place.file(SHORT), place.out());
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_lab")).args(["run", path(&file), "--out", path(&out)]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().expect("nohup starts");
    let pid = Pid::from_child(&child);
    wait_until("the run has begun", || out.join("events.jsonl").is_file());
    kill_process(pid, Signal::HUP).expect("it is there");
    wait_until("it ends", || child.try_wait().expect("our child").is_some());
    let status = child.wait().expect("our child");
    // Whether its clients were late depends on the machine's other work.
    assert!(matches!(status.code(), Some(0 | 4)), "{status:?}");
    let summary = json(&out, "summary.json");
    assert_eq!(summary["outcome"], "completed");
    assert_eq!(summary["ledger"]["balanced"], true);
}
