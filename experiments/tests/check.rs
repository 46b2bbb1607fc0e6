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
        "name=.",
        "name=..",
        "phases.shake.name=..",
        "phases.shake.name=-",
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

/// Where people name a file there may be anything: a device, a file that is all hole, a pipe that
/// nobody writes to. None is read without an end.
#[test]
fn what_is_no_file_gets_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sparse, pipe) = (directory.path().join("sparse.ron"), directory.path().join("pipe.ron"));
    let file = std::fs::File::create(&sparse).expect("made");
    file.set_len(1 << 40).expect("a file system with sparse files");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let cases = [
        (Path::new("/dev/zero"), "it is a device"),
        (directory.path(), "it is a directory"),
        (&sparse, "it has more than 1048576 bytes"),
        (&pipe, "pipe.ron"),
    ];
    for (file, words) in cases {
        let secret = ["--nats-user", "x", "--nats-password-file", path(file)];
        let hosts = [&["hosts", "--nats", "127.0.0.1:1"], &secret[..]].concat();
        let commands: [&[&str]; 5] = [
            &["check", path(file)],
            &["run", path(file)],
            &["tune", "check", path(file)],
            &["tune", "show", path(file)],
            &hosts,
        ];
        // A pipe has a secret of nothing, which is for the server to refuse.
        let commands = &commands[..if file == pipe { 4 } else { 5 }];
        for command in commands {
            let output = lab(command);
            let text = said(&output);
            let code = output.status.code();
            assert!(matches!(code, Some(1 | 2)), "{command:?}: {code:?} {text}");
            let words =
                if command[0] == "hosts" { words.split(" 1048576").next() } else { Some(words) };
            assert!(text.contains(words.expect("words")), "{command:?}: {text}");
            assert!(!text.contains("panicked"), "{command:?}: {text}");
        }
    }
    // The files of a run, too.
    for name in ["manifest.json", "samples.jsonl", "slow.jsonl", "events.jsonl", "latency.hlog"] {
        let run = directory.path().join(name);
        std::fs::create_dir(&run).expect("made");
        let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs/first");
        for entry in std::fs::read_dir(recorded).expect("a run").flatten() {
            std::fs::copy(entry.path(), run.join(entry.file_name())).expect("copied");
        }
        let file = std::fs::File::options().write(true).open(run.join(name)).expect("there");
        file.set_len(1 << 40).expect("sparse");
        for command in [&["report", path(&run)][..], &["plan", path(&run)]] {
            let output = lab(command);
            let text = said(&output);
            let needed = command[0] == "report" || !matches!(name, "slow.jsonl" | "latency.hlog");
            assert!(output.status.code() != Some(0) || !needed, "{name}: {text}");
            let words = if name == "manifest.json" { "cannot read it" } else { "is longer than" };
            assert!(text.contains(words), "{name}, {command:?}: {text}");
        }
    }
}

/// An experiment that another program makes.
#[test]
fn an_experiment_that_is_piped_is_checked() {
    let file = std::fs::File::open(experiment("smoke")).expect("there");
    let mut cat = std::process::Command::new("cat");
    let cat = cat.stdin(file).stdout(std::process::Stdio::piped()).spawn();
    let mut cat = cat.expect("cat");
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_lab"));
    check.args(["check", "/dev/stdin", "--set", "users=1000"]);
    let output = check.stdin(cat.stdout.take().expect("piped")).output().expect("lab");
    cat.wait().expect("cat ends");
    assert_exit(&output, 0);
}

/// `lab server` and `lab client` end as `lab-server` and `lab-client` do.
#[test]
fn programs_end_with_the_same_code_by_whatever_name() {
    let open = ["--control", "0.0.0.0:0", "--control-open"];
    let anywhere = ["--control", "127.0.0.1:0"];
    let cases: [(&str, &[&str], &str); 7] = [
        ("server", &open, "reached from other machines"),
        ("server", &["--users", "0", anywhere[0], anywhere[1]], "--users 0"),
        ("server", &["--config", "{"], "--config"),
        ("client", &open, "reached from other machines"),
        ("client", &["--shards", "0", anywhere[0], anywhere[1]], "--shards 0"),
        ("client", &["--rate", "4294967295", anywhere[0], anywhere[1]], "between 0 and"),
        ("client", &["--config", "{"], "--config"),
    ];
    for (program, arguments, words) in cases {
        let output = lab(&[&[program], arguments].concat());
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{program} {arguments:?}: {text}");
        assert!(text.contains(words), "{program} {arguments:?}: {text}");
    }
    // What they meet is no mistake of who asks.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    for program in ["server", "client"] {
        assert_exit(&lab(&[program, "--control", &taken]), 1);
    }
}

#[test]
fn nothing_is_watched_for_no_time() {
    let pid = std::process::id().to_string();
    let commands: [&[&str]; 3] = [
        &["profile", "--pid", &pid, "--seconds", "0"],
        &["probe", "--pid", &pid, "--seconds", "0"],
        &["client", "--seconds", "0"],
    ];
    for command in commands {
        let output = lab(command);
        assert_exit(&output, 2);
        assert!(said(&output).contains("--seconds"), "{}", said(&output));
    }
}
