//! What two sets of runs were made with, and where that differs. Knows manifests only as JSON, so
//! that it names fields of any version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::sets::RecordedRun;

/// What differs from run to run and means nothing.
const INCIDENTAL: [&str; 12] = [
    "closed",
    "outcome",
    "outcome_because",
    "started",
    "file",
    "text",
    "sha256",
    "settings",
    "server",
    "clients",
    "experiment.about",
    "experiment.name",
];

/// The same of a phase: what would have ended the run, and did not.
const INCIDENTAL_OF_PHASES: [&str; 2] = ["abort", "longest_s"];

/// The same of a machine.
const INCIDENTAL_OF_HOSTS: [&str; 3] = ["memory_available_bytes", "files", "clock"];

/// What of an experiment is the load; the rest is what it is put on.
const WORKLOAD: [&str; 4] = ["users", "phases", "hosts", "client"];

/// A field in which two sets differ. A set whose runs differ has several values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Differing {
    /// Its place in the manifest, phases by their name.
    pub field: String,
    /// What it is in the runs of the first set; null where it is not there.
    pub first: Vec<Value>,
    /// What it is in the second.
    pub second: Vec<Value>,
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |values: &[Value]| {
            let value = |value: &Value| match value {
                Value::String(text) => text.clone(),
                Value::Null => "absent".to_owned(),
                other => other.to_string(),
            };
            values.iter().map(value).collect::<Vec<_>>().join(" or ")
        };
        write!(f, "{}: {} and {}", self.field, side(&self.first), side(&self.second))
    }
}

/// All fields in which two sets differ, or one within itself: those of the load, and the others.
pub(crate) fn differences<'a>(
    first: impl IntoIterator<Item = &'a RecordedRun>,
    second: impl IntoIterator<Item = &'a RecordedRun>,
) -> (Vec<Differing>, Vec<Differing>) {
    fn fields<'a>(runs: impl IntoIterator<Item = &'a RecordedRun>) -> Vec<BTreeMap<String, Value>> {
        runs.into_iter().map(|run| flat(&run.manifest)).collect()
    }
    let all = between(&fields(first), &fields(second));
    let is_load = |it: &Differing| {
        let inner = it.field.strip_prefix("experiment.").unwrap_or("");
        WORKLOAD.iter().any(|field| is_below(inner, field))
    };
    all.into_iter().partition(is_load)
}

fn between(
    first: &[BTreeMap<String, Value>],
    second: &[BTreeMap<String, Value>],
) -> Vec<Differing> {
    let names: BTreeSet<&String> = first.iter().chain(second).flat_map(|it| it.keys()).collect();
    let values = |runs: &[BTreeMap<String, Value>], name: &str| {
        let mut values: Vec<Value> = Vec::new();
        for run in runs {
            let value = run.get(name).cloned().unwrap_or(Value::Null);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    };
    let each = names.into_iter().map(|name| Differing {
        field: name.clone(),
        first: values(first, name),
        second: values(second, name),
    });
    each.filter(|it| it.first.len() > 1 || it.first != it.second).collect()
}

fn is_below(field: &str, above: &str) -> bool {
    field.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The fields of a manifest that mean something, by dotted names.
fn flat(manifest: &Value) -> BTreeMap<String, Value> {
    let mut fields = BTreeMap::new();
    put(&mut fields, String::new(), manifest);
    fields.retain(|name, _| !is_incidental(name));
    fields
}

fn is_incidental(name: &str) -> bool {
    if let Some((_, inner)) = name.strip_prefix("hosts.").and_then(|it| it.split_once('.')) {
        return INCIDENTAL_OF_HOSTS.iter().any(|field| is_below(inner, field));
    }
    if let Some(inner) = name.strip_prefix("experiment.phases.") {
        return inner.split('.').any(|part| INCIDENTAL_OF_PHASES.contains(&part));
    }
    INCIDENTAL.iter().any(|field| is_below(name, field))
}

fn put(fields: &mut BTreeMap<String, Value>, name: String, value: &Value) {
    let inner =
        |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Object(parts) if !parts.is_empty() => {
            parts.iter().for_each(|(part, value)| put(fields, inner(part), value));
        }
        // What is a list of simple things is one thing.
        Value::Array(parts) if parts.iter().any(Value::is_object) => {
            for (number, part) in parts.iter().enumerate() {
                let own = part.get("name").and_then(Value::as_str).map(str::to_owned);
                put(fields, inner(&own.unwrap_or_else(|| number.to_string())), part);
            }
        }
        simple => drop(fields.insert(name, simple.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_named_and_what_means_nothing_is_left_out() {
        let manifest = json!({
            "started": 5,
            "experiment": { "name": "x", "users": 10, "phases": [
                { "name": "60k", "seconds": 3, "abort": [], "longest_s": null },
            ] },
            "hosts": [{ "host": "a", "cpus": [0, 1], "files": [1, 2] }],
            "sysctls": { "net.core.somaxconn": "4096" },
            "tuning": { "profile": "net" },
        });
        let fields = flat(&manifest);
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let expected = [
            "experiment.phases.60k.name",
            "experiment.phases.60k.seconds",
            "experiment.users",
            "hosts.0.cpus",
            "hosts.0.host",
            "sysctls.net.core.somaxconn",
            "tuning.profile",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn sets_differ_from_each_other_and_within() {
        let set = |kernels: &[&str]| -> Vec<_> {
            kernels.iter().map(|kernel| flat(&json!({ "kernel": kernel, "cpu": 1 }))).collect()
        };
        assert_eq!(between(&set(&["6.1", "6.1"]), &set(&["6.1"])), []);
        let found = between(&set(&["6.1", "6.1"]), &set(&["6.2"]));
        let differing = Differing {
            field: "kernel".to_owned(),
            first: vec![json!("6.1")],
            second: vec![json!("6.2")],
        };
        assert_eq!(found, [differing]);
        let within = between(&set(&["6.1", "6.2"]), &set(&["6.1", "6.2"]));
        assert_eq!(within.len(), 1, "{within:?}");
        let absent = between(&[flat(&json!({ "a": 1 }))], &[flat(&json!({ "b": 1 }))]);
        assert_eq!((absent.len(), &absent[0].second), (2, &vec![Value::Null]));
    }
}
