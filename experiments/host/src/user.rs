//! Users of this machine, by name and by number.

use std::ffi::{CStr, CString};
use std::io;

use serde::Serialize;

/// An entry of the user database is never longer.
const ENTRY: usize = 16 << 10;

/// The user who owns nothing, where the database does not know it.
const NOBODY: u32 = 65_534;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// The name; `None` when the database has none for the number.
    #[serde(rename = "user")]
    pub name: Option<String>,
    /// The number.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, uid, gid } = self;
        match name {
            Some(name) => write!(f, "{name} ({uid}:{gid})"),
            None => write!(f, "{uid}:{gid}"),
        }
    }
}

impl User {
    /// The user of a name, or of a number with or without its group: `NAME`, `UID`, `UID:GID`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u32>().ok();
        if let Some((uid, gid)) = text.split_once(':') {
            let both = number(uid).zip(number(gid));
            let (uid, gid) = both.ok_or("UID:GID are two numbers")?;
            return Ok(Self { name: Self::numbered(uid).and_then(|it| it.name), uid, gid });
        }
        match number(text) {
            Some(uid) => Self::numbered(uid).ok_or_else(|| "no such user: give UID:GID".to_owned()),
            None => Self::named(text).ok_or_else(|| "no such user".to_owned()),
        }
    }

    /// The user who owns nothing.
    pub(crate) fn nobody() -> Self {
        let unknown = || Self { name: None, uid: NOBODY, gid: NOBODY };
        Self::named("nobody").unwrap_or_else(unknown)
    }

    /// Who runs this process.
    pub(crate) fn of_this_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let name = Self::numbered(uid.as_raw()).and_then(|it| it.name);
        Self { name, uid: uid.as_raw(), gid: gid.as_raw() }
    }

    /// Who has called `sudo`, if somebody but root has.
    pub fn of_sudo() -> Option<Self> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
        if uid == 0 || !rustix::process::geteuid().is_root() {
            return None;
        }
        let name = Self::numbered(uid).and_then(|it| it.name);
        Some(Self { name: name.or_else(|| std::env::var("SUDO_USER").ok()), uid, gid })
    }

    fn named(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name ends with a zero; `entry` gives places of the sizes that it says.
        entry(|into, text, size, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), into, text, size, found)
        })
    }

    fn numbered(uid: u32) -> Option<Self> {
        // SAFETY: `entry` gives places of the sizes that it says.
        entry(|into, text, size, found| unsafe { libc::getpwuid_r(uid, into, text, size, found) })
    }
}

/// What a look-up in the database has found.
fn entry(
    look_up: impl FnOnce(
        *mut libc::passwd,
        *mut libc::c_char,
        libc::size_t,
        *mut *mut libc::passwd,
    ) -> libc::c_int,
) -> Option<User> {
    // SAFETY: a structure of numbers and pointers may be all zeros.
    let mut into: libc::passwd = unsafe { std::mem::zeroed() };
    let mut text = vec![0; ENTRY];
    let mut found = std::ptr::null_mut();
    if look_up(&raw mut into, text.as_mut_ptr(), text.len(), &raw mut found) != 0 || found.is_null()
    {
        return None;
    }
    // SAFETY: the entry was found, so its name is a string within `text`, which lives.
    let name = unsafe { CStr::from_ptr(into.pw_name) };
    let name = Some(name.to_string_lossy().into_owned());
    Some(User { name, uid: into.pw_uid, gid: into.pw_gid })
}

/// Whether this process's user namespace has a user: rootless containers have few.
pub(crate) fn is_mapped(uid: u32) -> io::Result<bool> {
    let text = std::fs::read_to_string("/proc/self/uid_map")?;
    Ok(has(&text, uid))
}

fn has(uid_map: &str, uid: u32) -> bool {
    uid_map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        match (first, count) {
            (Some(Ok(first)), Some(Ok(count))) => (first..first + count).contains(&uid.into()),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_by_number() {
        let root = User { name: Some("root".to_owned()), uid: 0, gid: 0 };
        assert_eq!(User::parse("root"), Ok(root.clone()));
        assert_eq!(User::parse("0"), Ok(root.clone()));
        assert_eq!(User::parse("0:7"), Ok(User { gid: 7, ..root }));
        let unknown = User::parse("4000000001:5").expect("two numbers");
        assert_eq!(unknown.to_string(), "4000000001:5");
        for (text, words) in [
            ("4000000001", "give UID:GID"),
            ("no such one", "no such user"),
            ("a:b", "two numbers"),
        ] {
            let error = User::parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_ne!(User::nobody().uid, 0);
    }

    #[test]
    fn users_of_a_container() {
        assert!(has("         0          0 4294967295\n", 65_534));
        assert!(!has("0 1000 1\n", 65_534));
        assert!(has("0 1000 1\n1 100000 65536\n", 65_534));
        assert!(!has("", 0));
    }
}
