//! What an agent tells a person on its own host.

use std::io::Write;

/// Tells a person something, if anybody reads it: a log that is full is no reason to end.
pub(super) fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
