//! Keeps watch over the whole workspace: the walls between crates and files, sizes, heads and
//! habits that no lint knows, and public items that nothing uses.
//!
//! One test here for each check over the repository. A check is a function from plain facts to
//! faults, and its own tests show what it sees. Each fault is a line with a way out.

mod arrows;
mod facts;
mod harness;
mod modules;
mod packages;
mod promises;
mod public;
mod reasons;
mod sources;
mod style;
mod table;
mod tokens;

use sources::repository;

#[track_caller]
fn check(faults: impl IntoIterator<Item = String>) {
    let mut faults: Vec<String> = faults.into_iter().collect();
    faults.sort();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_file_parses() {
    check(repository().unread.clone());
}

#[test]
fn files_have_their_size_head_and_habits() {
    check(repository().texts.iter().flat_map(|(name, text)| style::faults(name, text)));
}

#[test]
fn functions_fit_on_a_screen() {
    let files = repository().files.iter();
    check(files.flat_map(|(name, facts)| style::long_functions(name, facts)));
}

#[test]
fn no_crate_uses_what_the_table_does_not_allow() {
    check(table::faults(table::TABLE, &packages::of_the_workspace()));
}

#[test]
fn no_dependency_is_unused() {
    check(table::unused(&packages::all(), &repository().files));
}

#[test]
fn every_promise_has_its_test() {
    let read = |file: &str| std::fs::read_to_string(sources::top().join(file)).ok();
    let list = read("docs/promises.md").expect("the list of promises");
    check(promises::faults(&list, read));
}

#[test]
fn lock_files_are_of_today() {
    let packages = packages::all();
    check(["Cargo.lock", "ebpf/probes/Cargo.lock"].iter().flat_map(|file| {
        let lock = std::fs::read_to_string(sources::top().join(file)).expect(file);
        packages::lock_faults(file, &lock, &packages)
    }));
}

#[test]
fn every_dependency_from_outside_has_a_reason_and_a_user() {
    let text = |folder: &str| {
        let manifest = sources::top().join(folder).join("Cargo.toml");
        std::fs::read_to_string(manifest).expect("a manifest")
    };
    let all: Vec<String> =
        packages::of_the_workspace().iter().map(|package| text(&package.folder)).collect();
    check(reasons::faults(&text(""), &all));
}

#[test]
fn the_table_itself_has_no_upward_arrow() {
    check(table::order_faults(table::TABLE));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let packages = packages::all();
    let roots = packages.iter().flat_map(|one| one.library.iter().chain(&one.programs));
    check(roots.flat_map(|root| arrows::faults(root, &repository().files)));
}

#[test]
fn no_test_is_left_out_by_its_harness() {
    let packages = packages::all();
    check(packages.iter().flat_map(|package| harness::faults(package, &repository().texts)));
}

#[test]
fn every_public_item_has_a_user_outside_its_crate() {
    let packages = packages::all();
    check(public::faults(&packages, &repository().files, public::KEPT));
}
