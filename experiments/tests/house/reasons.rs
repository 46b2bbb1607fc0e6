//! What the workspace takes from outside: each dependency has a reason beside it, and a user.

/// Dependencies from outside without a reason, or which no manifest names, one sentence each.
pub(crate) fn faults(root: &str, manifests: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    let section = root.split("[workspace.dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let mut before = "";
    for line in section.lines() {
        let name = line.split([' ', '.', '=']).next().unwrap_or_default();
        if !name.is_empty() && name != "#" && !line.contains("path = ") {
            if before.strip_prefix("# ").is_none_or(|reason| reason.len() < 10) {
                faults.push(format!(
                    "Cargo.toml: {name} has no reason: say in a comment above it what it is for"
                ));
            }
            let names = |line: &str| {
                let rest = line.strip_prefix(name).unwrap_or_default();
                rest.starts_with(".workspace") || rest.starts_with(" = { workspace")
            };
            if !manifests.iter().flat_map(|manifest| manifest.lines()).any(names) {
                faults.push(format!("Cargo.toml: no crate names {name}: take it out"));
            }
        }
        before = line;
    }
    faults
}

#[test]
fn dependencies_without_a_reason_or_a_user_are_seen() {
    let root = |reason: &str| {
        format!(
            "[workspace]\n\n[workspace.dependencies]\nours = {{ path = \"ours\" }}\n\n{reason}\
             serde = \"1\"\n\n[workspace.lints.rust]\nmissing_docs = \"warn\"\n"
        )
    };
    let uses = ["[dependencies]\nserde.workspace = true\n".to_owned()];
    let with_features = ["serde = { workspace = true, features = [] }".to_owned()];
    let good = root("# Every file is one struct.\n");
    assert_eq!(faults(&good, &uses), Vec::<String>::new());
    assert_eq!(faults(&good, &with_features), Vec::<String>::new());
    assert_eq!(
        faults(&good, &["serde_json.workspace = true".to_owned()]),
        ["Cargo.toml: no crate names serde: take it out"]
    );
    for reason in ["", "# ok\n", "# Every file is one struct.\n\n"] {
        let seen = faults(&root(reason), &uses);
        assert!(seen.len() == 1 && seen[0].contains("serde has no reason"), "{reason}: {seen:?}");
    }
}
