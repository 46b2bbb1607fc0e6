//! How a program ended, in words: its exit status or its signal, and the likely reason when the
//! kernel killed it for want of memory.
//!
//! Must not know: what the end means for a run.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Records of the kernel's log that are looked through: the whole of the largest buffer in use.
const RECORDS: usize = 100_000;

/// How many programs the kernel had killed for want of memory when a run began.
#[derive(Clone, Copy, Debug)]
pub struct OomWatch {
    /// In the memory cgroup of this process, whose programs are in it, too.
    cgroup: Option<u64>,
    /// On the machine.
    machine: Option<u64>,
}

impl OomWatch {
    /// From now on.
    pub fn start() -> Self {
        Self { cgroup: killed_in_cgroup(), machine: killed_on_machine() }
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
        if pid.is_some_and(|pid| is_in_log(pid).unwrap_or(false)) {
            return Some("out of memory, by the kernel's log".to_owned());
        }
        let more = |before: Option<u64>, now: Option<u64>| Some(now? - before?.min(now?));
        let (cgroup, machine) =
            (more(self.cgroup, killed_in_cgroup()), more(self.machine, killed_on_machine()));
        match (cgroup, machine) {
            (Some(count @ 1..), _) => Some(format!(
                "likely out of memory: meanwhile the kernel killed processes of this memory cgroup \
                 for want of it: {count}"
            )),
            (_, Some(count @ 1..)) => Some(format!(
                "likely out of memory: meanwhile the kernel killed processes of this machine for \
                 want of it: {count}"
            )),
            (Some(0), _) | (_, Some(0)) => {
                Some("by somebody; the kernel has killed nothing for want of memory".to_owned())
            }
            (None, None) => None,
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

/// Where a line of `/proc/self/cgroup` has the counters of the memory cgroup.
fn memory_file(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let path = path.trim_end_matches('/');
    if number == "0" && controllers.is_empty() {
        return Some(format!("/sys/fs/cgroup{path}/memory.events"));
    }
    let memory = controllers.split(',').any(|it| it == "memory");
    memory.then(|| format!("/sys/fs/cgroup/memory{path}/memory.oom_control"))
}

fn killed_in_cgroup() -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let files = cgroups.lines().filter_map(memory_file);
    let mut texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    texts.find_map(|text| counter(&text, "oom_kill"))
}

/// Whether the kernel's log says that it killed a process for want of memory; `None` when the log
/// cannot be read.
fn is_in_log(pid: u32) -> Option<bool> {
    let mut options = File::options();
    let mut log = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut record = [0; 8192];
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) if names(&String::from_utf8_lossy(&record[..length]), pid) => {
                return Some(true);
            }
            Ok(_) => {}
            // A record was overwritten while it was read: the next one is there.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    Some(false)
}

/// Whether a record of the kernel's log says that a process was killed for want of memory.
fn names(record: &str, pid: u32) -> bool {
    let Some((_, rest)) = record.split_once("Killed process ") else { return false };
    let digits = rest.find(|it: char| !it.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse() == Ok(pid)
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
            let before = OomWatch { cgroup: None, machine: fewer(killed_on_machine()) };
            let killed = before.describe(None, signal(9));
            assert!(killed.contains("likely out of memory"), "{killed}");
        }
    }

    #[test]
    fn counters_and_records_of_the_kernel_are_found() {
        assert_eq!(counter("low 0\noom 3\noom_kill 2\noom_group_kill 0\n", "oom_kill"), Some(2));
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
        for (line, file) in [
            ("0::/user.slice/a", Some("/sys/fs/cgroup/user.slice/a/memory.events")),
            ("0::/", Some("/sys/fs/cgroup/memory.events")),
            ("5:memory:/box", Some("/sys/fs/cgroup/memory/box/memory.oom_control")),
            ("4:cpu,cpuacct:/box", None),
            ("nonsense", None),
        ] {
            assert_eq!(memory_file(line).as_deref(), file, "{line}");
        }
        let record = "3,1,2,-;Out of memory: Killed process 4711 (lab) total-vm:1kB";
        assert!(names(record, 4711) && !names(record, 471));
        assert!(!names("6,1,2,-;something else 4711", 4711));
    }
}
