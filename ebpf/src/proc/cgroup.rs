//! The cgroups of a process: what a quota of CPU time took from it, and whether it is frozen; of
//! both versions of cgroups.
//!
//! Owns: which files say so, and differences; where they lie is `platform`'s. Must not know: whose
//! process it is. A quota counts wherever it is set between the process and the root: each group on
//! the way is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use platform::Cgroups;
use serde::Serialize;

use super::{ProcReader, keep, read, understood};

/// What a group's quota of CPU time did since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuQuota {
    /// The time that the group may use in a period; `None` when there is no quota at the moment.
    pub quota_us: Option<u64>,
    /// The period.
    pub period_us: u64,
    /// Periods with a quota.
    pub periods: u64,
    /// Of these, how many used it up.
    pub throttled_periods: u64,
    /// For how long CPUs of the group stood still for it, all together.
    pub throttled_us: u64,
}

/// The cgroups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CgroupReading {
    /// Its group for CPU time.
    pub group: Option<String>,
    /// The quotas of that group and of those above it, by group; a group without a file is left
    /// out.
    pub quotas: Option<BTreeMap<String, CpuQuota>>,
    /// Whether it is frozen.
    pub frozen: Option<bool>,
    /// Why something above is absent.
    pub missing: BTreeMap<&'static str, String>,
}

impl CgroupReading {
    /// What happened since an earlier reading. Where the process was in another group then, quotas
    /// are unknown: what its present ones counted may be others' doing.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let same = self.group == before.group;
        let both = self.quotas.as_ref().zip(before.quotas.as_ref()).filter(|_| same);
        let grown = both.map(|(now, then)| {
            let since = |(group, now): (&String, &CpuQuota)| {
                let then = then.get(group)?;
                Some((
                    group.clone(),
                    CpuQuota {
                        periods: now.periods.saturating_sub(then.periods),
                        throttled_periods: now
                            .throttled_periods
                            .saturating_sub(then.throttled_periods),
                        throttled_us: now.throttled_us.saturating_sub(then.throttled_us),
                        ..*now
                    },
                ))
            };
            now.iter().filter_map(since).collect()
        });
        Self { quotas: grown, ..self.clone() }
    }

    /// The group whose quota took most; of a reading without any throttling the process's own.
    pub fn tightest(&self) -> Option<(&str, CpuQuota)> {
        let quotas = self.quotas.as_ref()?;
        let own = |group: &String| Some(group) == self.group.as_ref();
        let most = quotas.iter().max_by_key(|(group, quota)| (quota.throttled_us, own(group)));
        most.map(|(group, quota)| (group.as_str(), *quota))
    }
}

/// A number of a file of names and numbers.
fn number(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| {
        let (found, value) = line.split_once(' ')?;
        (found == name).then(|| value.trim().parse().ok()).flatten()
    };
    text.lines().find_map(value)
}

/// `cpu.stat` of either version, and the quota; `None` when the group has no such controller.
fn quota_in(directory: &Path, second: bool) -> Option<CpuQuota> {
    let statistics = read(&directory.join("cpu.stat")).ok()?;
    let file = |name: &str| read(&directory.join(name)).ok();
    let throttled_us = if second {
        number(&statistics, "throttled_usec")
    } else {
        number(&statistics, "throttled_time").map(|ns| ns / 1000)
    };
    let (quota_us, period_us) = if second {
        let most = file("cpu.max").unwrap_or_default();
        let mut parts = most.split_whitespace();
        (parts.next().and_then(|it| it.parse().ok()), parts.next().and_then(|it| it.parse().ok()))
    } else {
        let of = |name: &str| file(name)?.trim().parse::<i64>().ok()?.try_into().ok();
        (of("cpu.cfs_quota_us"), of("cpu.cfs_period_us"))
    };
    Some(CpuQuota {
        quota_us,
        period_us: period_us.unwrap_or(0),
        periods: number(&statistics, "nr_periods")?,
        throttled_periods: number(&statistics, "nr_throttled")?,
        throttled_us: throttled_us?,
    })
}

impl ProcReader {
    /// The cgroups of a process.
    pub fn cgroup(&self, pid: u32) -> CgroupReading {
        let mut missing = BTreeMap::new();
        let cgroups = Cgroups::of(&self.root, &pid.to_string());
        let Some(cgroups) = keep(&mut missing, "group", cgroups) else {
            return CgroupReading { missing, ..CgroupReading::default() };
        };
        let cpu = keep(&mut missing, "quotas", cgroups.path("cpu"));
        let quotas = cpu.as_ref().map(|path| {
            let quota = |(group, directory): &(String, PathBuf)| {
                Some((group.clone(), quota_in(directory, path.second)?))
            };
            path.directories.iter().filter_map(quota).collect()
        });
        let frozen = cgroups.path("freezer").and_then(|path| {
            let file = if path.second { "cgroup.events" } else { "freezer.state" };
            let own = path.directories.first().filter(|(group, _)| *group == path.group);
            let (group, directory) =
                own.ok_or_else(|| format!("{} is not mounted here", path.group))?;
            let file = directory.join(file);
            // The root of either version has no such file, and cannot be frozen.
            if group == "/" && !file.exists() {
                return Ok(false);
            }
            understood(&file, frozen(&read(&file)?, path.second))
        });
        CgroupReading {
            group: cpu.map(|path| path.group),
            quotas,
            frozen: keep(&mut missing, "frozen", frozen),
            missing,
        }
    }
}

fn frozen(text: &str, second: bool) -> Option<bool> {
    if second { number(text, "frozen").map(|it| it == 1) } else { Some(text.trim() != "THAWED") }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A `/proc` with one process, and a mount for cgroups beside it.
    struct Recorded(tempfile::TempDir);

    impl Recorded {
        fn new(kind: &str, options: &str, groups: &str) -> Self {
            let it = Self(tempfile::tempdir().expect("a directory"));
            let point = it.0.path().join("mount");
            let mounts = format!(
                "22 1 0:20 / /proc rw - proc proc rw\n\
                 30 1 0:26 / {} rw,nosuid shared:9 - {kind} none {options}\n",
                point.display()
            );
            it.write("proc/self/mountinfo", &mounts);
            it.write("proc/7/cgroup", groups);
            it
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("written");
        }

        fn reading(&self) -> CgroupReading {
            ProcReader::at(self.0.path().join("proc")).cgroup(7)
        }
    }

    #[test]
    fn a_quota_of_version_1_is_told_with_what_it_took() {
        let it = Recorded::new("cgroup", "rw,cpu,cpuacct", "3:cpu,cpuacct:/a/b\n0::/\n");
        let stat = |periods, throttled, ns: u64| {
            format!("nr_periods {periods}\nnr_throttled {throttled}\nthrottled_time {ns}\n")
        };
        it.write("mount/a/b/cpu.stat", &stat(0, 0, 0));
        it.write("mount/a/cpu.stat", &stat(5, 1, 40_000_000));
        it.write("mount/a/cpu.cfs_quota_us", "20000\n");
        it.write("mount/a/cpu.cfs_period_us", "100000\n");
        let before = it.reading();
        assert_eq!(before.group.as_deref(), Some("/a/b"));
        assert!(before.missing.contains_key("frozen"), "{before:?}");
        it.write("mount/a/cpu.stat", &stat(9, 4, 340_000_000));
        let grown = it.reading().since(&before);
        let quota = CpuQuota {
            quota_us: Some(20_000),
            period_us: 100_000,
            periods: 4,
            throttled_periods: 3,
            throttled_us: 300_000,
        };
        assert_eq!(grown.tightest(), Some(("/a", quota)));
        // A group that the process has come into since: what it counted before is not its.
        let elsewhere = CgroupReading { group: Some("/other".to_owned()), ..before.clone() };
        assert_eq!(it.reading().since(&elsewhere).tightest(), None);
    }

    #[test]
    fn a_quota_of_version_2_and_a_freezer_are_told() {
        let it = Recorded::new("cgroup2", "rw,nsdelegate", "0::/svc\n");
        let stat = "usage_usec 9\nnr_periods 7\nnr_throttled 2\nthrottled_usec 123\n";
        it.write("mount/svc/cpu.stat", stat);
        it.write("mount/svc/cpu.max", "max 100000\n");
        it.write("mount/svc/cgroup.events", "populated 1\nfrozen 1\n");
        let found = it.reading();
        let (group, quota) = found.tightest().expect("a quota");
        assert_eq!((group, quota.quota_us, quota.throttled_us), ("/svc", None, 123));
        assert_eq!((found.frozen, found.missing.len()), (Some(true), 0));
        // A controller that is not delegated: nothing is counted, which is not 0.
        let bare = Recorded::new("cgroup2", "rw", "0::/svc\n");
        let found = bare.reading();
        assert_eq!((found.tightest(), found.frozen), (None, None));
    }

    #[test]
    fn a_group_outside_of_what_is_mounted_is_not_read() {
        let it = Recorded::new("cgroup", "rw,cpu", "3:cpu:/../other\n");
        assert_eq!(it.reading().quotas, Some(BTreeMap::new()));
        let it = Recorded::new("cgroup", "rw,memory", "3:cpu:/\n");
        assert!(it.reading().missing["quotas"].contains("controller cpu"));
    }
}
