//! The settings that a boot sets: what the directories of sysctl.d(5) say about them. Must not
//! know: what a machine has now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::profile::{Key, Profile};

/// Where such files are. Of two with one name the first directory's counts; sysctl.conf comes last.
const DIRECTORIES: [&str; 5] = [
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
];

/// A file that sets one of a profile's keys at each boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtBoot {
    /// The sysctl.
    pub key: String,
    /// The value.
    pub value: String,
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for AtBoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, value, file, line } = self;
        write!(f, "{key}: {}:{line} sets it to {value} at each boot", file.display())
    }
}

/// The keys of a profile that a boot sets, each with the last file that sets it.
pub fn at_boot(profile: &Profile) -> Vec<AtBoot> {
    let keys: Vec<&str> = profile
        .settings
        .iter()
        .filter_map(|it| match &it.setting.key {
            Key::Sysctl(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    in_files(&keys, &files(&DIRECTORIES.map(Path::new), Path::new("/etc/sysctl.conf")))
}

/// The longest file of settings that is looked at, in bytes.
const MOST_TEXT: u64 = 1 << 20;

fn files(directories: &[&Path], last: &Path) -> Vec<PathBuf> {
    let mut by_name: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for entry in directories.iter().filter_map(|it| std::fs::read_dir(it).ok()).flatten().flatten()
    {
        if entry.path().extension().is_some_and(|it| it == "conf") {
            by_name.entry(entry.file_name()).or_insert_with(|| entry.path());
        }
    }
    by_name.into_values().chain([last.to_owned()]).collect()
}

fn in_files(keys: &[&str], files: &[PathBuf]) -> Vec<AtBoot> {
    let mut found: BTreeMap<&str, AtBoot> = BTreeMap::new();
    for file in files {
        let Ok(text) = platform::read_text_within(file, MOST_TEXT) else { continue };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim().trim_start_matches('-');
            if line.starts_with(['#', ';']) {
                continue;
            }
            let Some((name, value)) = line.split_once('=') else { continue };
            let name = name.trim().replace('/', ".");
            if let Some(key) = keys.iter().find(|key| key.replace('/', ".") == name) {
                let value = value.trim().to_owned();
                let (file, line) = (file.clone(), number + 1);
                found.insert(key, AtBoot { key: (*key).to_owned(), value, file, line });
            }
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_counts_and_the_first_directory() {
        let temporary = tempfile::tempdir().expect("a directory");
        let (first, second) = (temporary.path().join("a"), temporary.path().join("b"));
        for (directory, name, text) in [
            (&first, "50.conf", "# net.x = 0\nnet.x = 1\n-net/y=2 3\n"),
            (&second, "50.conf", "net.x = 9\n"),
            (&second, "60.conf", "net.z = 4\nnet.y = 5\n"),
            (&second, "70.txt", "net.z = 8\n"),
        ] {
            std::fs::create_dir_all(directory).expect("made");
            std::fs::write(directory.join(name), text).expect("written");
        }
        let last = temporary.path().join("sysctl.conf");
        std::fs::write(&last, "net.z=7").expect("written");
        let files = files(&[&first, &second], &last);
        let found: Vec<String> = in_files(&["net.x", "net.y", "net.z", "net.w"], &files)
            .into_iter()
            .map(|it| format!("{}={} {}", it.key, it.value, it.line))
            .collect();
        assert_eq!(found, ["net.x=1 2", "net.y=5 2", "net.z=7 1"]);
    }
}
