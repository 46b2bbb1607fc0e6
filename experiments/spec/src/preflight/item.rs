//! One comparison of what a run needs with what there is, and what a user and a socket need.

use text::bytes;

/// Kernel memory of a socket that is idle, in bytes: 4,220 measured with a million connections
/// (ARCHITECTURE.md, "Figures"): TCP state, inode, file, dentry, readiness and its place in a ring
/// together.
pub(super) const KERNEL_BYTES_PER_SOCKET: u64 = 4_400;

/// User memory of a connection on the server, in bytes: 80 measured, and room for growth of tables.
pub(super) const SERVER_BYTES: u64 = 160;

/// User memory of a user on the client, in bytes: 95 measured, likewise.
pub(super) const CLIENT_BYTES: u64 = 190;

/// User memory of both programs and the recorder without users, in bytes.
pub(super) const BASE_BYTES: u64 = 64 << 20;

/// The part of the available memory that a run may count on.
const MEMORY_SHARE: f64 = 0.9;

/// The verdict of one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits.
    Fits,
    /// It fits, with a remark.
    Note,
    /// It does not fit.
    Refused {
        /// What would make room.
        way_out: String,
    },
}

/// One comparison of what a run needs with what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What is compared, and on which machine when there are several.
    pub what: String,
    /// What the run needs.
    pub needs: String,
    /// What there is.
    pub has: String,
    /// The verdict.
    pub verdict: Verdict,
}

/// A comparison that is refused when there is a way out.
pub(super) fn item(what: &str, needs: String, has: String, refused: Option<String>) -> Item {
    let verdict = refused.map_or(Verdict::Fits, |way_out| Verdict::Refused { way_out });
    Item { what: what.to_owned(), needs, has, verdict }
}

/// A comparison of memory in bytes.
pub(super) fn memory(what: &str, needs: u64, has: u64, kind: &str) -> Item {
    let most = (has as f64 * MEMORY_SHARE) as u64;
    let refused = (needs > most).then(|| "free memory, or fewer users: --set users=N".to_owned());
    item(what, bytes(needs), format!("{} {kind}", bytes(has)), refused)
}
