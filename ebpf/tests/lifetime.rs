//! Nothing outlives the process that attached the probes.

mod common;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use aya::programs::{loaded_links, loaded_programs};
use common::{Reaped, needs, port, wait_until};
use ebpf::{Options, Probes};
use needs::test;

needs::main!();

const CHILD: &str = "LAB_TEST_HOLDS_PROBES";

/// The numbers of all programs and links that the kernel has, whosoever they are.
fn loaded() -> [BTreeSet<u32>; 2] {
    let programs = loaded_programs().filter_map(Result::ok).map(|program| program.id());
    [programs.collect(), loaded_links().filter_map(Result::ok).map(|link| link.id()).collect()]
}

/// The numbers of the programs and links that a process has open.
fn held_by(pid: u32) -> [BTreeSet<u32>; 2] {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the child");
    let files: Vec<String> =
        files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
    ["prog_id:", "link_id:"].map(|name| {
        let lines = files.iter().flat_map(|file| file.lines());
        let numbers = lines.filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        numbers.collect()
    })
}

#[test]
fn nothing_is_left_after_sigkill() {
    if env::var_os(CHILD).is_some() {
        let probes = Probes::attach(&Options::of_port(port(1))).expect("probes");
        println!("attached {}", probes.report().iter().filter(|state| state.attached).count());
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let Some(_turn) = needs(&["root"]) else { return };
    let mut child = Command::new(env::current_exe().expect("this test"));
    child.args(["--exact", "nothing_is_left_after_sigkill", "--nocapture"]);
    child.env(CHILD, "1").stdout(Stdio::piped());
    let mut child = Reaped(child.spawn().expect("a child"));
    let mut output = BufReader::new(child.0.stdout.take().expect("a pipe")).lines();
    let attached = output
        .find_map(|line| Some(line.ok()?.split_once("attached ")?.1.to_owned()))
        .expect("the child attaches");
    let attached: usize = attached.trim().parse().expect("a number");
    let held = held_by(child.0.id());
    // One of them is attached to a clock on each CPU.
    let cpus = thread::available_parallelism().expect("CPUs").get();
    assert_eq!(held.each_ref().map(BTreeSet::len), [attached, attached - 1 + cpus]);
    let there = loaded();
    assert!(held[0].is_subset(&there[0]) && held[1].is_subset(&there[1]), "{held:?} {there:?}");
    child.0.kill().expect("SIGKILL");
    child.0.wait().expect("its end");
    // Programs are freed a grace period later. Numbers go up and are not given again.
    wait_until("its programs and links are gone", || {
        let there = loaded();
        held[0].is_disjoint(&there[0]) && held[1].is_disjoint(&there[1])
    });
}
