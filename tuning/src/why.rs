//! Why a setting cannot be had, in a sentence.

use std::io;

use crate::profile::{KernelVersion, Setting};
use crate::system::{At, System};
use crate::{facts::Facts, profile::Key};

/// Why a setting cannot be read, written or kept.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// The kernel is older than the setting.
    #[error("this kernel ({this}) does not have it yet: it came with {since}")]
    TooOld {
        /// The kernel.
        this: String,
        /// The first that has it.
        since: KernelVersion,
    },
    /// The kernel is younger than the setting.
    #[error("this kernel ({this}) has it no more: {until} took it out")]
    Removed {
        /// The kernel.
        this: String,
        /// The first that does not have it.
        until: KernelVersion,
    },
    /// The kernel should have it, and does not.
    #[error("there is no such setting here: {what}")]
    NotThere {
        /// What is known about it.
        what: String,
    },
    /// Nobody may write it.
    #[error("it is read-only")]
    ReadOnly,
    /// This process may not read or write it.
    #[error("this process may not {what} it ({source}): run as root")]
    NoPrivilege {
        /// Read or write.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel does not take the value.
    #[error("the kernel does not take '{value}': {source}")]
    WrongValue {
        /// The value.
        value: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The value makes no sense.
    #[error("{0}")]
    Senseless(String),
    /// It was written, and another value is read back.
    #[error("'{value}' was written, and '{reads}' is read back")]
    NotTaken {
        /// What was written.
        value: String,
        /// What is read.
        reads: String,
    },
    /// Anything else.
    #[error("it cannot be {what}: {source}")]
    Failed {
        /// Read or written.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Why {
    /// Whether the machine does not have the setting.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Why::TooOld { .. } | Why::Removed { .. } | Why::NotThere { .. })
    }

    /// From what the kernel said when a setting was read.
    pub(crate) fn of_read(
        error: io::Error,
        setting: &Setting,
        at: &At,
        facts: &Facts,
        system: &System,
    ) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => missing(&error, setting, at, facts, system),
            io::ErrorKind::PermissionDenied => Why::NoPrivilege { what: "read", source: error },
            _ if error.raw_os_error() == Some(libc::ENODEV) => {
                Why::NotThere { what: "there is no such interface".to_owned() }
            }
            _ => Why::Failed { what: "read", source: error },
        }
    }

    /// From what the kernel said when a value was written.
    pub(crate) fn of_write(error: io::Error, value: &str) -> Self {
        match error.raw_os_error() {
            // Also what the kernel says of a name that it does not know, such as a congestion
            // control's.
            Some(libc::EINVAL | libc::ERANGE | libc::ENOENT | libc::EOPNOTSUPP) => {
                Why::WrongValue { value: value.to_owned(), source: error }
            }
            None if error.kind() == io::ErrorKind::InvalidInput => {
                Why::WrongValue { value: value.to_owned(), source: error }
            }
            Some(libc::EROFS) => Why::ReadOnly,
            Some(libc::EPERM | libc::EACCES) => Why::NoPrivilege { what: "write", source: error },
            _ => Why::Failed { what: "written", source: error },
        }
    }
}

fn missing(error: &io::Error, setting: &Setting, at: &At, facts: &Facts, system: &System) -> Why {
    let this = || facts.kernel.clone();
    if facts.kernel_version() < setting.since.numbers {
        return Why::TooOld { this: this(), since: setting.since.clone() };
    }
    if let Some(until) = &setting.until
        && facts.kernel_version() >= until.numbers
    {
        return Why::Removed { this: this(), until: until.clone() };
    }
    let what = match (&setting.key, at) {
        (Key::Sysctl(_), At::Sysctl(path)) => {
            let name = path.rsplit('/').next().unwrap_or(path);
            let near = system.sysctls_beside(path).into_iter().min_by_key(|it| distance(it, name));
            match near.filter(|near| distance(near, name) <= 1 + name.len() / 5) {
                Some(near) => format!("did you mean {near}?"),
                None => format!(
                    "the kernel ({}) was built without it, or this namespace does not have it",
                    facts.kernel
                ),
            }
        }
        // Words of our own say more than "not found".
        _ if error.raw_os_error().is_none() => error.to_string(),
        _ => format!("{at} does not exist"),
    };
    Why::NotThere { what }
}

/// Letters to be changed, put in or left out to get from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_apart() {
        for (one, other, expected) in [
            ("somaxconn", "somaxconn", 0),
            ("somaxcon", "somaxconn", 1),
            ("somaxcnon", "somaxconn", 2),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }
}
