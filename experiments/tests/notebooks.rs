//! The notebooks on the recorded runs and on fresh ones, and the tests of what loads them. They
//! need Python with what `notebooks/requirements.txt` names: that of `LAB_TEST_PYTHON`, else one in
//! `target/notebooks`, where `.ci/run` puts it.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{assert_exit, experiment, lab};
use needs::test;

needs::main!();

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A Python that has what the notebooks need; `None`, with the reason said, where there is none.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("LAB_TEST_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| top().join("target/notebooks/bin/python"));
    let complete = Command::new(&python)
        .args(["-c", "import altair, hdrh, ipykernel, nbclient, polars, pytest"])
        .output()
        .is_ok_and(|output| output.status.success());
    needs::can("python", complete).then_some(python)
}

fn run(python: &Path, arguments: &[&str], environment: &[(&str, &Path)]) -> Output {
    Command::new(python)
        .args(arguments)
        .current_dir(top().join("notebooks"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("LAB_RUN")
        .env_remove("LAB_RUN_BEFORE")
        .env_remove("LAB_RUN_AFTER")
        .env_remove("LAB_RUNS")
        .envs(environment.iter().copied())
        .output()
        .expect("Python starts")
}

fn assert_fine(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn what_loads_a_run_is_tested() {
    let Some(python) = python() else { return };
    assert_fine(&run(&python, &["-m", "pytest", "-q", "-p", "no:cacheprovider"], &[]));
}

#[test]
fn notebooks_run_on_the_recorded_runs() {
    let Some(python) = python() else { return };
    let output = run(&python, &["execute.py"], &[]);
    assert_fine(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let charts = |notebook: &str| {
        let line = text.lines().find(|line| line.starts_with(notebook)).expect("executed");
        let number = line.split_whitespace().nth(1).and_then(|it| it.parse::<u32>().ok());
        number.expect("a number of charts")
    };
    // All that they have: the recorded run has probes, faults and slow requests.
    assert_eq!(["01", "02", "03", "04", "05"].map(charts), [6, 4, 2, 2, 2], "{text}");
}

#[test]
fn notebooks_run_on_fresh_runs() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("runs");
    let file = experiment("smoke");
    let [file, path] = [&file, &out].map(|path| path.to_str().expect("UTF-8"));
    assert_exit(&lab(&["run", file, "--out", path, "--repeat", "2"]), 0);
    let (first, second) = (out.join("1"), out.join("2"));
    let environment = [
        ("LAB_RUN", &*first),
        ("LAB_RUN_BEFORE", &*first),
        ("LAB_RUN_AFTER", &*second),
        ("LAB_RUNS", &*out),
    ];
    assert_fine(&run(&python, &["execute.py"], &environment));
}
