//! Tells the program which commit it is built from: `LAB_COMMIT` where that is set, else git.
//!
//! A debug build does not ask: all tests of this crate would be built again after every commit.

#[path = "build/commit.rs"]
mod commit;

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=LAB_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/commit.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built_from = match std::env::var("LAB_COMMIT") {
        Ok(given) if !given.is_empty() => given,
        _ if std::env::var("PROFILE").as_deref() == Ok("debug") => {
            "not asked for, as this is a debug build".to_owned()
        }
        _ => {
            for path in commit::watched(&root) {
                println!("cargo::rerun-if-changed={path}");
            }
            commit::commit(&root)
        }
    };
    println!("cargo::rustc-env=LAB_BUILT_FROM={built_from}");
}
