//! `lab history`: on a terminal, for programs, and as a page in a browser.

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::path::Path;
use std::process::Command;

use browser::Browser;
use common::{assert_exit, json, lab, output, said};
use needs::test;
use serde_json::{Value, json};

needs::main!();

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Runs over four commits and two kernels, of which one costs three times the CPU; with what is no
/// run among them.
fn runs() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs");
    let mut at = 0;
    let mut put = |run: &str, version: &str, kernel: &str, slower: bool| {
        at += 1;
        let into = place.path().join(format!("run-{at:02}"));
        std::fs::create_dir(&into).expect("made");
        for entry in std::fs::read_dir(recorded.join(run)).expect("recorded").flatten() {
            std::fs::copy(entry.path(), into.join(entry.file_name())).expect("copied");
        }
        let mut manifest = json(&into, "manifest.json");
        manifest["started"] = (1_795_000_000 + at * 86_400).into();
        manifest["version"] = version.into();
        manifest["hosts"][0]["kernel"] = kernel.into();
        std::fs::write(into.join("manifest.json"), manifest.to_string()).expect("written");
        if slower {
            let samples = into.join("samples.jsonl");
            let text = std::fs::read_to_string(&samples).expect("there");
            let lines = text.lines().map(|line| {
                let mut row: Value = serde_json::from_str(line).expect("JSON");
                if row["source"] == "proc" && row["of"] == "server" && row["cpu_us"].is_u64() {
                    row["cpu_us"] = json!(row["cpu_us"].as_u64().unwrap_or(0) * 3);
                }
                row.to_string() + "\n"
            });
            std::fs::write(&samples, lines.collect::<String>()).expect("written");
        }
    };
    for run in ["first", "second", "first"] {
        put(run, "3f1c0aa", "6.18.44", false);
    }
    for run in ["second", "first", "second"] {
        put(run, "9d20b17", "6.18.44", true);
    }
    put("first", "9d20b17", "7.0.1", true);
    put("killed", "9d20b17", "7.0.1", false);
    put("saturation", "3f1c0aa", "6.18.44", false);
    std::fs::create_dir(place.path().join("pictures")).expect("made");
    std::fs::create_dir(place.path().join("broken")).expect("made");
    std::fs::write(place.path().join("broken/manifest.json"), "[").expect("written");
    place
}

#[test]
fn a_history_is_told_as_json_and_as_a_table() {
    let runs = runs();
    let output_json = lab(&["history", path(runs.path()), "--json"]);
    assert_exit(&output_json, 0);
    let history: Value = serde_json::from_slice(&output_json.stdout).expect("JSON");
    assert_eq!(history["runs"].as_array().map(Vec::len), Some(9));
    assert_eq!(history["left_out"].as_array().map(Vec::len), Some(2), "{history}");
    let moved: Vec<&Value> = history["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|step| step["phases"].as_array().into_iter().flatten())
        .flat_map(|phase| phase["figures"].as_array().into_iter().flatten())
        .filter(|figure| figure["verdict"] == "shown")
        .collect();
    assert!(!moved.is_empty(), "{history}");
    assert!(moved.iter().all(|figure| figure["figure"] == "server_cpu"), "{moved:?}");
    let wide = lab(&["history", path(runs.path())]);
    assert_exit(&wide, 0);
    let wide = said(&wide);
    for words in [
        "run-01¹",
        "everything, 1 to 3 → 4 to 6: changed: version: 3f1c0aa → 9d20b17",
        "MOVED: open: server CPU",
        "left out: ",
    ] {
        assert!(wide.contains(words), "{words}: {wide}");
    }
    assert_exit(&lab(&["history", path(&runs.path().join("pictures"))]), 2);
}

#[test]
fn a_history_ends_its_lines_where_the_terminal_does() {
    if !needs::program("script", "script") {
        return;
    }
    let runs = runs();
    for columns in [72, 110] {
        let line = format!(
            "stty cols {columns}; exec {} history {}",
            env!("CARGO_BIN_EXE_lab"),
            path(runs.path())
        );
        let shown = output(Command::new("script").args(["-qec", &line, "/dev/null"]));
        let text = said(&shown);
        assert!(text.contains("run-01") && text.contains("MOVED"), "{text}");
        for line in text.lines().map(|line| line.trim_end_matches('\r')) {
            let fits = line.chars().count() <= columns || !line.trim().contains(' ');
            assert!(fits, "{columns}: {line}");
        }
    }
}

#[test]
fn the_page_of_a_history_is_read_at_every_width() {
    let Some(mut browser) = Browser::start() else { return };
    let runs = runs();
    let page = runs.path().join("history.html");
    let told = lab(&["history", path(runs.path()), "--out", path(&page)]);
    assert_exit(&told, 0);
    assert!(said(&told).ends_with(&format!("{}\n", page.display())), "{}", said(&told));
    for width in [1280, 400] {
        for dark in [false, true] {
            browser.window(width, 900, dark);
            browser.open(&format!("file://{}", page.display()));
            assert_eq!(browser.said(), Vec::<String>::new());
            let widest = browser.evaluate("document.documentElement.scrollWidth").as_u64();
            assert!(widest.is_some_and(|widest| widest <= u64::from(width)), "{widest:?}");
            let colour = browser.evaluate("getComputedStyle(document.body).backgroundColor");
            assert_eq!(colour == "rgb(255, 255, 255)", !dark, "{colour}");
            let rows = browser.evaluate("document.querySelectorAll('#runs tbody tr').length");
            assert!(rows.as_u64().is_some_and(|rows| rows >= 9), "{rows}");
            let moved = browser.evaluate("document.querySelector('#steps .move').textContent");
            let moved = moved.as_str().unwrap_or_default().to_owned();
            assert!(moved.contains(": server CPU a request moved from "), "{moved}");
            // A picture says in words what it shows, and has a dot a run.
            let charts = browser.evaluate(
                "[...document.querySelectorAll('#charts svg')].every(it => \
                 it.getAttribute('aria-label').split(', ').length === \
                 it.querySelectorAll('circle').length)",
            );
            assert_eq!(charts, true);
        }
    }
    // What a run says of itself is text.
    let first = runs.path().join("run-01");
    let mut manifest = json(&first, "manifest.json");
    manifest["version"] = "</script><img src=x onerror=alert(1)>".into();
    std::fs::write(first.join("manifest.json"), manifest.to_string()).expect("written");
    assert_exit(&lab(&["history", path(runs.path()), "--out", path(&page)]), 0);
    browser.open(&format!("file://{}", page.display()));
    assert_eq!(browser.said(), Vec::<String>::new());
    assert_eq!(browser.evaluate("document.querySelectorAll('img').length"), 0);
}

#[test]
fn axe_finds_nothing_wrong_with_the_page_of_a_history() {
    let Some(mut browser) = Browser::start() else { return };
    let Some(axe) = browser::axe() else { return };
    let runs = runs();
    let page = runs.path().join("history.html");
    assert_exit(&lab(&["history", path(runs.path()), "--out", path(&page)]), 0);
    for width in [1280, 400] {
        browser.window(width, 900, false);
        browser.open(&format!("file://{}", page.display()));
        assert_eq!(browser.findings(&axe), [""; 0], "at {width}");
    }
}
