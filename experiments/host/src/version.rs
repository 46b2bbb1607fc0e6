//! Which lab this is.

/// This program's version, and the commit it was built from when the build knew it (`LAB_COMMIT`).
pub const VERSION: &str = match option_env!("LAB_COMMIT") {
    Some(commit) => commit,
    None => env!("CARGO_PKG_VERSION"),
};
