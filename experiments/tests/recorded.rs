//! Runs recorded before the code was rearranged, read again: `lab report`, `lab compare`,
//! `lab plan` and the notebooks must make the same figures of them. Owns: what "the same" means.
//! Must not know: what the figures mean. `recorded/README.md` says how runs and expectations were
//! made.
//!
//! With `LAB_RECORDED_WITH=PROGRAM` that `lab` is asked, and its answers become the expectations.

mod common;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{json, output, said};
use needs::test;
use serde_json::{Number, Value};

needs::main!();

/// The recorded runs. `killed` has no end: its coordinator was killed.
const RUNS: [&str; 7] =
    ["first", "second", "disturbed", "fleet", "killed", "invalid", "saturation"];

/// Directories of several runs, as `lab run --repeat` makes them.
const SETS: [(&str, &[&str]); 2] = [("pair", &["first", "second"]), ("same", &["first", "first"])];

/// What is compared, by the name of the expectation.
const COMPARISONS: [(&str, &[&str]); 11] = [
    ("first-second", &["first", "second"]),
    ("shown", &["first", "second", "--phase", "open", "--figure", "client_cpu"]),
    ("first-first", &["first", "first"]),
    ("first-pair", &["first", "pair", "--force"]),
    ("pair-same", &["pair", "same"]),
    ("refused", &["first", "saturation"]),
    ("forced", &["first", "disturbed", "--force"]),
    ("invalid", &["invalid", "invalid"]),
    ("invalid-forced", &["invalid", "invalid", "--force", "--phase", "late"]),
    ("killed", &["killed", "first", "--force"]),
    ("fleet", &["fleet", "fleet", "--figure", "p99", "--figure", "server_cpu"]),
];

/// What is projected, by the name of the expectation.
const PLANS: [(&str, &[&str]); 9] = [
    ("first", &["first"]),
    ("pair", &["pair"]),
    ("disturbed", &["disturbed"]),
    ("fleet", &["fleet"]),
    ("killed", &["killed"]),
    ("invalid", &["invalid"]),
    ("saturation", &["saturation"]),
    ("phase", &["first", "--phase", "all", "--minutes", "5", "--shakes", "1e9"]),
    ("machines", &["first", "--cores", "8", "--memory-gib", "8", "--gbit", "10", "--busy", "0.5"]),
];

fn room() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded")
}

fn notebooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../notebooks")
}

/// The program whose answers become the expectations, when there is one.
fn author() -> Option<OsString> {
    std::env::var_os("LAB_RECORDED_WITH")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a recorded run").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// Copies of the recorded runs in a directory, each by its name.
fn copies() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    let runs = room().join("runs");
    RUNS.iter().for_each(|run| copy(&runs.join(run), &place.path().join(run)));
    for (set, members) in SETS {
        for (number, run) in members.iter().enumerate() {
            copy(&runs.join(run), &place.path().join(set).join((number + 1).to_string()));
        }
    }
    place
}

/// Runs `lab` among the copies, so that what it says has no path of this machine.
fn lab(place: &Path, arguments: &[&str]) -> Output {
    let program = author().unwrap_or_else(|| env!("CARGO_BIN_EXE_lab").into());
    output(Command::new(program).args(arguments).current_dir(place))
}

/// What `lab` says, and how it ends.
fn told(output: &Output) -> String {
    format!("{}exit status {:?}\n", said(output), output.status.code())
}

/// The numbers of a text in their order: those within a word, such as `p99`, included.
fn numbers(text: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    let mut before = ' ';
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let within = |(at, c): (usize, char)| {
            let inner = matches!(c, '.' | ',') && rest[at + 1..].starts_with(is_digit);
            !(is_digit(c) || inner)
        };
        let end = rest.char_indices().find(|&it| within(it)).map_or(rest.len(), |(at, _)| at);
        if is_digit(first) {
            let sign = if before == '-' { "-" } else { "" };
            numbers.push(format!("{sign}{}", &rest[..end]));
            before = ' ';
            rest = &rest[end..];
        } else {
            before = first;
            rest = &rest[first.len_utf8()..];
        }
    }
    numbers
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// Whether two texts say the same. Names are equal; sentences may be worded anew, but have the same
/// numbers.
fn same_text(expected: &str, found: &str) -> bool {
    let is_sentence = expected.contains(char::is_whitespace);
    if is_sentence { numbers(expected) == numbers(found) } else { expected == found }
}

/// How far apart two fractions may be, as a share. The C library takes logarithms and powers with
/// the instructions of the machine, so that the last bits of an interval differ between machines.
const LAST_BITS: f64 = 1e-9;

/// Whether two numbers are the same: whole ones exactly, fractions but for their last bits.
fn same_number(expected: &Number, found: &Number) -> bool {
    if !(expected.is_f64() && found.is_f64()) {
        return expected == found;
    }
    let [expected, found] = [expected, found].map(|it| it.as_f64().unwrap_or(f64::NAN));
    (expected - found).abs() <= LAST_BITS * expected.abs()
}

/// Where two values differ, each place with both. Keys that only the second has are no difference.
fn differences(place: &str, expected: &Value, found: &Value) -> Vec<String> {
    let differ = || vec![format!("{place}: {expected} became {found}")];
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let each = expected.iter().flat_map(|(key, value)| match found.get(key) {
                Some(found) => differences(&format!("{place}/{key}"), value, found),
                None => vec![format!("{place}/{key}: is missing")],
            });
            each.collect()
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            let pairs = expected.iter().zip(found).enumerate();
            pairs.flat_map(|(at, (a, b))| differences(&format!("{place}/{at}"), a, b)).collect()
        }
        (Value::String(a), Value::String(b)) if same_text(a, b) => Vec::new(),
        (Value::Number(a), Value::Number(b)) if same_number(a, b) => Vec::new(),
        (a, b) if a == b => Vec::new(),
        _ => differ(),
    }
}

/// Differences shown of one expectation; more would hide the first.
const MOST_SHOWN: usize = 12;

/// Compares answers with the expectations, or writes them.
#[derive(Default)]
struct Answers {
    wrong: Vec<String>,
}

impl Answers {
    fn json(&mut self, name: &str, found: &Value) {
        if author().is_some() {
            let text = serde_json::to_string(found).expect("JSON");
            // A line for each part keeps the file readable where it changes.
            let lines = text.replace("},\"", "},\n\"").replace("],\"", "],\n\"");
            return write(name, &format!("{lines}\n"));
        }
        let expected = json(&room(), &format!("expected/{name}"));
        let mut places = differences(name, &expected, found);
        let more = places.len().saturating_sub(MOST_SHOWN);
        places.truncate(MOST_SHOWN);
        self.wrong.extend(places);
        self.wrong.extend((more > 0).then(|| format!("{name}: and {more} more")));
    }

    fn text(&mut self, name: &str, found: &str) {
        if author().is_some() {
            return write(name, found);
        }
        let expected = std::fs::read_to_string(room().join("expected").join(name));
        let expected = expected.expect("an expectation");
        if numbers(&expected) != numbers(found) {
            self.wrong.push(format!("{name} had other figures:\n{expected}\nand now\n{found}"));
        }
    }

    fn assert_same(&self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

fn write(name: &str, text: &str) {
    let file = room().join("expected").join(name);
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    std::fs::write(file, text).expect("written");
}

/// Puts the size of each picture in the place of the picture, which is a file of the run.
fn shorten_pictures(content: &mut Value) {
    for flame in content["flames"].as_array_mut().into_iter().flatten() {
        let picture = flame["svg"].as_str().map(|svg| (svg.len(), svg.bytes().map(u64::from)));
        let text = picture.map(|(length, bytes)| format!("{length}:{}", bytes.sum::<u64>()));
        flame["svg"] = text.into();
    }
}

/// What the page of a run shows, without what the test compares by itself: summary and manifest.
fn page(run: &Path) -> (Value, Value, Value) {
    let html = std::fs::read_to_string(run.join("report.html")).expect("the page");
    let (_, rest) = html.split_once("id=\"content\">").expect("content");
    let (content, _) = rest.split_once("</script>").expect("an end");
    let mut content: Value = serde_json::from_str(content).expect("JSON");
    let parts = content.as_object_mut().expect("parts");
    let [summary, manifest] =
        ["summary", "manifest"].map(|name| parts.remove(name).expect("a part of the page"));
    shorten_pictures(&mut content);
    (content, summary, manifest)
}

fn report(place: &Path, run: &str, answers: &mut Answers) {
    answers.text(&format!("{run}/report.txt"), &told(&lab(place, &["report", run])));
    let directory = place.join(run);
    let summary = json(&directory, "summary.json");
    answers.json(&format!("{run}/summary.json"), &summary);
    let (content, of_page, manifest) = page(&directory);
    answers.json(&format!("{run}/page.json"), &content);
    assert_eq!(of_page, summary, "the page of {run} has the summary");
    let mut recorded = json(&directory, "manifest.json");
    recorded.as_object_mut().expect("a manifest").remove("experiment");
    assert_eq!(manifest, recorded, "the page of {run} has the manifest");
}

#[test]
fn reports_have_the_same_figures() {
    let place = copies();
    let mut answers = Answers::default();
    RUNS.iter().for_each(|run| report(place.path(), run, &mut answers));
    answers.assert_same();
}

/// Asks for a text and for JSON. What is refused has no JSON.
fn ask(place: &Path, name: &str, arguments: &[&str], answers: &mut Answers) {
    answers.text(&format!("{name}.txt"), &told(&lab(place, arguments)));
    let output = lab(place, &[arguments, &["--json"]].concat());
    let found = if output.stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    answers.json(&format!("{name}.json"), &found);
}

#[test]
fn comparisons_have_the_same_figures() {
    let place = copies();
    let mut answers = Answers::default();
    for (name, arguments) in COMPARISONS {
        let arguments = [&["compare"], arguments].concat();
        ask(place.path(), &format!("compare/{name}"), &arguments, &mut answers);
    }
    answers.assert_same();
}

#[test]
fn projections_have_the_same_figures() {
    let place = copies();
    let mut answers = Answers::default();
    for (name, arguments) in PLANS {
        let arguments = [&["plan"], arguments].concat();
        ask(place.path(), &format!("plan/{name}"), &arguments, &mut answers);
    }
    answers.assert_same();
}

/// A Python that has what the package `notebooks/lab` needs, as in `notebooks.rs`.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("LAB_TEST_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| notebooks().join("../target/notebooks/bin/python"));
    let complete = Command::new(&python)
        .args(["-c", "import hdrh, polars"])
        .output()
        .is_ok_and(|output| output.status.success());
    needs::can("python", complete).then_some(python)
}

#[test]
fn notebooks_have_the_same_figures() {
    let Some(python) = python() else { return };
    let place = copies();
    let mut command = Command::new(python);
    command.arg(room().join("frames.py")).arg(notebooks()).current_dir(place.path());
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    for run in RUNS {
        // How it ends is compared above.
        lab(place.path(), &["report", run]);
        command.arg(run);
    }
    let made = output(&mut command);
    assert!(made.status.success(), "{}", said(&made));
    let mut answers = Answers::default();
    let text = String::from_utf8(made.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), RUNS.len(), "a line for each run");
    for (run, line) in RUNS.into_iter().zip(text.lines()) {
        let tables = serde_json::from_str(line).expect("JSON");
        answers.json(&format!("{run}/tables.json"), &tables);
    }
    answers.assert_same();
}

/// Adds one to the first count of this name in a file of a run that is above 0.
fn count_one_more(file: &Path, name: &str) {
    let text = std::fs::read_to_string(file).expect("text");
    let key = format!("\"{name}\":");
    let mut counts = text.match_indices(&key).map(|(at, _)| at + key.len());
    let digits = |at: usize| text[at..].chars().take_while(|c| is_digit(*c)).collect::<String>();
    let at = counts.find(|at| digits(*at).parse::<u64>().is_ok_and(|it| it > 0)).expect("a count");
    let count = digits(at);
    let more = count.parse::<u64>().expect("a count") + 1;
    let changed = format!("{}{more}{}", &text[..at], &text[at + count.len()..]);
    std::fs::write(file, changed).expect("written");
}

#[test]
fn a_single_count_that_is_another_is_seen() {
    if author().is_some() {
        return;
    }
    let place = copies();
    for (file, name) in [
        ("samples.jsonl", "answered"),
        ("samples.jsonl", "shakes"),
        ("samples.jsonl", "offered"),
        ("slow.jsonl", "latency_us"),
        ("events.jsonl", "amount"),
    ] {
        let run = &room().join("runs/first");
        copy(run, &place.path().join("first"));
        count_one_more(&place.path().join("first").join(file), name);
        let mut answers = Answers::default();
        report(place.path(), "first", &mut answers);
        assert!(!answers.wrong.is_empty(), "{name} of {file} is one more, and nothing differs");
    }
}

#[test]
fn words_may_change_and_figures_may_not() {
    let sentence = "30k: 0.85% of 1,800,000 took more than -1 ms.";
    assert_eq!(numbers(sentence), ["30", "0.85", "1,800,000", "-1"]);
    assert!(same_text(sentence, "30k: more than -- 0.85% of 1,800,000 beyond -1 ms"));
    assert!(!same_text(sentence, "30k: 0.85% of 1,800,001 took more than -1 ms."));
    assert!(!same_text("client_busy", "client_late"));
    let before = serde_json::json!({ "a": [1, { "b": 2.5 }], "c": null });
    let differs = |after: Value| differences("", &before, &after).len();
    assert_eq!(differs(serde_json::json!({ "a": [1, { "b": 2.5, "new": 1 }], "c": null })), 0);
    assert_eq!(differs(serde_json::json!({ "a": [1, { "b": 2.5 + 1e-12 }], "c": null })), 0);
    assert_eq!(differs(serde_json::json!({ "a": [1, { "b": 2.500_001 }], "c": null })), 1);
    assert_eq!(differs(serde_json::json!({ "a": [1.0, { "b": 2.5 }], "c": null })), 1);
    assert_eq!(differs(serde_json::json!({ "a": [1], "c": 0 })), 2);
    assert_eq!(differs(serde_json::json!({ "a": [1, { "b": 2.5 }] })), 1);
}
