//! The list of promises: each names a file of tests that there is, and a test in it.

/// Promises of `docs/promises.md` whose file or test is gone; `read` gives the text of a file. A
/// promise is an item of a list; its last words in code are its file and, where one alone shows it,
/// a test.
pub(crate) fn faults(promises: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let items: Vec<&str> = promises.split("\n- ").skip(1).collect();
    if items.is_empty() {
        faults.push("docs/promises.md promises nothing".to_owned());
    }
    for item in items {
        let item = item.split("\n\n").next().unwrap_or(item);
        let words: Vec<&str> = item.split('`').skip(1).step_by(2).collect();
        let Some(at) = words.iter().rposition(|word| word.ends_with(".rs")) else {
            faults.push(format!("docs/promises.md: no test shows this: {item}"));
            continue;
        };
        let (file, names) = (words[at], &words[at + 1..]);
        let Some(text) = read(file) else {
            faults.push(format!("docs/promises.md: there is no {file}: name the test of today"));
            continue;
        };
        let gone = names.iter().filter(|name| !text.contains(&format!("fn {name}(")));
        faults.extend(
            gone.map(|name| format!("docs/promises.md: {file} has no test {name}: name today's")),
        );
    }
    faults
}

#[test]
fn promises_of_tests_that_are_gone_are_seen() {
    let read = |file: &str| (file == "a/t.rs").then(|| "fn holds() {}\n".to_owned());
    let list = |tests: &str| format!("# Promises\n\n- `It` holds.\n  {tests}\n\n## More\n");
    assert_eq!(faults(&list("`a/t.rs` `holds`"), read), [""; 0]);
    assert_eq!(faults(&list("`a/t.rs`\n  `holds`"), read), [""; 0]);
    assert_eq!(faults(&list("`a/t.rs`"), read), [""; 0]);
    assert_eq!(faults(&list("`a/t.rs` `hold`"), read).len(), 1);
    assert_eq!(faults(&list("`b/t.rs`"), read).len(), 1);
    assert_eq!(faults(&list("somebody says so"), read).len(), 1);
    assert_eq!(faults("", read).len(), 1);
}
