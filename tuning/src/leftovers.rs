//! What a process that was killed has left: reverts it before anything else is changed. Must not
//! know: where the report goes.

use crate::journal::{Directory, JournalError, Lock};
use crate::originals::Outcome;
use crate::revert::{RevertedProfile, Selection, revert};

/// Takes the lock and reverts what a process that was killed has left. `report` gets a line for
/// each profile, and one for each setting that could not be restored.
///
/// # Errors
/// When another process has the lock, or journals cannot be read or written.
pub fn recover(
    directory: &Directory,
    mut report: impl FnMut(String),
) -> Result<Lock, JournalError> {
    let lock = directory.lock()?;
    for reverted in revert(directory, Selection::Leftovers, false, &lock)? {
        lines(&reverted).for_each(&mut report);
    }
    Ok(lock)
}

fn lines(reverted: &RevertedProfile) -> impl Iterator<Item = String> + '_ {
    let what = "left by a process that was killed";
    let profile = &reverted.profile;
    let first = if reverted.rebooted {
        format!("{profile}: {what}; the machine was rebooted since")
    } else {
        let is_restored = |outcome: &Outcome| *outcome == Outcome::Restored;
        let restored = reverted.settings.iter().filter(|it| is_restored(&it.outcome)).count();
        format!("{profile}: {what}; {restored} settings were restored")
    };
    let failed = reverted.settings.iter().filter(|it| !it.is_done()).map(ToString::to_string);
    std::iter::once(first).chain(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revert::RevertedSetting;

    #[test]
    fn what_could_not_be_restored_is_named() {
        let setting = |name: &str, outcome: Outcome| RevertedSetting {
            name: name.to_owned(),
            ours: "2".to_owned(),
            before: "1".to_owned(),
            outcome,
        };
        let settings = vec![
            setting("a", Outcome::Restored),
            setting("b", Outcome::AsItWas),
            setting("c", Outcome::Failed("broken".to_owned())),
        ];
        let mut reverted = RevertedProfile { profile: "x".to_owned(), rebooted: false, settings };
        let report: Vec<String> = lines(&reverted).collect();
        assert_eq!(report.len(), 2);
        assert!(report[0].contains("1 settings were restored"), "{report:?}");
        assert!(report[1].contains("c: 1 cannot be put back: broken"), "{report:?}");
        (reverted.rebooted, reverted.settings) = (true, Vec::new());
        let report: Vec<String> = lines(&reverted).collect();
        assert!(report.len() == 1 && report[0].contains("rebooted"), "{report:?}");
    }
}
