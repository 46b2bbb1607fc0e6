//! Public items of libraries that nothing outside uses, as far as names tell.
//!
//! A public item has a user when its name is an identifier of a file outside the library: in a
//! package that depends on it, or in programs, benchmarks and examples of its own. It has one as
//! well when the signature of a used item names it: the fields, variants, bounds and associated
//! types that users see must be public. A public method or constant of a used type has a user
//! when its name occurs in any package that reaches the library. Tests of the same package do not
//! count, unless [`KEPT`] gives a reason. An entry for a type holds for the methods its tests call.
//!
//! Names are compared, not types: an unused item with a name that others use stays unseen, and so
//! does what macros declare. What is found has no user for certain, as its name does not occur.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Item, Names, Reach};
use crate::modules::{Files, ModulePath, Target, Tree};
use crate::packages::{Package, owner};

/// Public items that may stay without a user: crate and name, and the reason.
pub(crate) const KEPT: &[(&str, &str)] = &[
    ("ebpf::ThreadCounters", "tests that need root compare its counts with those of /proc"),
    ("fuzz::LARGEST_BYTES", "a test asks for more, and is ended"),
    ("fuzz::TARGETS", "a test feeds each target its corpus"),
    ("journal::SimulatedDisk::flip", "the simulation damages files"),
    ("journal::Writer::has_failed", "the simulation sees a segment given up"),
    ("lab-client::Event", "the simulated world waits for it"),
    (
        "lab-client::LoadGenerator",
        "tests carry its users through a simulated world, without sockets",
    ),
    ("lab-client::Pacer", "tests carry out a schedule of a fleet without sockets"),
    ("lab-client::Rules", "the simulated world starts users with it"),
    ("lab-client::Transport", "the simulated world is one"),
    ("lab-server::Budget::set_limit", "the simulation limits overload with it"),
    ("lab-server::Claimed", "property tests of shares look at what a claim came to"),
    ("lab-server::FIRST_SENT", "tests of bad input name packets that were never sent"),
    ("lab-server::Held", "the simulation carries out what waited for the ledger"),
    ("lab-server::Holding", "the simulation keeps what waits for the ledger"),
    ("lab-server::Logic::gauges", "the simulation looks at what a shard would show"),
    ("lab-server::Logic::go_on", "the simulation polls shards without sockets"),
    ("lab-server::Logic::restore", "the simulation starts shards again from a ledger"),
    ("lab-server::Logic::sets", "the simulation looks into SETs"),
    ("lab-server::NO_CREATOR", "the simulation books packets without a creator"),
    ("lab-server::Queued", "the simulation looks into queues"),
    ("lab-server::Server::budget", "tests change the limit of a server that runs"),
    ("lab-server::Set", "the simulation looks into queues"),
    ("lab-server::Sets", "the simulation looks into queues"),
    ("lab-server::UnderWay::count_open", "the simulation starts shards again from a ledger"),
    ("lab-server::divide", "the simulation restarts with other shards"),
    ("lab-server::home_of", "the simulation asks where a user or a packet lives"),
    ("lab-server::new_online", "the simulation makes SETs without a shard"),
    ("shard::Net::wake_by", "tests of shard wake at instants of their own"),
    ("wire::Command::from_id", "property tests of the codec name commands by their numbers"),
    ("wire::HEADER_LEN", "property tests of the codec cut frames at it"),
];

/// Here names stand in sentences, which is no use of them.
const THIS_TEST: &str = "experiments/tests/house/";

/// The declaring module of an item, and its name there.
type Key = (ModulePath, String);

/// Something that a library offers.
struct Offer<'a> {
    /// As users would name it: `Type::method` for a method.
    name: String,
    /// Its own name, and those under which it is re-exported.
    words: BTreeSet<&'a str>,
    kind: &'static str,
    place: String,
    item: Key,
    /// The type that has this method.
    of_type: Option<Key>,
    signature: Vec<&'a Names>,
}

/// The identifiers that occur outside a library.
#[derive(Default)]
struct Uses<'a> {
    /// In what depends on it.
    dependents: BTreeSet<&'a str>,
    /// In what reaches it, through other packages as well.
    reaching: BTreeSet<&'a str>,
    /// In the tests of its package.
    tests: BTreeSet<&'a str>,
}

/// The public items without a user, one sentence each.
pub(crate) fn faults(packages: &[Package], files: &Files, kept: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut needed = BTreeSet::new();
    for package in packages {
        let root = package.library.as_deref();
        let Some(tree) = root.and_then(|root| Tree::new(root, files)) else { continue };
        let library = &package.name;
        let offers = offers(&tree);
        let mut uses = uses(package, &tree, packages, files);
        let without_kept = used(&offers, &tree, &uses, &BTreeSet::new());
        let full_name = |offer: &Offer<'_>| format!("{library}::{}", offer.name);
        let is_kept = |offer: &Offer<'_>| kept.iter().any(|(name, _)| *name == full_name(offer));
        let excused = offers.iter().enumerate().filter(|(_, offer)| is_kept(offer));
        let excused: BTreeSet<usize> =
            excused.map(|(at, _)| at).filter(|at| !without_kept.contains(at)).collect();
        needed.extend(excused.iter().map(|at| full_name(&offers[*at])));
        let used = used(&offers, &tree, &uses, &excused);
        uses.dependents.extend(&uses.tests);
        uses.reaching.extend(&uses.tests);
        let tested = self::used(&offers, &tree, &uses, &excused);
        for (at, offer) in offers.iter().enumerate().filter(|(at, _)| !used.contains(at)) {
            let (name, place, kind) = (&offer.name, &offer.place, offer.kind);
            let way_out = "make it pub(crate) or take it out";
            if !type_is_used(offer, &offers, &used) {
                continue;
            }
            faults.push(if tested.contains(&at) {
                format!(
                    "{place}: pub {kind} {name}: only the tests of {library} use it: {way_out}, or \
                     give the reason in KEPT (experiments/tests/house/public.rs)"
                )
            } else {
                format!("{place}: pub {kind} {name}: no user outside {library}: {way_out}")
            });
        }
    }
    for (name, _) in kept.iter().filter(|(name, _)| !needed.contains(*name)) {
        faults.push(format!("KEPT names {name}, which is gone or has a user: take the entry out"));
    }
    faults
}

/// Whether a method is of a type that has users; a type without any is one fault, not many.
fn type_is_used(offer: &Offer<'_>, offers: &[Offer<'_>], used: &BTreeSet<usize>) -> bool {
    let is_type =
        |other: &Offer<'_>| other.of_type.is_none() && Some(&other.item) == offer.of_type.as_ref();
    offer.of_type.is_none() || offers.iter().position(is_type).is_some_and(|at| used.contains(&at))
}

/// The identifiers outside a library.
fn uses<'a>(
    package: &Package,
    tree: &Tree<'_>,
    packages: &[Package],
    files: &'a Files,
) -> Uses<'a> {
    let mut reaching = BTreeSet::from([package.name.as_str()]);
    loop {
        let before = reaching.len();
        let more = packages.iter().filter(|other| reaching.iter().any(|one| other.depends_on(one)));
        let more: Vec<&str> = more.map(|other| other.name.as_str()).collect();
        reaching.extend(more);
        if reaching.len() == before {
            break;
        }
    }
    let inside: BTreeSet<&str> = tree.files().collect();
    let programs: Vec<Tree<'_>> =
        package.programs.iter().filter_map(|root| Tree::new(root, files)).collect();
    let programs: BTreeSet<&str> = programs.iter().flat_map(Tree::files).collect();
    let mut uses = Uses::default();
    for (file, facts) in files.iter().filter(|(file, _)| !file.starts_with(THIS_TEST)) {
        let Some(holder) = owner(file, packages) else { continue };
        let words = facts.identifiers.iter().map(String::as_str);
        if holder.name != package.name {
            if holder.depends_on(&package.name) {
                uses.dependents.extend(words.clone());
            }
            if reaching.contains(holder.name.as_str()) {
                uses.reaching.extend(words);
            }
            continue;
        }
        let below = file.strip_prefix(&holder.folder).unwrap_or(file);
        if below.starts_with("/tests/") {
            uses.tests.extend(words);
        } else if !inside.contains(file.as_str())
            && (programs.contains(file.as_str()) || !below.starts_with("/src/"))
        {
            uses.dependents.extend(words.clone());
            uses.reaching.extend(words);
        }
    }
    uses
}

/// What users of a library can name.
fn offers<'a>(tree: &Tree<'a>) -> Vec<Offer<'a>> {
    let mut offers = Vec::new();
    let (exported, reexports) = exported(tree);
    for (scope, placed) in &tree.modules {
        for item in &placed.module.items {
            let key = (scope.clone(), item.name.clone());
            let words = exported.get(&key);
            if words.is_some() || (item.kind == "macro" && item.public) {
                let mut offer = offer(placed.file, item, key, None);
                offer.words.extend(words.into_iter().flatten());
                offers.push(offer);
            }
        }
        let imports = placed.module.imports.iter();
        offers.extend(imports.filter(|_| reexports.contains(scope)).filter_map(|import| {
            let name = import.name.as_deref()?;
            let external = import.visibility == Reach::Public
                && tree.resolve(scope, &import.segments) == Target::External;
            external.then(|| Offer {
                name: name.to_owned(),
                words: BTreeSet::from([name]),
                kind: "use",
                place: format!("{}:{}", placed.file, import.line),
                item: (scope.clone(), name.to_owned()),
                of_type: None,
                signature: Vec::new(),
            })
        }));
    }
    for (scope, placed) in &tree.modules {
        for block in &placed.module.implementations {
            let Target::Item(module, name) =
                tree.resolve(scope, std::slice::from_ref(&block.type_name))
            else {
                continue;
            };
            let of_type = (module, name);
            if exported.contains_key(&of_type) {
                let methods = block.methods.iter();
                offers.extend(methods.map(|method| {
                    let key = (scope.clone(), method.name.clone());
                    offer(placed.file, method, key, Some(of_type.clone()))
                }));
                let same =
                    |offer: &&mut Offer<'a>| offer.of_type.is_none() && offer.item == of_type;
                if let Some(offer) = offers.iter_mut().find(same) {
                    offer.signature.push(&block.header);
                }
            }
        }
    }
    offers
}

fn offer<'a>(file: &str, item: &'a Item, key: Key, of_type: Option<Key>) -> Offer<'a> {
    let name = &item.name;
    Offer {
        name: of_type.as_ref().map_or(name.clone(), |(_, of_type)| format!("{of_type}::{name}")),
        words: BTreeSet::from([item.name.as_str()]),
        kind: item.kind,
        place: format!("{file}:{}", item.line),
        item: key,
        of_type,
        signature: vec![&item.signature],
    }
}

/// The items that users can name, with the names of their re-exports, and the modules.
fn exported<'a>(tree: &Tree<'a>) -> (BTreeMap<Key, BTreeSet<&'a str>>, BTreeSet<ModulePath>) {
    let mut items: BTreeMap<Key, BTreeSet<&'a str>> = BTreeMap::new();
    let mut modules = BTreeSet::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let Some(placed) = tree.modules.get(&path) else { continue };
        if !modules.insert(path.clone()) {
            continue;
        }
        let module = placed.module;
        let public = module.items.iter().filter(|item| item.public && item.kind != "macro");
        for item in public {
            items.entry((path.clone(), item.name.clone())).or_default();
        }
        let below = module.modules.iter().filter(|below| below.public);
        open.extend(below.map(|below| [&path[..], std::slice::from_ref(&below.name)].concat()));
        let imports = module.imports.iter();
        for import in imports.filter(|import| import.visibility == Reach::Public) {
            match tree.resolve(&path, &import.segments) {
                Target::Module(module) => open.push(module),
                Target::Item(module, name) => {
                    items.entry((module, name)).or_default().extend(import.name.as_deref());
                }
                Target::External => {}
            }
        }
    }
    (items, modules)
}

/// The offers with a user, by their place in the list, and those excused. For the methods of an
/// excused type its tests are users.
fn used(
    offers: &[Offer<'_>],
    tree: &Tree<'_>,
    uses: &Uses<'_>,
    excused: &BTreeSet<usize>,
) -> BTreeSet<usize> {
    let calls = tree.modules.values().flat_map(|placed| &placed.module.macro_calls);
    let mut named: BTreeSet<&str> = calls.map(String::as_str).collect();
    named.extend(&uses.dependents);
    let mut used = BTreeSet::new();
    loop {
        let before = used.len();
        for (at, offer) in offers.iter().enumerate() {
            let has_user = match &offer.of_type {
                None => !offer.words.is_disjoint(&named),
                Some(_) if !type_is_used(offer, offers, &used) => false,
                Some(of_type) => {
                    let excused = excused.iter().any(|at| offers[*at].item == *of_type);
                    let tested = excused && !offer.words.is_disjoint(&uses.tests);
                    tested || !offer.words.is_disjoint(&uses.reaching)
                }
            };
            if (has_user || excused.contains(&at)) && used.insert(at) {
                named.extend(offer.signature.iter().copied().flatten().map(String::as_str));
            }
        }
        if used.len() == before {
            return used;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a library with two files, a user and a test of its own.
    fn found(kept: &[(&str, &str)], user: &str, test: &str) -> Vec<String> {
        let lib =
            "mod inner;\npub use inner::{Asked, Held, lone as alone};\npub use other::Thing;\n";
        let inner = "pub struct Asked { pub held: Held, hidden: Hidden }\n\
                     pub struct Held;\npub(crate) struct Hidden;\npub fn lone() {}\n\
                     pub fn not_exported() {}\n\
                     impl Asked { pub fn ask(&self) {}\n pub fn forgotten(&self) {} }\n\
                     impl Drop for Held { fn drop(&mut self) {} }\n\
                     #[cfg(test)] mod tests { fn f() { super::lone(); } }\n";
        let texts = [
            ("low/src/lib.rs", lib),
            ("low/src/inner.rs", inner),
            ("low/tests/all.rs", test),
            ("high/src/lib.rs", user),
        ];
        let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let (files, unread) = crate::sources::parse(&texts);
        assert_eq!(unread, Vec::<String>::new());
        let package = |name: &str, normal: &[&str]| Package {
            name: name.to_owned(),
            folder: name.to_owned(),
            library: Some(format!("{name}/src/lib.rs")),
            normal: normal.iter().map(|&name| name.to_owned()).collect(),
            ..Package::default()
        };
        faults(&[package("low", &[]), package("high", &["low"])], &files, kept)
    }

    const ALL: &str = "use low::{Asked, Thing, alone};\nfn f(a: Asked) { a.ask(); a.forgotten() }";

    #[test]
    fn items_with_users_are_no_faults() {
        // No user names `Held`, but it is the type of a field that users see.
        assert_eq!(found(&[], ALL, ""), Vec::<String>::new());
    }

    #[test]
    fn items_without_a_user_are_seen() {
        let user = "use low::Asked;\nfn f(a: Asked) { a.ask() } // alone, forgotten";
        let seen = found(&[], user, "");
        let expected = [
            "low/src/lib.rs:3: pub use Thing: no user outside low",
            "low/src/inner.rs:4: pub fn lone: no user outside low",
            "low/src/inner.rs:7: pub fn Asked::forgotten: no user outside low",
        ];
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
        for (seen, expected) in seen.iter().zip(expected) {
            assert!(seen.starts_with(expected), "{seen}");
        }
    }

    #[test]
    fn a_type_without_a_user_is_one_fault_with_its_methods() {
        let seen = found(&[], "use low::{Thing, alone};", "");
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[0].contains("struct Asked") && seen[1].contains("struct Held"), "{seen:?}");
    }

    #[test]
    fn a_type_kept_for_a_reason_keeps_what_its_tests_call() {
        let kept = [("low::Asked", "simulated")];
        let seen = found(&kept, "use low::{Thing, alone};", "fn f() { ask() }");
        assert!(seen.len() == 1 && seen[0].contains("fn Asked::forgotten"), "{seen:?}");
    }

    #[test]
    fn what_only_own_tests_use_needs_a_reason() {
        let user = ALL.replace("alone", "Held");
        let seen = found(&[], &user, "fn f() { low::alone() }");
        assert!(seen.len() == 1 && seen[0].contains("only the tests of low use it"), "{seen:?}");
        let kept = [("low::lone", "the tests of others will call it")];
        assert_eq!(found(&kept, &user, "fn f() { low::alone() }"), Vec::<String>::new());
        assert_eq!(found(&kept, ALL, "").len(), 1, "the entry is no longer needed");
    }
}
