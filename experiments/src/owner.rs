//! What `sudo lab` writes belongs to the one who has called `sudo`, from the end of the run on:
//! nothing is written there as root any more. Must not know: what is in it.

use std::io;
use std::path::{Path, PathBuf};

use host::User;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchown, fstat, openat,
    statat,
};
use rustix::io::Errno;
use rustix::path::Arg;

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
        give(CWD, directory, &self.user)?;
        self.made.iter().try_for_each(|it| own(CWD, it, &self.user))
    }
}

/// Gives what root owns. Names are looked up in a directory that is open, and no link is followed:
/// a user who puts another directory or a link in its place is given nothing that is not here. The
/// directory comes last, so that no other user changes it meanwhile.
fn give(parent: BorrowedFd<'_>, name: impl Arg + Copy, user: &User) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR | Errno::LOOP) => return own(parent, name, user),
        Err(error) => return Err(error.into()),
    };
    if !is_ours(&fstat(&directory)?) {
        return Ok(());
    }
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            give(directory.as_fd(), entry.file_name(), user)?;
        }
    }
    Ok(fchown(&directory, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?)
}

fn own(parent: BorrowedFd<'_>, name: impl Arg + Copy, user: &User) -> io::Result<()> {
    if is_ours(&statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?) {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Whether root made it here: a file with another name may be one of the system.
fn is_ours(of: &Stat) -> bool {
    let is_directory = FileType::from_raw_mode(of.st_mode) == FileType::Directory;
    of.st_uid == 0 && (is_directory || of.st_nlink == 1)
}
