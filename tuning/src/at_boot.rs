//! The settings that a boot sets: what the directories of sysctl.d(5) say about them, as
//! systemd-sysctl reads them, and as the sysctl of procps does. Must not know: what a machine has
//! now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::profile::{Key, MOST_TEXT, Profile};
use crate::sysctl_file::{Line, comment_behind, fits, is_pattern, lines, path};

/// Where such files are. Of two with one name the first directory's counts.
const DIRECTORIES: [&str; 5] = [
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
];

/// The file that `sysctl --system` reads last. systemd-sysctl does not read it, unless a link in a
/// directory of sysctl.d leads to it, as Debian's 99-sysctl.conf does.
const OF_PROCPS: &str = "/etc/sysctl.conf";

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
    /// What one of the programs that read such files makes of it, where they differ.
    pub note: Option<String>,
}

impl std::fmt::Display for AtBoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, value, file, line, note } = self;
        write!(f, "{key}: {}:{line} sets it to {value} at each boot", file.display())?;
        if let Some(comment) = comment_behind(value) {
            write!(f, " ('{comment}' is a part of the value: the kernel refuses it)")?;
        }
        note.iter().try_for_each(|note| write!(f, " ({note})"))
    }
}

/// The keys of a profile that a boot sets, each with the line that counts.
pub fn at_boot(profile: &Profile) -> Vec<AtBoot> {
    let keys: Vec<&str> = profile
        .settings
        .iter()
        .filter_map(|it| match &it.setting.key {
            Key::Sysctl(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    both(&keys, &files(&DIRECTORIES.map(Path::new)), Path::new(OF_PROCPS))
}

fn files(directories: &[&Path]) -> Vec<PathBuf> {
    let mut by_name: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for entry in directories.iter().filter_map(|it| std::fs::read_dir(it).ok()).flatten().flatten()
    {
        if entry.path().extension().is_some_and(|it| it == "conf") {
            by_name.entry(entry.file_name()).or_insert_with(|| entry.path());
        }
    }
    by_name.into_values().collect()
}

/// What systemd-sysctl sets and, where `sysctl --system` sets another value, what that is.
fn both(keys: &[&str], files: &[PathBuf], of_procps: &Path) -> Vec<AtBoot> {
    let systemd = in_files(keys, files);
    let all: Vec<PathBuf> = files.iter().cloned().chain([of_procps.to_owned()]).collect();
    let linked = files.iter().any(|it| it.canonicalize().ok() == of_procps.canonicalize().ok());
    let mut found = Vec::new();
    for key in keys {
        let of = |set: &[AtBoot]| set.iter().find(|it| it.key == **key).cloned();
        let (systemd, procps) = (of(&systemd), of(&in_files(keys, &all)));
        match (systemd, procps) {
            (Some(systemd), Some(procps)) if systemd.value == procps.value => found.push(systemd),
            (None, Some(mut procps)) if !linked => {
                procps.note = Some(
                    "only where `sysctl --system` sets a boot's settings: systemd-sysctl does not \
                     read this file"
                        .to_owned(),
                );
                found.push(procps);
            }
            (Some(mut systemd), Some(procps)) => {
                let (file, line, value) = (procps.file.display(), procps.line, &procps.value);
                systemd.note = Some(format!(
                    "so systemd-sysctl; `sysctl --system` sets it to {value}, by {file}:{line}"
                ));
                found.push(systemd);
            }
            (one, other) => found.extend(one.or(other)),
        }
    }
    found
}

/// The line that counts for each key: the last one that names it, in any file, goes before all
/// patterns; an exclusion keeps it from patterns; of patterns the last one counts.
fn in_files(keys: &[&str], files: &[PathBuf]) -> Vec<AtBoot> {
    let mut named: BTreeMap<&str, Option<AtBoot>> = BTreeMap::new();
    let mut by_pattern: BTreeMap<&str, AtBoot> = BTreeMap::new();
    for file in files {
        let Ok(bytes) = platform::read_within(file, MOST_TEXT) else { continue };
        for (line, said) in lines(&String::from_utf8_lossy(&bytes)) {
            let (pattern, value) = match said {
                Line::Set { path, value, .. } => (path, Some(value)),
                Line::Exclude(path) => (path, None),
                Line::Odd(_) => continue,
            };
            for key in keys.iter().filter(|key| fits(&pattern, &path(key))) {
                let found = value.clone().map(|value| AtBoot {
                    key: (*key).to_owned(),
                    value,
                    file: file.clone(),
                    line,
                    note: None,
                });
                match found {
                    Some(found) if is_pattern(&pattern) => {
                        by_pattern.insert(key, found);
                    }
                    found => {
                        named.insert(key, found);
                    }
                }
            }
        }
    }
    let of = |key: &&str| match named.get(*key) {
        Some(named) => named.clone(),
        None => by_pattern.get(*key).cloned(),
    };
    keys.iter().filter_map(of).collect()
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
        let files = files(&[&first, &second]);
        let found: Vec<String> = both(&["net.x", "net.y", "net.z", "net.w"], &files, &last)
            .into_iter()
            .map(|it| format!("{}={} {}", it.key, it.value, it.line))
            .collect();
        assert_eq!(found, ["net.x=1 2", "net.y=5 2", "net.z=4 1"]);
    }

    /// The keys that files set, each as its value and what is noted.
    fn read(files_of: &[(&str, &str)], procps: &str, keys: &[&str]) -> Vec<String> {
        let temporary = tempfile::tempdir().expect("a directory");
        for (name, text) in files_of {
            std::fs::write(temporary.path().join(name), text).expect("written");
        }
        let last = temporary.path().join("procps");
        std::fs::write(&last, procps).expect("written");
        let found = both(keys, &files(&[temporary.path()]), &last);
        found
            .iter()
            .map(|it| it.to_string().replace(&*temporary.path().to_string_lossy(), ""))
            .collect()
    }

    #[test]
    fn patterns_give_way_to_names_and_exclusions() {
        let globs = "net.ipv4.conf.*.rp_filter = 2\n-net.ipv4.conf.all.rp_filter\n\
                     -net.ipv4.conf.lo.rp_filter = 0\nnet/ipv4/conf/enp2s0.10/forwarding = 1\n";
        let keys = [
            "net.ipv4.conf.all.rp_filter",
            "net.ipv4.conf.lo.rp_filter",
            "net.ipv4.conf.eth0.rp_filter",
            "net.ipv4.conf.enp2s0/10.forwarding",
        ];
        let later = ("b.conf", "net.ipv4.conf.*.rp_filter = 1\n");
        assert_eq!(
            read(&[("a.conf", globs), later], "", &keys),
            [
                "net.ipv4.conf.lo.rp_filter: /a.conf:3 sets it to 0 at each boot",
                "net.ipv4.conf.eth0.rp_filter: /b.conf:1 sets it to 1 at each boot",
                "net.ipv4.conf.enp2s0/10.forwarding: /a.conf:4 sets it to 1 at each boot",
            ]
        );
    }

    #[test]
    fn where_the_programs_differ_it_is_said() {
        let found =
            read(&[("a.conf", "net.x = 1\n")], "net.x = 2\nnet.y = 3\n", &["net.x", "net.y"]);
        assert!(
            found[0].contains("sets it to 1") && found[0].contains("sets it to 2"),
            "{found:?}"
        );
        assert!(found[1].contains("systemd-sysctl does not read"), "{found:?}");
        // A mark before the name hides it from both; a comment is a part of the value.
        let found =
            read(&[("a.conf", "\u{feff}net.x = 1\nnet.y = 5 # five\r\n")], "", &["net.x", "net.y"]);
        assert!(found.len() == 1 && found[0].contains("the kernel refuses it"), "{found:?}");
    }
}
