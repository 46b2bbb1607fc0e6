//! Histories of recorded runs, changed as a machine or a commit would change them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::compare::{Variation, Verdict};

/// Copies a recorded run, with another manifest.
fn put(top: &Path, name: &str, run: &str, change: impl FnOnce(&mut Value)) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recorded/runs").join(run);
    let into = top.join(name);
    std::fs::create_dir_all(&into).expect("made");
    for entry in std::fs::read_dir(from).expect("recorded").flatten() {
        std::fs::copy(entry.path(), into.join(entry.file_name())).expect("copied");
    }
    let file = into.join("manifest.json");
    let text = std::fs::read(&file).expect("there");
    let mut manifest = serde_json::from_slice(&text).expect("JSON");
    change(&mut manifest);
    std::fs::write(file, manifest.to_string()).expect("written");
}

fn args(directory: &Path) -> HistoryArgs {
    HistoryArgs {
        directory: directory.to_owned(),
        json: false,
        out: None,
        experiments: Vec::new(),
        phases: Vec::new(),
        figures: Vec::new(),
    }
}

fn began(at: u64) -> impl FnOnce(&mut Value) {
    move |manifest| manifest["started"] = (1_795_000_000 + at).into()
}

#[test]
fn a_history_has_a_row_a_run_in_their_order_and_says_what_changed() {
    let place = tempfile::tempdir().expect("a directory");
    let top = place.path();
    put(top, "b", "second", began(0));
    put(top, "set/1", "first", began(100));
    put(top, "set/2", "second", |manifest| {
        began(200)(manifest);
        manifest["hosts"][0]["kernel"] = "7.0.1".into();
        manifest["version"] = "0.9.0".into();
    });
    put(top, "load", "first", |manifest| {
        began(300)(manifest);
        manifest["hosts"][0]["kernel"] = "7.0.1".into();
        manifest["version"] = "0.9.0".into();
        manifest["experiment"]["users"] = 201.into();
    });
    put(top, "other", "saturation", began(150));
    std::fs::create_dir_all(top.join("notes")).expect("made");
    std::fs::create_dir_all(top.join("broken")).expect("made");
    std::fs::create_dir_all(top.join(".lab-import-x")).expect("made");
    std::fs::write(top.join("broken/manifest.json"), "{").expect("written");
    std::fs::write(top.join("of-kim.zip"), "").expect("written");
    let history = history(&args(top)).expect("a history");
    let names: Vec<&str> = history.runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(names, ["b", "set/1", "other", "set/2", "load"]);
    let numbers: Vec<usize> = history.runs.iter().map(|run| run.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let states: Vec<usize> = history.runs.iter().map(|run| run.state).collect();
    assert_eq!(states, [1, 1, 1, 2, 3]);
    assert!(history.runs[0].changed.is_none() && history.runs[2].changed.is_none());
    assert_eq!(history.runs[1].changed, Some(Vec::new()));
    assert!(history.runs.iter().all(|run| run.record_format == 1));
    let [step, load] = &history.steps[..] else { panic!("{:?}", history.steps) };
    assert_eq!((&step.from[..], &step.to[..]), (&[1, 2][..], &[4][..]));
    let fields: Vec<&str> = step.changed.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["hosts.0.kernel", "version"]);
    assert!(!step.load_changed && step.asked() > 0, "{step:?}");
    assert_eq!((&load.from[..], &load.to[..]), (&[4][..], &[5][..]));
    assert!(load.load_changed && load.phases.is_empty(), "{load:?}");
    let left_out = &history.left_out;
    for (what, words) in left_out.iter().zip([
        "of-kim.zip: an archive: lab import",
        "notes: no run",
        "broken/manifest.json: EOF",
    ]) {
        assert!(what.contains(words), "{words}: {left_out:?}");
    }
    assert_eq!(left_out.len(), 3, "{left_out:?}");

    let wide = table(&history, None);
    assert!(wide.contains("kernel: 6.18.44-xx-xxxx → 7.0.1; version: 0.1.0 → 0.9.0"), "{wide}");
    assert!(wide.contains("everything, 1 to 2 → 4: changed"), "{wide}");
    assert!(wide.contains("not compared: the load is another"), "{wide}");
    assert!(wide.contains("¹ format 1") && wide.contains("left out: "), "{wide}");
    for width in [40, 60, 80, 120] {
        let narrow = table(&history, Some(width));
        let long = narrow.lines().filter(|line| line.chars().count() > width);
        let long: Vec<&str> = long.filter(|line| line.trim().contains(' ')).collect();
        assert_eq!(long, Vec::<&str>::new(), "{width}: {narrow}");
        assert!(narrow.contains("set/1¹"), "{narrow}");
    }
}

/// Halves what clients and kernel counted of answers in the seconds of a phase.
fn slower(run: &Path) {
    let file = run.join("samples.jsonl");
    let text = std::fs::read_to_string(&file).expect("there");
    let lines = text.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).expect("JSON");
        if row["source"] == "proc" && row["of"] == "server" && row["cpu_us"].is_u64() {
            row["cpu_us"] = json!(row["cpu_us"].as_u64().unwrap_or(0) * 3);
        }
        row.to_string() + "\n"
    });
    std::fs::write(&file, lines.collect::<String>()).expect("written");
}

#[test]
fn what_moved_beyond_chance_is_named_and_nothing_else_is() {
    let place = tempfile::tempdir().expect("a directory");
    let top = place.path();
    let built = |at: u64, version: &'static str| {
        move |manifest: &mut Value| {
            began(at)(manifest);
            manifest["version"] = version.into();
        }
    };
    for (at, run) in ["first", "second", "first"].into_iter().enumerate() {
        put(top, &format!("a{at}"), run, built(at as u64, "1"));
        put(top, &format!("b{at}"), run, built(10 + at as u64, "2"));
        put(top, &format!("c{at}"), run, built(20 + at as u64, "3"));
        slower(&top.join(format!("c{at}")));
    }
    let mut asked = args(top);
    asked.figures = vec![Figure::ServerCpu, Figure::P50, Figure::P99];
    asked.phases = vec!["open".to_owned()];
    let history = history(&asked).expect("a history");
    let [same, slower] = &history.steps[..] else { panic!("{:?}", history.steps) };
    assert_eq!(same.moved().count(), 0, "{same:?}");
    assert!(same.asked() > 0);
    assert_eq!(same.phases[0].variation, Variation::BetweenRuns);
    let moved: Vec<(&str, Figure)> = slower.moved().map(|(it, of)| (it, of.figure)).collect();
    assert_eq!(moved, [("open", Figure::ServerCpu)], "{slower:?}");
    let [(_, figure)] = slower.moved().collect::<Vec<_>>()[..] else { panic!() };
    assert!((figure.difference.estimate - 2.0).abs() < 0.01, "{figure:?}");
    assert_eq!(history.questions, same.asked() + slower.asked(), "all at once: {history:?}");
    assert!(table(&history, None).contains("MOVED: open: server CPU µs/request"));
    let verdicts = slower.phases.iter().flat_map(|it| &it.phase.figures);
    assert!(verdicts.into_iter().all(|it| it.verdict != Verdict::Unknown || it.because.is_some()));
}

#[test]
fn a_directory_without_a_run_is_none() {
    let place = tempfile::tempdir().expect("a directory");
    let nothing = history(&args(place.path())).expect_err("no run");
    assert!(nothing.to_string().contains("no run, and no directory of runs"), "{nothing}");
    let nowhere = history(&args(&PathBuf::from("/nowhere/at/all"))).expect_err("no directory");
    assert!(nowhere.to_string().contains("/nowhere/at/all: cannot read it"), "{nowhere}");
    put(place.path(), "killed", "killed", |_| {});
    put(place.path(), "first", "first", |manifest| manifest["version"] = "9".into());
    let history = history(&args(place.path())).expect("a history");
    assert!(!history.runs[0].valid || !history.runs[1].valid, "{history:?}");
    let why = history.steps.iter().flat_map(|step| &step.not_compared);
    assert!(why.into_iter().any(|it| it.contains("no run was completed")), "{history:?}");
    let of_one = args(&place.path().join("first"));
    assert_eq!(super::history(&of_one).expect("a history").runs.len(), 1);
}
