//! From files to a profile, and every way in which that can fail, with file and line.

use std::path::{Path, PathBuf};

use ron::extensions::Extensions;
use serde::Deserialize;

use super::{Key, Place, PlacedSetting, Profile, Scope, Setting, embedded};
use crate::sysctl_file;
use crate::value::Relation;

/// Why a profile cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is no profile of the name.
    #[error("there is no profile {name}, only: {known}; a file is named with its path or its .ron")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The file cannot be read.
    #[error("{file}: cannot read it: {source}")]
    File {
        /// The file.
        file: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The text is no profile.
    #[error("{place}: {what}")]
    Text {
        /// Where.
        place: Place,
        /// What is wrong.
        what: String,
    },
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    about: String,
    #[serde(default)]
    include: Vec<String>,
    settings: Vec<Setting>,
}

/// Where the text of a profile comes from.
enum Origin {
    Embedded(&'static str),
    Path(PathBuf),
}

impl Profile {
    /// The profile of a name that the program knows, or of a file.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        read(name, None, &mut Vec::new())
    }

    /// The profile without the settings of these keys.
    ///
    /// # Errors
    /// A key that it does not have, in a sentence.
    pub fn without(mut self, keys: &[String]) -> Result<Self, String> {
        for key in keys {
            let before = self.settings.len();
            self.settings.retain(|it| it.setting.key.to_string() != *key);
            if self.settings.len() == before {
                let known: Vec<String> =
                    self.settings.iter().map(|it| it.setting.key.to_string()).collect();
                return Err(format!(
                    "profile {} has no setting {key}, only: {}",
                    self.name,
                    known.join(", ")
                ));
            }
        }
        Ok(self)
    }
}

/// The longest text of a profile or of a file of settings, in bytes.
pub(crate) const MOST_TEXT: u64 = 1 << 20;

/// Reads a profile and what it includes; `within` is the directory of the file that names it.
fn read(
    name: &str,
    within: Option<&Path>,
    open: &mut Vec<String>,
) -> Result<Profile, ProfileError> {
    let origin = find(name, within)?;
    let (shown, text) = match &origin {
        Origin::Embedded(text) => (format!("{name}.ron"), (*text).to_owned()),
        Origin::Path(path) => {
            let shown = path.display().to_string();
            let text = platform::read_text_within(path, MOST_TEXT)
                .map_err(|source| ProfileError::File { file: shown.clone(), source })?;
            (shown, text)
        }
    };
    let at = |line, what| ProfileError::Text { place: Place { file: shown.clone(), line }, what };
    if open.contains(&shown) {
        return Err(at(1, format!("it includes itself: {}", open.join(" includes "))));
    }
    let file: File = ron::Options::default()
        .with_default_extension(Extensions::IMPLICIT_SOME)
        .from_str(&text)
        .map_err(|error| match sysctl_file::looks_like_one(&text) {
            true => at(1, "it is a sysctl.conf: lab tune import makes a profile of it".to_owned()),
            false => at(error.span.start.line, error.code.to_string()),
        })?;
    let lines = lines_of(&text, "key");
    if lines.len() != file.settings.len() {
        return Err(at(1, "the lines of its settings cannot be found".to_owned()));
    }
    let mut settings: Vec<PlacedSetting> = Vec::new();
    open.push(shown.clone());
    for included in &file.include {
        let directory = match &origin {
            Origin::Embedded(_) => None,
            Origin::Path(path) => path.parent(),
        };
        for placed in read(included, directory, open)?.settings {
            settings.retain(|it| it.setting.key != placed.setting.key);
            settings.push(placed);
        }
    }
    open.pop();
    let own = settings.len();
    let mut seen: Vec<(Key, usize)> = Vec::new();
    for (setting, line) in file.settings.into_iter().zip(lines) {
        check(&setting).map_err(|what| at(line, format!("{}: {what}", setting.key)))?;
        if let Some((key, first)) = seen.iter().find(|(key, _)| *key == setting.key) {
            return Err(at(line, format!("{key} is set already in line {first}")));
        }
        seen.push((setting.key.clone(), line));
        let place = Place { file: shown.clone(), line };
        settings.push(PlacedSetting { place, setting });
    }
    // What a profile says itself counts more than what it includes.
    let mut place = 0;
    settings.retain(|it| {
        place += 1;
        place > own || !seen.iter().any(|(key, _)| *key == it.setting.key)
    });
    Ok(Profile { name: file.name, about: file.about, settings })
}

fn find(name: &str, within: Option<&Path>) -> Result<Origin, ProfileError> {
    let is_path = name.contains('/') || Path::new(name).extension().is_some_and(|it| it == "ron");
    let beside = within
        .map(|within| within.join(if is_path { name.to_owned() } else { format!("{name}.ron") }));
    if let Some(path) = beside.filter(|path| is_path || path.exists()) {
        return Ok(Origin::Path(path));
    }
    if is_path {
        return Ok(Origin::Path(PathBuf::from(name)));
    }
    embedded::text(name).map(Origin::Embedded).ok_or_else(|| ProfileError::Unknown {
        name: name.to_owned(),
        known: embedded::names().collect::<Vec<_>>().join(", "),
    })
}

/// What types do not say.
fn check(setting: &Setting) -> Result<(), String> {
    let of_interface = matches!(
        setting.key,
        Key::Feature(_)
            | Key::Ring(_)
            | Key::Coalesce(_)
            | Key::Rps
            | Key::RpsFlows
            | Key::Xps
            | Key::Irq
    );
    if setting.nics.is_some() && !of_interface {
        return Err("nics are for settings of interfaces".to_owned());
    }
    let exactly = setting.value.relation() == Relation::Exactly;
    if setting.value.text().source().is_empty()
        && !(exactly && matches!(setting.key, Key::Sysctl(_)))
    {
        return Err("an empty value: only a sysctl can be empty, Exactly(\"\")".to_owned());
    }
    match &setting.key {
        Key::Sysctl(name) => {
            let odd = |part: &str| part.is_empty() || part == "..";
            if name.split(['.', '/']).any(odd) || name.contains(char::is_whitespace) {
                return Err("a sysctl is written like net.core.somaxconn".to_owned());
            }
        }
        Key::Limit(resource) => {
            if setting.scope != Scope::Process {
                return Err("a limit has scope: Process".to_owned());
            }
            if setting.value.relation() != Relation::AtLeast {
                return Err(format!("a limit is AtLeast, for who needs more {}", resource.name()));
            }
        }
        Key::CStates if setting.value.relation() != Relation::AtMost => {
            return Err("it is AtMost so many microseconds".to_owned());
        }
        Key::Feature(_) => {
            let text = setting.value.text().source();
            if !exactly || !matches!(text, "on" | "off") {
                return Err("a feature is Exactly(\"on\") or Exactly(\"off\")".to_owned());
            }
        }
        Key::Rps | Key::Xps | Key::Irq if !exactly => {
            return Err("CPUs are given with Exactly".to_owned());
        }
        Key::Governor | Key::Thp(_) if !exactly => {
            return Err("a choice is given with Exactly".to_owned());
        }
        _ => {}
    }
    if setting.scope == Scope::Process && !matches!(setting.key, Key::Limit(_)) {
        return Err("only a limit has scope: Process".to_owned());
    }
    if setting.because.trim().is_empty() || setting.source.trim().is_empty() {
        return Err("it needs a reason and a source".to_owned());
    }
    Ok(())
}

/// The lines in which a field of this name is given, outside of texts and comments.
fn lines_of(text: &str, field: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut line = 1;
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            end_of_text(rest)
        } else if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, tail) = rest.split_at(end);
            if word == field && tail.trim_start().starts_with(':') && before != '.' {
                lines.push(line);
            }
            end
        } else {
            c.len_utf8()
        };
        let (seen, tail) = rest.split_at(skip);
        line += seen.matches('\n').count();
        before = c;
        rest = tail;
    }
    lines
}

/// Where a text in quotes ends.
fn end_of_text(text: &str) -> usize {
    let mut escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"// key: in a comment
(
    name: "small",
    about: "key: in a text \" key: and more",
    settings: [
        (
            key: Sysctl("net.core.somaxconn"),
            value: AtLeast("1000"),
            because: "queues",
            source: "the kernel's ip-sysctl.rst",
            since: "3.2",
            scope: Namespace,
        ),
        (key: Limit(nofile), value: AtLeast("5"), because: "b", source: "s", since: "3.2",
         scope: Process),
    ],
)"#;

    fn parse(text: &str) -> Result<Profile, ProfileError> {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("x.ron");
        std::fs::write(&file, text).expect("written");
        Profile::load(file.to_str().expect("a name"))
    }

    #[test]
    fn settings_know_their_lines() {
        let small = parse(SMALL).expect("valid");
        let lines: Vec<usize> = small.settings.iter().map(|it| it.place.line).collect();
        assert_eq!(lines, [7, 14]);
    }

    #[test]
    fn mistakes_have_a_place() {
        for (wrong, right, line, words) in [
            ("AtLeast(\"1000\")", "Atleast(\"1000\")", 8, "AtLeast"),
            ("\"1000\"", "\"{pages\"", 8, "without '}'"),
            ("\"1000\"", "\"\"", 7, "empty"),
            ("\"3.2\"", "\"new\"", 11, "no kernel version"),
            ("scope: Namespace", "scope: Net", 12, "Net"),
            ("scope: Namespace", "scop: Namespace", 12, "scop"),
            ("net.core.somaxconn", "net..somaxconn", 7, "written like"),
            ("net.core.somaxconn", "net.core/../x", 7, "written like"),
            ("\"queues\"", "\" \"", 7, "a reason"),
            ("Limit(nofile)", "Limit(files)", 14, "nofile"),
            ("Limit(nofile)", "Feature(\"gro\")", 14, "Exactly"),
            ("Limit(nofile)", "Rps", 14, "Exactly"),
            ("Limit(nofile)", "Sysctl(\"net.core.somaxconn\")", 14, "only a limit"),
            ("scope: Process", "scope: Machine", 14, "scope: Process"),
            ("Namespace,", "Namespace, nics: [\"eth0\"],", 7, "interfaces"),
        ] {
            let text = SMALL.replacen(wrong, right, 1);
            assert_ne!(text, SMALL, "{wrong}");
            let error = parse(&text).expect_err(right).to_string();
            let place = format!("x.ron:{line}: ");
            assert!(error.contains(&place) && error.contains(words), "{right}: {error}");
        }
        let twice = SMALL
            .replace("Limit(nofile)", "Sysctl(\"net.core.somaxconn\")")
            .replace("scope: Process", "scope: Machine");
        let error = parse(&twice).expect_err("twice").to_string();
        assert!(error.contains("x.ron:14: net.core.somaxconn is set already in line 7"), "{error}");
    }

    #[test]
    fn what_a_profile_says_counts_more_than_what_it_includes() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).expect("written");
        };
        let load =
            |name: &str| Profile::load(directory.path().join(name).to_str().expect("a name"));
        write("base.ron", SMALL);
        let upper = SMALL
            .replace("\"small\"", "\"upper\"")
            .replace("    settings", "    include: [\"base\"],\n    settings")
            .replace("1000", "2000")
            .replace("Limit(nofile)", "Limit(memlock)");
        write("upper.ron", &upper);
        let profile = load("upper.ron").expect("valid");
        let keys: Vec<String> =
            profile.settings.iter().map(|it| it.setting.key.to_string()).collect();
        assert_eq!(keys, ["limit.nofile", "net.core.somaxconn", "limit.memlock"]);
        assert_eq!(profile.settings[1].setting.value.text().source(), "2000");
        assert!(profile.settings[0].place.file.ends_with("base.ron"));
        let rest = profile.clone().without(&["limit.nofile".to_owned()]).expect("there");
        assert_eq!(rest.settings.len(), 2);
        let error = profile.without(&["limit.nofiles".to_owned()]).expect_err("not there");
        assert!(error.contains("only: limit.nofile, net.core.somaxconn"), "{error}");

        write(
            "base.ron",
            &SMALL.replace("    settings", "    include: [\"upper\"],\n    settings"),
        );
        let error = load("upper.ron").expect_err("a circle").to_string();
        assert!(error.contains("includes itself"), "{error}");
        write("base.ron", &SMALL.replace("    settings", "    include: [\"none\"],\n    settings"));
        let error = load("base.ron").expect_err("not there").to_string();
        assert!(error.contains("no profile none, only: million-sockets"), "{error}");
        let error = load("nowhere.ron").expect_err("not there").to_string();
        assert!(error.contains("nowhere.ron: cannot read it"), "{error}");
    }

    /// Every setting says why it is there, and what its source is.
    #[test]
    fn the_profiles_of_the_program_are_sound() {
        for (name, _) in embedded::EMBEDDED {
            let profile = Profile::load(name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(profile.name, name);
            assert!(!profile.settings.is_empty());
            for PlacedSetting { place, setting } in profile.settings {
                assert!(setting.because.split_whitespace().count() >= 4, "{place}: a sentence");
                assert_eq!(
                    place
                        .file
                        .strip_suffix(".ron")
                        .map(|it| { embedded::names().any(|name| name == it) }),
                    Some(true),
                    "{place}"
                );
            }
        }
    }
}
