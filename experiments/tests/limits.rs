//! What cgroups leave to a run, set above the group that it is in: by `lab check`, `lab doctor`,
//! and the manifest of a run.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use common::{assert_exit, experiment, json, output, said};
use needs::test;
use serde_json::Value;

needs::main!();

/// The group of the processes, which has no limit itself.
const BELOW: &str = "box";

/// Groups made so far: tests run side by side.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A cgroup of a controller of version 1 below that of this process, with one below it.
struct Group(PathBuf);

impl Group {
    fn make(controller: &str, limits: &[(&str, &str)]) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own.lines().find_map(|line| line.split_once(&format!(":{controller}:")))?.1;
        let above = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'));
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let group = Self(above.join(format!("lab-limits-{}-{number}", std::process::id())));
        std::fs::create_dir(&group.0).ok()?;
        std::fs::create_dir(group.0.join(BELOW)).ok()?;
        for (file, value) in limits {
            std::fs::write(group.0.join(file), value).ok()?;
        }
        Some(group)
    }

    fn name(&self) -> String {
        self.0.file_name().expect("a name").to_str().expect("text").to_owned()
    }

    /// Runs `lab` to its end, in the groups below some.
    fn lab(groups: &[&Self], arguments: &[&str]) -> Output {
        let script = "while [ \"$1\" != -- ]; do echo $$ >\"$1\" || exit 9; shift; done; shift; \
                      exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command.args(groups.iter().map(|group| group.0.join(BELOW).join("cgroup.procs")));
        command.arg("--").arg(env!("CARGO_BIN_EXE_lab")).args(arguments);
        output(&mut command)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What ran there has ended.
        let _ = std::fs::remove_dir(self.0.join(BELOW));
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A machine where such groups can be made.
fn groups() -> Option<[Group; 3]> {
    if !needs::root() {
        return None;
    }
    let memory = Group::make("memory", &[("memory.limit_in_bytes", "629145600")]);
    if !needs::can("memory cgroup", memory.is_some()) {
        return None;
    }
    let quota = [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "8000")];
    let cpu = Group::make("cpu", &quota);
    let pids = Group::make("pids", &[("pids.max", "40")]);
    let there = cpu.is_some() && pids.is_some();
    needs::can("memory cgroup", there).then(|| [memory, cpu, pids].map(|it| it.expect("there")))
}

#[test]
fn the_smallest_limit_above_a_run_decides_whether_it_fits() {
    let Some([memory, cpu, pids]) = groups() else { return };
    let file = experiment("smoke");
    let file = file.to_str().expect("a path in UTF-8");
    let check = Group::lab(&[&memory], &["check", file, "--set", "users=60000"]);
    assert_exit(&check, 3);
    let text = said(&check);
    assert!(text.contains("of the 600.0 MiB of cgroup "), "{text}");
    assert!(text.contains(&memory.name()), "{text}");
    assert!(text.contains("raise the memory limit of cgroup "), "{text}");
    let fits = Group::lab(&[&memory], &["check", file, "--set", "users=10000"]);
    assert_exit(&fits, 0);
    let check = Group::lab(&[&cpu], &["check", file]);
    assert_exit(&check, 0);
    let text = said(&check);
    assert!(text.contains("0.08 CPUs, the quota of cgroup "), "{text}");
    let check = Group::lab(&[&pids], &["check", file, "--set", "server.shards=30"]);
    assert_exit(&check, 3);
    let text = said(&check);
    assert!(text.contains("raise pids.max of cgroup ") && text.contains(&pids.name()), "{text}");
}

#[test]
fn the_doctor_and_the_manifest_name_the_limits() {
    let Some([memory, cpu, pids]) = groups() else { return };
    let doctor = Group::lab(&[&memory, &cpu, &pids], &["doctor", "--json"]);
    let findings: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let found = |name: &str| {
        let findings = findings.as_array().expect("a list");
        let finding = findings.iter().find(|it| it["name"] == name).expect(name);
        finding["found"].as_str().expect("words").to_owned()
    };
    let cpus = found("CPUs");
    assert!(cpus.starts_with("0.08 by the quota of cgroup "), "{cpus}");
    assert!(found("memory").contains("of its 0.6 GiB"), "{}", found("memory"));
    assert!(found("threads").ends_with("of its 40"), "{}", found("threads"));

    let place = tempfile::tempdir().expect("a directory");
    let out = place.path().join("run");
    let (file, out) = (experiment("smoke"), out.to_str().expect("text"));
    let file = file.to_str().expect("a path in UTF-8");
    let fewer = ["--set", "users=100", "--set", "probes=Off"];
    let run = [&["run", file, "--out", out][..], &fewer].concat();
    assert_exit(&Group::lab(&[&memory], &run), 0);
    let limit = &json(Path::new(out), "manifest.json")["hosts"][0]["limits"]["memory"];
    assert_eq!(limit["bytes"], 629_145_600, "{limit}");
    assert!(limit["group"].as_str().is_some_and(|it| it.ends_with(&memory.name())), "{limit}");
}
