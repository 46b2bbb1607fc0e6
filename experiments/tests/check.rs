//! `lab check`, and what `lab` says about input that is wrong or too much.

mod common;

use std::path::Path;

use common::{assert_exit, experiment, lab, said};

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn every_experiment_of_the_repository_passes_the_check() {
    let files = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the folder");
    let files: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
    let experiments = files.iter().filter(|file| file.extension().is_some_and(|it| it == "ron"));
    let mut seen = 0;
    for file in experiments {
        seen += 1;
        let mut arguments = vec!["check", path(file)];
        // What it plans is checked here, not whether a million users fit the machine of the test.
        if !file.ends_with("r2950.ron") {
            arguments.extend(["--set", "users=1000"]);
        }
        let output = lab(&arguments);
        assert_exit(&output, 0);
        assert!(!said(&output).contains("REFUSED"), "{}", said(&output));
    }
    assert!(seen >= 5, "{seen} experiments");
}

#[test]
fn what_does_not_fit_is_refused_before_it_starts() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let file = experiment("three-phases");
    let output = lab(&["run", path(&file), "--out", path(&out), "--set", "users=1000000000"]);
    assert_exit(&output, 3);
    let text = said(&output);
    assert!(text.contains("REFUSED"), "{text}");
    assert!(text.contains("--set users="), "names what would fit: {text}");
    assert!(!out.exists(), "nothing was begun");
}

#[test]
fn mistakes_are_told_with_their_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("broken.ron");
    let text = concat!(
        "(\n    name: \"x\",\n    users: 10,\n    phases: [\n",
        "        (name: \"a\", second: 3),\n    ],\n)\n",
    );
    std::fs::write(&file, text).expect("written");
    for command in ["check", "run"] {
        let output = lab(&[command, path(&file)]);
        assert_exit(&output, 2);
        let text = said(&output);
        assert!(text.contains("broken.ron:5:"), "{text}");
        assert!(text.contains("did you mean seconds?"), "names what was expected: {text}");
    }
    let file = experiment("smoke");
    let wrong = [
        "users=many",
        "users=0",
        "phases.nowhere.seconds=3",
        "nothing=1",
        "phases.shake.shake.Open.rate.Fixed=0",
    ];
    for setting in wrong {
        let output = lab(&["check", path(&file), "--set", setting]);
        assert_exit(&output, 2);
        let about = setting.split('=').next().unwrap_or_default();
        assert!(said(&output).contains(about), "{setting}: {}", said(&output));
    }
    for (setting, near) in [
        ("userz=1", "did you mean users?"),
        ("phases.conect.until=1", "did you mean connect?"),
        ("probes=Of", "did you mean Off?"),
    ] {
        let output = lab(&["check", path(&file), "--set", setting]);
        assert_exit(&output, 2);
        assert!(said(&output).contains(near), "{setting}: {}", said(&output));
    }
    let output = lab(&["check", path(&file.with_file_name("smok.ron"))]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("smoke.ron?)"), "{}", said(&output));
    let output = lab(&["check", "no-such-file.ron"]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("no-such-file.ron"), "{}", said(&output));
    let output = lab(&["report", path(directory.path())]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("has none of the files of a run"), "{}", said(&output));
}
