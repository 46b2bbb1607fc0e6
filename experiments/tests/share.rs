//! `lab export` and `lab import`: what is given away is the run, and without what names the machine
//! where that is asked for; what a stranger sends is unpacked or refused.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use common::{Running, assert_exit, experiment, json, lab, said};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A recorded run with names in it that a machine could have.
fn named(directory: &Path, run: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs").join(run);
    let into = directory.join(run);
    std::fs::create_dir(&into).expect("made");
    let host = if run == "fleet" { "lepton-3" } else { "quark-7" };
    let about = format!("\"about\": \"kim_oak at {host}.corp.example: ");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let mut bytes = std::fs::read(entry.path()).expect("there");
        if let Ok(mut text) = String::from_utf8(bytes.clone()) {
            for (from, to) in [
                ("\"host\":\"machine\"", "\"host\":\"quark-7\""),
                ("\"host\": \"machine\"", "\"host\": \"quark-7\""),
                ("\"s\"", "\"lepton-3\""),
                ("\"c1\"", "\"gluon-2\""),
                ("\"host\":\"coordinator\"", "\"host\":\"muon-4\""),
                ("eth0", "enx525400abcdef"),
                ("experiments/", "/home/kim_oak/experiments/"),
                ("\"about\": \"", &about),
            ] {
                text = text.replace(from, to);
            }
            bytes = text.into_bytes();
        }
        std::fs::write(into.join(entry.file_name()), bytes).expect("written");
    }
    let file = into.join("manifest.json");
    let mut manifest = json(&into, "manifest.json");
    manifest["privileges"] =
        serde_json::json!({ "user": "kim_oak", "uid": 1017, "gid": 1017, "capabilities": [] });
    std::fs::write(file, manifest.to_string()).expect("written");
    into
}

/// All that an archive says, file by file: tables row by row.
fn contents(archive: &Path) -> Vec<(String, String)> {
    let mut zip = zip::ZipArchive::new(File::open(archive).expect("there")).expect("an archive");
    let mut all = Vec::new();
    for at in 0..zip.len() {
        let mut entry = zip.by_index(at).expect("an entry");
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("whole");
        let text = if name.ends_with(".parquet") {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&bytes).expect("written");
            let reader = SerializedFileReader::new(file).expect("a table");
            let schema = format!("{:?}", reader.metadata().file_metadata());
            let rows = reader.get_row_iter(None).expect("rows");
            rows.fold(schema, |text, row| format!("{text}\n{}", row.expect("a row")))
        } else {
            String::from_utf8(bytes).expect("text")
        };
        all.push((name, text));
    }
    all
}

/// What must be in no file.
fn assert_without(archive: &Path, names: &[&str]) {
    for (file, text) in contents(archive) {
        for name in names {
            if let Some(at) = text.find(name) {
                let around: String = text[..at]
                    .chars()
                    .rev()
                    .take(80)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .chain(text[at..].chars().take(80))
                    .collect();
                panic!("{file} has {name}: {around}");
            }
        }
    }
}

/// All numbers and truths of a file, in their order.
fn figures(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(all) => all.iter().flat_map(figures).collect(),
        Value::Object(all) => all.values().flat_map(figures).collect(),
        Value::String(_) => Vec::new(),
        figure => vec![figure.clone()],
    }
}

/// Unpacks an archive by `lab import`.
fn imported(directory: &Path, archive: &Path) -> PathBuf {
    let out = directory.join("imported");
    let output = lab(&["import", path(archive), "--out", path(&out)]);
    assert_exit(&output, 0);
    assert!(said(&output).contains("imported/report.html"), "{}", said(&output));
    out
}

#[test]
fn an_anonymous_export_names_nothing_of_the_machine_in_any_file() {
    for run in ["first", "disturbed", "fleet", "saturation"] {
        let place = tempfile::tempdir().expect("a directory");
        let of = named(place.path(), run);
        assert!(lab(&["report", path(&of)]).status.code().is_some_and(|code| code != 2));
        let out = place.path().join("away.zip");
        let output = lab(&["export", path(&of), "--out", path(&out), "--anonymous"]);
        assert_exit(&output, 0);
        let text = said(&output);
        assert!(text.contains("kept, as figures mean nothing without it"), "{text}");
        assert_eq!(text.contains("flame graphs"), run == "saturation", "{text}");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told, format!("{}\n", out.display()));
        assert_without(
            &out,
            &[
                "quark",
                "lepton",
                "gluon",
                "muon",
                "corp.example",
                "525400abcdef",
                "/home",
                "kim_oak",
                "10.253.",
                "10.91.",
                path(place.path()),
                "cea5c8ae",
                "76ca368c",
            ],
        );
        let files = contents(&out);
        let has = |name: &str| files.iter().any(|(file, _)| file == &format!("away/{name}"));
        for name in
            ["report.html", "summary.json", "manifest.json", "samples.jsonl", "samples.parquet"]
        {
            assert!(has(name), "{run}: {name}");
        }
        assert!(!has("run.lock") && !has("fleet.json") && !has("checkpoint.json"), "{files:?}");
        // Every figure is what it was.
        let again = imported(place.path(), &out);
        let (before, after) = (json(&of, "summary.json"), json(&again, "summary.json"));
        assert_eq!(figures(&after), figures(&before), "{run}");
        assert_eq!(json(&again, "manifest.json")["privileges"]["uid"], Value::Null);
    }
}

#[test]
fn a_run_is_exported_when_it_is_over_and_compared_as_a_file() {
    let place = tempfile::tempdir().expect("a directory");
    let (run, out) = (place.path().join("run"), place.path().join("away.zip"));
    let file = experiment("smoke");
    let mut arguments = vec!["run", path(&file), "--out", path(&run)];
    for setting in ["phases.shake.seconds=10", "phases.everything.seconds=1"] {
        arguments.extend(["--set", setting]);
    }
    let running = Running::start(&arguments);
    running.wait_for("shake 1/");
    let refused = lab(&["export", path(&run), "--out", path(&out)]);
    assert_exit(&refused, 2);
    assert!(said(&refused).contains("writes this run"), "{}", said(&refused));
    assert!(!out.exists());
    running.assert_completed();
    // What is missing is said, and no reason against the rest.
    std::fs::rename(run.join("slow.parquet"), place.path().join("kept")).expect("moved");
    let output = lab(&["export", path(&run), "--out", path(&out)]);
    assert_exit(&output, 0);
    let text = said(&output);
    assert!(text.contains("lab: slow.parquet is missing: lab report makes it again"), "{text}");
    std::fs::rename(place.path().join("kept"), run.join("slow.parquet")).expect("moved");
    let twice = lab(&["export", path(&run), "--out", path(&out)]);
    assert_exit(&twice, 2);
    assert!(said(&twice).contains("away.zip: it is there already"), "{}", said(&twice));

    let again = imported(place.path(), &out);
    for name in [
        "samples.jsonl",
        "slow.jsonl",
        "events.jsonl",
        "latency.hlog",
        "manifest.json",
        "summary.json",
    ] {
        let read = |at: &Path| std::fs::read(at.join(name)).expect("there");
        assert!(read(&again) == read(&run), "{name}");
    }
    assert!(again.join("slow.parquet").is_file(), "it is made");
    let compared = lab(&["compare", "--json", path(&out), path(&run), "--force"]);
    assert_exit(&compared, 0);
    let compared: Value = serde_json::from_slice(&compared.stdout).expect("JSON");
    assert_eq!(compared["first"][0], path(&out), "it is called by its file");
    let figures = compared["phases"].as_array().into_iter().flatten();
    let figures = figures.flat_map(|phase| phase["figures"].as_array().expect("figures"));
    let estimates: Vec<_> = figures.map(|it| it["estimate"].as_f64()).collect();
    assert!(!estimates.is_empty() && estimates.iter().all(|it| *it == Some(0.0)), "{estimates:?}");
    let report = lab(&["report", path(&out)]);
    let of_directory = lab(&["report", path(&run)]);
    assert_eq!(report.status.code(), of_directory.status.code());
    let table = |it: &std::process::Output| {
        let text = String::from_utf8_lossy(&it.stdout).into_owned();
        text.lines().filter(|line| !line.contains("report.html")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(table(&report), table(&of_directory));
    assert!(said(&report).contains("lab import"), "{}", said(&report));

    // Of this machine, by its own names.
    let anonymous = place.path().join("nobody.zip");
    let output = lab(&["export", path(&run), "--out", path(&anonymous), "--anonymous"]);
    assert_exit(&output, 0);
    let host = json(&run, "manifest.json")["hosts"][0]["host"].clone();
    let host = format!("\"{}\"", host.as_str().expect("its name"));
    assert_without(&anonymous, &[&host, path(place.path())]);
}

#[test]
fn what_a_stranger_sends_is_refused_and_nothing_is_written() {
    let place = tempfile::tempdir().expect("a directory");
    let archive = place.path().join("evil.zip");
    let mut zip = zip::ZipWriter::new(File::create(&archive).expect("made"));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("run/manifest.json", options).expect("begun");
    zip.write_all(b"{}").expect("written");
    zip.start_file("run/../../evil.txt", options).expect("begun");
    zip.write_all(b"evil").expect("written");
    zip.finish().expect("whole");
    let out = place.path().join("deep").join("run");
    for arguments in [
        &["import", path(&archive), "--out", path(&out)][..],
        &["compare", path(&archive), path(&archive)],
        &["report", path(&archive)],
    ] {
        let output = lab(arguments);
        assert_exit(&output, 2);
        let text = said(&output);
        assert!(
            text.contains("evil.zip: not unpacked: \"run/../../evil.txt\": the name"),
            "{text}"
        );
    }
    let text = place.path().join("notes.zip");
    std::fs::write(&text, "no archive").expect("written");
    let output = lab(&["import", path(&text), "--out", path(&out)]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("it is no zip archive"), "{}", said(&output));
    let output = lab(&["import", path(&place.path().join("none.zip")), "--out", path(&out)]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("none.zip: cannot read it: No such file"), "{}", said(&output));
    let mut left: Vec<_> = std::fs::read_dir(place.path()).expect("there").flatten().collect();
    left.sort_by_key(std::fs::DirEntry::file_name);
    let left: Vec<_> = left.iter().map(std::fs::DirEntry::file_name).collect();
    assert_eq!(left, ["evil.zip", "notes.zip"]);
}
