//! The raw files of a run without what names the machine, for a directory from which summary,
//! tables and page are made anew: so that none of these has it either.
//!
//! What a run names is replaced by the same stand-in everywhere (`names`), what names a machine by
//! its form likewise (`patterns`). Owns: which field is of which kind. Of what is no JSON only that
//! stays, as nothing is known of its content. Must not know: what figures mean.

mod names;
mod patterns;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use record::{EVENTS_FILE, HLOG, Lines, MANIFEST_FILE, SAMPLES_FILE, SLOW_FILE};
use serde_json::{Map, Value};

use names::Names;
use patterns::Patterns;

/// Files of JSON lines.
const LINES: [&str; 4] = [SAMPLES_FILE, SLOW_FILE, EVENTS_FILE, "truth.jsonl"];

/// In the place of a line that is no JSON: none either, so that it is seen and named again.
const DAMAGED: &[u8] = b"damaged";

/// Fields whose texts are of a closed set, or names that the experiment gives: they are left as
/// they are, whatever a host is called.
const OF_THE_LAB: [&str; 12] = [
    "blamed",
    "congestion",
    "event",
    "kernel",
    "kind",
    "of",
    "outcome",
    "phase",
    "profile",
    "source",
    "tracepoint",
    "version",
];

/// Fields that name a host.
const OF_A_HOST: [&str; 3] = ["agent", "host", "namespace"];

/// Fields of a manifest that are replaced by nothing: the text of the file with its comments, whose
/// content is in `experiment`.
const EMPTIED: [&str; 2] = ["sha256", "text"];

/// Whose account a run was, in the manifest.
const OF_AN_ACCOUNT: [&str; 3] = ["gid", "uid", "user"];

/// Why the files cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AnonymousError {
    /// A file that cannot be read.
    #[error("{}: cannot read it", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says, or what is wrong.
        source: io::Error,
    },
    /// One that cannot be written.
    #[error("{}: cannot write it", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Makes the raw files of a run anew in a directory, without what names the machine. `hosts` and
/// `people` are further names: of this machine, and of who asks. Returns what was left out, in
/// sentences.
///
/// # Errors
/// [`AnonymousError`].
pub fn anonymise(
    directory: &Path,
    into: &Path,
    hosts: &[String],
    people: &[String],
) -> Result<Vec<String>, AnonymousError> {
    let read = |name: &str, source| AnonymousError::Read { file: directory.join(name), source };
    let manifest = record::read_whole(directory, MANIFEST_FILE)
        .and_then(|text| Ok(serde_json::from_slice::<Value>(&text)?))
        .map_err(|source| read(MANIFEST_FILE, source))?;
    let mut anonymous = Anonymous::default();
    anonymous.names.of_manifest(&manifest);
    for name in LINES.iter().filter(|name| directory.join(name).exists()) {
        each_row(directory, name, |row| {
            row.iter().for_each(|row| anonymous.names.of_row(row));
            Ok(())
        })?;
    }
    hosts.iter().for_each(|name| drop(anonymous.names.host(name)));
    people.iter().for_each(|name| anonymous.names.person(name));
    let mut left_out = Vec::new();
    write(into, MANIFEST_FILE, |out| {
        let mut text = serde_json::to_vec_pretty(&anonymous.manifest(manifest))?;
        text.push(b'\n');
        out.write_all(&text)
    })?;
    for name in LINES.iter().filter(|name| directory.join(name).exists()) {
        let mut damaged = 0;
        write(into, name, |out| {
            damaged = each_row(directory, name, |row| {
                match row {
                    Some(row) => serde_json::to_writer(&mut *out, &anonymous.row(row))?,
                    // What is made of the file must say so.
                    None => out.write_all(DAMAGED)?,
                }
                out.write_all(b"\n")
            })
            .map_err(io::Error::other)?;
            Ok(())
        })?;
        if damaged > 0 {
            left_out.push(format!("{name}: the content of {damaged} damaged lines is left out"));
        }
    }
    copy_histograms(directory, into)?;
    if has_profiles(directory) {
        left_out.push(
            "flame graphs and folded stacks are left out: they name programs and their files"
                .to_owned(),
        );
    }
    Ok(left_out)
}

fn has_profiles(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.any(|name| name.starts_with("profile-"))
}

/// Histograms have phases and numbers; of other lines only those that its format has.
fn copy_histograms(directory: &Path, into: &Path) -> Result<(), AnonymousError> {
    let file = directory.join(HLOG);
    if !file.exists() {
        return Ok(());
    }
    let unreadable = |source| AnonymousError::Read { file: file.clone(), source };
    let mut lines = Lines::open(&file).map_err(unreadable)?;
    write(into, HLOG, |out| {
        while let Some((_, line)) = lines.next_line()? {
            let known: [&[u8]; 4] =
                [b"Tag=", b"#[StartTime:", b"#[BaseTime:", b"\"StartTimestamp\""];
            if known.iter().any(|beginning| line.starts_with(beginning)) {
                out.write_all(line)?;
            } else if !line.starts_with(b"#") {
                out.write_all(DAMAGED)?;
            } else {
                continue;
            }
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

fn write(
    into: &Path,
    name: &str,
    what: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), AnonymousError> {
    let file = into.join(name);
    let made = File::create_new(&file).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 16, file);
        what(&mut out)?;
        out.flush()
    });
    made.map_err(|source| AnonymousError::Write { file, source })
}

/// Hands the whole lines of a file on, `None` for one that is no JSON. Returns how many were none.
fn each_row(
    directory: &Path,
    name: &str,
    mut what: impl FnMut(Option<Value>) -> io::Result<()>,
) -> Result<usize, AnonymousError> {
    let file = directory.join(name);
    let unreadable = |source| AnonymousError::Read { file: file.clone(), source };
    let mut lines = Lines::open(&file).map_err(unreadable)?;
    let mut damaged = 0;
    loop {
        match lines.next_line() {
            Ok(Some((_, line))) => {
                let row = serde_json::from_slice(line).ok();
                damaged += usize::from(row.is_none());
                what(row).map_err(unreadable)?;
            }
            Ok(None) => return Ok(damaged),
            // What is longer than a line is none, nor is what comes after it.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                what(None).map_err(unreadable)?;
                return Ok(damaged + 1);
            }
            Err(error) => return Err(unreadable(error)),
        }
    }
}

/// Which names and forms were seen, and what stands for them.
#[derive(Default)]
struct Anonymous {
    names: Names,
    patterns: Patterns,
}

impl Anonymous {
    /// A text of a person or of a program: without names, and without what names by its form.
    fn text(&mut self, text: &str) -> String {
        self.names.replace(&self.patterns.replace(text))
    }

    fn manifest(&mut self, manifest: Value) -> Value {
        let Value::Object(fields) = manifest else { return manifest };
        let made = fields.into_iter().map(|(name, value)| {
            let value = match name.as_str() {
                "experiment" => self.experiment(value),
                "privileges" => self.privileges(value),
                emptied if EMPTIED.contains(&emptied) && value.is_string() => "".into(),
                "file" => {
                    let path = value.as_str().unwrap_or_default();
                    let file = Path::new(path).file_name().unwrap_or_default();
                    self.text(&file.to_string_lossy()).into()
                }
                _ => self.value(&name, value),
            };
            (name, value)
        });
        Value::Object(made.collect())
    }

    /// An experiment must stay one: its own words are left, but for those that name.
    fn experiment(&mut self, experiment: Value) -> Value {
        let Value::Object(fields) = experiment else { return experiment };
        let made = fields.into_iter().map(|(name, value)| {
            let value = match (name.as_str(), value) {
                ("about", Value::String(text)) => self.text(&text).into(),
                ("hosts", value) => self.fleet(value),
                ("validity", Value::Object(mut fields)) => {
                    if let Some(Value::String(text)) = fields.get_mut("because") {
                        *text = self.text(text);
                    }
                    Value::Object(fields)
                }
                (_, value) => self.forms(value),
            };
            (name, value)
        });
        Value::Object(made.collect())
    }

    /// The machines of a fleet: their names, and the labels that their agents have.
    fn fleet(&mut self, value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let made = fields.into_iter().map(|(name, value)| {
                    let value = match (name.as_str(), value) {
                        ("name", Value::String(host)) => self.names.host(&host).into(),
                        ("labels", Value::Object(labels)) => {
                            let numbered = labels.into_values().enumerate();
                            let label = |n: usize| (format!("label-{}", n + 1), "".into());
                            Value::Object(numbered.map(|(n, _)| label(n)).collect())
                        }
                        (_, value) => self.fleet(value),
                    };
                    (name, value)
                });
                Value::Object(made.collect())
            }
            Value::Array(all) => all.into_iter().map(|it| self.fleet(it)).collect(),
            other => other,
        }
    }

    /// Replaces only what names by its form, in the words of an experiment.
    fn forms(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => self.patterns.replace(&text).into(),
            Value::Array(all) => all.into_iter().map(|it| self.forms(it)).collect(),
            Value::Object(fields) => {
                let made = fields.into_iter().map(|(name, value)| (name, self.forms(value)));
                Value::Object(made.collect())
            }
            other => other,
        }
    }

    fn privileges(&mut self, value: Value) -> Value {
        let Value::Object(fields) = value else { return self.value("privileges", value) };
        let made: Map<String, Value> = fields
            .into_iter()
            .map(|(name, value)| match (name.as_str(), value) {
                ("by_host", Value::Object(hosts)) => {
                    let hosts = hosts.into_iter().map(|(host, value)| {
                        let value = self.privileges(value);
                        (self.names.host(&host), value)
                    });
                    (name, Value::Object(hosts.collect()))
                }
                (of, _) if OF_AN_ACCOUNT.contains(&of) => (name, Value::Null),
                (_, value) => {
                    let value = self.value(&name, value);
                    (name, value)
                }
            })
            .collect();
        Value::Object(made)
    }

    /// A line of samples, slow requests, events or truth.
    fn row(&mut self, row: Value) -> Value {
        self.value("", row)
    }

    fn value(&mut self, field: &str, value: Value) -> Value {
        match value {
            Value::String(_) if OF_THE_LAB.contains(&field) => value,
            Value::String(text) if OF_A_HOST.contains(&field) => match self.names.known_host(&text)
            {
                Some(stand_in) => stand_in.into(),
                None => self.text(&text).into(),
            },
            Value::String(text) => self.text(&text).into(),
            Value::Array(all) => all.into_iter().map(|it| self.value(field, it)).collect(),
            Value::Object(fields) => {
                let of_hosts = matches!(field, "by_host" | "hosts");
                let made = fields.into_iter().map(|(name, value)| {
                    let value = self.value(&name, value);
                    let name = match self.names.known_host(&name) {
                        Some(stand_in) if of_hosts => stand_in.to_owned(),
                        _ => self.text(&name),
                    };
                    (name, value)
                });
                Value::Object(made.collect())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A run that names all there is to name, in all places where a run names something.
    fn run() -> tempfile::TempDir {
        let run = tempfile::tempdir().expect("a directory");
        let put = |name: &str, values: &[Value]| {
            let lines: Vec<String> = values.iter().map(|it| format!("{it}\n")).collect();
            std::fs::write(run.path().join(name), lines.concat()).expect("written");
        };
        put(
            MANIFEST_FILE,
            &[json!({
                "format": 2, "outcome_because": "a program on quark ended",
                "experiment": {
                    "name": "x", "about": "for kim's rack at quark.corp.example",
                    "hosts": { "Fleet": { "server": { "name": "quark", "labels": { "rack": "r7" } },
                        "clients": [{ "name": "up" }] } },
                    "server": { "ledger": "/srv/kim/ledger" },
                    "client": { "sources": ["10.7.7.7"] },
                    "phases": [{ "name": "quark", "shake": { "Open": { "pacing": "Even" } } }],
                    "validity": { "because": "kim said so" },
                },
                "file": "/home/kim/quark.ron", "text": "// by kim", "sha256": "ab",
                "settings": ["server.ledger=/srv/kim/ledger"],
                "hosts": [{ "host": "quark", "kernel": "6.1.0-9-amd64", "cpu_model": "a CPU",
                    "nics": ["eth0", "enx525400abcdef", "backbone"] }],
                "tuning": { "known": { "machine": { "nic.ring.rx backbone": "256" } } },
                "privileges": { "user": "kim", "uid": 1000, "gid": 1000, "chosen_by": "sudo",
                    "by_host": { "quark": { "user": "kim", "uid": 1000 } } },
                "server": { "listen": "10.7.7.7:14887", "host": "quark", "pid": 5 },
                "clients": [{ "sources": ["10.7.7.7"], "host": "up" }],
                "probes": { "because": "/sys/kernel/btf/vmlinux: no",
                    "by_host": { "up": { "attached": ["woken"] } } },
            })],
        );
        put(
            SAMPLES_FILE,
            &[
                json!({ "t": 5, "host": "quark", "source": "nic", "phase": "quark",
                    "namespace": "up", "nic": "backbone",
                    "missing": { "driver": "backbone: no" } }),
                json!({ "t": 5, "host": "quark", "source": "proc", "of": "server",
                    "cgroup": { "group": "/user.slice/user-1000.slice" } }),
            ],
        );
        put(SLOW_FILE, &[json!({ "t": 5, "host": "up", "user": 7, "from": "10.7.7.7:1025" })]);
        put(
            EVENTS_FILE,
            &[
                json!({ "t": 5.5, "host": "boss", "event": "fleet", "hosts": {
                    "quark": { "boot": "cea5c8ae-2809-4ff3-82ca-cf744f673dbe" } } }),
                json!({ "t": 5.5, "host": "boss", "event": "warning",
                    "what": "kim@quark: 52:54:00:ab:cd:ef, laptop, /home/kim/x, fe80::1:2" }),
            ],
        );
        put("truth.jsonl", &[json!({ "flow": "10.7.7.7:1025" })]);
        std::fs::write(run.path().join("profile-x.svg"), "kim").expect("written");
        std::fs::write(run.path().join("run.lock"), "kim").expect("written");
        let hlog = "#[a comment of kim]\n#[BaseTime: 5]\nTag=quark:latency,0,1,0,HIST\n";
        std::fs::write(run.path().join(HLOG), hlog).expect("written");
        let mut samples = File::options().append(true).open(run.path().join(SAMPLES_FILE));
        let samples = samples.as_mut().expect("there");
        samples.write_all(b"{\"host\": kim\n{\"host\":\"kim\"").expect("written");
        run
    }

    #[test]
    fn nothing_that_names_the_machine_is_left() {
        let (run, into) = (run(), tempfile::tempdir().expect("a directory"));
        let people = ["kim".to_owned()];
        let left_out = anonymise(run.path(), into.path(), &["laptop".to_owned()], &people);
        let left_out = left_out.expect("made");
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert!(
            left_out[0].starts_with("samples.jsonl: the content of 1 damaged lines"),
            "{left_out:?}"
        );
        assert!(left_out[1].starts_with("flame graphs"), "{left_out:?}");
        let mut all = String::new();
        for entry in std::fs::read_dir(into.path()).expect("there").flatten() {
            all += &std::fs::read_to_string(entry.path()).expect("text");
        }
        for name in [
            "kim",
            "laptop",
            "boss",
            "corp.example",
            "backbone",
            "10.7.7.7",
            "/home",
            "/srv",
            "user-1000",
            "52:54:00",
            "525400",
            "cea5c8ae",
            "fe80",
            "r7",
            "rack\"",
            "1000",
            "\"up\"",
            "@quark",
            "\"quark\":",
            "on quark",
        ] {
            assert!(!all.contains(name), "{name} in {all}");
        }
        // A phase is called so by its experiment, and its histograms have that name.
        let read = |name: &str| std::fs::read_to_string(into.path().join(name)).expect("there");
        let lines = |name: &str| -> Vec<Value> {
            let text = read(name);
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        assert!(read(SAMPLES_FILE).ends_with("}\ndamaged\n"), "seen, and without its content");
        let manifest: Value = serde_json::from_str(&read(MANIFEST_FILE)).expect("JSON");
        assert_eq!(read(HLOG), "#[BaseTime: 5]\nTag=quark:latency,0,1,0,HIST\n");
        assert_eq!(manifest["experiment"]["phases"][0]["name"], "quark");
        let samples = lines(SAMPLES_FILE);
        assert_eq!(samples[0]["phase"], "quark");
        // What was one thing is one thing.
        let host = &manifest["hosts"][0]["host"];
        assert_eq!(&samples[0]["host"], host);
        assert_eq!(&manifest["experiment"]["hosts"]["Fleet"]["server"]["name"], host);
        assert_eq!(samples[0]["namespace"], manifest["clients"][0]["host"]);
        let address = manifest["experiment"]["client"]["sources"][0].as_str().expect("one");
        assert_eq!(lines(SLOW_FILE)[0]["from"], format!("{address}:1025"));
        assert_eq!(lines("truth.jsonl")[0]["flow"], format!("{address}:1025"));
        assert_eq!(lines(SLOW_FILE)[0]["user"], 7, "a user of the load");
        let kept = ["kernel", "cpu_model"].map(|it| manifest["hosts"][0][it].clone());
        assert_eq!(kept, ["6.1.0-9-amd64", "a CPU"]);
        assert_eq!(manifest["privileges"]["uid"], Value::Null);
        assert_eq!(manifest["privileges"]["chosen_by"], "sudo");
    }
}
