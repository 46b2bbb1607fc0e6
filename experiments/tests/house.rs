//! Keeps watch over the whole workspace: sizes, heads and habits that no lint knows.

use std::path::{Path, PathBuf};
use std::process::Command;

const LONGEST_FILE: usize = 600;
const LONGEST_LINE: usize = 100;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The Rust files of the repository, those not yet committed included.
fn rust_files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(top())
        .output()
        .expect("git is there");
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let files: Vec<PathBuf> = names.lines().map(|name| top().join(name)).collect();
    files.into_iter().filter(|file| file.exists()).collect()
}

/// What is wrong with a file, in sentences.
fn faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        faults.push(format!("{name}: {lines} lines, more than {LONGEST_FILE}"));
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let columns = line.chars().count();
        if columns > LONGEST_LINE {
            faults.push(format!("{name}:{number}: {columns} columns, more than {LONGEST_LINE}"));
        }
        // The words are put together here so that this file does not contain them.
        for habit in [concat!("process::", "exit"), concat!("#[", "ignore")] {
            if line.contains(habit) {
                faults.push(format!("{name}:{number}: {habit}"));
            }
        }
    }
    let head = text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
    if !head.is_some_and(|line| line.starts_with("//!")) {
        faults.push(format!("{name}: does not say in its head (//!) what it owns"));
    }
    faults
}

#[test]
fn the_house_is_in_order() {
    let files = rust_files();
    assert!(files.len() > 50, "{} files", files.len());
    let faults: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).expect("text");
            faults(&file.strip_prefix(top()).unwrap_or(file).display().to_string(), &text)
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_watch_sees_what_it_should() {
    let good = "//! Owns nothing.\n\nfn main() {}\n";
    assert_eq!(faults("good.rs", good), Vec::<String>::new());
    assert_eq!(faults("head.rs", "fn main() {}\n").len(), 1);
    assert_eq!(faults("wide.rs", &format!("{good}// {}\n", "x".repeat(100))).len(), 1);
    assert_eq!(faults("long.rs", &good.repeat(300)).len(), 1);
    let habit = concat!("std::process::", "exit(1)");
    assert_eq!(faults("exit.rs", &format!("{good}{habit}\n")).len(), 1);
}
