//! `lab profile`: of a program that spins where everybody can see it, and of a run.

mod common;

use std::hint::black_box;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Running, assert_exit, experiment, lab, lines, number, output, said, wait_until};
use needs::test;
use rustix::process::Signal;
use serde_json::Value;

needs::main!();

const NOBODY: u32 = 65_534;

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Where nearly all of this process's time goes while it is profiled.
#[inline(never)]
fn spins_in_a_function_with_a_name(until: &AtomicBool) -> u64 {
    let mut bits = 1_u64;
    while !until.load(Ordering::Relaxed) {
        // Without a call, also in a debug build: a sample taken while a callee sets up or takes
        // down its frame misses the caller.
        let mut turns = 0;
        while turns < 1_000_000 {
            bits ^= bits << 1;
            turns += 1;
        }
        bits = black_box(bits);
    }
    bits
}

/// Stacks and counts of a folded file.
fn folded(file: &Path) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(file).expect("it was written");
    let parted = |line: &str| {
        let (stack, count) = line.rsplit_once(' ').expect("a stack and a count");
        (stack.to_owned(), count.parse().expect("a count"))
    };
    text.lines().map(parted).collect()
}

/// What requests of a phase cost.
fn costs(run: &Path, phase: &str) -> Value {
    let text = std::fs::read_to_string(run.join(format!("profile-{phase}.json")));
    serde_json::from_str(&text.expect("it was written")).expect("JSON")
}

/// The tooltips of an SVG, which must be XML.
fn tooltips(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("it was written");
    let document = roxmltree::Document::parse(&text).expect("XML");
    let titles = document.descendants().filter(|it| it.has_tag_name("title"));
    titles.filter_map(|it| it.text().map(str::to_owned)).collect()
}

#[test]
fn the_function_that_spins_has_the_samples() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let svg = directory.path().join("spin.svg");
    let over = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("spinner".to_owned())
            .spawn_scoped(scope, || spins_in_a_function_with_a_name(&over))
            .expect("a thread");
        let pid = std::process::id().to_string();
        let output = lab(&["profile", "--pid", &pid, "--seconds", "2", "--out", path(&svg)]);
        over.store(true, Ordering::Relaxed);
        output
    });
    assert_exit(&output, 0);
    assert!(said(&output).contains("spin.svg"), "{}", said(&output));
    let said = said(&output);
    let user = said.lines().find(|it| it.starts_with("own code (user)")).expect("its own code");
    let share: f64 = user
        .split_whitespace()
        .nth(3)
        .expect("a share")
        .trim_end_matches('%')
        .parse()
        .expect("a figure");
    assert!(share > 80.0, "{said}");

    let stacks = folded(&directory.path().join("spin.folded"));
    let all: u64 = stacks.iter().map(|(_, count)| count).sum();
    let spinning = stacks
        .iter()
        .filter(|(it, _)| it.starts_with("spinner;"))
        .filter(|(it, _)| it.contains("spins_in_a_function_with_a_name"));
    let in_it: u64 = spinning.clone().map(|(_, count)| count).sum();
    // Other tests of this file may run in this process, too, but they wait.
    assert!(in_it > 20 && in_it * 10 >= all * 8, "{in_it} of {all}: {stacks:#?}");
    // Its callers are there: frame pointers were followed to the thread's beginning.
    let mut callers = spinning.map(|(stack, _)| stack.contains("spawn"));
    assert!(callers.all(|it| it), "{stacks:#?}");
    let tooltips = tooltips(&svg);
    assert!(tooltips.iter().any(|it| it.contains("spins_in_a_function_with_a_name (")));
}

#[test]
fn every_phase_of_a_run_has_a_graph() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let smoke = experiment("smoke");
    // Often enough that a phase of two seconds has some samples of a server with little to do.
    let settings = ["phases.shake.seconds=2", "phases.everything.seconds=2"];
    let mut arguments = vec!["profile", path(&smoke), "--out", path(&out), "--hertz", "997"];
    arguments.extend(settings.iter().flat_map(|it| ["--set", it]));
    let output = lab(&arguments);
    assert_exit(&output, 0);
    let events = lines(&out, "events.jsonl");
    for phase in ["connect", "shake", "everything"] {
        let svg = out.join(format!("profile-{phase}.svg"));
        assert!(said(&output).contains(path(&svg)), "{}", said(&output));
        let tooltips = tooltips(&svg);
        let of = |what: &str| tooltips.iter().any(|it| it.contains(what));
        assert!(of("lab-server-1 (") && !of("lab-client-1 ("), "threads of the server only");
        assert!(of("lab_server::") && of("shard::") && of(", kernel)"), "{tooltips:#?}");
        let stacks = folded(&out.join(format!("profile-{phase}.folded")));
        let kernel = stacks.iter().any(|(it, _)| it.contains("tcp_") && it.ends_with("_[k]"));
        assert!(kernel, "{stacks:#?}");
        let event = events
            .iter()
            .find(|it| it["event"] == "profile" && it["phase"] == phase)
            .expect("it is recorded");
        let all: u64 = stacks.iter().map(|(_, count)| count).sum();
        assert_eq!(number(event, "/samples"), all);
        assert_eq!(number(event, "/lost"), 0);
    }
}

#[test]
fn what_a_request_costs_is_told_by_part_for_both_ends() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let saturation = experiment("saturation");
    let settings = ["users=200", "phases.warm.seconds=2", "phases.saturated.seconds=4"];
    let mut arguments = vec!["profile", path(&saturation), "--out", path(&out), "--hertz", "997"];
    arguments.extend(settings.iter().flat_map(|it| ["--set", it]));
    let output = lab(&arguments);
    assert_exit(&output, 0);
    for words in
        ["phase saturated: µs of CPU an answered request", "TCP in (softirq)", "both ends,"]
    {
        assert!(said(&output).contains(words), "{}", said(&output));
    }

    let event = lines(&out, "events.jsonl");
    let named = |it: &&Value| it["event"] == "profile" && it["phase"] == "saturated";
    let event = event.iter().find(named).expect("it is recorded");
    assert_eq!(event["costs"], "profile-saturated.json");
    let costs = costs(&out, "saturated");
    let answered: u64 = lines(&out, "samples.jsonl")
        .iter()
        .filter(|it| it["source"] == "client" && it["phase"] == "saturated")
        .map(|it| number(it, "/answered"))
        .sum();
    assert_eq!(number(&costs, "/answered"), answered);
    let (server, clients) = (number(&costs, "/server/samples"), number(&costs, "/clients/samples"));
    assert_eq!(number(&costs, "/both/samples"), server + clients);
    for end in ["server", "clients", "both"] {
        let costs = &costs[end];
        let parts = costs["parts"].as_object().expect("parts");
        let us = |value: &Value| value.as_f64().expect("a figure");
        let sum: f64 = parts.values().map(|part| us(&part["us_per_request"])).sum();
        assert!((sum - us(&costs["sampled_us_per_request"])).abs() < 1e-6, "{costs:#}");
        // Threads or times that were left out would be more than that. Samples also fall into what
        // the hypervisor takes, which the scheduler's clock has not: what was counted twice would
        // be twice as much.
        let differs = us(&costs["differs_share"]);
        assert!((-0.25..0.9).contains(&differs), "{end}: {differs}\n{costs:#}");
        for part in ["user", "io_uring", "tcp_out", "tcp_in"] {
            assert!(us(&parts[part]["us_per_request"]) > 0.0, "{end} {part}: {costs:#}");
        }
        // The rules know this kernel.
        assert!(us(&parts["other"]["share"]) < 0.05, "{end}: {:#}", parts["other"]);
        for counter in ["cycles", "instructions", "cache_misses"] {
            let counted = !costs[format!("{counter}_per_request")].is_null();
            let why = self::costs(&out, "saturated")["missing"][counter].is_string();
            assert!(counted || why, "{counter} is absent, and nothing says why");
        }
    }
    // Nobody shook while users connected.
    let connect = self::costs(&out, "connect");
    assert_eq!(connect["both"]["sampled_us_per_request"], Value::Null);
    assert!(number(&connect, "/both/samples") > 0, "{connect:#}");
}

#[test]
fn what_cannot_be_profiled_is_told_in_a_sentence() {
    let smoke = experiment("smoke");
    for (arguments, sentence) in [
        (&["profile", "--pid", "4194303"][..], "there is no process 4194303"),
        (&["profile", "--pid", "1", "--out", "/nowhere/x.svg"], "there is no directory"),
        (&["profile", "--pid", "1", "--out", "/tmp"], "is a directory"),
        (&["profile", "nowhere.ron"], "nowhere.ron"),
        (&["profile"], "required"),
        (&["profile", path(&smoke), "--pid", "1"], "cannot be used with"),
        (&["profile", path(&smoke), "--hertz", "0"], "--hertz"),
    ] {
        let output = lab(arguments);
        assert_exit(&output, 2);
        assert!(said(&output).contains(sentence), "{arguments:?}: {}", said(&output));
    }
    if !needs::root() {
        return;
    }
    let pid = std::process::id().to_string();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        output(command.args(arguments).uid(NOBODY))
    };
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    for arguments in [
        &["profile", "--pid", &pid, "--seconds", "1"][..],
        &["profile", path(&smoke), "--out", path(&out)],
    ] {
        let output = as_nobody(arguments);
        assert_exit(&output, 1);
        assert!(said(&output).contains("not allowed to load probes"), "{}", said(&output));
    }
    assert!(!out.exists(), "nothing is begun that cannot be done");
}

/// A child that is killed when this is dropped.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until_sampled(profile: &Running) {
    wait_until("every CPU is sampled", || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", profile.id())).expect("it runs");
        let targets = files.flatten().filter_map(|it| std::fs::read_link(it.path()).ok());
        let sampled = targets.filter(|it| it.as_os_str() == "anon_inode:bpf_link").count();
        sampled >= std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    });
}

#[test]
fn a_process_that_ends_and_never_ran_is_no_error() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let svg = directory.path().join("idle.svg");
    let mut sleeper = Reaped(Command::new("sleep").arg("600").spawn().expect("sleep"));
    let pid = sleeper.0.id().to_string();
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("our child");
    wait_until("it sleeps", || stat().contains("(sleep) S"));
    // To end takes it a third of a millisecond of CPU time, which a clock with few ticks misses.
    let mut arguments = vec!["profile", "--pid", &pid, "--seconds", "600", "--hertz", "1"];
    arguments.extend(["--out", path(&svg)]);
    let profile = Running::start(&arguments);
    wait_until_sampled(&profile);
    sleeper.0.kill().expect("our child");
    sleeper.0.wait().expect("our child");
    profile.wait_for(&format!("process {pid} ended after"));
    let said = profile.wait_for(&format!("process {pid} did not run"));
    assert!(said.contains("the graph is empty"), "{said}");
    assert_eq!(profile.exit_code(), Some(0));
    assert_eq!(tooltips(&svg).len(), 1);
}

#[test]
fn samples_belong_to_the_program_that_ran_and_made_code_has_its_names() {
    if !needs::root() || !needs::program("python", "python3") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let svg = directory.path().join("exec.svg");
    // A shell that spins, and becomes another program; that one makes code of its own: an endless
    // loop, to which it gives a name.
    let script = "import ctypes, mmap, os
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b'\\xeb\\xfe')
at = ctypes.addressof(ctypes.c_char.from_buffer(code))
open(f'/tmp/perf-{os.getpid()}.map', 'w').write(f'{at:x} 1000 made_by_the_program\\n')
ctypes.CFUNCTYPE(None)(at)()";
    let file = directory.path().join("made.py");
    std::fs::write(&file, script).expect("a file");
    let shell = "read go; i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done; exec python3 \"$0\"";
    let mut command = Command::new("sh");
    command.args(["-c", shell, path(&file)]).stdin(Stdio::piped());
    let mut child = Reaped(command.spawn().expect("a shell"));
    let pid = child.0.id().to_string();
    let arguments = ["profile", "--pid", &pid, "--seconds", "600", "--out", path(&svg)];
    let profile = Running::start(&arguments);
    wait_until_sampled(&profile);
    child.0.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    let map = PathBuf::from(format!("/tmp/perf-{pid}.map"));
    wait_until("it has made code", || map.exists());
    // The 14th figure, in hundredths of a second.
    let user = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("our child");
        stat.split(' ').nth(13).and_then(|ticks| ticks.parse::<u64>().ok()).expect("ticks")
    };
    let before = user();
    wait_until("it has run that for a second", || user() >= before + 100);
    profile.signal(Signal::INT);
    assert_eq!(profile.exit_code(), Some(0));
    let _ = std::fs::remove_file(map);
    child.0.kill().expect("our child");
    let stacks = folded(&directory.path().join("exec.folded"));
    let of = |what: &dyn Fn(&str) -> bool| -> u64 {
        stacks.iter().filter(|(stack, _)| what(stack)).map(|(_, count)| count).sum()
    };
    let shells = of(&|it| it.split(';').nth(1) == Some("sh"));
    let made = of(&|it| it.starts_with("python3") && it.ends_with(";made_by_the_program"));
    assert!(shells > 10 && made > 10, "{shells} and {made}: {stacks:#?}");
    let mixed = of(&|it| it.starts_with("python3") != (it.split(';').nth(1) == Some("python3")));
    assert_eq!(mixed, 0, "{stacks:#?}");
}
