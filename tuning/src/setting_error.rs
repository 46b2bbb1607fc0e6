//! Why a setting cannot be read, written or kept. Must not know: what is done about it.

use std::io;

use crate::profile::{KernelVersion, Setting};
use crate::system::{Location, NotWritable, System};
use crate::{facts::Facts, profile::Key};

/// Why a setting cannot be read, written or kept.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The kernel is older than the setting.
    #[error("this kernel ({this}) does not have it yet: it came with {since}")]
    TooOld {
        /// The kernel.
        this: String,
        /// The first that has it.
        since: KernelVersion,
    },
    /// The kernel is newer than the setting.
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
    /// It exists in the first network namespace alone.
    #[error(
        "it is a setting of the machine, and the kernel shows it in the first network namespace \
         only, not in this one: give it scope: Machine, and set it there"
    )]
    FirstNamespaceOnly,
    /// The kernel lets no process read it.
    #[error(
        "it is write-only: writing it does something once, and it keeps no value that could be \
         compared or put back: leave it out, and write it by hand when it is wanted"
    )]
    WriteOnly,
    /// The kernel lets no process write it.
    #[error("it is read-only")]
    ReadOnly,
    /// This process may not read or write it.
    #[error("this process may not {what} it ({source}): run as root")]
    NoPrivilege {
        /// Read or write.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel does not take the value.
    #[error("the kernel does not take '{value}': {source}")]
    WrongValue {
        /// The value.
        value: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The value is invalid; the reason.
    #[error("{0}")]
    Invalid(String),
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
        /// The kernel's error.
        source: io::Error,
    },
}

impl From<NotWritable> for SettingError {
    fn from(reason: NotWritable) -> Self {
        match reason {
            NotWritable::ReadOnly => SettingError::ReadOnly,
            NotWritable::NoPrivilege(source) => SettingError::NoPrivilege { what: "write", source },
            NotWritable::Other(source) => SettingError::Failed { what: "written", source },
        }
    }
}

impl SettingError {
    /// Whether the machine does not have the setting, or has nothing there to be kept.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(
            self,
            SettingError::TooOld { .. }
                | SettingError::Removed { .. }
                | SettingError::NotThere { .. }
                | SettingError::FirstNamespaceOnly
                | SettingError::WriteOnly
        )
    }

    /// From the kernel's error when a setting was read.
    pub(crate) fn of_read(
        error: io::Error,
        setting: &Setting,
        at: &Location,
        facts: &Facts,
        system: &System,
    ) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => missing(&error, setting, at, facts, system),
            io::ErrorKind::PermissionDenied if system.is_write_only(at) => SettingError::WriteOnly,
            io::ErrorKind::PermissionDenied => {
                SettingError::NoPrivilege { what: "read", source: error }
            }
            _ if error.raw_os_error() == Some(libc::ENODEV) => {
                SettingError::NotThere { what: "there is no such interface".to_owned() }
            }
            _ => SettingError::Failed { what: "read", source: error },
        }
    }

    /// From the kernel's error when a value was written.
    pub(crate) fn of_write(error: io::Error, value: &str) -> Self {
        match error.raw_os_error() {
            // Also what the kernel says of a name that it does not know, such as a congestion
            // control's.
            Some(libc::EINVAL | libc::ERANGE | libc::ENOENT | libc::EOPNOTSUPP) => {
                SettingError::WrongValue { value: value.to_owned(), source: error }
            }
            None if error.kind() == io::ErrorKind::InvalidInput => {
                SettingError::WrongValue { value: value.to_owned(), source: error }
            }
            Some(libc::EROFS) => SettingError::ReadOnly,
            Some(libc::EPERM | libc::EACCES) => {
                SettingError::NoPrivilege { what: "write", source: error }
            }
            _ => SettingError::Failed { what: "written", source: error },
        }
    }
}

/// Settings below `net` that the kernel registers for its first network namespace
/// (net/core/sysctl_net_core.c, net/ipv4/sysctl_net_ipv4.c, net/ipv4/route.c,
/// net/core/neighbour.c; some of them have come to every namespace since). A star ends a beginning.
const FIRST_NAMESPACE: [&str; 37] = [
    "net/core/bpf_jit_*",
    "net/core/busy_*",
    "net/core/default_qdisc",
    "net/core/dev_weight*",
    "net/core/devconf_inherit_init_net",
    "net/core/fb_tunnels_only_for_init_net",
    "net/core/flow_limit_*",
    "net/core/gro_normal_batch",
    "net/core/high_order_alloc_disable",
    "net/core/max_skb_frags",
    "net/core/message_*",
    "net/core/netdev_*",
    "net/core/optmem_max",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/rps_sock_flow_entries",
    "net/core/tstamp_allow_data",
    "net/core/warnings",
    "net/core/wmem_default",
    "net/core/wmem_max",
    "net/ipv4/cipso_*",
    "net/ipv4/inet_peer_*",
    "net/ipv4/neigh/default/gc_*",
    "net/ipv4/route/error_*",
    "net/ipv4/route/gc_*",
    "net/ipv4/route/max_size",
    "net/ipv4/route/redirect_*",
    "net/ipv4/tcp_allowed_congestion_control",
    "net/ipv4/tcp_available_congestion_control",
    "net/ipv4/tcp_low_latency",
    "net/ipv4/tcp_max_orphans",
    "net/ipv4/tcp_mem",
    "net/ipv4/udp_mem",
    "net/ipv6/calipso_*",
    "net/ipv6/mld_max_msf",
    "net/ipv6/neigh/default/gc_*",
    "net/nf_conntrack_max",
];

fn of_first_namespace_only(path: &str) -> bool {
    FIRST_NAMESPACE.iter().any(|name| match name.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == *name,
    })
}

/// Whether the calling thread is in it: there the kernel has at least one of them.
fn in_first_namespace(system: &System) -> bool {
    system.read(&Location::Sysctl("net/ipv4/tcp_mem".to_owned())).is_ok()
}

fn missing(
    error: &io::Error,
    setting: &Setting,
    at: &Location,
    facts: &Facts,
    system: &System,
) -> SettingError {
    let this = || facts.kernel.clone();
    if facts.kernel_version() < setting.since.numbers {
        return SettingError::TooOld { this: this(), since: setting.since.clone() };
    }
    if let Some(until) = &setting.until
        && facts.kernel_version() >= until.numbers
    {
        return SettingError::Removed { this: this(), until: until.clone() };
    }
    if let Location::Sysctl(path) = at
        && of_first_namespace_only(path)
        && !in_first_namespace(system)
    {
        return SettingError::FirstNamespaceOnly;
    }
    let what = match (&setting.key, at) {
        (Key::Sysctl(_), Location::Sysctl(path)) => {
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
        // An error of this crate says more than "not found".
        _ if error.raw_os_error().is_none() => error.to_string(),
        _ => format!("{at} does not exist"),
    };
    SettingError::NotThere { what }
}

/// The edit distance of two words: letters changed, added or left out.
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
    fn settings_of_the_first_namespace_are_told_from_others() {
        for path in ["net/core/rmem_max", "net/ipv4/neigh/default/gc_thresh3", "net/ipv4/tcp_mem"] {
            assert!(of_first_namespace_only(path), "{path}");
        }
        for path in ["net/core/somaxconn", "net/ipv4/neigh/eth0/gc_stale_time", "vm/swappiness"] {
            assert!(!of_first_namespace_only(path), "{path}");
        }
    }

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
