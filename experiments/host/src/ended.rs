//! How a program ended, in words: its exit status or its signal, and the likely reason when the
//! kernel killed it for want of memory.
//!
//! Must not know: what the end means for a run.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use platform::{Cgroups, GroupPath};

/// Records of the kernel's log that are looked through: the whole of the largest buffer in use.
const RECORDS: usize = 100_000;

/// How many programs the kernel had killed for want of memory when a run began.
#[derive(Clone, Debug)]
pub struct OomWatch {
    /// In the memory cgroup of this process, whose programs are in it, too, and in those above it:
    /// the group, and the count.
    cgroups: Vec<(String, u64)>,
    /// On the machine.
    machine: Option<u64>,
}

impl OomWatch {
    /// From now on.
    pub fn start() -> Self {
        Self { cgroups: killed_in_cgroups(), machine: killed_on_machine() }
    }

    /// How a program ended.
    pub fn describe(&self, pid: Option<u32>, status: ExitStatus) -> String {
        let Some(signal) = status.signal() else {
            return match status.code() {
                Some(code) => format!("ended with exit status {code}"),
                None => format!("ended: {status}"),
            };
        };
        let words = format!("was killed by signal {signal}{}", name(signal));
        match (signal == libc::SIGKILL).then(|| self.reason(pid)).flatten() {
            Some(reason) => format!("{words}: {reason}"),
            None => words,
        }
    }

    /// Why a program was killed, as far as the kernel tells.
    fn reason(&self, pid: Option<u32>) -> Option<String> {
        if let Some(killed) = pid.and_then(in_log) {
            let limit =
                killed.cgroup.map(|group| format!("; the limit of cgroup {group} was reached"));
            return Some(format!(
                "out of memory, by the kernel's log{}",
                limit.unwrap_or_default()
            ));
        }
        let before = |group: &str| self.cgroups.iter().find(|(own, _)| own == group);
        let more = |(group, now): (String, u64)| {
            let count = now.checked_sub(before(&group)?.1).filter(|count| *count > 0)?;
            Some((group, count))
        };
        // From the process's own group up: those above it have others' programs, too.
        if let Some((group, count)) = killed_in_cgroups().into_iter().find_map(more) {
            return Some(format!(
                "likely out of memory: meanwhile the kernel killed processes of memory cgroup \
                 {group} for want of it: {count}"
            ));
        }
        let machine =
            self.machine.zip(killed_on_machine()).map(|(then, now)| now.saturating_sub(then));
        match machine {
            Some(count @ 1..) => Some(format!(
                "likely out of memory: meanwhile the kernel killed processes of this machine for \
                 want of it: {count}"
            )),
            None if self.cgroups.is_empty() => None,
            _ => Some("by somebody; the kernel has killed nothing for want of memory".to_owned()),
        }
    }
}

fn name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => " (SIGHUP)",
        libc::SIGINT => " (SIGINT)",
        libc::SIGQUIT => " (SIGQUIT)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGTRAP => " (SIGTRAP)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGPIPE => " (SIGPIPE)",
        libc::SIGTERM => " (SIGTERM)",
        libc::SIGXCPU => " (SIGXCPU)",
        libc::SIGSYS => " (SIGSYS)",
        _ => "",
    }
}

/// A counter of a file of lines `name value`.
fn counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

fn killed_on_machine() -> Option<u64> {
    counter(&std::fs::read_to_string("/proc/vmstat").ok()?, "oom_kill")
}

/// The memory cgroup of this process and those above it, with how many processes of each the kernel
/// has killed for want of memory. In version 2 a group's count has those of the groups below it.
fn killed_in_cgroups() -> Vec<(String, u64)> {
    let cgroups = Cgroups::of(Path::new("/proc"), "self");
    cgroups.and_then(|cgroups| cgroups.path("memory")).map_or_else(|_| Vec::new(), killed_in)
}

fn killed_in(path: GroupPath) -> Vec<(String, u64)> {
    let file = if path.second { "memory.events" } else { "memory.oom_control" };
    let killed = |(group, directory): (String, PathBuf)| {
        let text = std::fs::read_to_string(directory.join(file)).ok()?;
        Some((group, counter(&text, "oom_kill")?))
    };
    path.directories.into_iter().filter_map(killed).collect()
}

/// What the kernel's log says of a process that was killed for want of memory.
#[derive(Debug, PartialEq, Eq)]
struct Killed {
    /// The group whose limit was reached; `None` when the machine had none left.
    cgroup: Option<String>,
}

/// Whether the kernel's log says that it killed a process for want of memory; `None` when it does
/// not, or cannot be read.
fn in_log(pid: u32) -> Option<Killed> {
    let mut options = File::options();
    let mut log = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut record = [0; 8192];
    let (mut cgroup, mut killed) = (None, false);
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                let record = String::from_utf8_lossy(&record[..length]);
                cgroup = reached(&record, pid).or(cgroup);
                killed |= names(&record, pid);
            }
            // A record was overwritten while it was read: the next one is there.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    killed.then_some(Killed { cgroup })
}

/// Whether a record of the kernel's log says that a process was killed for want of memory.
fn names(record: &str, pid: u32) -> bool {
    let Some((_, rest)) = record.split_once("Killed process ") else { return false };
    let digits = rest.find(|it: char| !it.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse() == Ok(pid)
}

/// The group whose limit was reached, in the record that goes before (since Linux 5.0).
fn reached(record: &str, pid: u32) -> Option<String> {
    let (_, fields) = record.split_once("oom-kill:")?;
    let field = |name: &str| {
        fields.trim_end().split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let of_it = field("pid")?.parse() == Ok(pid);
    of_it.then(|| field("oom_memcg").map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_in_words() {
        let quiet = OomWatch::start();
        let signal = |signal| ExitStatus::from_raw(signal);
        assert_eq!(quiet.describe(None, signal(0x100)), "ended with exit status 1");
        assert_eq!(quiet.describe(None, signal(11)), "was killed by signal 11 (SIGSEGV)");
        let killed = quiet.describe(None, signal(9));
        assert!(killed.starts_with("was killed by signal 9 (SIGKILL)"), "{killed}");
        // One more than before, whatever the machine has counted by now.
        let fewer = |count: Option<u64>| Some(count.unwrap_or(0).wrapping_sub(1));
        if killed_on_machine().is_some_and(|count| count > 0) {
            let before = OomWatch { cgroups: Vec::new(), machine: fewer(killed_on_machine()) };
            let killed = before.describe(None, signal(9));
            assert!(killed.contains("likely out of memory"), "{killed}");
        }
    }

    #[test]
    fn counters_and_records_of_the_kernel_are_found() {
        assert_eq!(counter("low 0\noom 3\noom_kill 2\noom_group_kill 0\n", "oom_kill"), Some(2));
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
        let record = "3,1,2,-;Out of memory: Killed process 4711 (lab) total-vm:1kB";
        assert!(names(record, 4711) && !names(record, 471));
        assert!(!names("6,1,2,-;something else 4711", 4711));
        let record = "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,\
                      mems_allowed=0,oom_memcg=/pod,task_memcg=/pod/box,task=lab,pid=4711,uid=0\n";
        assert_eq!(reached(record, 4711).as_deref(), Some("/pod"));
        assert_eq!(reached(record, 471), None);
        let machine = "6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,task=lab,pid=4711,uid=0";
        assert_eq!(reached(machine, 4711), None);
    }

    #[test]
    fn a_kill_counts_in_the_group_of_the_process_and_in_those_above_it() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = |name: &str| {
            let directory = root.path().join(name);
            std::fs::create_dir_all(&directory).expect("made");
            directory
        };
        let directories = ["pod/box", "pod", ""].map(|name| (format!("/{name}"), directory(name)));
        let write = |name: &str, file: &str, count: u32| {
            std::fs::write(root.path().join(name).join(file), format!("oom_kill {count}\n"))
                .expect("written");
        };
        // Version 2: the controller is not delegated to the innermost group.
        write("pod", "memory.events", 3);
        let path = |second, group: &str| GroupPath {
            second,
            group: group.to_owned(),
            directories: directories.to_vec(),
        };
        assert_eq!(killed_in(path(true, "/pod/box")), [("/pod".to_owned(), 3)]);
        write("pod/box", "memory.oom_control", 1);
        write("pod", "memory.oom_control", 0);
        let expected = [("/pod/box".to_owned(), 1), ("/pod".to_owned(), 0)];
        assert_eq!(killed_in(path(false, "/pod/box")), expected);
    }
}
