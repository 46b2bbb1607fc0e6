//! What cgroups leave to a process: memory, CPU time, CPUs and processes. A limit counts wherever
//! it is set between the process and the root, and the smallest one decides.
//!
//! A pure function of files, of both versions of cgroups. A container sees the groups that are
//! mounted in it; limits above these cannot be seen from within.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroups::Cgroups;

/// A limit of version 1 that is none: what the kernel's page counter holds at most, in part.
const NO_LIMIT: u64 = 1 << 60;

/// The limits of a process's cgroups; `None` where none is set, or none is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// Of memory: the group that has least left.
    pub memory: Option<MemoryLimit>,
    /// Of CPU time: the group with the smallest quota.
    pub cpu: Option<CpuLimit>,
    /// Of CPUs: the group with the fewest, where these are not all.
    pub cpuset: Option<CpusetLimit>,
    /// Of processes and threads: the group that has fewest left.
    pub pids: Option<PidsLimit>,
}

/// A limit of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimit {
    /// The group that has it.
    pub group: String,
    /// The limit, in bytes.
    pub bytes: u64,
    /// What is left of it, in bytes: what only copies files can be had.
    pub available_bytes: u64,
}

/// A quota of CPU time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuLimit {
    /// The group that has it.
    pub group: String,
    /// CPUs that it comes to: quota by period.
    pub cpus: f64,
}

/// A set of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpusetLimit {
    /// The group that has it.
    pub group: String,
    /// How many CPUs are in it.
    pub cpus: u32,
}

/// A limit of processes and threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsLimit {
    /// The group that has it.
    pub group: String,
    /// The limit.
    pub most: u64,
    /// How many more there may be.
    pub left: u64,
}

impl CgroupLimits {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self::of(Path::new("/proc"))
    }

    /// Those of the process itself by a `/proc`.
    pub fn of(proc: &Path) -> Self {
        let Ok(cgroups) = Cgroups::of(proc, "self") else { return Self::default() };
        let online = read(proc, "stat").map(|stat| {
            let cpu = |line: &&str| {
                let rest = line.strip_prefix("cpu");
                rest.is_some_and(|it| it.starts_with(|c: char| c.is_ascii_digit()))
            };
            stat.lines().filter(cpu).count() as u32
        });
        let fewer = |it: &CpusetLimit| online.is_none_or(|online| it.cpus < online);
        Self {
            memory: least(&cgroups, "memory", memory, |it| it.available_bytes as f64),
            cpu: least(&cgroups, "cpu", cpu, |it| it.cpus),
            cpuset: least(&cgroups, "cpuset", cpuset, |it| f64::from(it.cpus)).filter(fewer),
            pids: least(&cgroups, "pids", pids, |it| it.left as f64),
        }
    }
}

/// The limit of a controller with the smallest measure, of the group nearest the process where
/// several are as small.
fn least<Limit>(
    cgroups: &Cgroups,
    controller: &str,
    limit: impl Fn(&str, &Path, bool) -> Option<Limit>,
    measure: impl Fn(&Limit) -> f64,
) -> Option<Limit> {
    let path = cgroups.path(controller).ok()?;
    let groups = path.directories.iter();
    let limits = groups.filter_map(|(group, directory)| limit(group, directory, path.second));
    limits.min_by(|one, other| measure(one).total_cmp(&measure(other)))
}

fn read(directory: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(name)).ok().map(|text| text.trim().to_owned())
}

/// A number in a file of its own; `None` for `max`.
fn number(directory: &Path, name: &str) -> Option<u64> {
    read(directory, name)?.parse().ok()
}

/// A number of a file of names and numbers.
fn of_list(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// Beyond `memory.high` processes are slowed down to a crawl, beyond the limit one is killed: a run
/// fits below both.
fn memory(group: &str, directory: &Path, second: bool) -> Option<MemoryLimit> {
    let names = match second {
        true => (["memory.max", "memory.high"], "memory.current", "inactive_file"),
        false => {
            let soft = "memory.limit_in_bytes";
            ([soft, soft], "memory.usage_in_bytes", "total_inactive_file")
        }
    };
    let (limits, usage, inactive) = names;
    let limit = limits.iter().filter_map(|name| number(directory, name)).min()?;
    let used = number(directory, usage)?;
    let statistics = read(directory, "memory.stat").unwrap_or_default();
    let files = of_list(&statistics, inactive).unwrap_or(0);
    (limit < NO_LIMIT).then(|| MemoryLimit {
        group: group.to_owned(),
        bytes: limit,
        available_bytes: limit.saturating_sub(used.saturating_sub(files)),
    })
}

fn cpu(group: &str, directory: &Path, second: bool) -> Option<CpuLimit> {
    let (quota, period) = if second {
        let text = read(directory, "cpu.max")?;
        let (quota, period) = text.split_once(' ')?;
        (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
    } else {
        // -1 is none.
        (number(directory, "cpu.cfs_quota_us")?, number(directory, "cpu.cfs_period_us")?)
    };
    (period > 0).then(|| CpuLimit { group: group.to_owned(), cpus: quota as f64 / period as f64 })
}

fn cpuset(group: &str, directory: &Path, second: bool) -> Option<CpusetLimit> {
    let names = match second {
        true => ["cpuset.cpus.effective", "cpuset.cpus"],
        false => ["cpuset.effective_cpus", "cpuset.cpus"],
    };
    let list = names.iter().find_map(|name| read(directory, name).filter(|it| !it.is_empty()))?;
    let span = |span: &str| {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    let cpus = list.split(',').map(span).sum::<Option<u32>>()?;
    Some(CpusetLimit { group: group.to_owned(), cpus })
}

fn pids(group: &str, directory: &Path, _: bool) -> Option<PidsLimit> {
    let (most, now) = (number(directory, "pids.max")?, number(directory, "pids.current")?);
    Some(PidsLimit { group: group.to_owned(), most, left: most.saturating_sub(now) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of a machine, gone when dropped.
    struct Recorded(tempfile::TempDir);

    impl Recorded {
        fn new(mounts: &[(&str, &str, &str)], groups: &str) -> Self {
            let it = Self(tempfile::tempdir().expect("a directory"));
            let line = |(name, kind, options): &(&str, &str, &str)| {
                let point = it.0.path().join(name);
                format!("30 1 0:26 / {} rw - {kind} none {options}\n", point.display())
            };
            let mounts: String = mounts.iter().map(line).collect();
            it.write("proc/self/mountinfo", &mounts);
            it.write("proc/self/cgroup", groups);
            it.write("proc/stat", "cpu  1 2\ncpu0 1 2\ncpu1 1 2\ncpu2 1 2\ncpu3 1 2\nctxt 7\n");
            it
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            std::fs::write(path, text).expect("written");
        }

        fn limits(&self) -> CgroupLimits {
            CgroupLimits::of(&self.0.path().join("proc"))
        }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_smallest_limit_of_version_1_counts_wherever_it_is_set() {
        let mounts = [
            ("memory", "cgroup", "rw,memory"),
            ("cpu", "cgroup", "rw,cpu,cpuacct"),
            ("cpuset", "cgroup", "rw,cpuset"),
            ("pids", "cgroup", "rw,pids"),
        ];
        let groups = "4:memory:/a/b\n3:cpu,cpuacct:/a/b\n2:cpuset:/a/b\n1:pids:/a/b\n0::/\n";
        let it = Recorded::new(&mounts, groups);
        assert_eq!(it.limits(), CgroupLimits::default());
        let none = "9223372036854771712\n";
        for (group, limit, usage) in
            [("/a/b", none, 100 * MIB), ("/a", "629145600\n", 300 * MIB), ("", none, 9000 * MIB)]
        {
            it.write(&format!("memory{group}/memory.limit_in_bytes"), limit);
            it.write(&format!("memory{group}/memory.usage_in_bytes"), &usage.to_string());
        }
        let statistics = format!("inactive_file 5\ntotal_inactive_file {}\n", 120 * MIB);
        it.write("memory/a/memory.stat", &statistics);
        for (group, quota) in [("/a/b", "-1\n"), ("/a", "8000\n")] {
            it.write(&format!("cpu{group}/cpu.cfs_quota_us"), quota);
            it.write(&format!("cpu{group}/cpu.cfs_period_us"), "100000\n");
        }
        it.write("cpuset/a/b/cpuset.cpus", "\n");
        it.write("cpuset/a/cpuset.effective_cpus", "0-1,3\n");
        it.write("cpuset/cpuset.cpus", "0-3\n");
        for (group, most, now) in [("/a/b", "max\n", "9\n"), ("/a", "100\n", "91\n")] {
            it.write(&format!("pids{group}/pids.max"), most);
            it.write(&format!("pids{group}/pids.current"), now);
        }
        let group = "/a".to_owned();
        let expected = CgroupLimits {
            memory: Some(MemoryLimit {
                group: group.clone(),
                bytes: 600 * MIB,
                available_bytes: 420 * MIB,
            }),
            cpu: Some(CpuLimit { group: group.clone(), cpus: 0.08 }),
            cpuset: Some(CpusetLimit { group: group.clone(), cpus: 3 }),
            pids: Some(PidsLimit { group, most: 100, left: 9 }),
        };
        assert_eq!(it.limits(), expected);
    }

    #[test]
    fn the_smallest_limit_of_version_2_counts_wherever_it_is_set() {
        let it = Recorded::new(&[("mount", "cgroup2", "rw,nsdelegate")], "0::/pod/box\n");
        let gib = (1 << 30_u64).to_string();
        for (group, most, high, used) in
            [("pod/box", "max", "max", 40 * MIB), ("pod", &gib, "629145600", 500 * MIB)]
        {
            it.write(&format!("mount/{group}/memory.max"), most);
            it.write(&format!("mount/{group}/memory.high"), high);
            it.write(&format!("mount/{group}/memory.current"), &used.to_string());
        }
        it.write("mount/pod/box/cpu.max", "150000 100000\n");
        it.write("mount/pod/cpu.max", "max 100000\n");
        // All CPUs are no limit.
        it.write("mount/pod/box/cpuset.cpus.effective", "0-3\n");
        it.write("mount/pod/box/pids.max", "max\n");
        it.write("mount/pod/box/pids.current", "7\n");
        let expected = CgroupLimits {
            memory: Some(MemoryLimit {
                group: "/pod".to_owned(),
                bytes: 600 * MIB,
                available_bytes: 100 * MIB,
            }),
            cpu: Some(CpuLimit { group: "/pod/box".to_owned(), cpus: 1.5 }),
            cpuset: None,
            pids: None,
        };
        assert_eq!(it.limits(), expected);
        // Nothing is known without files.
        assert_eq!(CgroupLimits::of(Path::new("/nowhere")), CgroupLimits::default());
    }
}
