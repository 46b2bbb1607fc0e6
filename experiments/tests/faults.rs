//! Faults on purpose: what injectors say they did is what the kernel, the probes and the clients
//! saw, and nothing is left behind.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::{Running, assert_adds_up, assert_exit, json, lab, lines, number, said, wait_until};
use needs::test;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

needs::main!();

/// What the two CPUs of a small machine are for; on one with a single CPU both share it.
fn cpus() -> (usize, usize) {
    (0, usize::from(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1)))
}

/// An experiment with faults, in a directory of its own.
struct Lab {
    _directory: TempDir,
    file: PathBuf,
    out: PathBuf,
}

impl Lab {
    /// `hosts` and `phases` as they stand in the file; the phases come after one that connects.
    fn new(hosts: &str, phases: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, out) = (directory.path().join("faults.ron"), directory.path().join("run"));
        let (server, client) = cpus();
        let text = format!(
            "(name: \"faults\", users: 500, {hosts}
            server: (shards: 1, cpus: [{server}]),
            client: (shards: 1, cpus: [{client}], processes: 2),
            validity: (late_share: 1.0, client_busy_share: 1.0, because: \"faults\"),
            phases: [
                (name: \"connect\", connect: (), until: Established, longest_s: 30),
                {phases}
            ])"
        );
        std::fs::write(&file, text).expect("written");
        Self { _directory: directory, file, out }
    }

    fn arguments(&self) -> [&str; 4] {
        ["run", path(&self.file), "--out", path(&self.out)]
    }

    /// Runs it to its end, which is a good one.
    fn run(&self) -> Value {
        let output = lab(&self.arguments());
        assert_exit(&output, 0);
        let summary = json(&self.out, "summary.json");
        assert_adds_up(&summary);
        summary
    }

    /// What a fault came to.
    fn truth(&self, fault: u64) -> Value {
        let events = lines(&self.out, "events.jsonl");
        let of = |name: &str| {
            let mut found = events.iter().filter(|it| it["event"] == name && it["fault"] == fault);
            let event = found.next().unwrap_or_else(|| panic!("{name} of fault {fault}"));
            assert!(found.next().is_none(), "{name} of fault {fault} twice");
            event.clone()
        };
        let (starts, ends) = (of("fault_starts"), of("fault_ends"));
        assert_eq!(ends["complete"], true, "{ends}");
        assert_eq!(starts["until"].as_f64(), ends["t"].as_f64(), "{starts} {ends}");
        ends["truth"].clone()
    }

    /// What the server handled in the seconds of a fault, or the clients had answered.
    fn handled(&self, fault: u64, source: &str, count: &str) -> u64 {
        let events = lines(&self.out, "events.jsonl");
        let mut starts = events.iter().filter(|it| it["event"] == "fault_starts");
        let start = starts.find(|it| it["fault"] == fault).expect("it was");
        let at = |name: &str| start[name].as_f64().expect("an instant") as u64;
        let mut samples = lines(&self.out, "samples.jsonl");
        let seconds = at("t")..at("until");
        samples.retain(|it| it["source"] == source && seconds.contains(&number(it, "/t")));
        sum(&samples, |it| number(it, count))
    }

    /// The lines about a fault.
    fn told(&self, fault: u64) -> Vec<Value> {
        assert!(self.out.join("truth.parquet").exists(), "the truth is converted too");
        let mut told = lines(&self.out, "truth.jsonl");
        told.retain(|line| line["fault"] == fault);
        told
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Sums a field of lines.
fn sum(lines: &[Value], what: impl Fn(&Value) -> u64) -> u64 {
    lines.iter().map(what).sum()
}

/// A tick of the kernel's clock is not longer.
const TICK_NS: u64 = 10_000_000;

/// What interrupts, softirqs and the hypervisor took of a CPU so far, as the kernel samples it.
fn interrupts_ns(cpu: usize) -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("stat");
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")));
    // user nice system idle iowait irq softirq steal
    let ticks = line.expect("the CPU").split_whitespace().skip(5).take(3);
    let ticks: u64 = ticks.map(|it| it.parse::<u64>().expect("a number")).sum();
    ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second())
}

#[test]
fn a_hog_had_the_cpu_when_it_says_so() {
    let (server, _) = cpus();
    let lab = Lab::new(
        "network: (namespace: Host),",
        &format!(
            "(name: \"hog\", seconds: 3, shake: Open(rate: Fixed(500)),
            faults: [Hog(cpus: [{server}], busy: 0.4, from_s: 1)]),"
        ),
    );
    let before = interrupts_ns(server);
    lab.run();
    let interrupts_ns = interrupts_ns(server) - before;
    let truth = lab.truth(0);
    let of = |name: &str| number(&truth, &format!("/{name}"));
    // At most what it wanted: 40% of two seconds.
    assert!(of("ran_ns") <= 800_000_000, "{truth}");
    assert!(of("ran_ns") > 80_000_000, "even a busy machine lets it run: {truth}");
    if needs::can("schedstat", !truth["schedstat_ns"].is_null()) {
        // The kernel counts what it takes to sleep and to wake, and interrupts, as the thread's;
        // and what the thread had since the last tick of the clock it may not have counted yet.
        let (ran, kernels) = (of("ran_ns"), of("schedstat_ns"));
        let said = format!("{interrupts_ns} ns of interrupts: {truth}");
        assert!(ran <= kernels + TICK_NS, "{said}");
        assert!((ran + interrupts_ns) as f64 >= kernels as f64 * 0.92, "{said}");
    }
    // Line by line: the same sum, one interval after the other, within the seconds of the fault.
    let told = lab.told(0);
    assert_eq!(told.len() as u64, of("intervals") - of("not_kept"));
    let length = |line: &Value| number(line, "/end_ns") - number(line, "/t");
    if of("not_kept") == 0 {
        assert_eq!(sum(&told, length), of("ran_ns"));
    }
    assert!(told.windows(2).all(|two| number(&two[0], "/end_ns") <= number(&two[1], "/t")));
    let all = number(&told[told.len() - 1], "/end_ns") - number(&told[0], "/t");
    assert!(all < 2_100_000_000, "{all} ns between the first and the last");
}

#[test]
fn slow_handlers_and_slow_clients_take_the_time_that_they_say() {
    let lab = Lab::new(
        "network: (namespace: Host),",
        "(name: \"before\", seconds: 2, shake: Open(rate: Fixed(200))),
        (name: \"server\", seconds: 3, shake: Open(rate: Fixed(200)),
            faults: [SlowHandler(us: 20000, share: 0.1)]),
        (name: \"client\", seconds: 3, shake: Open(rate: Fixed(200)),
            faults: [SlowClient(us: 3000, share: 0.2, from_s: 1, until_s: 2)]),",
    );
    let summary = lab.run();
    let faults =
        [(0, 20_000_000, 0.1, ("server", "/shakes")), (1, 3_000_000, 0.2, ("client", "/answered"))];
    for (fault, spin_ns, share, (source, count)) in faults {
        let truth = lab.truth(fault);
        let of = |name: &str| number(&truth, &format!("/{name}"));
        // Requests that come in one poll are of the second in which it began, also when the next
        // one begins meanwhile.
        let (seen, handled) = (of("seen"), lab.handled(fault, source, count));
        assert!(seen > 100 && seen.abs_diff(handled) <= seen / 20, "{handled} handled: {truth}");
        let wanted = seen as f64 * share;
        assert!((of("spins") as f64 - wanted).abs() < 5.0 * wanted.sqrt(), "{truth}");
        assert_eq!(of("not_kept"), 0);
        let told = lab.told(fault);
        assert_eq!(told.len() as u64, of("spins"));
        assert_eq!(sum(&told, |line| number(line, "/ns")), of("spun_ns"));
        for line in &told {
            let (ns, lasted) = (number(line, "/ns"), number(line, "/end_ns") - number(line, "/t"));
            assert!(ns >= spin_ns && ns < spin_ns * 2 && lasted >= ns, "{line}");
        }
    }
    // Every slow handler shows at least in the answer that it was about. Where a machine that does
    // something else made the clients late, only a bound of it is known.
    let phase = &summary["phases"][2];
    let known = if phase["latency_us"]["p99"].is_u64() { "" } else { "at_least_" };
    let slowest = number(phase, &format!("/latency_{known}us/p99"));
    assert!(slowest >= 20_000, "{slowest} µs");
}

const LINKS: &str = "hosts: Namespaces(2), probes: Required,";

#[test]
fn packets_dropped_on_purpose_are_the_packets_that_the_probes_miss() {
    if !needs::root() {
        return;
    }
    let lab = Lab::new(
        LINKS,
        // The counters are read a little after a second has ended: a second of peace on both sides
        // keeps all drops within the phase.
        "(name: \"loss\", seconds: 5, shake: Open(rate: Fixed(500)), faults: [
            Loss(share: 0.02, direction: ToServer, from_s: 1, until_s: 4),
            Loss(share: 0.03, direction: ToClient, from_s: 2, until_s: 4),
        ]),",
    );
    let summary = lab.run();
    let of = |fault, name: &str| number(&lab.truth(fault), &format!("/{name}"));
    let dropped = of(0, "dropped") + of(1, "dropped");
    assert!(of(0, "dropped") > 5 && of(1, "dropped") > 5, "{dropped}");
    assert!(of(0, "seen") >= 1400 && of(1, "seen") >= 900, "{} {}", of(0, "seen"), of(1, "seen"));
    let told: Vec<Value> = [lab.told(0), lab.told(1)].concat();
    assert_eq!(told.len() as u64, dropped);
    let flow = |line: &Value| line["flow"].as_str().map(str::to_owned);
    let flows: BTreeSet<String> = told.iter().filter_map(flow).collect();
    assert!(flows.iter().all(|flow| flow.starts_with("10.253.1.")), "{flows:?}");

    // What the probes saw dropped at that place, second by second and in all.
    let at_place = |line: &Value| {
        let places = line["drops_by_place"].as_array().expect("counted");
        let ours = places.iter().filter(|it| it["reason"] == "TC_INGRESS");
        ours.map(|it| number(it, "/port")).sum()
    };
    let mut samples = lines(&lab.out, "samples.jsonl");
    samples.retain(|line| line["source"] == "probe");
    assert_eq!(sum(&samples, at_place), dropped);
    let in_summary = number(&summary, "/phases/1/kernel/drops/TC_INGRESS");
    assert_eq!(in_summary, dropped, "{}", summary["phases"][1]["kernel"]);
    // Nothing is lost in the end: each was sent again. Who lost several times in a row still waits
    // when it is due again, and then does not send.
    let shake = |name: &str| number(&summary, &format!("/phases/1/shake/{name}"));
    assert_eq!(shake("answered"), shake("sent"));
    assert_eq!(shake("offered"), 2500);
    assert!(shake("skipped") <= dropped, "{}", summary["phases"][1]);
}

#[test]
fn packets_are_held_for_as_long_as_asked() {
    if !needs::root() || !needs::can("tun", Path::new("/dev/net/tun").exists()) {
        return;
    }
    let lab = Lab::new(
        LINKS,
        "(name: \"delay\", seconds: 3, shake: Open(rate: Fixed(300)), faults: [
            Delay(us: 15000, direction: ToServer),
            Delay(us: 10000, direction: ToClient),
        ]),
        (name: \"after\", after: Terminated(\"delay\"), seconds: 2,
            shake: Open(rate: Fixed(300))),",
    );
    let summary = lab.run();
    for (fault, us) in [(0, 15_000), (1, 10_000)] {
        let truth = lab.truth(fault);
        let of = |name: &str| number(&truth, &format!("/{name}"));
        assert!(of("held") >= 850, "{truth}");
        assert_eq!((of("held"), of("not_held")), (of("diverted"), 0), "{truth}");
        assert_eq!(of("not_kept"), 0, "{truth}");
        let told = lab.told(fault);
        assert_eq!(told.len() as u64, of("held"));
        assert_eq!(sum(&told, |line| number(line, "/ns")), of("held_ns"));
        assert!(told.iter().all(|line| number(line, "/ns") >= us * 1000));
    }
    let p50 = |phase: usize| number(&summary, &format!("/phases/{phase}/latency_us/p50"));
    assert!(p50(1) >= 25_000, "{} µs", p50(1));
    assert!(p50(2) < 10_000, "{} µs", p50(2));
    assert_eq!(number(&summary, "/phases/1/shake/answered"), 900);
}

/// Network namespaces of all processes that can be seen, with how many processes are in each.
fn namespaces() -> BTreeMap<PathBuf, usize> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        if let Ok(name) = std::fs::read_link(entry.path().join("ns/net")) {
            *found.entry(name).or_default() += 1;
        }
    }
    found
}

/// The interfaces of this namespace.
fn interfaces() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/net/dev").expect("interfaces");
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// The processes of a run: those whose parent is this one.
fn children(of: u64) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if parent.and_then(|parent| parent.trim().parse().ok()) == Some(of) {
            found.insert(pid);
        }
    }
    found
}

#[test]
fn nothing_is_left_of_namespaces_links_and_hogs_also_after_sigkill() {
    if !needs::root() {
        return;
    }
    let (server, _) = cpus();
    let before = interfaces();
    let lab = Lab::new(
        LINKS,
        &format!(
            "(name: \"long\", seconds: 600, shake: Open(rate: Fixed(200)), faults: [
                Hog(cpus: [{server}], busy: 0.1),
                Loss(share: 0.01, direction: ToServer),
                Delay(us: 1000, direction: ToClient),
            ]),"
        ),
    );
    let running = Running::start(&lab.arguments());
    running.wait_for("long 2/600 s");
    assert_eq!(interfaces(), before, "links are in namespaces of their own");
    let manifest = json(&lab.out, "manifest.json");
    let pids = [number(&manifest, "/server/pid"), number(&manifest, "/clients/0/pid")];
    let of = |pid: u64| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
    let own: BTreeSet<PathBuf> = pids.into_iter().map(of).collect();
    assert_eq!(own.len(), 2, "server and client have one each");
    let status = std::fs::read_to_string(format!("/proc/{}/status", pids[0])).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    let all = children(parent.trim().parse().expect("a number"));
    assert_eq!(all.len(), 4, "a server, two clients and a hog: {all:?}");
    running.signal(Signal::KILL);
    running.exit_code();
    let gone = |pid: &u64| !Path::new(&format!("/proc/{pid}")).exists();
    wait_until("its programs have gone", || all.iter().all(gone));
    wait_until("its namespaces have gone", || {
        let there = namespaces();
        own.iter().all(|name| !there.contains_key(name))
    });
    assert_eq!(interfaces(), before);
}

#[test]
fn an_interrupt_ends_faults_in_order() {
    let (server, _) = cpus();
    let lab = Lab::new(
        "network: (namespace: Host),",
        &format!(
            "(name: \"long\", seconds: 600, shake: Open(rate: Fixed(200)), faults: [
                Hog(cpus: [{server}], busy: 0.1),
                SlowHandler(us: 100, share: 0.5),
                SlowClient(us: 100, share: 0.5),
            ]),"
        ),
    );
    let running = Running::start(&lab.arguments());
    running.wait_for("long 2/600 s");
    running.signal(Signal::INT);
    assert_eq!(running.exit_code(), Some(5));
    let events = lines(&lab.out, "events.jsonl");
    let ends: Vec<&Value> = events.iter().filter(|it| it["event"] == "fault_ends").collect();
    assert_eq!(ends.len(), 3);
    for end in ends {
        assert_eq!(end["complete"], true, "{end}");
    }
}

#[test]
fn a_check_shows_faults_and_refuses_impossible_ones() {
    let lab_of =
        |faults: &str| Lab::new("", &format!("(name: \"p\", seconds: 3, faults: [{faults}]),"));
    let fine = lab_of("Hog(cpus: [0], from_s: 1)");
    let output = lab(&["check", path(&fine.file)]);
    assert_exit(&output, 0);
    assert!(said(&output).contains("fault hog: from second 1 until its end"), "{}", said(&output));
    let nowhere = lab_of("Hog(cpus: [4095])");
    let output = lab(&["check", path(&nowhere.file)]);
    assert_exit(&output, 3);
    assert!(said(&output).contains("CPU 4095"), "{}", said(&output));
}
