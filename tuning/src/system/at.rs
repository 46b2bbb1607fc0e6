//! Where a setting lives, and how it is read and written there.

use std::io;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::process::{Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::ethtool::Feature;
use super::{System, read_at, write_at};
use crate::profile::{Resource, Ring};
use crate::value::{Format, grouped, normal};

/// Where a setting lives. It is written into journals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum At {
    /// A file below `/proc/sys`.
    Sysctl(String),
    /// A file of an interrupt below `/proc/irq`: its set of CPUs.
    Irq(u32),
    /// A file below `/sys`.
    Sys {
        /// The path.
        path: String,
        /// How it writes its value.
        format: Format,
    },
    /// A feature of an interface.
    Feature {
        /// The interface.
        nic: String,
        /// The feature.
        name: String,
    },
    /// A ring of an interface.
    Ring {
        /// The interface.
        nic: String,
        /// The ring.
        ring: Ring,
    },
    /// A field of the coalescing of an interface.
    Coalesce {
        /// The interface.
        nic: String,
        /// The field.
        field: String,
    },
    /// A limit of this process, which its children inherit.
    Limit(Resource),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Sysctl(path) => write!(f, "/proc/sys/{path}"),
            At::Irq(number) => write!(f, "/proc/irq/{number}/smp_affinity"),
            At::Sys { path, .. } => write!(f, "/sys/{path}"),
            At::Feature { nic, name } => write!(f, "{nic} feature {name}"),
            At::Ring { nic, ring } => write!(f, "{nic} ring {}", ring.name()),
            At::Coalesce { nic, field } => write!(f, "{nic} coalesce {field}"),
            At::Limit(resource) => write!(f, "limit {}", resource.name()),
        }
    }
}

impl At {
    /// How it writes its value.
    pub(crate) fn format(&self) -> Format {
        match self {
            At::Irq(_) => Format::Mask,
            At::Sys { format, .. } => *format,
            _ => Format::Words,
        }
    }
}

impl System {
    /// The value of a setting, normal. Of a limit: the hard one.
    ///
    /// # Errors
    /// What the kernel says; a setting that is not there is `NotFound`.
    pub(crate) fn read(&self, at: &At) -> io::Result<String> {
        let raw = match at {
            At::Sysctl(path) => read_at(self.proc()?, path)?,
            At::Irq(number) => read_at(self.proc()?, &affinity(*number))?,
            At::Sys { path, .. } => read_at(self.sys()?, path)?,
            At::Feature { nic, name } => self.ethtool()?.feature(nic, name)?.value(),
            At::Ring { nic, ring } => self.ethtool()?.ring(nic, *ring == Ring::Rx)?.now.to_string(),
            At::Coalesce { nic, field } => self.ethtool()?.coalesce(nic, field)?.to_string(),
            At::Limit(resource) => limit(getrlimit(of(*resource)).maximum).to_string(),
        };
        Ok(normal(at.format(), &raw))
    }

    /// Sets it.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn write(&self, at: &At, value: &str) -> io::Result<()> {
        let number = || {
            let wrong = |_| io::Error::new(io::ErrorKind::InvalidInput, "it is not a number");
            value.parse::<u32>().map_err(wrong)
        };
        match at {
            At::Sysctl(path) => write_at(self.proc()?, path, value),
            At::Irq(number) => write_at(self.proc()?, &affinity(*number), &grouped(value)),
            At::Sys { path, format: Format::Mask } => write_at(self.sys()?, path, &grouped(value)),
            At::Sys { path, .. } => write_at(self.sys()?, path, value),
            At::Feature { nic, name } => {
                let feature = self.ethtool()?.feature(nic, name)?;
                self.ethtool()?.set_feature(nic, feature, Feature::asked(value))
            }
            At::Ring { nic, ring } => self.ethtool()?.set_ring(nic, *ring == Ring::Rx, number()?),
            At::Coalesce { nic, field } => self.ethtool()?.set_coalesce(nic, field, number()?),
            At::Limit(resource) => {
                let wrong = |_| io::Error::new(io::ErrorKind::InvalidInput, "it is not a number");
                Ok(raise(*resource, value.parse().map_err(wrong)?)?)
            }
        }
    }

    /// Whether it could be written, without writing: `Err` says why not. Of settings that are no
    /// files only writing can tell.
    pub(crate) fn may_write(&self, at: &At) -> Result<(), NotWritable> {
        let (directory, path) = match at {
            At::Sysctl(path) => (self.proc(), path.clone()),
            At::Irq(number) => (self.proc(), affinity(*number)),
            At::Sys { path, .. } => (self.sys(), path.clone()),
            At::Feature { .. } | At::Ring { .. } | At::Coalesce { .. } | At::Limit(_) => {
                return Ok(());
            }
        };
        let directory = directory.map_err(NotWritable::Other)?;
        let open = |flags| openat(directory, path.as_str(), flags, Mode::empty());
        let Err(error) = open(OFlags::WRONLY | OFlags::CLOEXEC) else { return Ok(()) };
        let file = open(OFlags::PATH | OFlags::CLOEXEC);
        let mode = file.and_then(fstat).map_or(0o222, |stat| stat.st_mode);
        let error = io::Error::from(error);
        Err(if mode & 0o222 == 0 || error.kind() == io::ErrorKind::ReadOnlyFilesystem {
            NotWritable::ReadOnly
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            NotWritable::NoPrivilege(error)
        } else {
            NotWritable::Other(error)
        })
    }

    /// The most that a ring may have.
    pub(crate) fn most(&self, at: &At) -> io::Result<Option<u32>> {
        match at {
            At::Ring { nic, ring } => Ok(Some(self.ethtool()?.ring(nic, *ring == Ring::Rx)?.most)),
            _ => Ok(None),
        }
    }
}

/// Why something cannot be written.
#[derive(Debug)]
pub(crate) enum NotWritable {
    ReadOnly,
    NoPrivilege(io::Error),
    Other(io::Error),
}

/// Relative to `/proc/sys`.
fn affinity(number: u32) -> String {
    format!("../irq/{number}/smp_affinity")
}

fn of(resource: Resource) -> rustix::process::Resource {
    match resource {
        Resource::Nofile => rustix::process::Resource::Nofile,
        Resource::Memlock => rustix::process::Resource::Memlock,
        Resource::Nproc => rustix::process::Resource::Nproc,
        Resource::Rtprio => rustix::process::Resource::Rtprio,
    }
}

/// No limit is the largest number.
fn limit(limit: Option<u64>) -> u64 {
    limit.unwrap_or(u64::MAX)
}

/// Raises a limit of the calling process, soft and hard, to at least this. When the hard one may
/// not be raised, the soft one goes as far as it may. Fit for a child between fork and exec.
///
/// # Errors
/// When the hard limit is lower and may not be raised.
pub(crate) fn raise(resource: Resource, least: u64) -> rustix::io::Result<()> {
    let resource = of(resource);
    let now = getrlimit(resource);
    let soft = limit(now.current).max(least);
    if soft <= limit(now.maximum) {
        return setrlimit(resource, Rlimit { current: Some(soft), maximum: now.maximum });
    }
    setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(soft) }).or_else(|error| {
        setrlimit(resource, Rlimit { current: now.maximum, maximum: now.maximum })?;
        Err(error)
    })
}

/// Whether this process may raise hard limits (CAP_SYS_RESOURCE, 24).
pub(crate) fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    effective >> 24 & 1 == 1
}
