//! What `sudo lab` writes belongs to the one who has called `sudo`, from the end of the run on:
//! nothing is written there as root any more. Must not know: what is in it.

use std::io;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use host::User;

/// What is handed over at the end: the directory of a run, and those above it that are new, too.
pub(crate) struct Handover {
    user: User,
    made: Vec<PathBuf>,
}

impl Handover {
    /// Of a directory that is yet to be made; `None` without sudo, and for one that is there: what
    /// else is in it is not the lab's to give.
    pub(crate) fn of_new(directory: &Path) -> Option<Self> {
        let user = User::of_sudo().filter(|_| !directory.exists())?;
        let above = directory.ancestors().skip(1);
        let new = above.take_while(|it| !it.as_os_str().is_empty() && !it.exists());
        Some(Self { user, made: new.map(Path::to_owned).collect() })
    }

    /// Hands a directory over, with all that is in it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn hand_over(&self, directory: &Path) -> io::Result<()> {
        give(directory, &self.user)?;
        self.made.iter().try_for_each(|it| own(it, &self.user))
    }
}

fn own(path: &Path, user: &User) -> io::Result<()> {
    lchown(path, Some(user.uid), Some(user.gid))
}

/// Links are handed over, and not followed. The directory comes last, so that nobody else changes
/// it meanwhile.
fn give(path: &Path, user: &User) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    own(path, user)
}
