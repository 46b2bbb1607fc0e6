//! Targets for a fuzzer: each feeds bytes to one of the lab's readers, and panics where the reader
//! does what no bytes may make it do. Knows no engine: `main.rs` gives the targets to libFuzzer,
//! and `tests/corpora.rs` gives them the inputs of `corpora/` in every `cargo test`.

mod archives;
mod frames;
mod http;
mod kept;
mod ledger;
mod lines;
mod memory;
mod results;
mod texts;

pub use memory::{Bounded, LARGEST_BYTES};

/// Feeds bytes to a reader.
pub type Target = fn(&[u8]);

/// The targets by name. Their inputs are in `corpora/NAME/`.
pub const TARGETS: [(&str, Target); 14] = [
    ("agents", lines::agents),
    ("archive", archives::archive),
    ("checkpoint", kept::checkpoint),
    ("commands", lines::commands),
    ("experiment", texts::experiment),
    ("hlog", results::hlog),
    ("http", http::http),
    ("journal", kept::journal),
    ("ledger", ledger::ledger),
    ("lines", lines::lines),
    ("orders", lines::orders),
    ("profile", texts::profile),
    ("results", results::results),
    ("wire", frames::wire),
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(own, _)| *own == name).map(|(_, target)| *target)
}
