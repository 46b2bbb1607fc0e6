//! Circles between the files of a crate: two files that import each other, straight or by way of
//! others.
//!
//! An arrow goes from a file to the file that declares what it names: through re-exports to the
//! declaring file, never to the parent that re-exports. No arrows are `mod x;`, a re-export of
//! what the file itself does not use, what tests import, and methods called on a value. For a
//! glob, each name of it that the file uses counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Import, Reach};
use crate::modules::{Files, Target, Tree};

/// What ties files: from, to, and the names.
pub(crate) type Arrows<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<String>>;

/// More names of an arrow than these are counted.
const NAMES_SHOWN: usize = 4;

/// The circles between the files under a root, one sentence each.
pub(crate) fn faults(root: &str, files: &Files) -> Vec<String> {
    let Some(tree) = Tree::new(root, files) else {
        return vec![format!("{root}: not among the files of the repository")];
    };
    let arrows = arrows(&tree);
    circles(&arrows).iter().map(|circle| sentence(root, circle, &arrows)).collect()
}

/// The arrows between the files of a crate.
pub(crate) fn arrows<'a>(tree: &Tree<'a>) -> Arrows<'a> {
    let mut arrows = Arrows::new();
    for (scope, placed) in &tree.modules {
        let module = placed.module;
        let mut targets = BTreeSet::new();
        let mut globs = Vec::new();
        let used = |import: &&Import| {
            let name = import.name.as_ref();
            import.visibility == Reach::Private
                || name.is_none_or(|name| module.identifiers.contains(name))
        };
        for import in module.imports.iter().filter(used) {
            match tree.resolve(scope, &import.segments) {
                Target::Module(of) if import.name.is_none() => globs.push(of),
                target => drop(targets.insert(target)),
            }
        }
        targets.extend(module.paths.iter().map(|path| tree.resolve(scope, path)));
        for glob in globs {
            let names = module.identifiers.iter();
            targets.extend(names.filter_map(|name| tree.lookup(&glob, name, true, 8)));
        }
        for target in targets {
            let Target::Item(_, name) = &target else { continue };
            let Some(file) = tree.file(&target).filter(|file| *file != placed.file) else {
                continue;
            };
            arrows.entry((placed.file, file)).or_default().insert(name.clone());
        }
    }
    arrows
}

/// The sets of files of which each reaches each other.
fn circles<'a>(arrows: &Arrows<'a>) -> Vec<BTreeSet<&'a str>> {
    let mut after: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    for (from, to) in arrows.keys() {
        after.entry(from).or_default().push(to);
    }
    let reached = |start: &'a str| {
        let mut reached = BTreeSet::new();
        let mut open = vec![start];
        while let Some(file) = open.pop() {
            for next in after.get(file).into_iter().flatten() {
                if reached.insert(*next) {
                    open.push(next);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&'a str, BTreeSet<&'a str>> =
        arrows.keys().map(|(from, _)| (*from, reached(from))).collect();
    let mut circles: BTreeSet<BTreeSet<&'a str>> = BTreeSet::new();
    for (file, all) in &reached {
        if all.contains(file) {
            let back = |other: &&str| reached.get(other).is_some_and(|all| all.contains(file));
            circles.insert(all.iter().copied().filter(back).collect());
        }
    }
    circles.into_iter().collect()
}

fn sentence(root: &str, circle: &BTreeSet<&str>, arrows: &Arrows<'_>) -> String {
    let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
    let short = |file: &str| {
        file.strip_prefix(folder).map_or(file, |file| file.trim_start_matches('/')).to_owned()
    };
    let mut ties: Vec<_> = arrows
        .iter()
        .filter(|((from, to), _)| circle.contains(from) && circle.contains(to))
        .collect();
    // The arrow that the fewest names tie is the easiest to turn.
    ties.sort_by_key(|(_, names)| names.len());
    let ties = ties.iter().map(|((from, to), names)| {
        let mut shown: Vec<&str> = names.iter().map(String::as_str).collect();
        let more = format!("{} more", shown.len().saturating_sub(NAMES_SHOWN));
        if shown.len() > NAMES_SHOWN {
            shown.truncate(NAMES_SHOWN);
            shown.push(&more);
        }
        format!("{} -> {} ({})", short(from), short(to), shown.join(", "))
    });
    let ties: Vec<String> = ties.collect();
    format!(
        "{folder}: {} files import each other in a circle: {}: move what one arrow names to a file \
         below both",
        circle.len(),
        ties.join("; "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[(&str, &str)]) -> Vec<String> {
        let named = |(name, text): &(&str, &str)| (format!("a/src/{name}"), (*text).to_owned());
        let texts: Vec<(String, String)> = texts.iter().map(named).collect();
        let (files, unread) = crate::sources::parse(&texts);
        assert_eq!(unread, Vec::<String>::new());
        faults("a/src/lib.rs", &files)
    }

    #[test]
    fn a_circle_by_way_of_a_re_export_is_seen() {
        let seen = found(&[
            ("lib.rs", "mod b;\nmod c;\npub(crate) use c::Low;"),
            ("b.rs", "use crate::Low;\npub(crate) struct High(Low);"),
            ("c.rs", "pub(crate) struct Low;\nfn f() { println!(\"{}\", crate::b::High::new()) }"),
        ]);
        let expected = "a/src: 2 files import each other in a circle: b.rs -> c.rs (Low); c.rs -> \
                        b.rs (High): move what one arrow names to a file below both";
        assert_eq!(seen, [expected]);
    }

    #[test]
    fn a_circle_of_three_with_parent_and_glob_is_seen() {
        let seen = found(&[
            ("lib.rs", "mod b;\npub(crate) const TOP: u8 = 0;\nfn f() { b::run(); }"),
            ("b/mod.rs", "mod c;\nuse c::*;\npub(crate) fn run() { step() }"),
            ("b/c.rs", "pub(super) fn step() { use super::super::TOP; }"),
        ]);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(
            seen[0].contains("3 files") && seen[0].contains("b/c.rs -> lib.rs (TOP)"),
            "{seen:?}"
        );
    }

    #[test]
    fn what_ties_no_files_is_no_arrow() {
        let seen = found(&[
            // Declares, re-exports and is imported by its children.
            ("lib.rs", "mod b;\npub mod c;\npub use b::High;\npub const TOP: u8 = 0;"),
            ("b.rs", "use super::TOP;\nuse crate::c;\npub struct High([c::Low; TOP]);"),
            // Tests may look up, and words in comments and strings are no code.
            (
                "c.rs",
                "//! crate::b::High\npub struct Low;\n\
                 #[cfg(test)]\nmod tests { use crate::b::High; }",
            ),
        ]);
        assert_eq!(seen, Vec::<String>::new());
    }

    #[test]
    fn a_root_that_is_not_there_is_seen() {
        assert_eq!(found(&[]).len(), 1);
    }
}
