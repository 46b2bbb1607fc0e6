//! Nothing outlives the process that attached the probes.

mod common;

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use common::{Reaped, needs, port};
use ebpf::{Options, Probes};

const CHILD: &str = "LAB_TEST_HOLDS_PROBES";

fn programs() -> BTreeSet<u32> {
    loaded_programs().filter_map(Result::ok).map(|program| program.id()).collect()
}

fn links() -> usize {
    aya::programs::loaded_links().filter_map(Result::ok).count()
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
    let before = (programs(), links());
    let mut child = Command::new(env::current_exe().expect("this test"));
    child.args(["--exact", "nothing_is_left_after_sigkill", "--nocapture"]);
    child.env(CHILD, "1").stdout(Stdio::piped());
    let mut child = Reaped(child.spawn().expect("a child"));
    let mut output = BufReader::new(child.0.stdout.take().expect("a pipe")).lines();
    let attached = output
        .find_map(|line| Some(line.ok()?.split_once("attached ")?.1.to_owned()))
        .expect("the child attaches");
    let attached: usize = attached.trim().parse().expect("a number");
    let held = (programs(), links());
    assert_eq!(held.0.difference(&before.0).count(), attached);
    assert_eq!(held.1, before.1 + attached);
    child.0.kill().expect("SIGKILL");
    child.0.wait().expect("its end");
    // Programs are freed a grace period later.
    let end = Instant::now() + Duration::from_secs(10);
    while (programs(), links()) != before && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((programs(), links()), before);
}
