//! What a quota of CPU time takes from a process, as the kernel of this machine tells it.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use common::{Reaped, needs, wait_until};
use ebpf::proc::ProcReader;
use needs::test;

needs::main!();

/// A cgroup with a quota of a hundredth of a CPU. It is removed when no process is left in it.
struct Group(PathBuf);

impl Group {
    /// In version 1, or in version 2 where that has the controller.
    fn new() -> Option<Self> {
        let name = format!("lab-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/cpu");
        if first.join("cpu.cfs_quota_us").exists() || first.join("cpu.shares").exists() {
            let path = first.join(name);
            fs::create_dir(&path).ok()?;
            fs::write(path.join("cpu.cfs_period_us"), "100000").ok()?;
            fs::write(path.join("cpu.cfs_quota_us"), "1000").ok()?;
            return Some(Self(path));
        }
        let path = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir(&path).ok()?;
        let it = Self(path);
        fs::write(it.0.join("cpu.max"), "1000 100000").ok()?;
        Some(it)
    }

    fn take(&self, child: &Child) {
        fs::write(self.0.join("cgroup.procs"), child.id().to_string()).expect("moved");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The process that was in it has been waited for.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_quota_is_seen_to_take_its_time() {
    let Some(_turn) = needs(&["root"]) else { return };
    let group = Group::new();
    if !needs::can("cgroups", group.is_some()) {
        return;
    }
    let group = group.expect("a cgroup");
    let spinning = Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
    let spinning = Reaped(spinning.expect("a shell"));
    group.take(&spinning.0);
    let reader = ProcReader::default();
    let before = reader.cgroup(spinning.0.id());
    let name = group.0.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    assert!(before.group.as_ref().is_some_and(|it| it.ends_with(&name)), "{before:?}");
    wait_until("the quota is used up", || {
        let grown = reader.cgroup(spinning.0.id()).since(&before);
        grown.tightest().is_some_and(|(of, quota)| {
            of.ends_with(&name)
                && quota.quota_us == Some(1_000)
                && quota.throttled_periods > 0
                && quota.throttled_us > 0
        })
    });
}
