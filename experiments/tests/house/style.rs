//! Sizes, heads and habits of single files that no lint knows.

use crate::facts::Facts;

const LONGEST_FILE: usize = 600;
const LONGEST_LINE: usize = 100;
const LONGEST_FUNCTION: usize = 70;

/// What is wrong with a file, one sentence each.
pub(crate) fn faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        faults.push(format!(
            "{name}: {lines} lines, more than {LONGEST_FILE}: split it by what its parts own"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let columns = line.chars().count();
        if columns > LONGEST_LINE {
            faults.push(format!(
                "{name}:{number}: {columns} columns, more than {LONGEST_LINE}: break the line"
            ));
        }
        // The words are put together here so that this file does not contain them.
        for (habit, instead) in [
            (concat!("process::", "exit"), "return an `ExitCode` from `main`"),
            (concat!("#[", "ignore"), "ask `needs` in the test, which shows and counts it"),
            (
                concat!("println!(\"skip", "ped: "),
                "ask `needs` in the test, which shows and counts it",
            ),
        ] {
            if line.contains(habit) {
                faults.push(format!("{name}:{number}: {habit}: {instead}"));
            }
        }
    }
    let head = text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
    if !head.is_some_and(|line| line.starts_with("//!")) {
        faults.push(format!("{name}: no head: say in `//!` what it owns and must not know"));
    }
    faults
}

/// The functions of a file that are too long, one sentence each. Those of tests and benchmarks
/// count as well.
pub(crate) fn long_functions(name: &str, facts: &Facts) -> Vec<String> {
    let long = facts.functions.iter().filter(|function| function.lines > LONGEST_FUNCTION);
    let sentence = |function: &crate::facts::Function| {
        let (line, function, lines) = (function.line, &function.name, function.lines);
        format!(
            "{name}:{line}: fn {function} has {lines} lines, more than {LONGEST_FUNCTION}: name \
             its steps and make functions of them"
        )
    };
    long.map(sentence).collect()
}

#[test]
fn sizes_heads_and_habits_are_seen() {
    let good = "//! Owns nothing.\n\nfn main() {}\n";
    assert_eq!(faults("good.rs", good), Vec::<String>::new());
    assert_eq!(faults("head.rs", "fn main() {}\n").len(), 1);
    assert_eq!(faults("wide.rs", &format!("{good}// {}\n", "x".repeat(100))).len(), 1);
    assert_eq!(faults("long.rs", &good.repeat(300)).len(), 1);
    let habit = concat!("std::process::", "exit(1)");
    assert_eq!(faults("exit.rs", &format!("{good}{habit}\n")).len(), 1);
}

#[test]
fn a_function_of_more_than_seventy_lines_is_seen() {
    let long = |lines: usize| {
        let text = format!("impl A {{\n    pub fn long() {{\n{}    }}\n}}\n", "\n".repeat(lines));
        long_functions("long.rs", &crate::facts::read(&text).expect("it parses"))
    };
    assert_eq!(long(68), Vec::<String>::new());
    let seen = long(69);
    assert!(seen.len() == 1 && seen[0].starts_with("long.rs:2: fn long has 71 lines"), "{seen:?}");
}
