//! `lab explain NAME`: what the documents say of a cause, a field of a file or of an experiment, an
//! exit status, a command or a word. The documents are those of `docs/`, and there is no second
//! copy. Must not know: what any name means.

mod document;

use document::{Document, Entry};
use spec::UsageError;

/// In the order in which they are asked.
const DOCUMENTS: [Document; 5] = [
    Document { name: "docs/causes.md", text: include_str!("../../docs/causes.md") },
    Document { name: "docs/commands.md", text: include_str!("../../docs/commands.md") },
    Document { name: "docs/files.md", text: include_str!("../../docs/files.md") },
    Document { name: "docs/experiments.md", text: include_str!("../../docs/experiments.md") },
    Document { name: "docs/glossary.md", text: include_str!("../../docs/glossary.md") },
];

/// Everything that the documents say of a name.
///
/// # Errors
/// That no document has it, and the nearest name that one has.
pub(crate) fn explain(words: &[String]) -> anyhow::Result<String> {
    let asked = words.join(" ");
    let name = plain(&asked);
    let entries: Vec<Entry> = DOCUMENTS.iter().flat_map(Document::entries).collect();
    let found = found(&entries, name);
    if found.is_empty() {
        return Err(unknown(&asked, name, &entries));
    }
    Ok(found.iter().map(|entry| entry.to_string()).collect::<Vec<_>>().join("\n"))
}

/// Without what stands before a status or a command.
fn plain(asked: &str) -> &str {
    let asked = asked.trim().trim_matches('`');
    let prefixes = ["exit status ", "exit ", "status ", "lab "];
    prefixes.iter().find_map(|prefix| asked.strip_prefix(prefix)).unwrap_or(asked)
}

/// A path is looked up as a whole, and then without its first parts: `phases.0.shake.offered` is
/// `shake.offered` of the documents. What has no entry of its own may stand in that of another.
fn found<'a>(entries: &'a [Entry], name: &str) -> Vec<&'a Entry> {
    let mut rest = Some(name);
    while let Some(name) = rest {
        for is in [Entry::is_named, Entry::is_within, Entry::mentions] {
            let found: Vec<&Entry> = entries.iter().filter(|entry| is(entry, name)).collect();
            if !found.is_empty() {
                return found;
            }
        }
        rest = name.split_once('.').map(|(_, rest)| rest);
    }
    Vec::new()
}

fn unknown(asked: &str, name: &str, entries: &[Entry]) -> anyhow::Error {
    let names = entries.iter().flat_map(|entry| &entry.names).map(String::as_str);
    UsageError::error(match text::nearest(name, names) {
        Some(near) => {
            format!("nothing is called '{asked}'; did you mean {near}? (lab explain {near})")
        }
        None => format!(
            "nothing is called '{asked}': give a cause (client_busy), a field of a file \
             (shake.offered), an exit status (4), a command (run) or a word (excess)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use attribution::Cause;
    use serde_json::Value;

    use super::*;

    fn said(name: &str) -> String {
        explain(&[name.to_owned()]).unwrap_or_else(|error| panic!("{name}: {error:#}"))
    }

    #[test]
    fn every_cause_is_explained_with_its_evidence() {
        for cause in Cause::ALL {
            let said = said(cause.name());
            assert!(said.contains("docs/causes.md"), "{said}");
            assert!(said.contains(cause.name()), "{said}");
        }
        let stopped = said("client_stopped").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(stopped.contains("SIGSTOP, Ctrl-Z"), "{stopped}");
        assert!(!stopped.contains("**") && !stopped.contains("server_busy"), "{stopped}");
    }

    #[test]
    fn every_exit_status_is_explained() {
        for status in 0..=5 {
            for asked in [format!("{status}"), format!("exit {status}")] {
                assert!(said(&asked).contains("docs/commands.md, Exit status"), "{asked}");
            }
        }
        assert!(said("exit status 4").contains("books do not balance"));
    }

    /// Objects whose names are data: of settings, reasons, hosts, the kernel's counters.
    const DATA: [&str; 9] =
        ["missing", "sysctls", "known", "by_host", "drops", "labels", "hosts", "link", "time_ns"];

    fn fields(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    into.insert(name.clone());
                    if !(value.is_object() && DATA.contains(&name.as_str())) {
                        fields(value, into);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| fields(item, into)),
            _ => (),
        }
    }

    #[test]
    fn every_field_of_a_recorded_run_is_explained() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
        let mut names = BTreeSet::new();
        for run in ["disturbed", "first", "fleet", "saturation", "killed"] {
            for file in ["manifest.json", "samples.jsonl", "events.jsonl", "slow.jsonl"] {
                let text = std::fs::read_to_string(folder.join("runs").join(run).join(file));
                let text = text.expect("it is recorded");
                let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
                // The last line of a killed run may be cut off.
                values.map_while(Result::ok).for_each(|value| fields(&value, &mut names));
            }
            let summary = folder.join("expected").join(run).join("summary.json");
            let text = std::fs::read_to_string(summary).expect("it is recorded");
            fields(&serde_json::from_str(&text).expect("JSON"), &mut names);
        }
        assert!(names.len() > 200, "{names:?}");
        // The kernel's own counters and the variants of an experiment begin with a capital letter.
        let ours = names.iter().filter(|name| name.starts_with(|it: char| it.is_ascii_lowercase()));
        let unknown: Vec<&String> =
            ours.filter(|name| explain(&[(*name).clone()]).is_err()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn paths_commands_and_words_are_found() {
        assert!(said("phases.0.shake.late_turns").contains("1 ms late"));
        assert!(said("run").contains("carries it out"));
        assert!(said("lab tune revert").contains("settings of the kernel"));
        assert!(said("excess").contains("beyond that cause's median"));
        assert!(said("cpu_us_per_request.client").contains("over answers"));
    }

    #[test]
    fn unknown_names_get_the_nearest() {
        for (asked, near) in
            [("client_stoped", "client_stopped"), ("latency_as_least_us", "latency_at_least_us")]
        {
            let error = explain(&[asked.to_owned()]).expect_err("there is none");
            assert!(error.is::<UsageError>());
            assert!(error.to_string().contains(&format!("did you mean {near}?")), "{error}");
        }
        let error = explain(&["qqq".to_owned()]).expect_err("there is none");
        assert!(error.to_string().contains("give a cause"), "{error}");
    }
}
