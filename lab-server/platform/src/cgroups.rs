//! The cgroups of a process: for a controller the group that it is in, and the directories of that
//! one and of those above it; of both versions of cgroups.
//!
//! Owns: which hierarchy is mounted where. Must not know: what the files in a directory say.

use std::path::{Path, PathBuf};

/// Groups between a process and the root that are looked at. Containers nest four or five deep.
const DEEPEST: usize = 16;

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

/// The cgroups of a process.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// As `/proc/<pid>/cgroup` has them.
    groups: String,
    mounts: Vec<Mount>,
}

/// A group, and those above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPath {
    /// Whether its hierarchy is of version 2.
    pub second: bool,
    /// The group that the process is in.
    pub group: String,
    /// The groups from that one up, with their directories. What is not mounted here is left out.
    pub directories: Vec<(String, PathBuf)>,
}

impl Cgroups {
    /// Those of a process (`self`, or its number), by a `/proc`.
    ///
    /// # Errors
    /// A sentence, when a file cannot be read.
    pub fn of(proc: &Path, process: &str) -> Result<Self, String> {
        let read = |name: &str| {
            let path = proc.join(name);
            std::fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let groups = read(&format!("{process}/cgroup"))?;
        Ok(Self { groups, mounts: mounts(&read("self/mountinfo")?) })
    }

    /// The path of a controller.
    ///
    /// # Errors
    /// A sentence, when the process has no group for it, or it is not mounted.
    pub fn path(&self, controller: &str) -> Result<GroupPath, String> {
        let (second, group) = group_of(&self.groups, controller)
            .ok_or_else(|| format!("the process has no cgroup for {controller}"))?;
        let mount = self.mounts.iter().find(|mount| match second {
            true => mount.controllers.is_empty(),
            false => mount.controllers.iter().any(|name| name == controller),
        });
        let mount = mount
            .ok_or_else(|| format!("no cgroups with the controller {controller} are mounted"))?;
        let directories = upwards(&group)
            .filter_map(|group| Some((group.to_owned(), mount.directory(group)?)))
            .collect();
        Ok(GroupPath { second, directories, group })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_where_they_are_mounted_and_not_outside() {
        assert_eq!(upwards("/a/b/c").collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(upwards("/").collect::<Vec<_>>(), ["/"]);
        let mounts = mounts(
            "22 1 0:20 / /proc rw - proc proc rw\n\
             30 1 0:26 / /sys/fs/cg\\040x rw,nosuid shared:9 - cgroup none rw,cpu,cpuacct\n\
             31 1 0:27 /docker/7 /sys/fs/memory rw - cgroup none rw,memory\n\
             32 1 0:28 / /sys/fs/unified rw - cgroup2 none rw,nsdelegate\n",
        );
        let groups = "3:cpu,cpuacct:/a/b\n4:memory:/docker/7/x\n5:pids:/../out\n0::/svc\n";
        let cgroups = Cgroups { groups: groups.to_owned(), mounts };
        let check = |controller: &str, second: bool, group: &str, directories: &[(&str, &str)]| {
            let path = cgroups.path(controller).expect(controller);
            let found: Vec<_> = path
                .directories
                .iter()
                .map(|(group, directory)| (group.as_str(), directory.to_str().expect("a name")))
                .collect();
            assert_eq!((path.second, path.group.as_str()), (second, group), "{controller}");
            assert_eq!(found, directories, "{controller}");
        };
        let cpu = [("/a/b", "/sys/fs/cg x/a/b"), ("/a", "/sys/fs/cg x/a"), ("/", "/sys/fs/cg x/")];
        check("cpu", false, "/a/b", &cpu);
        let memory = [("/docker/7/x", "/sys/fs/memory/x"), ("/docker/7", "/sys/fs/memory/")];
        check("memory", false, "/docker/7/x", &memory);
        let second = [("/svc", "/sys/fs/unified/svc"), ("/", "/sys/fs/unified/")];
        check("cpuset", true, "/svc", &second);
        let error = cgroups.path("pids").expect_err("not mounted");
        assert!(error.contains("controller pids"), "{error}");
    }
}
