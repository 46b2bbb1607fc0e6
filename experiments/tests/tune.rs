//! `lab tune` as an operator uses it, and runs with a tuning profile: applied, recorded, put back.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Running, assert_exit, json, lab, said, wait_until};
use needs::test;
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use tempfile::TempDir;

needs::main!();

/// A setting of the machine that nothing here depends on.
const BACKLOG: &str = "net.core.netdev_max_backlog";

/// One test at a time of those that set it.
static TURN: Mutex<()> = Mutex::new(());

fn exclusive() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs something on a thread in a network namespace of its own.
fn in_namespace(act: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: a new network namespace changes nothing that memory depends on.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace");
            act();
        });
        inside.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn sysctl(name: &str) -> String {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let text = std::fs::read_to_string(path).expect(name);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A directory with journals and profiles.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().expect("a name").to_owned()
    }

    /// Writes a profile: key, value and more of each setting.
    fn profile(&self, settings: &[(&str, &str, &str)]) -> String {
        let mut text = String::from("(name: \"x\", about: \"a test\", settings: [\n");
        for (key, value, more) in settings {
            let why = "because: \"b\", source: \"s\", since: \"3.2\",";
            text += &format!("(key: {key}, value: {value}, {why} {more}),\n");
        }
        std::fs::write(self.path("x.ron"), text + "])").expect("written");
        self.name("x.ron")
    }

    fn tune(&self, arguments: &[&str]) -> Output {
        let journals = self.name("journals");
        lab(&[&["tune", "--journals", &journals], arguments].concat())
    }

    /// A profile that changes the backlog of the machine to 1 more than it is.
    fn of_backlog(&self) -> (String, String, String) {
        let before = sysctl(BACKLOG);
        let after = (before.parse::<u64>().expect("a number") + 1).to_string();
        let profile = self.profile(&[
            (&format!("Sysctl(\"{BACKLOG}\")"), &format!("Exactly(\"{after}\")"), "scope: Machine"),
            ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"777\")", "scope: Namespace"),
            (
                "Sysctl(\"net.ipv4.tcp_congestion_control\")",
                "Exactly(\"reno\")",
                "scope: Namespace",
            ),
            ("Limit(nofile)", "AtLeast(\"3000\")", "scope: Process"),
            ("Rps", "Exactly(\"all\")", "scope: Namespace, optional: true"),
        ]);
        (profile, before, after)
    }

    /// An experiment that a tenth of a minute is enough for, with the profile.
    fn experiment(&self, profile: &str, more: &str) -> String {
        let text = format!(
            "(name: \"x\", users: 200, probes: Off, {more} tuning: (profile: \"{profile}\"),
              validity: (late_share: 1.0, client_busy_share: 1.0, because: \"a test\"),
              phases: [
                (name: \"connect\", connect: (), until: Established, longest_s: 60),
                (name: \"load\", seconds: 3, shake: Open(rate: Fixed(100))),
              ])"
        );
        std::fs::write(self.path("experiment.ron"), text).expect("written");
        self.name("experiment.ron")
    }
}

#[test]
fn an_operator_applies_checks_and_reverts() {
    if !needs::root() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let profile = place.profile(&[
            ("Sysctl(\"net.core.somaxconn\")", "AtLeast(\"70000\")", "scope: Namespace"),
            (
                "Sysctl(\"net.ipv4.tcp_child_ehash_entries\")",
                "Exactly(\"1024\")",
                "scope: Namespace, effect: NewNamespace(shown_by: \"net.ipv4.none\")",
            ),
            ("Limit(nofile)", "AtLeast(\"1\")", "scope: Process"),
        ]);
        let before = sysctl("net.core.somaxconn");
        let output = place.tune(&["check", &profile]);
        assert_exit(&output, 1);
        let text = said(&output);
        assert!(text.contains(&format!("differs       net.core.somaxconn: {before}, not 70000")));
        assert!(text.contains("x.ron:2)") && text.contains("2 of 3 settings differ"), "{text}");
        let output = place.tune(&["diff", &profile]);
        assert_exit(&output, 0);
        let diff = said(&output);
        assert!(diff.contains(&format!("net.core.somaxconn                {before} -> 70000")));
        assert_exit(&place.tune(&["status"]), 0);

        let output = place.tune(&["apply", &profile]);
        assert_exit(&output, 0);
        assert!(said(&output).contains("x: 2 settings changed in "), "{}", said(&output));
        assert_eq!(sysctl("net.core.somaxconn"), "70000");
        let output = place.tune(&["check", &profile]);
        assert_exit(&output, 0);
        assert!(said(&output).contains("pending       net.ipv4.tcp_child"), "{}", said(&output));
        assert_exit(&place.tune(&["check", "--strict", &profile]), 1);
        let output = place.tune(&["status"]);
        assert!(said(&output).contains("70000 (before: "), "{}", said(&output));

        std::fs::write("/proc/sys/net/core/somaxconn", "5").expect("set");
        let output = place.tune(&["revert"]);
        assert_exit(&output, 1);
        assert!(said(&output).contains("left alone    net.core.somaxconn: 5"), "{}", said(&output));
        assert_eq!(sysctl("net.ipv4.tcp_child_ehash_entries"), "0");
        assert_exit(&place.tune(&["revert", "--forget"]), 0);
        assert_eq!(sysctl("net.core.somaxconn"), "5");
        let output = place.tune(&["revert"]);
        assert_exit(&output, 0);
        assert!(said(&output).contains("nothing is applied"), "{}", said(&output));
    });
}

#[test]
fn what_is_asked_wrong_is_said() {
    let place = Place::new();
    assert_exit(&place.tune(&["list"]), 0);
    for name in ["million-sockets", "low-latency", "throughput", "prototype"] {
        let shown = place.tune(&["show", name]);
        assert_exit(&shown, 0);
        assert!(said(&shown).contains("because") || said(&shown).contains("Linux 3.2"));
        let script = place.tune(&["script", name]);
        assert_exit(&script, 0);
        assert!(said(&script).starts_with("#!/bin/sh\n"));
    }
    let limits = place.tune(&["script", "million-sockets", "--limits", "systemd"]);
    assert!(said(&limits).contains("LimitNOFILE=1100000"), "{}", said(&limits));
    let output = place.tune(&["check", "milion-sockets"]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("there is no profile milion-sockets"), "{}", said(&output));
    std::fs::write(place.path("x.ron"), "(name: \"x\",\n about: 3)").expect("written");
    let output = place.tune(&["check", &place.name("x.ron")]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("x.ron:2: "), "{}", said(&output));
}

/// What is of a namespace is set in those of the run, and recorded; the machine stays as it is.
#[test]
fn a_run_has_its_profile_in_its_namespaces() {
    if !needs::root() {
        return;
    }
    let _lock = exclusive();
    let place = Place::new();
    let (profile, before, _) = place.of_backlog();
    let somaxconn = sysctl("net.core.somaxconn");
    for (more, places) in
        [("", &["server"][..]), ("hosts: Namespaces(1),", &["server", "clients 0"])]
    {
        let experiment = place.experiment(&profile, more);
        let out = place.name(if more.is_empty() { "one" } else { "two" });
        let journals = place.name("journals");
        let output = lab(&["run", &experiment, "--out", &out, "--journals", &journals]);
        assert_exit(&output, 0);
        let tuning = &json(Path::new(&out), "manifest.json")["tuning"];
        assert_eq!(tuning["profile"], "x");
        assert_eq!(tuning["machine"], false);
        for name in places {
            assert_eq!(tuning["known"][name]["net.core.somaxconn"], "777", "{tuning}");
            assert_eq!(tuning["known"][name]["net.ipv4.tcp_congestion_control"], "reno");
            let applied = tuning["applied"].as_array().expect("a list");
            let here = |key: &str| {
                let named = |it: &&serde_json::Value| {
                    it["in"] == *name && it["name"].as_str().is_some_and(|it| it.starts_with(key))
                };
                applied.iter().filter(named).count()
            };
            assert_eq!(here("net.core.somaxconn"), 1, "{tuning}");
            // With links between namespaces there are interfaces.
            assert_eq!(here("nic.rps lab0") > 0, !more.is_empty(), "{tuning}");
        }
        let not = tuning["not_applied"].to_string();
        assert!(not.contains(BACKLOG) && not.contains("without --tune-host"), "{not}");
        assert_eq!(tuning["known"]["machine"]["net.core.somaxconn"], somaxconn.as_str());
        assert!(!place.path("journals/0001.json").exists());
    }
    assert_eq!(sysctl(BACKLOG), before);
}

/// With `--tune-host` the machine is tuned while the run goes on, and put back however it ends.
#[test]
fn a_run_puts_the_machine_back() {
    if !needs::root() {
        return;
    }
    let _lock = exclusive();
    let place = Place::new();
    let (profile, before, after) = place.of_backlog();
    let experiment = place.experiment(&profile, "");
    let journals = place.name("journals");
    let run = |out: &str, more: &[&'static str]| -> Vec<String> {
        let arguments = ["run", &experiment, "--out", &place.name(out), "--journals", &journals];
        arguments.iter().chain(more).map(|it| (*it).to_owned()).collect()
    };
    let start = |out: &str, more: &[&'static str]| {
        let arguments = run(out, more);
        Running::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let is_tuned = || sysctl(BACKLOG) == after;

    let running = start("to-its-end", &["--tune-host"]);
    running.assert_completed();
    assert_eq!(sysctl(BACKLOG), before);
    let manifest = json(&place.path("to-its-end"), "manifest.json");
    assert_eq!(manifest["tuning"]["known"]["machine"][BACKLOG], after.as_str());
    assert_eq!(manifest["tuning"]["machine"], true);

    let longer = ["--tune-host", "--set", "phases.load.seconds=600"];
    let running = start("interrupted", &longer);
    running.wait_for("load 1/600 s");
    assert!(is_tuned());
    // No other process tunes it meanwhile.
    let output = place.tune(&["apply", &profile]);
    assert_exit(&output, 1);
    assert!(said(&output).contains("a run that tuned it is not over yet"), "{}", said(&output));
    running.signal(Signal::INT);
    assert_eq!(running.exit_code(), Some(5));
    assert_eq!(sysctl(BACKLOG), before);

    // Another signal, and as soon as there is something to put back.
    for (out, signal) in [("terminated", Signal::TERM), ("hung-up", Signal::HUP)] {
        let running = start(out, &longer);
        wait_until("the machine is tuned", is_tuned);
        running.signal(signal);
        assert_eq!(running.exit_code(), Some(5), "{out}");
        assert_eq!(sysctl(BACKLOG), before, "{out}");
    }

    let running = start("killed", &longer);
    wait_until("the machine is tuned", is_tuned);
    running.signal(Signal::KILL);
    assert_eq!(running.exit_code(), None);
    assert!(is_tuned(), "who is killed puts nothing back");
    let arguments = run("after", &[]);
    let output = lab(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_exit(&output, 0);
    assert!(said(&output).contains("left by a process that was killed"), "{}", said(&output));
    assert_eq!(sysctl(BACKLOG), before);
    assert!(said(&place.tune(&["status"])).contains("nothing is applied"));
}

/// A small ablation: two settings that change something, one that does not; the runs stay.
#[test]
fn an_ablation_says_what_each_setting_is_worth() {
    if !needs::root() {
        return;
    }
    let place = Place::new();
    let profile = place.profile(&[
        ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"777\")", "scope: Namespace"),
        ("Sysctl(\"net.ipv4.tcp_sack\")", "Exactly(\"1\")", "scope: Namespace"),
        ("Sysctl(\"net.ipv4.tcp_fin_timeout\")", "Exactly(\"7\")", "scope: Namespace"),
        (&format!("Sysctl(\"{BACKLOG}\")"), "Exactly(\"12345\")", "scope: Machine"),
    ]);
    let experiment = place.experiment(&profile, "");
    let out = place.name("out");
    let arguments =
        ["ablate", &experiment, &profile, "--out", &out, "--rounds", "2", "--set", "users=100"];
    let output = place.tune(&arguments);
    assert_exit(&output, 0);
    let text = said(&output);
    assert!(text.contains("the whole profile ") && text.contains("2 runs an arm"), "{text}");
    assert!(text.contains("not measured: net.ipv4.tcp_sack: holds already"), "{text}");
    assert!(text.contains(&format!("not measured: {BACKLOG}: of the machine")), "{text}");
    let ablation = json(Path::new(&out), "ablation.json");
    let effects = ablation["effects"].as_array().expect("a list");
    let keys: Vec<Option<&str>> = effects.iter().map(|it| it["key"].as_str()).collect();
    assert_eq!(keys, [None, Some("net.core.somaxconn"), Some("net.ipv4.tcp_fin_timeout")]);
    for arm in ["with", "without", "without-net.core.somaxconn"] {
        let known = |run: &str| {
            let manifest = json(&place.path("out").join(arm).join(run), "manifest.json");
            manifest["tuning"]["known"]["server"]["net.core.somaxconn"].clone()
        };
        assert_eq!(known("01") == "777", arm == "with", "{arm}");
        assert_eq!(known("01"), known("02"));
    }
    // What is there is not run again.
    let before = std::fs::metadata(place.path("out/with/01/summary.json")).expect("there");
    assert_exit(&place.tune(&arguments), 0);
    let after = std::fs::metadata(place.path("out/with/01/summary.json")).expect("there");
    assert_eq!(before.modified().expect("a time"), after.modified().expect("a time"));
}

/// A signal to a command that has runs carried out interrupts the run, and comes back after it.
#[test]
fn an_ablation_that_is_interrupted_ends_its_run_in_order() {
    if !needs::root() {
        return;
    }
    let place = Place::new();
    let setting = ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"777\")", "scope: Namespace");
    let profile = place.profile(&[setting]);
    let experiment = place.experiment(&profile, "");
    let out = place.name("out");
    for signal in [Signal::TERM, Signal::HUP] {
        let arguments = ["tune", "--journals", &place.name("journals"), "ablate", &experiment];
        let more = [&profile, "--out", &out, "--rounds", "2", "--set", "phases.load.seconds=600"];
        let arguments: Vec<&str> = arguments.into_iter().chain(more).collect();
        let running = Running::start(&arguments);
        running.wait_for("round 1 of 2");
        let runs = || std::fs::read_dir(&out).into_iter().flatten().flatten();
        let run = || runs().map(|arm| arm.path().join("01")).find(|it| it.is_dir());
        let begun = |run: PathBuf| {
            let events = std::fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
            events.contains("\"phase\":\"load\"")
        };
        wait_until("its run is under way", || run().is_some_and(begun));
        running.signal(signal);
        assert_eq!(running.exit_code(), Some(5), "{signal:?}");
        let run = run().expect("a run");
        assert_eq!(json(&run, "manifest.json")["outcome"], "interrupted", "{signal:?}");
        assert!(run.join("summary.json").is_file(), "{signal:?}");
        std::fs::remove_dir_all(&out).expect("removed");
    }
}
