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

/// All settings below `/proc/sys` that can be read, but those that count something or change by
/// themselves.
pub(crate) fn everything(below: &str) -> BTreeMap<PathBuf, String> {
    const RESTLESS: [&str; 9] =
        ["count", "random", "-nr", "-state", "ns_last_pid", "pty/nr", "seed", "cookie", "aio-nr"];
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
    all.retain(|path, _| !RESTLESS.iter().any(|it| path.to_string_lossy().contains(it)));
    all
}
