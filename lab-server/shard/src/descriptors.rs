//! The shard's own table of descriptors.

use rustix::io;
use rustix::thread::UnshareFlags;

/// Gives the calling thread a table of descriptors of its own, a copy of the one it shared:
/// accept and close of one shard then take no lock that another shard takes.
///
/// # Errors
/// What `unshare` says (no memory).
pub(crate) fn unshare_table() -> io::Result<()> {
    // What is open now stays open in both tables under the same number, and every owner of a
    // descriptor that several threads use (inbox eventfds, executor events) was made before and
    // lives to the end. What is opened later is used by the thread that opened it alone.
    // SAFETY: so no thread ever uses a number that means something else in its own table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }
}
