//! An agent beside shards: it keeps off their CPUs as long as there is another one, wakes for what
//! there is to do and no more, and tells of its host every second.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::collections::{BTreeMap, BTreeSet};

use common::{json, lines, wait_until};
use lan::Lan;
use needs::test;

needs::main!();

/// Where a thread may run, from its status.
fn allowed(status: &str) -> BTreeSet<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let number = |text: &str| -> usize { text.trim().parse().expect("a CPU") };
    let ranges = list.expect("a list").split(',').map(|range| match range.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(range)..=number(range),
    });
    ranges.flatten().collect()
}

/// Where the threads of a process may run.
fn places(pid: u32) -> BTreeSet<usize> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten();
    let status = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("status")).ok());
    status.flat_map(|status| allowed(&status)).collect()
}

/// On which CPU each thread of a process ran last.
fn latest_cpus(pid: u32) -> BTreeSet<usize> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten();
    let stat = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("stat")).ok());
    // The 39th field; the name in the 2nd may have spaces.
    let cpu = |stat: String| {
        let rest = stat.rsplit_once(") ").expect("a name").1;
        rest.split(' ').nth(36).and_then(|it| it.parse().ok()).expect("a CPU")
    };
    stat.map(cpu).collect()
}

/// How often the threads of a process went to sleep so far.
fn sleeps(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten();
    let status = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("status")).ok());
    let count = |status: String| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("a count").trim().parse().expect("a number")
    };
    status.map(count).sum()
}

#[test]
fn agents_keep_off_the_cpus_of_shards() {
    let two = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    if !lan::can_be() || !needs::can("two CPUs", two) {
        return;
    }
    let lan = Lan::new(2);
    let agents = lan.fleet(&[]);
    let text = "(name: \"x\", users: 400,
        server: (shards: 1), client: (shards: 1),
        validity: (late_share: 1.0, client_busy_share: 1.0, because: \"CPUs are looked at\"),
        phases: [
            (name: \"connect\", connect: (rate: 2000), until: Established, longest_s: 20),
            (name: \"load\", after: Terminated(\"connect\"), seconds: 4,
             shake: Open(rate: Fixed(400))),
        ])";
    let (mut run, out) = lan.run_text(text);
    lan.wait_for_phase(&out, "load");
    let manifest = json(&out, "manifest.json");
    let before: Vec<u64> = agents.iter().map(|agent| sleeps(agent.id())).collect();
    let since = std::time::Instant::now();
    for (agent, of) in agents.iter().zip([&manifest["server"], &manifest["clients"][0]]) {
        let shard = of["threads"][0].as_u64().expect("a thread");
        let status = std::fs::read_to_string(format!("/proc/{shard}/status")).expect("it runs");
        let pinned = allowed(&status);
        let (Some(cpu), 1) = (pinned.first(), pinned.len()) else { panic!("{pinned:?}") };
        let mut looks = 0;
        wait_until("the agent was looked at for a second of the load", || {
            assert!(!places(agent.id()).contains(cpu), "it may run on {cpu}");
            assert!(!latest_cpus(agent.id()).contains(cpu), "it ran on {cpu}");
            looks += 1;
            looks == 20
        });
    }
    for (agent, before) in agents.iter().zip(before) {
        // A second has a beat, a pulse, a look, and some lines of a program with their way to NATS.
        let a_second = (sleeps(agent.id()) - before) as f64 / since.elapsed().as_secs_f64();
        eprintln!("{a_second:.0} times a second awake");
        assert!(a_second < 200.0, "{a_second} times a second awake");
    }
    run.assert_completed();
    let load = lines(&out, "samples.jsonl").into_iter().filter(|it| it["phase"] == "load");
    let mut told: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
    for line in load {
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let second = line["t"].as_u64().expect("a second");
        told.entry((word("host"), word("source"))).or_default().insert(second);
    }
    for host in ["s", "c1"] {
        for source in ["proc", "nic", "probe"] {
            let seconds = told.get(&(host.to_owned(), source.to_owned()));
            let count = seconds.map_or(0, BTreeSet::len);
            // One may be late by a whole second on a machine that has more to do.
            assert!(count >= 3, "{count} of 4 seconds of {source} of {host}: {told:?}");
        }
    }
}
