//! The cgroups of a process: what a quota of CPU time took from it, and whether it is frozen; of
//! both versions of cgroups.
//!
//! Owns: which files say so, and differences. Must not know: whose process it is. A quota counts
//! wherever it is set between the process and the root: each group on the way is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ProcReader, keep, read, understood};

/// Groups between a process and the root that are looked at. Containers nest four or five deep.
const DEEPEST: usize = 16;

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

/// Where a hierarchy of cgroups is mounted, and which group is its root there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The controllers of version 1; empty for version 2.
    controllers: Vec<String>,
    root: String,
    point: PathBuf,
}

impl Mount {
    /// The directory of a group; `None` when it lies outside of what is mounted.
    fn directory(&self, group: &str) -> Option<PathBuf> {
        let below = match self.root.as_str() {
            "/" => group,
            root => group.strip_prefix(root)?,
        };
        let inside = !below.split('/').any(|part| part == "..");
        inside.then(|| self.point.join(below.trim_start_matches('/')))
    }
}

/// `/proc/self/mountinfo`: the hierarchies of cgroups.
fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split_whitespace();
        let kind = right.next()?;
        let options = right.nth(1).unwrap_or_default();
        let controllers = match kind {
            "cgroup" => options.split(',').map(str::to_owned).collect(),
            "cgroup2" => Vec::new(),
            _ => return None,
        };
        let mut left = left.split_whitespace().skip(3);
        let (root, point) = (left.next()?.to_owned(), PathBuf::from(unescape(left.next()?)));
        Some(Mount { controllers, root, point })
    };
    text.lines().filter_map(mount).collect()
}

/// Spaces and the like are octal numbers there.
fn unescape(path: &str) -> String {
    let mut out = path.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\134", "\\")] {
        out = out.replace(code, character);
    }
    out
}

/// `/proc/<pid>/cgroup`: the group of a controller in version 1, else that of version 2. The flag
/// says which.
fn group_of(text: &str, controller: &str) -> Option<(bool, String)> {
    let lines =
        || text.lines().filter_map(|line| line.splitn(3, ':').collect::<Vec<_>>().try_into().ok());
    let first = lines().find(|[_, controllers, _]: &[&str; 3]| {
        controllers.split(',').any(|name| name == controller)
    });
    let of = |second: bool| move |[_, _, path]: [&str; 3]| (second, path.to_owned());
    let second =
        || lines().find(|[number, controllers, _]| *number == "0" && controllers.is_empty());
    first.map(of(false)).or_else(|| second().map(of(true)))
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

/// The group and those above it, from below.
fn upwards(group: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(group), |&group| above(group)).take(DEEPEST)
}

fn above(group: &str) -> Option<&str> {
    match group.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (above, _) => Some(above),
    }
}

impl ProcReader {
    /// The cgroups of a process.
    pub fn cgroup(&self, pid: u32) -> CgroupReading {
        let mut missing = BTreeMap::new();
        let groups = self.file(&format!("{pid}/cgroup"), |text| Some(text.to_owned()));
        let mounts = self.file("self/mountinfo", |text| Some(mounts(text)));
        let both = groups.and_then(|groups| Ok((groups, mounts?)));
        let found = keep(&mut missing, "group", both);
        let Some((groups, mounts)) = found else {
            return CgroupReading { missing, ..CgroupReading::default() };
        };
        let mount = |second: bool, controller: &str| {
            let it = mounts.iter().find(|mount| match second {
                true => mount.controllers.is_empty(),
                false => mount.controllers.iter().any(|name| name == controller),
            });
            it.ok_or_else(|| format!("no cgroups with the controller {controller} are mounted"))
        };
        let of = |controller: &'static str| {
            let found = group_of(&groups, controller);
            let (second, group) =
                found.ok_or_else(|| format!("the process has no cgroup for {controller}"))?;
            Ok::<_, String>((second, group, mount(second, controller)?))
        };
        let cpu = keep(&mut missing, "quotas", of("cpu"));
        let quotas = cpu.as_ref().map(|(second, group, mount)| {
            let quota = |group: &str| {
                Some((group.to_owned(), quota_in(&mount.directory(group)?, *second)?))
            };
            upwards(group).filter_map(quota).collect()
        });
        let frozen = of("freezer").and_then(|(second, group, mount)| {
            let file = if second { "cgroup.events" } else { "freezer.state" };
            let directory = mount.directory(&group);
            let path = directory.ok_or_else(|| format!("{group} is not mounted here"))?.join(file);
            // The root of either version has no such file, and cannot be frozen.
            if group == "/" && !path.exists() {
                return Ok(false);
            }
            understood(&path, frozen(&read(&path)?, second))
        });
        CgroupReading {
            group: cpu.map(|(_, group, _)| group),
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
        assert_eq!(upwards("/a/b/c").collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(upwards("/").collect::<Vec<_>>(), ["/"]);
    }
}
