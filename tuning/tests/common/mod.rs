//! What the tests of settings share: network namespaces of their own, and profiles of a few lines.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::thread::UnshareFlags;
use tempfile::TempDir;
use tuning::{
    Applied, ApplyError, ApplyOptions, Directory, JournalError, Lock, Owner, Profile,
    RevertedProfile, Selection,
};

/// Programs begin within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs something on a thread in a network namespace of its own, which is gone afterwards.
pub(crate) fn in_namespace<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare();
            (act(), rustix::thread::gettid().as_raw_nonzero())
        });
        match inside.join() {
            Ok((value, tid)) => {
                // A thread that was joined, and its namespace, may still be in `/proc`.
                let task = PathBuf::from(format!("/proc/self/task/{tid}"));
                let deadline = Instant::now() + PATIENCE;
                while task.exists() {
                    assert!(Instant::now() < deadline, "the thread is never gone");
                    std::thread::sleep(Duration::from_millis(1));
                }
                value
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A new network namespace for the calling thread.
pub(crate) fn unshare() {
    // SAFETY: a new network namespace changes nothing that this process's memory depends on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace");
}

/// A setting in a profile: key, value, and more fields.
pub(crate) type Line<'a> = (&'a str, &'a str, &'a str);

/// A place for profiles and journals.
pub(crate) struct Place {
    temporary: TempDir,
    pub(crate) directory: Directory,
}

impl Place {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(&temporary.path().join("journals"));
        Self { temporary, directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// Setting `n` stands in line `n + 2`.
    pub(crate) fn profile(&self, name: &str, settings: &[Line<'_>]) -> Profile {
        let mut text = format!("(name: \"{name}\", about: \"a test\", settings: [\n");
        for (key, value, more) in settings {
            let scope = if more.contains("scope:") { "" } else { "scope: Namespace," };
            let since = if more.contains("since:") { "" } else { "since: \"3.2\"," };
            let why = "because: \"b\", source: \"s\",";
            text += &format!("(key: {key}, value: {value}, {why} {since} {scope} {more}),\n");
        }
        let file = self.path(&format!("{name}.ron"));
        std::fs::write(&file, text + "])").expect("written");
        Profile::load(file.to_str().expect("a name")).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits for the lock: a test beside this one may be starting a program, which has all open
    /// files until it begins.
    pub(crate) fn lock(&self) -> Lock {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.directory.lock() {
                Err(JournalError::Busy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                lock => return lock.expect("free"),
            }
        }
    }

    pub(crate) fn apply(&self, profile: &Profile) -> Result<Applied, ApplyError> {
        self.apply_in(profile, ApplyOptions { owner: Owner::Hand, keep_going: false })
    }

    pub(crate) fn apply_in(
        &self,
        profile: &Profile,
        options: ApplyOptions,
    ) -> Result<Applied, ApplyError> {
        let lock = self.lock();
        tuning::apply(profile, &self.directory, options, &lock)
    }

    pub(crate) fn revert(&self, which: Selection) -> Vec<RevertedProfile> {
        let lock = self.lock();
        tuning::revert(&self.directory, which, false, &lock).expect("journals")
    }

    /// Names in the directory of journals, but the lock.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("journals")).expect("there").flatten();
        let names = entries.map(|it| it.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
        names.sort();
        names
    }
}

/// A sysctl of the calling thread's namespace.
pub(crate) fn sysctl(name: &str) -> String {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sets it.
pub(crate) fn set(name: &str, value: &str) {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(path, value).unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// What differs between two times at which everything was read. What is there at one of them alone
/// is no setting that was changed: an interface came, or a module was loaded.
pub(crate) fn changed<'a>(
    before: &'a BTreeMap<PathBuf, String>,
    after: &'a BTreeMap<PathBuf, String>,
) -> Vec<(&'a Path, &'a str, &'a str)> {
    let both = before.iter().filter_map(|(path, then)| Some((path, then, after.get(path)?)));
    both.filter(|(_, then, now)| then != now)
        .map(|(path, then, now)| (path.as_path(), then.as_str(), now.as_str()))
        .collect()
}

/// Settings that move by themselves: what they count, draw, or adapt to the load.
const RESTLESS: [&str; 12] = [
    "fs/aio-nr",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",
    "kernel/pty/nr",
    "kernel/random/entropy_avail",
    "kernel/random/uuid",
    "net/netfilter/nf_conntrack_count",
    "net/netns/cookie",
];

/// All settings below `/proc/sys` that can be read, but [`RESTLESS`] ones.
pub(crate) fn everything(below: &str) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut open = vec![PathBuf::from("/proc/sys").join(below)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                all.insert(path, text);
            }
        }
    }
    RESTLESS.iter().for_each(|it| drop(all.remove(&Path::new("/proc/sys").join(it))));
    all
}

/// Settings of the machine that are not below `/proc/sys`: where interrupts go, the queues of
/// interfaces, huge pages, CPUs.
pub(crate) fn beside_sysctls() -> BTreeMap<PathBuf, String> {
    const FILES: [(&str, &str); 5] = [
        ("/proc/irq", "smp_affinity"),
        ("/sys/kernel/mm/transparent_hugepage", ""),
        ("/sys/devices/system/cpu", "scaling_"),
        ("/sys/devices/system/cpu", "disable"),
        ("/sys/devices/virtual/net", "ps_"),
    ];
    let mut all = BTreeMap::new();
    for (root, name) in FILES {
        let mut open = vec![PathBuf::from(root)];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                let (path, kind) = (entry.path(), entry.file_type());
                if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) {
                    open.push(path);
                } else if kind.is_ok_and(|it| it.is_file())
                    && entry.file_name().to_string_lossy().contains(name)
                    && let Ok(text) = std::fs::read_to_string(&path)
                {
                    all.insert(path, text);
                }
            }
        }
    }
    // A clock speed is read, not set.
    all.retain(|path, _| !path.ends_with("scaling_cur_freq"));
    for (name, value) in tuning::present_values(None) {
        all.insert(PathBuf::from(name), format!("{value:?}"));
    }
    all
}

/// A file of the machine that has its text again when this is dropped, also after a panic.
pub(crate) struct Held {
    path: PathBuf,
    text: String,
}

impl Held {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { path, text }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let now = std::fs::read_to_string(&self.path).unwrap_or_default();
        if now != self.text {
            // A 0 of a pair comes back with the other one.
            let _ = std::fs::write(&self.path, &self.text);
        }
    }
}
