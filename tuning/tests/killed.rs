//! SIGKILL between any two system calls: a process that applies or reverts is stopped at each of
//! its system calls in turn and killed there; what is there then must go back to what it was.
//!
//! A program of its own without the test harness, so that the process that is killed has one
//! thread, and the network namespace is that of all.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Instant;

use rustix::thread::UnshareFlags;
use tuning::{ApplyOptions, Directory, Owner, Profile, Selection};

/// Below this the test does not see what it should: each setting takes several calls.
const FEWEST_CALLS: usize = 60;

/// Two profiles that share a setting.
const LOWER: [(&str, &str); 7] = [
    ("Sysctl(\"net.ipv4.ip_forward\")", "Exactly(\"1\")"),
    ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"1000\")"),
    ("Sysctl(\"net.ipv4.ip_local_port_range\")", "Exactly(\"2000 65000\")"),
    ("Sysctl(\"net.ipv4.tcp_rmem\")", "AtLeast(\"8192 200000 7000000\")"),
    ("Sysctl(\"net.ipv4.tcp_child_ehash_entries\")", "Exactly(\"0x1000\")"),
    ("Feature(\"tso\")", "Exactly(\"off\")"),
    ("RpsFlows", "Exactly(\"1000\")"),
];
const UPPER: [(&str, &str); 3] = [
    ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"3000\")"),
    ("Sysctl(\"net.ipv4.tcp_fin_timeout\")", "AtMost(\"7\")"),
    ("Rps", "Exactly(\"all\")"),
];

fn write_profile(path: &Path, settings: &[(&str, &str)]) {
    let mut text = String::from("(name: \"x\", about: \"x\", settings: [\n");
    for (key, value) in settings {
        let nics = if key.contains('(') && !key.contains("tso") { "" } else { "nics: [\"lo\"]," };
        let rounding = if *key == "RpsFlows" { "rounding: PowerOfTwo," } else { "" };
        text += &format!(
            "(key: {key}, value: {value}, because: \"b\", source: \"s\", since: \"3.2\",
              scope: Namespace, {nics} {rounding}),\n"
        );
    }
    std::fs::write(path, text + "])").expect("written");
}

/// What a child does: `apply DIRECTORY PROFILE` or `revert DIRECTORY`.
fn act(arguments: &[String]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let directory = Directory::new(Path::new(&arguments[1]));
    let lock = directory.lock().map_err(|error| text(&error))?;
    if arguments[0] == "apply" {
        let profile = Profile::load(&arguments[2]).map_err(|error| text(&error))?;
        let options = ApplyOptions { owner: Owner::Hand, keep_going: false };
        let applied = tuning::apply(&profile, &directory, options, &lock);
        let applied = applied.map_err(|error| text(&error))?;
        if !applied.failures.is_empty() {
            return Err(format!("{:?}", applied.failures));
        }
        return Ok(());
    }
    let reverted = tuning::revert(&directory, Selection::All, false, &lock);
    let reverted = reverted.map_err(|error| text(&error))?;
    if reverted.iter().all(tuning::RevertedProfile::is_done) {
        Ok(())
    } else {
        Err(format!("{reverted:?}"))
    }
}

fn child(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("--act").args(arguments);
    command
}

fn must(arguments: &[&str]) {
    let output = child(arguments).output().expect("started");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn trace(request: libc::c_uint, pid: libc::pid_t, data: libc::c_long) {
    // SAFETY: these requests read and write no memory of this process.
    let result = unsafe { libc::ptrace(request, pid, 0_usize, data) };
    assert!(result >= 0, "ptrace {request}: {}", io::Error::last_os_error());
}

/// The next time that a child stops or ends.
fn wait(child: &Child) -> ExitStatus {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    let waited = unsafe { libc::waitpid(child.id() as libc::pid_t, &raw mut status, libc::__WALL) };
    assert!(waited > 0, "waitpid: {}", io::Error::last_os_error());
    ExitStatus::from_raw(status)
}

/// Runs a child and kills it when it enters the `n`-th of its system calls, before the kernel has
/// done anything of it. How it ended.
fn killed_at(n: usize, arguments: &[&str]) -> ExitStatus {
    signalled_at(n, libc::SIGKILL, arguments)
}

/// The same with another signal.
#[expect(clippy::zombie_processes, reason = "`wait` waits, and for stops, too")]
fn signalled_at(n: usize, sent: libc::c_int, arguments: &[&str]) -> ExitStatus {
    let mut command = child(arguments);
    // SAFETY: a system call is all that happens between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn().expect("started");
    let pid = child.id() as libc::pid_t;
    assert!(wait(&child).stopped_signal() == Some(libc::SIGTRAP), "it stops when it has begun");
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    trace(libc::PTRACE_SETOPTIONS, pid, options.into());
    let (mut stops, mut pass_on) = (0, 0);
    loop {
        trace(libc::PTRACE_SYSCALL, pid, pass_on);
        let status = wait(&child);
        pass_on = 0;
        match status.stopped_signal() {
            None => return status,
            Some(signal) if signal == libc::SIGTRAP | 0x80 => {
                // Each call stops twice: when it is entered and when it is left.
                let entered = stops % 2 == 0;
                if entered && stops / 2 == n {
                    // SAFETY: the child is ours and not waited for yet.
                    assert_eq!(unsafe { libc::kill(pid, sent) }, 0);
                    if sent == libc::SIGKILL {
                        return wait(&child);
                    }
                }
                stops += 1;
            }
            Some(signal) => pass_on = signal.into(),
        }
    }
}

/// All settings of this namespace that can be read, but counters.
fn everything() -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut open = vec![PathBuf::from("/proc/sys/net")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                all.insert(path, text);
            }
        }
    }
    all.retain(|path, _| !path.to_string_lossy().contains("count"));
    // What is not below /proc/sys, of the only interface.
    for profile in ["throughput", "low-latency"] {
        let mut profile = Profile::load(profile).expect("embedded");
        profile.settings.retain(|it| it.setting.key.to_string().starts_with("nic."));
        for placed in &mut profile.settings {
            placed.setting.nics = Some(vec!["lo".to_owned()]);
        }
        for finding in tuning::check(&profile).expect("readable") {
            all.insert(finding.name.into(), format!("{:?}", finding.now));
        }
    }
    all
}

/// Kills an action at each of its system calls; everything must be as it was after the next revert.
fn at_every_call(
    what: &str,
    directory: &Path,
    before: &[&[&str]],
    action: &[&str],
    original: &BTreeMap<PathBuf, String>,
) {
    let start = Instant::now();
    let directory_name = directory.to_str().expect("a name");
    let mut changed = 0;
    let mut n = 0;
    loop {
        before.iter().for_each(|arguments| must(arguments));
        let status = killed_at(n, action);
        changed += usize::from(everything() != *original);
        must(&["revert", directory_name]);
        assert_eq!(everything(), *original, "{what}, killed at call {n}");
        let left: Vec<_> = std::fs::read_dir(directory)
            .expect("there")
            .flatten()
            .filter(|it| it.path().extension().is_some_and(|it| it == "json"))
            .collect();
        assert!(left.is_empty(), "{what}, killed at call {n}: {left:?}");
        if status.signal() != Some(libc::SIGKILL) {
            assert!(status.success(), "{what} at call {n}: {status:?}");
            break;
        }
        n += 1;
    }
    let seconds = start.elapsed().as_secs();
    println!(
        "{what}: killed at each of {n} system calls, {changed} times with changes, {seconds} s"
    );
    assert!(n > FEWEST_CALLS && changed > 5, "{what}: {n} calls, {changed} with changes");
}

/// Hangs a terminal up at each system call of an action: all of it is done, or nothing.
fn hung_up_at_every_call(directory: &Path, action: &[&str], original: &BTreeMap<PathBuf, String>) {
    let directory_name = directory.to_str().expect("a name");
    must(action);
    let applied = everything();
    must(&["revert", directory_name]);
    let (mut n, mut nothing, mut all) = (0, 0, 0);
    loop {
        let status = signalled_at(n, libc::SIGHUP, action);
        let now = everything();
        if now == *original {
            nothing += 1;
        } else {
            assert_eq!(now, applied, "hung up at call {n}");
            let status = tuning::status(&Directory::new(directory)).expect("readable");
            assert!(status.iter().all(|it| it.complete), "hung up at call {n}: {status:?}");
            all += 1;
        }
        must(&["revert", directory_name]);
        assert_eq!(everything(), *original, "hung up at call {n}");
        if status.signal() != Some(libc::SIGHUP) {
            assert!(status.success(), "at call {n}: {status:?}");
            break;
        }
        // A process that lives on takes its time.
        n += 3;
    }
    println!("hung up at a third of {n} system calls: {nothing} times nothing, {all} times all");
    assert!(nothing > 5 && all > FEWEST_CALLS / 3, "{nothing} times nothing, {all} times all");
}

fn prove() {
    if !needs::root() {
        return;
    }
    // SAFETY: a new network namespace changes nothing that this process's memory depends on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace");
    let temporary = tempfile::tempdir().expect("a directory");
    let path = |name: &str| temporary.path().join(name);
    write_profile(&path("lower.ron"), &LOWER);
    write_profile(&path("upper.ron"), &UPPER);
    let name = |name: &str| path(name).to_str().expect("a name").to_owned();
    let (lower, upper, journals) = (name("lower.ron"), name("upper.ron"), name("journals"));
    let original = everything();
    let (apply, apply_on_top) = (["apply", &journals, &lower], ["apply", &journals, &upper]);
    let revert = ["revert", journals.as_str()];
    let directory = path("journals");
    at_every_call("apply", &directory, &[], &apply, &original);
    hung_up_at_every_call(&directory, &apply, &original);
    at_every_call("apply on top of another", &directory, &[&apply], &apply_on_top, &original);
    at_every_call("revert of two", &directory, &[&apply, &apply_on_top], &revert, &original);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--act") => match act(&arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        _ => needs::alone("settings_go_back_after_a_kill_at_any_system_call", prove),
    }
}
