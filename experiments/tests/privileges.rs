//! Whom the programs of a run run as, and what is left when a run was killed: `lab run` as root, by
//! sudo and as an ordinary user, and `lab clean`.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use common::{Running, assert_exit, json, lab, output, said, wait_until};
use needs::test;
use rustix::process::geteuid;
use serde_json::{Value, json};

needs::main!();

/// A user who is nobody here.
const SOMEBODY: u32 = 54_321;

/// Some seconds, a hog that comes before others, and a congestion control.
const EXPERIMENT: &str = r#"(
    name: "ordinary", users: 40,
    network: (congestion: "reno"),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "it asks who, not how fast"),
    phases: [
        (name: "connect", connect: (rate: 1000), until: Established, longest_s: 30),
        (
            name: "shake", after: Terminated("connect"), seconds: SECONDS,
            shake: Open(rate: Fixed(200)), packets: (rate: 10),
            faults: [FAULTS],
        ),
    ],
)"#;

const HOG: &str = "Hog(cpus: [0], busy: 0.01, period_us: 100000, nice: -3, from_s: 0, until_s: 3)";

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn experiment(directory: &Path, seconds: u32, faults: &str) -> String {
    let file = directory.join("ordinary.ron");
    let text = EXPERIMENT.replace("SECONDS", &seconds.to_string()).replace("FAULTS", faults);
    std::fs::write(&file, text).expect("written");
    path(&file).to_owned()
}

/// What the kernel says of the programs of a `lab run`.
fn programs_of(run: u32) -> Vec<(String, String)> {
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    let of = |process: std::path::PathBuf| {
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let command = std::fs::read_to_string(process.join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(process.join("stat")).ok()?;
        let nice = stat.rsplit_once(')')?.1.split_whitespace().nth(16)?;
        let is_child = status.lines().any(|line| line == format!("PPid:\t{run}"));
        let word = command.split('\0').nth(1)?;
        // Between fork and exec it is still what it was forked from.
        let is_program = ["server", "client", "hog"].contains(&word);
        (is_child && is_program).then(|| (word.to_owned(), format!("{status}Nice:\t{nice}\n")))
    };
    entries.filter_map(|entry| of(entry.path())).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim_start_matches(':').trim()
}

/// Server, client and hog are nobody in particular, may do nothing that others may not, and are
/// watched by the probes all the same.
#[test]
fn programs_of_root_are_ordinary_ones() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let file = experiment(directory.path(), 5, HOG);
    let running = Running::start(&["run", &file, "--out", path(&out)]);
    let mut seen = Vec::new();
    wait_until("server, client and hog run", || {
        seen = programs_of(running.id());
        ["server", "client", "hog"].iter().all(|who| seen.iter().any(|(it, _)| it == who))
    });
    for (who, status) in &seen {
        assert_eq!(field(status, "Uid"), "65534\t65534\t65534\t65534", "{who}");
        assert_eq!(field(status, "Gid"), "65534\t65534\t65534\t65534", "{who}");
        assert_eq!(field(status, "Groups"), "", "{who}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(field(status, set), 16), Ok(0), "{who}: {set}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1", "{who}");
        let nice = if who == "hog" { "-3" } else { "0" };
        assert_eq!(field(status, "Nice"), nice, "{who}: handed down");
    }
    running.assert_completed();
    let summary = json(&out, "summary.json");
    let phases = summary["phases"].as_array().expect("phases");
    assert!(phases.iter().all(|phase| phase["load_valid"] == true), "{summary}");
    let manifest = json(&out, "manifest.json");
    let rights = &manifest["privileges"];
    assert_eq!((&rights["uid"], &rights["gid"]), (&json!(65_534), &json!(65_534)), "{rights}");
    assert_eq!(rights["chosen_by"], "default");
    assert_eq!((&rights["capabilities"], &rights["no_new_privs"]), (&json!([]), &json!(true)));
    let attached = manifest["probes"]["attached"].as_array().expect("a list");
    assert!(!attached.is_empty(), "{}", manifest["probes"]);
    // The probes stamp both ends of programs of another user.
    let p50 = &phases[1]["segments_us"]["server_service"]["p50"];
    assert!(p50.is_number(), "{}", phases[1]["segments_us"]);
}

/// The kernel forgets whom a process dies with when it becomes somebody else: it is told again.
#[test]
fn programs_of_another_user_die_with_their_run() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let file = experiment(directory.path(), 600, "");
    let running = Running::start(&["run", &file, "--out", path(&out)]);
    running.wait_for("shake 1/");
    let programs = programs_of(running.id());
    assert!(programs.len() >= 2, "{programs:?}");
    running.signal(rustix::process::Signal::KILL);
    let of = |status: &str| format!("/proc/{}/cmdline", field(status, "Pid"));
    // What is not waited for any more has no command line.
    let has_ended = |file: String| std::fs::read(file).map_or(true, |line| line.is_empty());
    wait_until("all programs end", || programs.iter().all(|(_, status)| has_ended(of(status))));
    assert_eq!(running.exit_code(), None, "it was killed");
}

/// The user need not be able to enter the directory of the program, but must be able to execute it.
#[test]
fn a_program_in_a_closed_directory_is_started_all_the_same() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let closed = directory.path().join("closed");
    std::fs::create_dir(&closed).expect("made");
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    };
    mode(&closed, 0o700);
    let copy = closed.join("lab");
    std::fs::copy(env!("CARGO_BIN_EXE_lab"), &copy).expect("copied");
    let file = experiment(directory.path(), 1, "");
    let run = |name: &str| {
        let out = directory.path().join(name);
        output(Command::new(&copy).args(["run", &file, "--out", path(&out)]))
    };
    assert_exit(&run("run"), 0);
    let rights = json(&directory.path().join("run"), "manifest.json")["privileges"].clone();
    assert_eq!(rights["uid"], 65_534);
    mode(&copy, 0o700);
    let refused = run("refused");
    assert_exit(&refused, 2);
    assert!(said(&refused).contains("may not execute"), "{}", said(&refused));
}

/// A `lab` that reads a file instead of which congestion controls everybody may choose.
fn told_that_allowed_is(file: &Path) -> Command {
    let over = "mount --make-rprivate / && mount --bind \"$0\" \
                /proc/sys/net/ipv4/tcp_allowed_congestion_control && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", over, path(file), env!("CARGO_BIN_EXE_lab")]);
    command
}

/// Programs may not choose a congestion control that is for root alone; their connections have it
/// all the same, on both ends, over loopback and over links.
#[test]
fn a_congestion_control_for_root_alone_comes_by_the_routes() {
    let has = |name: &str| Command::new(name).arg("-V").output().is_ok();
    if !needs::root() || !needs::can("ip", has("ip") && has("ss")) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let allowed = directory.path().join("allowed");
    // What this machine allows is not changed: the run is told something else.
    std::fs::write(&allowed, "none\n").expect("written");
    let file = experiment(directory.path(), 5, "");
    for hosts in ["\"Local\"", "{\"Namespaces\":1}"] {
        let out = directory.path().join(format!("run{}", hosts.len()));
        let mut command = told_that_allowed_is(&allowed);
        let hosts = format!("hosts={hosts}");
        command.args(["run", &file, "--out", path(&out), "--set", &hosts]);
        let running = Running::of(&mut command);
        running.wait_for("shake 2/");
        let programs = programs_of(running.id());
        let server = programs.iter().find(|(who, _)| who == "server").expect("it runs");
        let seen = output(Command::new("nsenter").args([
            "-t",
            field(&server.1, "Pid"),
            "-n",
            "ss",
            "-tinH",
            "state",
            "established",
        ]));
        let text = said(&seen);
        let of = |name: &str| text.split_whitespace().filter(|word| *word == name).count();
        assert!(of("reno") >= 40, "{hosts}: {text}");
        assert_eq!(of("cubic") + of("bbr"), 0, "{hosts}: {text}");
        running.assert_completed();
        let manifest = json(&out, "manifest.json");
        assert_eq!(manifest["privileges"]["capabilities"], json!([]), "{hosts}");
    }
    // In the machine's namespace nothing stands in for the right.
    let out = directory.path().join("machine");
    let mut command = told_that_allowed_is(&allowed);
    command.args(["run", &file, "--out", path(&out), "--set", "phases.shake.seconds=1"]);
    command.args(["--set", "network.namespace=Host"]);
    assert_exit(&output(&mut command), 0);
    let kept = json(&out, "manifest.json")["privileges"]["capabilities"].clone();
    assert_eq!(kept.as_array().map(Vec::len), Some(1), "{kept}");
    assert_eq!(kept[0]["name"], "CAP_NET_ADMIN");
    assert!(kept[0]["because"].as_str().is_some_and(|it| it.contains("reno is for root alone")));
}

/// Who has called sudo is whom programs run as, and has what the run has written.
#[test]
fn sudo_runs_programs_as_its_caller_who_gets_the_record() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("new/run");
    let file = experiment(directory.path(), 1, "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(["run", &file, "--out", path(&out)]);
    command.env("SUDO_UID", SOMEBODY.to_string()).env("SUDO_GID", SOMEBODY.to_string());
    assert_exit(&output(&mut command), 0);
    let rights = json(&out, "manifest.json")["privileges"].clone();
    assert_eq!((&rights["uid"], &rights["chosen_by"]), (&json!(SOMEBODY), &json!("sudo")));
    let entries = std::fs::read_dir(&out).expect("readable").flatten();
    let mut all: Vec<_> = entries.map(|entry| entry.path()).collect();
    assert!(all.len() > 5, "{all:?}");
    all.extend([out.clone(), directory.path().join("new")]);
    for path in all {
        let file = std::fs::symlink_metadata(&path).expect("there");
        assert_eq!((file.uid(), file.gid()), (SOMEBODY, SOMEBODY), "{}", path.display());
    }
    let above = std::fs::metadata(directory.path()).expect("there");
    assert_eq!(above.uid(), 0, "what was there before stays whose it was");
}

/// Root's programs are root's only when that is asked for, and the record says so.
#[test]
fn the_user_is_the_one_of_the_command_line() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = experiment(directory.path(), 1, "");
    let run = |name: &str, user: &str| {
        let out = directory.path().join(name);
        let output = lab(&["run", &file, "--out", path(&out), "--user", user]);
        (output, out)
    };
    let user = format!("{SOMEBODY}:{}", SOMEBODY + 1);
    let (output, out) = run("somebody", &user);
    assert_exit(&output, 0);
    let rights = json(&out, "manifest.json")["privileges"].clone();
    let expected = json!({
        "user": null, "uid": SOMEBODY, "gid": SOMEBODY + 1, "chosen_by": "--user",
        "capabilities": [], "no_new_privs": true,
    });
    assert_eq!(rights, expected);
    let (output, out) = run("root", "root");
    assert_exit(&output, 0);
    let rights = json(&out, "manifest.json")["privileges"].clone();
    let kept = rights["capabilities"].as_array().expect("a list");
    assert!(kept.iter().any(|it| it["name"] == "CAP_SYS_ADMIN"), "{rights}");
    let (output, out) = run("nobody", "no-such-user");
    assert_exit(&output, 2);
    assert!(said(&output).contains("--user no-such-user: no such user"), "{}", said(&output));
    assert!(!out.exists(), "nothing was begun");
}

/// An agent that is root does the same, and its card tells the coordinator.
#[test]
fn programs_of_agents_are_ordinary_ones() {
    if !lan::can_be() {
        return;
    }
    let lan = lan::Lan::new(2);
    // A number that no user has needs its group.
    let user = format!("{SOMEBODY}:{SOMEBODY}");
    let agents = lan.fleet(&["--user", &user]);
    let out = lan.path("out");
    let directory = tempfile::tempdir().expect("a directory");
    let file = experiment(directory.path(), 5, "");
    let mut run = lan.run(&[&file, "--out", path(&out)]);
    lan.wait_for_phase(&out, "shake");
    let programs: Vec<_> = agents.iter().flat_map(|agent| programs_of(agent.id())).collect();
    let mut names: Vec<&str> = programs.iter().map(|(who, _)| who.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["client", "server"]);
    for (who, status) in &programs {
        assert!(field(status, "Uid").starts_with("54321\t"), "{who}: {status}");
        assert_eq!(field(status, "NoNewPrivs"), "1", "{who}");
    }
    run.assert_completed();
    let rights = json(&out, "manifest.json")["privileges"]["by_host"].clone();
    for host in ["s", "c1"] {
        assert_eq!(rights[host]["uid"], SOMEBODY, "{rights}");
        assert_eq!(rights[host]["chosen_by"], "--user", "{rights}");
    }
}

/// What an agent's programs keep is named for its host, and an unknown congestion control is no
/// reason to keep anything.
#[test]
fn what_programs_of_agents_keep_is_named() {
    if !lan::can_be() {
        return;
    }
    let lan = lan::Lan::new(2);
    // What this machine allows is not changed: the agents are told something else.
    let allowed = lan.path("allowed");
    std::fs::write(&allowed, "none\n").expect("written");
    let _agents = [(0, "s", "server"), (1, "c1", "client")].map(|(host, name, role)| {
        lan.agent_told_that_allowed_is(&allowed, host, name, &["--role", role])
    });
    lan.wait_for_agents(2);
    let directory = tempfile::tempdir().expect("a directory");
    let file = experiment(directory.path(), 1, "");
    let out = lan.path("out");
    lan.run(&[&file, "--out", path(&out)]).assert_completed();
    let rights = json(&out, "manifest.json")["privileges"]["by_host"].clone();
    for host in ["s", "c1"] {
        let kept = rights[host]["capabilities"].as_array().expect("a list");
        let kept = kept.iter().find(|it| it["name"] == "CAP_NET_ADMIN").expect("it is named");
        let because = kept["because"].as_str().expect("text");
        assert!(because.contains("reno is for root alone"), "{rights}");
    }
    let out = lan.path("unknown");
    let unknown = ["--set", "network.congestion=unheard_of"];
    let mut run = lan.run(&[&[&file, "--out", path(&out)], &unknown[..]].concat());
    assert_ne!(run.exit_code(), Some(0));
    let said = lan.said("run.log");
    let why = "network.congestion: unheard_of: the kernel has no such congestion control, but ";
    assert!(said.contains("server cannot be started") && said.contains(why), "{said}");
    let kept = json(&out, "manifest.json")["privileges"]["by_host"]["s"]["capabilities"].clone();
    assert_eq!(kept, json!([]));
}

/// Without root programs run as the caller.
#[test]
fn without_root_programs_run_as_the_caller() {
    let directory = tempfile::tempdir().expect("a directory");
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(directory.path(), everybody).expect("set");
    let out = directory.path().join("run");
    let file = experiment(directory.path(), 1, "");
    // The directory of the build may be one that only root may enter.
    let program = directory.path().join("lab");
    std::fs::copy(env!("CARGO_BIN_EXE_lab"), &program).expect("copied");
    let mut command = Command::new(&program);
    command.args(["run", &file, "--out", path(&out)]).current_dir(directory.path());
    let caller = match geteuid() {
        root if root.is_root() => {
            command.uid(SOMEBODY).gid(SOMEBODY);
            SOMEBODY
        }
        caller => caller.as_raw(),
    };
    assert_exit(&output(&mut command), 0);
    let rights = json(&out, "manifest.json")["privileges"].clone();
    assert_eq!((&rights["uid"], &rights["chosen_by"]), (&json!(caller), &json!("caller")));
    assert_eq!(rights["capabilities"], json!([]));
}

/// A hog that waits for an hour, as a program of the process that is said to have started it.
struct Waiting(Child);

impl Waiting {
    fn start(by: &str) -> Self {
        let order = json!({
            "cpus": [0], "threads": 1, "period_ns": 1_000_000_000_u64, "busy_ns": 1, "nice": 0,
            "from_ns": u64::MAX / 2, "until_ns": u64::MAX,
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg0("lab").args(["hog", "--config", &order.to_string()]);
        command.env("LAB_STARTED_BY", by).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().expect("started"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have been ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When this process began, as the kernel has it.
fn began() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("there");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    fields.split_whitespace().nth(19).expect("field 22").to_owned()
}

/// What one test leaves another one must not remove.
static LEFTOVERS: Mutex<()> = Mutex::new(());

/// A state directory whose agent runs is left alone, also what the agent has not opened.
#[test]
fn clean_leaves_the_state_of_an_agent_that_runs() {
    let _alone = LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let state = tempfile::tempdir().expect("a directory");
    let kept = ["run-1.spool", "run-1.leader"].map(|name| state.path().join(name));
    kept.iter().for_each(|file| std::fs::write(file, "kept").expect("written"));
    let journals = state.path().join("journals");
    let clean = || {
        let places = ["--journals", path(&journals), "--state", path(state.path())];
        said(&lab(&[&["clean", "--remove"], &places[..]].concat()))
    };
    let agent = fleet::StateLock::take(state.path(), "lab agent a, process 7").expect("made");
    let text = clean();
    assert!(text.contains(": lab agent a, process 7 has it, and keeps what is there"), "{text}");
    assert!(kept.iter().all(|file| file.exists()), "{text}");
    drop(agent);
    let text = clean();
    assert!(text.contains("removed  ") && kept.iter().all(|file| !file.exists()), "{text}");
}

#[test]
fn clean_shows_and_removes_what_is_left() {
    let _alone = LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().expect("a directory");
    let journals = directory.path().join("journals");
    let state = directory.path().join("state");
    std::fs::create_dir(&state).expect("made");
    let (left, held) = (state.join("left.spool"), state.join("held.spool"));
    std::fs::write(&left, "kept").expect("written");
    let _agent = std::fs::File::create(&held).expect("made");
    let me = std::process::id();
    // A number that was this process's before, and one that is.
    let mut orphan = Waiting::start(&format!("{me}.1"));
    let mut child = Waiting::start(&format!("{me}.{}", began()));
    let clean = |more: &[&str]| {
        let places = ["clean", "--journals", path(&journals), "--state", path(&state)];
        lab(&[&places, more].concat())
    };
    let of = |program: &Waiting| format!("process {}, whose run is over", program.0.id());
    wait_until("the orphan is seen", || said(&clean(&[])).contains(&of(&orphan)));
    let shown = clean(&[]);
    assert_exit(&shown, 1);
    let text = said(&shown);
    assert!(text.contains("left.spool: 4 bytes"), "{text}");
    assert!(!text.contains(&of(&child)) && !text.contains("held.spool"), "{text}");
    assert!(left.exists() && orphan.0.try_wait().expect("ours").is_none(), "only shown");

    let removed = clean(&["--remove"]);
    assert!(said(&removed).contains(&format!("removed  {}", of(&orphan))), "{}", said(&removed));
    wait_until("the orphan ends", || orphan.0.try_wait().expect("ours").is_some());
    assert!(child.0.try_wait().expect("ours").is_none(), "it is nobody's leftover");
    assert!(!left.exists() && held.exists());
    let text = said(&clean(&[]));
    assert!(!text.contains(&of(&orphan)) && !text.contains("left.spool"), "{text}");
}

/// Settings of a run that was killed go back.
#[test]
fn clean_puts_settings_back() {
    use tuning::{ApplyOptions, Directory, Owner, Profile};

    if !needs::root() {
        return;
    }
    let _alone = LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.ron");
    let text = r#"(name: "x", about: "x", settings: [(
        key: Sysctl("net.core.somaxconn"), value: Exactly("1234"), because: "b", source: "s",
        since: "3.2", scope: Namespace)])"#;
    std::fs::write(&file, text).expect("written");
    let journals = directory.path().join("journals");
    let inside = std::thread::spawn(move || {
        // SAFETY: a new network namespace changes nothing that this process's memory depends on.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("a namespace");
        let read = || std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("there");
        let before = read();
        let profile = Profile::load(path(&file)).expect("a profile");
        let place = Directory::new(&journals);
        // As a run does that is killed then.
        let lock = place.lock().expect("free");
        let options = ApplyOptions { owner: Owner::Run, keep_going: false };
        tuning::apply(&profile, &place, options, &lock).expect("applied");
        drop(lock);
        let clean = |more: &[&str]| {
            let arguments = [&["clean", "--journals", path(&journals)], more].concat();
            let output = lab(&arguments);
            (said(&output), read())
        };
        let shown = clean(&[]);
        let removed = clean(&["--remove"]);
        (before, shown, removed)
    });
    let (before, shown, removed): (String, (String, String), (String, String)) =
        inside.join().expect("no panic");
    assert!(shown.0.contains("found    profile x: 1 settings"), "{}", shown.0);
    assert_eq!(shown.1, "1234\n");
    assert!(removed.0.contains("removed  profile x: 1 settings"), "{}", removed.0);
    assert_eq!(removed.1, before);
}

#[test]
fn the_doctor_says_as_whom_programs_run() {
    let output = lab(&["doctor", "--json"]);
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = findings.as_array().expect("a list");
    let named = |name: &str| {
        let found = findings.iter().find(|it| it["name"] == name).expect(name);
        found["found"].as_str().expect("text").to_owned()
    };
    let programs = named("programs run as");
    assert!(programs.contains("no capabilities, no_new_privs"), "{programs}");
    let keeps = named("lab itself keeps");
    assert_eq!(keeps.contains("CAP_SYS_ADMIN makes"), geteuid().is_root(), "{keeps}");
}
