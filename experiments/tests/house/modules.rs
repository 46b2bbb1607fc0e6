//! The modules of one crate: which file each stands in, and where the thing that a path names is
//! declared. Re-exports are followed to the declaring file. Does not judge.
//!
//! What macros declare is not seen. A path into a module of the crate whose last name is unknown
//! leads to that module's file.

use std::collections::BTreeMap;

use crate::facts::{Facts, Item, Module};

/// The facts of files by their names, `/` between folders.
pub(crate) type Files = BTreeMap<String, Facts>;

/// The segments of a module's path; none for the root.
pub(crate) type ModulePath = Vec<String>;

/// Longer chains of re-exports are circles of imports.
const LONGEST_CHAIN: usize = 16;

/// The modules of a library or program.
pub(crate) struct Tree<'a> {
    pub(crate) modules: BTreeMap<ModulePath, Placed<'a>>,
}

/// A module and the file it stands in.
pub(crate) struct Placed<'a> {
    pub(crate) file: &'a str,
    pub(crate) module: &'a Module,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Module(ModulePath),
    /// A name that the module declares, as far as the watch sees.
    Item(ModulePath, String),
    /// Out of the crate.
    External,
}

impl<'a> Tree<'a> {
    /// The tree under a root file such as `src/lib.rs`.
    pub(crate) fn new(root: &str, files: &'a Files) -> Option<Self> {
        let (file, facts) = files.get_key_value(root)?;
        let mut tree = Self { modules: BTreeMap::new() };
        let placed = Placed { file, module: &facts.root };
        tree.add(Vec::new(), placed, folder(root), files);
        Some(tree)
    }

    /// The files of the crate.
    pub(crate) fn files(&self) -> impl Iterator<Item = &'a str> {
        self.modules.values().map(|placed| placed.file)
    }

    /// Adds a module and those below; `inside` is the folder where the files of its modules are.
    fn add(&mut self, path: ModulePath, placed: Placed<'a>, inside: &str, files: &'a Files) {
        let Placed { file, module } = placed;
        let top_of_file = std::ptr::eq(module, &raw const files[file].root);
        for child in &module.modules {
            let below = [&path[..], std::slice::from_ref(&child.name)].concat();
            let named = join(inside, &child.name);
            if child.inline {
                let placed = Placed { file, module: child };
                self.add(below, placed, &named, files);
                continue;
            }
            let from = if top_of_file { folder(file) } else { inside };
            let (candidates, inside) = match &child.path {
                Some(path) => (vec![join(from, path)], folder(&join(from, path)).to_owned()),
                None => (vec![format!("{named}.rs"), format!("{named}/mod.rs")], named),
            };
            let found = candidates.iter().find_map(|name| files.get_key_value(name));
            if let Some((file, facts)) = found {
                let placed = Placed { file, module: &facts.root };
                self.add(below, placed, &inside, files);
            }
        }
        self.modules.insert(path, placed);
    }

    /// Where a path that stands in module `scope` leads.
    pub(crate) fn resolve(&self, scope: &[String], segments: &[String]) -> Target {
        self.resolve_within(scope, segments, LONGEST_CHAIN).unwrap_or(Target::External)
    }

    fn resolve_within(&self, scope: &[String], path: &[String], left: usize) -> Option<Target> {
        let left = left.checked_sub(1)?;
        let (mut module, mut rest) = (scope.to_vec(), path);
        let mut anchored = false;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" => module.clear(),
                "super" => drop(module.pop()?),
                "self" => {}
                _ => break,
            }
            (rest, anchored) = (after, true);
        }
        while let Some((name, after)) = rest.split_first() {
            match self.lookup(&module, name, after.is_empty(), left) {
                Some(Target::Module(inner)) => (module, rest, anchored) = (inner, after, true),
                Some(target) => return Some(target),
                None if anchored => return Some(Target::Item(module, name.clone())),
                None => return None,
            }
        }
        Some(Target::Module(module))
    }

    /// What a name means in a module; `last` when nothing of the path follows it.
    pub(crate) fn lookup(
        &self,
        scope: &[String],
        name: &str,
        last: bool,
        left: usize,
    ) -> Option<Target> {
        let left = left.checked_sub(1)?;
        let module = self.modules.get(scope)?.module;
        let holds_more = |item: &Item| !matches!(item.kind, "fn" | "const" | "static" | "macro");
        if module.items.iter().any(|item| item.name == name && (last || holds_more(item))) {
            return Some(Target::Item(scope.to_vec(), name.to_owned()));
        }
        let below = [scope, &[name.to_owned()]].concat();
        if self.modules.contains_key(&below) {
            return Some(Target::Module(below));
        }
        let named = module.imports.iter().filter(|one| one.name.as_deref() == Some(name));
        let mut external = None;
        for import in named {
            match self.resolve_within(scope, &import.segments, left) {
                None | Some(Target::External) => external = Some(Target::External),
                found => return found,
            }
        }
        external.or_else(|| {
            let globs = module.imports.iter().filter(|import| import.name.is_none());
            let modules =
                globs.filter_map(|glob| match self.resolve_within(scope, &glob.segments, left) {
                    Some(Target::Module(module)) if module != scope => Some(module),
                    _ => None,
                });
            modules.into_iter().find_map(|module| self.lookup(&module, name, last, left))
        })
    }

    /// The file in which a target is declared.
    pub(crate) fn file(&self, target: &Target) -> Option<&'a str> {
        match target {
            Target::Module(path) | Target::Item(path, _) => {
                self.modules.get(path).map(|placed| placed.file)
            }
            Target::External => None,
        }
    }
}

fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Joins two paths, and takes `..` out.
fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let texts = [
            ("a/src/lib.rs", "mod b;\nmod d;\n#[path = \"other/e.rs\"]\nmod e;\npub use b::*;\n"),
            ("a/src/b/mod.rs", "mod c;\npub use self::c::{Deep as Shallow, f};\nuse wire::Frame;"),
            ("a/src/b/c.rs", "pub struct Deep;\npub fn f() {}\npub mod inner { pub struct In; }"),
            ("a/src/d.rs", "mod inline { mod x; }\nuse crate::Shallow;\nuse d::d;"),
            ("a/src/d/inline/x.rs", "pub(crate) static X: u8 = 0;"),
            ("a/src/other/e.rs", "mod g;"),
            ("a/src/other/g.rs", ""),
        ];
        let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let (files, unread) = crate::sources::parse(&texts);
        assert_eq!(unread, Vec::<String>::new());
        files
    }

    #[test]
    fn modules_are_found_in_their_files() {
        let files = files();
        let tree = Tree::new("a/src/lib.rs", &files).expect("a root");
        let file = |path: &str| tree.file(&Target::Module(segments(path)));
        assert_eq!(file("b::c::inner"), Some("a/src/b/c.rs"));
        assert_eq!(file("d::inline::x"), Some("a/src/d/inline/x.rs"));
        assert_eq!(file("e::g"), Some("a/src/other/g.rs"));
        assert_eq!(file("h"), None);
        assert_eq!(tree.modules.len(), 9);
    }

    #[test]
    fn paths_lead_to_the_declaring_module() {
        let files = files();
        let tree = Tree::new("a/src/lib.rs", &files).expect("a root");
        for (scope, path, expected) in [
            ("", "b::Shallow", Some(("b::c", "Deep"))),
            ("d", "Shallow", Some(("b::c", "Deep"))),
            ("d", "crate::f", Some(("b::c", "f"))),
            ("d::inline", "super::super::b::Shallow::new", Some(("b::c", "Deep"))),
            ("b::c", "inner::In", Some(("b::c::inner", "In"))),
            ("b::c", "super::declared_by_a_macro", Some(("b", "declared_by_a_macro"))),
            ("b", "Frame::Login", None),
            ("d", "d::d", None),
            ("d", "std::fs", None),
        ] {
            let found = tree.resolve(&segments(scope), &segments(path));
            let expected = expected.map_or(Target::External, |(module, name)| {
                Target::Item(segments(module), name.to_owned())
            });
            assert_eq!(found, expected, "{path} in {scope}");
        }
    }

    fn segments(path: &str) -> Vec<String> {
        path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }
}
