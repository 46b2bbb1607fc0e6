//! What a process that was killed has left applied.

use crate::journal::{Directory, JournalError, Lock};
use crate::revert::{Outcome, Reverted, Which, revert};

/// Takes the lock and puts right what a process that was killed has left.
pub fn ready(directory: &Directory) -> Result<Lock, JournalError> {
    let lock = directory.lock()?;
    for reverted in revert(directory, Which::Leftovers, false, &lock)? {
        tell(&reverted, "left by a process that was killed");
    }
    Ok(lock)
}

/// Says what became of a profile on the error stream.
pub fn tell(reverted: &Reverted, what: &str) {
    if reverted.rebooted {
        eprintln!("{}: {what}; the machine was started anew since", reverted.profile);
        return;
    }
    let restored = reverted.settings.iter().filter(|it| it.outcome == Outcome::Restored).count();
    eprintln!("{}: {what}; {restored} settings were restored", reverted.profile);
    for setback in reverted.settings.iter().filter(|it| !it.is_done()) {
        eprintln!("{setback}");
    }
}
