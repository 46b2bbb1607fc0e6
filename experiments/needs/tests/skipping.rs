//! What `cargo test` shows of a test that is skipped: this program starts itself as cargo does,
//! with tests that need something that no machine has.

use std::process::{Command, Output};

use needs::test;

/// Tells the started program from the one that starts it.
const INSIDE: &str = "NEEDS_TEST_INSIDE";

needs::main!();

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// What the started program makes of its tests.
fn start(require: &str) -> (Output, String) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let output = command.env(INSIDE, "1").env("LAB_TEST_REQUIRE", require).output();
    let output = output.expect("it starts");
    let said = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    (output, said)
}

#[test]
fn needs_a_moon() {
    if inside() && !needs::can("moon", false) {
        return;
    }
    assert!(!inside(), "it was not skipped");
}

#[test]
fn needs_nothing() {
    assert!(needs::can("nothing", true));
}

mod within {
    #[needs::test]
    fn needs_half_a_moon() {
        if super::inside() {
            let _ = needs::can("moon", true) && needs::can("half", false);
        }
    }
}

#[test]
fn what_is_skipped_is_shown_with_its_reason_and_counted() {
    if inside() {
        return;
    }
    let (output, said) = start("");
    assert!(output.status.success(), "{output:?}");
    for line in [
        "test needs_a_moon ... ignored (needs moon)",
        "test within::needs_half_a_moon ... ignored (needs half)",
        "test needs_nothing ... ok",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let same = |line: &str| line.split_whitespace().eq(words.iter().copied());
        assert!(said.lines().any(same), "no line {line:?} in {said}");
    }
    assert!(said.contains("3 passed; 0 failed; 2 ignored"), "{said}");
}

#[test]
fn what_is_required_and_missing_fails() {
    if inside() {
        return;
    }
    let (output, said) = start("root,moon");
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("needs moon, which LAB_TEST_REQUIRE names"), "{said}");
    assert!(said.contains("3 passed; 1 failed; 1 ignored"), "{said}");
}
