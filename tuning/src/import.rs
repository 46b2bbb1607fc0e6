//! A profile from a file as sysctl.d(5) has them, and what of it no profile can say. Must not know:
//! how a profile is applied.

use std::path::Path;

use crate::profile::{MOST_TEXT, ProfileError};
use crate::sysctl_file::{Line, comment_behind, is_pattern, lines};
use crate::system::{Location, NotWritable, System};
use crate::value::{format_of_sysctl, normal};

/// A profile made from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The profile's text.
    pub ron: String,
    /// How many settings it has.
    pub settings: usize,
    /// What was not taken: the line and the reason, in a sentence.
    pub not_taken: Vec<String>,
}

struct Taken {
    path: String,
    value: String,
    optional: bool,
    line: usize,
}

/// Makes a profile from a file of settings, as this machine has them.
///
/// # Errors
/// When the file cannot be read.
pub fn import(file: &Path) -> Result<Imported, ProfileError> {
    let shown = file.display().to_string();
    let bytes = platform::read_within(file, MOST_TEXT)
        .map_err(|source| ProfileError::File { file: shown.clone(), source })?;
    let name = file.file_stem().map_or_else(|| "imported".into(), |name| name.to_string_lossy());
    Ok(from_text(&String::from_utf8_lossy(&bytes), &shown, &name, &System::of_this_thread()))
}

fn from_text(text: &str, shown: &str, name: &str, system: &System) -> Imported {
    let mut taken: Vec<Taken> = Vec::new();
    let mut not_taken = Vec::new();
    for (line, said) in lines(text) {
        match understood(said, system) {
            Err(why) => not_taken.push(format!("{shown}:{line}: {why}")),
            Ok((path, value, optional)) => {
                // Of two lines the last one counts.
                if let Some(place) = taken.iter().position(|it| it.path == path) {
                    let before = taken.remove(place);
                    let same = before.value == value;
                    let why = if same { "says the same" } else { "counts" };
                    let first = before.line;
                    not_taken.push(format!("{shown}:{first}: {path} again: line {line} {why}"));
                }
                taken.push(Taken { path, value, optional, line });
            }
        }
    }
    let about = format!("imported from {shown}");
    let mut ron = format!("(\n    name: {name:?},\n    about: {about:?},\n    settings: [\n");
    for Taken { path, value, optional, line } in &taken {
        let scope = if path.starts_with("net/") { "Namespace" } else { "Machine" };
        let key = if path.contains('.') { path.clone() } else { path.replace('/', ".") };
        let optional = if *optional { ", optional: true" } else { "" };
        ron += &format!(
            "        (key: Sysctl({key:?}), value: Exactly({value:?}), because: \"it was there\", \
             source: {:?}, since: \"2.6\", scope: {scope}{optional}),\n",
            format!("{shown}:{line}"),
        );
    }
    ron += "    ],\n)\n";
    Imported { ron, settings: taken.len(), not_taken }
}

/// Path, value and whether it may be missing; or why a profile cannot say it.
fn understood(line: Line, system: &System) -> Result<(String, String, bool), String> {
    let (path, value, optional) = match line {
        Line::Odd(why) => return Err(why.to_owned()),
        Line::Exclude(path) => {
            return Err(format!("{path} is left out of patterns, and a profile has no patterns"));
        }
        Line::Set { path, value, may_fail } => (path, value, may_fail),
    };
    if is_pattern(&path) {
        return Err(format!("{path} is a pattern: a profile names each setting"));
    }
    if path.contains(char::is_whitespace) || path.split('/').any(|it| it.is_empty() || it == "..") {
        return Err(format!("'{path}' is no name of a setting"));
    }
    if let Some(comment) = comment_behind(&value) {
        return Err(format!("{path}: '{comment}' is a part of its value: the kernel refuses it"));
    }
    if value.contains(['{', '}']) {
        return Err(format!("{path}: braces are formulas in a profile"));
    }
    let at = Location::Sysctl(path.clone());
    match system.read(&at) {
        _ if system.is_write_only(&at) => {
            return Err(format!("{path} is write-only: there is nothing to compare or put back"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !optional => {
            return Err(format!("{path}: this kernel does not have it"));
        }
        _ => {}
    }
    if let Err(NotWritable::ReadOnly) = system.may_write(&at) {
        return Err(format!("{path} is read-only"));
    }
    Ok((path.clone(), normal(format_of_sysctl(&path), &value), optional))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    #[test]
    fn a_file_becomes_a_profile_and_what_is_left_is_said() {
        let text = "# c\nnet.core.somaxconn = 10000\nnet.core.somaxconn = 65535\n\
                    net.ipv4.route.flush = 1\nfs.file-nr = 1 2 3\nnet.ipv4.tcp_tw_recycle = 1\n\
                    net.ipv4.conf.*.rp_filter = 2\n-net.ipv4.conf.all.rp_filter\n\
                    -net.no.such = 0\nvm.swappiness = 5 # five\n\u{feff}net.x = 1\nwords\n\
                    vm.overcommit_memory = 010\nnet.ipv4.tcp_rmem = 4096\t87380\t16777216\n\
                    net.ipv4.ip_local_reserved_ports = 8080,8081\n";
        let imported = from_text(text, "a.conf", "a", &System::of_this_thread());
        let file = tempfile::tempdir().expect("a directory");
        let file = file.path().join("a.ron");
        std::fs::write(&file, &imported.ron).expect("written");
        let profile = Profile::load(file.to_str().expect("a name")).expect(&imported.ron);
        let found: Vec<(String, String)> = profile
            .settings
            .iter()
            .map(|it| (it.setting.key.to_string(), it.setting.value.text().source().to_owned()))
            .collect();
        let wanted = [
            ("net.core.somaxconn", "65535"),
            ("net.no.such", "0"),
            ("vm.overcommit_memory", "8"),
            ("net.ipv4.tcp_rmem", "4096 87380 16777216"),
            ("net.ipv4.ip_local_reserved_ports", "8080-8081"),
        ];
        assert_eq!(found, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(imported.settings, wanted.len());
        let said = imported.not_taken.join("\n");
        for words in [
            "a.conf:2: net/core/somaxconn again: line 3 counts",
            "a.conf:4: net/ipv4/route/flush is write-only",
            "a.conf:5: fs/file-nr is read-only",
            "a.conf:6: net/ipv4/tcp_tw_recycle: this kernel does not have it",
            "a.conf:7: net/ipv4/conf/*/rp_filter is a pattern",
            "a.conf:8: net/ipv4/conf/all/rp_filter is left out of patterns",
            "a.conf:10: vm/swappiness: '# five' is a part of its value",
            "a.conf:11: a byte order mark",
            "a.conf:12: it is no assignment",
        ] {
            assert!(said.contains(words), "{words} in {said}");
        }
        assert_eq!(imported.not_taken.len(), 9, "{said}");
    }
}
