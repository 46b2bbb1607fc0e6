//! Files of a run that were cut, swapped or damaged: whatever is made of the rest must not look
//! like a measurement. Each file is compared with what the others say.

mod common;

use std::path::Path;

use common::{json, lab, said};
use serde_json::Value;

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A recorded run, to be damaged.
fn a_copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs/first");
    for entry in std::fs::read_dir(run).expect("a directory").flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    copy
}

/// Changes a file of a run, line by line: a line becomes what `change` makes of it, or goes.
fn edit(run: &Path, name: &str, change: impl Fn(usize, &str) -> Option<String>) {
    let file = run.join(name);
    let text = std::fs::read_to_string(&file).expect("the file is there");
    let lines = text.lines().enumerate();
    let lines: Vec<String> = lines.filter_map(|(number, line)| change(number, line)).collect();
    std::fs::write(file, lines.join("\n") + "\n").expect("written");
}

/// What is wrong with the phases with shakes of a run, by its summary, and how `lab report` ended.
fn report(run: &Path) -> (Vec<String>, Option<i32>, String) {
    let output = lab(&["report", path(run)]);
    let summary = json(run, "summary.json");
    let phases = summary["phases"].as_array().expect("phases");
    let because = phases.iter().flat_map(|phase| {
        assert_eq!(
            phase["valid"] == true,
            phase["invalid_because"].as_array().is_some_and(Vec::is_empty),
            "{phase}"
        );
        phase["invalid_because"].as_array().cloned().unwrap_or_default()
    });
    let because = because.filter_map(|why| why.as_str().map(str::to_owned));
    // Its clients were late when it was made, which is no damage.
    let because: Vec<String> = because.filter(|why| !why.starts_with("p99 is not valid")).collect();
    let code =
        output.status.code().map(|code| if code == 4 && because.is_empty() { 0 } else { code });
    (because, code, said(&output))
}

type Damage = fn(&Path);

/// Each with words of what must be said of it.
fn damages() -> [(&'static str, Damage, &'static str); 6] {
    [
        (
            "the second half of the histograms is gone",
            |run| {
                let lines = std::fs::read_to_string(run.join("latency.hlog")).expect("read");
                let half = lines.lines().count() / 2;
                edit(run, "latency.hlog", |number, line| (number < half).then(|| line.to_owned()));
            },
            "latency.hlog has ",
        ),
        (
            "all of them",
            |run| std::fs::write(run.join("latency.hlog"), "").expect("written"),
            "latency.hlog has 0 values of latency",
        ),
        (
            "their tags are another's",
            |run| {
                edit(run, "latency.hlog", |_, line| Some(line.replace(":latency,", ":lateness,")));
            },
            "latency.hlog has 0 values of latency",
        ),
        (
            "one second of the clients is gone",
            |run| {
                let samples = std::fs::read_to_string(run.join("samples.jsonl")).expect("read");
                let busy = samples.lines().position(|line| {
                    let row: Value = serde_json::from_str(line).expect("a line");
                    row["source"] == "client" && row["answered"].as_u64() > Some(0)
                });
                let busy = busy.expect("a second with answers");
                edit(run, "samples.jsonl", |number, line| {
                    (number != busy).then(|| line.to_owned())
                });
            },
            "samples.jsonl counts ",
        ),
        (
            "the samples are cut",
            |run| {
                let file = run.join("samples.jsonl");
                let text = std::fs::read(&file).expect("read");
                std::fs::write(file, &text[..text.len() / 2]).expect("written");
            },
            "samples.jsonl counts ",
        ),
        (
            "the seconds of the server are gone",
            |run| {
                edit(run, "samples.jsonl", |_, line| {
                    (!line.contains("\"source\":\"server\"")).then(|| line.to_owned())
                });
            },
            "packets granted in all seconds of the server",
        ),
    ]
}

#[test]
fn a_whole_run_is_valid_and_each_damage_is_named() {
    let whole = a_copy();
    let (because, code, text) = report(whole.path());
    assert_eq!((because.as_slice(), code), (&[][..], Some(0)), "{text}");

    for (case, damage, words) in damages() {
        let run = a_copy();
        damage(run.path());
        let (because, code, text) = report(run.path());
        assert!(because.iter().any(|why| why.contains(words)), "{case}: {because:?}");
        assert!(matches!(code, Some(1 | 4)), "{case}: {code:?} {text}");
        // Nor is it compared or projected without being told to.
        let whole = a_copy();
        let compared = lab(&["compare", path(whole.path()), path(run.path())]);
        assert_eq!(compared.status.code(), Some(3), "{case}: {}", said(&compared));
        let planned = lab(&["plan", path(run.path())]);
        assert_eq!(planned.status.code(), Some(2), "{case}: {}", said(&planned));
    }
}

#[test]
fn a_tag_of_nobody_is_named() {
    let run = a_copy();
    edit(run.path(), "latency.hlog", |_, line| Some(line.replace(":latency,", ":lateness,")));
    let (_, code, text) = report(run.path());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(":lateness\", which is of no phase and segment of this run"), "{text}");
}

#[test]
fn a_manifest_without_machines_is_refused_in_a_sentence() {
    for hosts in [serde_json::json!([]), Value::Null] {
        let run = a_copy();
        let mut manifest = json(run.path(), "manifest.json");
        match hosts {
            Value::Null => manifest["hosts"][0]["cpus"] = serde_json::json!([]),
            hosts => manifest["hosts"] = hosts,
        }
        let text = manifest.to_string();
        std::fs::write(run.path().join("manifest.json"), text).expect("written");
        let planned = lab(&["plan", path(run.path())]);
        let words = said(&planned);
        assert_eq!(planned.status.code(), Some(2), "{words}");
        assert!(words.contains("names no machine with CPUs"), "{words}");
        let reported = lab(&["report", path(run.path())]);
        common::assert_exit(&reported, 0);
    }
}

/// A machine that could not say how much memory it has is none without any.
#[test]
fn a_run_that_does_not_know_its_memory_is_projected_without() {
    let run = a_copy();
    let mut manifest = json(run.path(), "manifest.json");
    manifest["hosts"][0]["memory_bytes"] = 0.into();
    std::fs::write(run.path().join("manifest.json"), manifest.to_string()).expect("written");
    let planned = lab(&["plan", path(run.path()), "--json"]);
    common::assert_exit(&planned, 0);
    let plan: Value = serde_json::from_slice(&planned.stdout).expect("JSON");
    assert_eq!(plan["machine"]["memory_bytes"], Value::Null, "{plan}");
    let text = said(&lab(&["plan", path(run.path())]));
    assert!(!text.contains(" 0 B") && text.contains("unknown memory"), "{text}");
    let text = said(&lab(&["plan", path(run.path()), "--phase", "nosuch"]));
    assert!(text.contains("there is no phase nosuch, but connect, open, all, closed"), "{text}");
}

/// What is left out of a run is said, also where the result does not need it; what cannot be known
/// without it is refused.
#[test]
fn a_damaged_run_is_named_when_it_is_compared_or_projected() {
    // A row that no other file says anything about.
    let cases = [("samples.jsonl", "\"proc\"", 2), ("events.jsonl", "\"established\"", 2)];
    for (name, of, planned) in cases {
        let (whole, run) = (a_copy(), a_copy());
        let at = std::cell::Cell::new(None);
        edit(run.path(), name, |number, line| {
            let cut = at.get().is_none() && line.contains(of);
            if cut {
                at.set(Some(number + 1));
            }
            Some(line[..if cut { line.len() / 2 } else { line.len() }].to_owned())
        });
        let place = format!("{name}:{}: ", at.get().expect("such a line"));
        let output = lab(&["plan", path(run.path())]);
        let words = said(&output);
        assert_eq!(output.status.code(), Some(planned), "{words}");
        assert!(words.contains("the run is damaged") && words.contains(&place), "{words}");
        let compare = ["compare", path(whole.path()), path(run.path())];
        let output = lab(&compare);
        let words = said(&output);
        assert_eq!(output.status.code(), Some(3), "{words}");
        assert!(words.contains("the run is damaged, and what its figures would be"), "{words}");
        let forced = lab(&[&compare[..], &["--force", "--json"]].concat());
        common::assert_exit(&forced, 0);
        let comparison: Value = serde_json::from_slice(&forced.stdout).expect("JSON");
        let damage = comparison["damage"].as_array().expect("what is damaged");
        let named = |it: &Value| it.as_str().is_some_and(|it| it.contains(&place));
        assert!(damage.len() == 1 && damage.iter().all(named), "{damage:?}");
    }
    let (whole, run) = (a_copy(), a_copy());
    std::fs::remove_file(run.path().join("slow.jsonl")).expect("removed");
    for command in [
        &["plan", path(run.path()), "--json"][..],
        &["compare", path(whole.path()), path(run.path()), "--json"],
    ] {
        let output = lab(command);
        common::assert_exit(&output, 0);
        let made: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(made["damage"].as_array().map(Vec::len), Some(1), "{command:?}");
        let words = said(&lab(&command[..command.len() - 1]));
        assert!(words.contains("damaged") && words.contains("slow.jsonl"), "{words}");
    }
}

/// Every file of a run absent, empty, a directory, or a list: a sentence each, and no panic.
#[test]
fn strange_files_get_a_sentence() {
    let names = ["manifest.json", "samples.jsonl", "slow.jsonl", "events.jsonl", "latency.hlog"];
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("absent", |file| std::fs::remove_file(file).expect("removed")),
        ("empty", |file| std::fs::write(file, "").expect("written")),
        ("a directory", |file| {
            std::fs::remove_file(file).expect("removed");
            std::fs::create_dir(file).expect("made");
        }),
        ("a list", |file| std::fs::write(file, "[]\n").expect("written")),
    ];
    for name in names {
        for (what, change) in changes {
            let run = a_copy();
            change(&run.path().join(name));
            let commands: [&[&str]; 3] = [
                &["report", path(run.path())],
                &["plan", path(run.path())],
                &["compare", path(run.path()), path(run.path())],
            ];
            for command in commands {
                let output = lab(command);
                let words = said(&output);
                assert!(!words.contains("panicked"), "{name} {what}, {command:?}: {words}");
                // A run of which the slowest requests are gone has all its figures.
                if name != "slow.jsonl" {
                    let code = output.status.code();
                    assert!(code.is_some_and(|code| code > 0), "{name} {what}, {command:?}");
                }
                assert!(!words.is_empty(), "{name} {what}, {command:?}");
            }
        }
    }
}
