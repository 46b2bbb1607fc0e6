//! Tests that would never run. Without libtest the attribute `#[test]` of the standard library
//! takes its function away; with libtest the `main` of `needs` is never called.

use crate::packages::Package;
use crate::sources::top;

/// Test files of a package whose tests do not run, one sentence each.
pub(crate) fn faults(package: &Package, texts: &[(String, String)]) -> Vec<String> {
    let manifest = top().join(&package.folder).join("Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("a manifest");
    let own = texts.iter().filter(|(name, _)| package.tests.contains(name));
    own.filter_map(|(name, text)| fault(name, text, &manifest)).collect()
}

fn fault(name: &str, text: &str, manifest: &str) -> Option<String> {
    let short = name.rsplit('/').find(|part| *part != "main.rs")?.trim_end_matches(".rs");
    let of_this = |section: &&str| section.contains(&format!("name = \"{short}\"\n"));
    let mut sections = manifest.split("[[test]]").skip(1).map(before_next);
    let own_harness = sections.any(|it| of_this(&it) && it.contains("harness = false"));
    let has = |line: &str| text.lines().any(|own| own == line);
    if own_harness && has("#[test]") && !has("use needs::test;") {
        return Some(format!(
            "{name}: its tests never run, as its manifest says `harness = false`: write `use \
             needs::test;`"
        ));
    }
    if !own_harness && has("needs::main!();") {
        return Some(format!(
            "{name}: its tests never run, as libtest looks for others: write `harness = false` \
             into its manifest, below `[[test]]` and its name"
        ));
    }
    None
}

/// What stands before the next table of a manifest.
fn before_next(section: &str) -> &str {
    section.split("\n[").next().unwrap_or(section)
}

#[test]
fn tests_that_never_run_are_seen() {
    let standard = "#[test]\nfn one() {}\n";
    let skipping = format!("use needs::test;\n\nneeds::main!();\n\n{standard}");
    let manifest = "[[test]]\nname = \"a\"\nharness = false\n\n[[test]]\nname = \"b\"\n";
    for (name, text, seen) in [
        ("x/tests/a.rs", standard, Some("x/tests/a.rs: its tests never run, as its manifest")),
        ("x/tests/a.rs", "fn main() {}\n", None),
        ("x/tests/a.rs", &skipping, None),
        ("x/tests/a/main.rs", &skipping, None),
        ("x/tests/b.rs", &skipping, Some("x/tests/b.rs: its tests never run, as libtest")),
        ("x/tests/c.rs", &skipping, Some("x/tests/c.rs: its tests never run, as libtest")),
        ("x/tests/b.rs", standard, None),
    ] {
        let fault = fault(name, text, manifest);
        let as_expected = fault.as_deref().zip(seen).map(|(fault, seen)| fault.starts_with(seen));
        assert_eq!(as_expected.unwrap_or(false), seen.is_some(), "{name}: {fault:?}");
        assert_eq!(fault.is_some(), seen.is_some(), "{name}: {fault:?}");
    }
}
