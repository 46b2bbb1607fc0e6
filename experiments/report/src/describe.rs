//! What a page shows of a run beside its seconds: what it was, what it came to, what is wrong with
//! its files.

use std::path::Path;

use serde_json::{Value, json};

use crate::{answers, sentence};
use analysis::summary::Summary;
use record::{FORMAT, MANIFEST_FILE, Problems};

/// Reads a JSON file; null, and a sentence, when it cannot be read.
pub(crate) fn read_json(directory: &Path, name: &str, problems: &mut Problems) -> Value {
    let read = record::read_whole(directory, name);
    match read.map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            problems.add(format!("{name}: {error}; what it says is missing here"));
            Value::Null
        }
        Err(error) => {
            problems.add(format!("{name}: {error}; what it says is missing here"));
            Value::Null
        }
    }
}

/// The manifest of a run, as far as it can be read.
pub(crate) fn manifest(directory: &Path, problems: &mut Problems) -> Value {
    let manifest = read_json(directory, MANIFEST_FILE, problems);
    if let Some(format) = manifest["format"].as_u64().filter(|format| *format > u64::from(FORMAT)) {
        problems.add(format!(
            "manifest.json has format {format}, and this lab knows {FORMAT}: a newer lab wrote \
             this run, and what has changed since is missing or wrong here"
        ));
    }
    manifest
}

/// What a page shows of a run beside its seconds, as JSON by name.
pub(crate) fn describe(
    manifest: &Value,
    summary: &Value,
    problems: &mut Problems,
) -> Vec<(&'static str, String)> {
    let experiment = &manifest["experiment"];
    let usual = spec::AttributionSpec::default().off_share.get();
    let off_share = experiment["attribution"]["off_share"].as_f64().unwrap_or(usual);
    let (verdicts, answers) = match serde_json::from_value::<Summary>(summary.clone()) {
        Ok(summary) => {
            let verdicts = sentence::verdicts(&summary, off_share);
            let answers = answers::answers(&summary, &verdicts);
            (json!(verdicts), json!(answers))
        }
        Err(error) => {
            if !summary.is_null() {
                problems.add(format!("summary.json: {error}; there is no verdict"));
            }
            (Value::Null, Value::Null)
        }
    };
    let about = json!({
        "name": experiment["name"], "about": experiment["about"], "users": experiment["users"],
    });
    // The experiment is shown as its text.
    let mut rest = manifest.clone();
    rest.as_object_mut().map(|rest| rest.remove("experiment"));
    let sentences: Vec<String> = problems.sentences().collect();
    vec![
        ("experiment", about.to_string()),
        ("manifest", rest.to_string()),
        ("summary", summary.to_string()),
        ("answers", answers.to_string()),
        ("verdicts", verdicts.to_string()),
        ("problems", Value::from(sentences).to_string()),
    ]
}
