//! Processes held by the quota of a cgroup, and by its freezer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use rustix::process::Pid;

use super::bursts::{Account, Made, bursts};

/// The hierarchies of the first version, and where the second one is mounted.
const FIRST: &str = "/sys/fs/cgroup";

/// A cgroup with one process. When it is dropped, the process is where it was.
struct Group {
    directory: PathBuf,
    before: PathBuf,
    pid: Pid,
    second: bool,
}

impl Group {
    /// Puts a process into a group of its own, in the hierarchy of a controller.
    fn of(pid: Pid, controller: &str) -> anyhow::Result<Self> {
        let first = Path::new(FIRST).join(controller);
        let second = !first.join("cgroup.procs").exists();
        let root = if second { PathBuf::from(FIRST) } else { first };
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let before = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let controllers = parts.nth(1)?;
            let is_it = match second {
                true => controllers.is_empty(),
                false => controllers.split(',').any(|name| name == controller),
            };
            is_it.then(|| parts.next()).flatten()
        });
        let before = root.join(before.unwrap_or("/").trim_start_matches('/'));
        let directory = root.join(format!("lab-validate-{}", std::process::id()));
        fs::create_dir(&directory)
            .with_context(|| format!("cannot make the cgroup {}", directory.display()))?;
        let group = Self { directory, before, pid, second };
        group.write("cgroup.procs", &pid.to_string())?;
        Ok(group)
    }

    fn write(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Where the process has ended there is nothing to move, and the group can go all the same.
        let _ = fs::write(self.before.join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(&self.directory);
    }
}

/// A quota of a millisecond a second, burst by burst. The account is the kernel's `cpu.stat`.
pub(super) fn quota(pid: Pid, over: &AtomicBool) -> Made {
    let group = Group::of(pid, "cpu")?;
    let set = |limited: bool| {
        if group.second {
            return group.write("cpu.max", if limited { "1000 1000000" } else { "max 1000000" });
        }
        group.write("cpu.cfs_quota_us", if limited { "1000" } else { "-1" })
    };
    if !group.second {
        group.write("cpu.cfs_period_us", "1000000")?;
    }
    let account = bursts(over, || set(true), || set(false))?;
    let statistics = fs::read_to_string(group.directory.join("cpu.stat"))?;
    Ok(Account { held_ms: throttled_ms(&statistics), ..account })
}

fn throttled_ms(statistics: &str) -> u64 {
    let of = |name: &str, per_ms: u64| {
        let value =
            statistics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.map(|value: u64| value / per_ms)
    };
    of("throttled_usec ", 1_000).or_else(|| of("throttled_time ", 1_000_000)).unwrap_or(0)
}

/// The freezer, burst by burst.
pub(super) fn freeze(pid: Pid, over: &AtomicBool) -> Made {
    let group = Group::of(pid, "freezer")?;
    let set = |frozen: bool| match (group.second, frozen) {
        (true, true) => group.write("cgroup.freeze", "1"),
        (true, false) => group.write("cgroup.freeze", "0"),
        (false, true) => group.write("freezer.state", "FROZEN"),
        (false, false) => group.write("freezer.state", "THAWED"),
    };
    bursts(over, || set(true), || set(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_how_long() {
        assert_eq!(throttled_ms("nr_throttled 2\nthrottled_time 1500000000\n"), 1_500);
        assert_eq!(throttled_ms("usage_usec 9\nthrottled_usec 250000\n"), 250);
        assert_eq!(throttled_ms("usage_usec 9\n"), 0);
    }
}
