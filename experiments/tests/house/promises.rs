//! The table of promises: each row names a file of tests that there is, and a test in it.

/// Rows of `docs/promises.md` whose file or test is gone; `read` gives the text of a file.
pub(crate) fn faults(table: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let tests = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let tests: Vec<&str> = tests.filter(|cell| *cell != "test").collect();
    let mut faults = Vec::new();
    if tests.is_empty() {
        faults.push("docs/promises.md promises nothing".to_owned());
    }
    for cell in tests {
        let mut words = cell.split('`').filter(|word| !word.trim().is_empty());
        let file = words.next().unwrap_or_default();
        let Some(text) = read(file) else {
            faults.push(format!("docs/promises.md: there is no {file}: name the test of today"));
            continue;
        };
        let gone = words.filter(|name| !text.contains(&format!("fn {name}(")));
        faults.extend(
            gone.map(|name| format!("docs/promises.md: {file} has no test {name}: name today's")),
        );
    }
    faults
}

#[test]
fn rows_of_tests_that_are_gone_are_seen() {
    let read = |file: &str| (file == "a/t.rs").then(|| "fn holds() {}\n".to_owned());
    let table = |cell: &str| format!("| promise | test |\n| --- | --- |\n| It holds. | {cell} |\n");
    assert_eq!(faults(&table("`a/t.rs` `holds`"), read), [""; 0]);
    assert_eq!(faults(&table("`a/t.rs`"), read), [""; 0]);
    assert_eq!(faults(&table("`a/t.rs` `hold`"), read).len(), 1);
    assert_eq!(faults(&table("`b/t.rs`"), read).len(), 1);
    assert_eq!(faults("", read).len(), 1);
}
