//! Where a setting lives, and how it is read and written there.

use std::io;

use ethtool::Feature;
use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::process::{Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::profile::{Resource, Ring};
use crate::system::System;
use crate::system::files::{read_at, write_at};
use crate::value::{Format, format_of_sysctl, grouped, normal};

/// Where a setting lives. It is written into journals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Location {
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

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Location::Sysctl(path) => write!(f, "/proc/sys/{path}"),
            Location::Irq(number) => write!(f, "/proc/irq/{number}/smp_affinity"),
            Location::Sys { path, .. } => write!(f, "/sys/{path}"),
            Location::Feature { nic, name } => write!(f, "{nic} feature {name}"),
            Location::Ring { nic, ring } => write!(f, "{nic} ring {}", ring.name()),
            Location::Coalesce { nic, field } => write!(f, "{nic} coalesce {field}"),
            Location::Limit(resource) => write!(f, "limit {}", resource.name()),
        }
    }
}

impl Location {
    /// How it writes its value.
    pub(crate) fn format(&self) -> Format {
        match self {
            Location::Irq(_) => Format::Mask,
            Location::Sys { format, .. } => *format,
            Location::Sysctl(path) => format_of_sysctl(path),
            _ => Format::Words,
        }
    }
}

impl System {
    /// The value of a setting, normal. Of a limit: the hard one.
    ///
    /// # Errors
    /// What the kernel says; a setting that is not there is `NotFound`.
    pub(crate) fn read(&self, at: &Location) -> io::Result<String> {
        Ok(normal(at.format(), &self.text(at)?))
    }

    /// The present text of a sysctl, where that is more than its normal form: a name with zeros in
    /// front, several spaces.
    pub(crate) fn exact(&self, at: &Location) -> Option<String> {
        let Location::Sysctl(_) = at else { return None };
        let text = self.text(at).ok()?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        (text != normal(at.format(), text)).then(|| text.to_owned())
    }

    fn text(&self, at: &Location) -> io::Result<String> {
        Ok(match at {
            Location::Sysctl(path) => read_at(self.proc()?, path)?,
            Location::Irq(number) => read_at(self.proc()?, &affinity(*number))?,
            Location::Sys { path, .. } => read_at(self.sys()?, path)?,
            Location::Feature { nic, name } => self.ethtool()?.feature(nic, name)?.value(),
            Location::Ring { nic, ring } => {
                self.ethtool()?.ring(nic, *ring == Ring::Rx)?.now.to_string()
            }
            Location::Coalesce { nic, field } => self.ethtool()?.coalesce(nic, field)?.to_string(),
            Location::Limit(resource) => limit(getrlimit(of(*resource)).maximum).to_string(),
        })
    }

    /// Sets it.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn write(&self, at: &Location, value: &str) -> io::Result<()> {
        let number = || {
            let wrong = |_| io::Error::new(io::ErrorKind::InvalidInput, "it is not a number");
            value.parse::<u32>().map_err(wrong)
        };
        match at {
            Location::Sysctl(path) => write_at(self.proc()?, path, value),
            Location::Irq(number) => write_at(self.proc()?, &affinity(*number), &grouped(value)),
            Location::Sys { path, format: Format::Mask } => {
                write_at(self.sys()?, path, &grouped(value))
            }
            Location::Sys { path, .. } => write_at(self.sys()?, path, value),
            Location::Feature { nic, name } => {
                let feature = self.ethtool()?.feature(nic, name)?;
                self.ethtool()?.set_feature(nic, feature, Feature::requested_by(value))
            }
            Location::Ring { nic, ring } => {
                self.ethtool()?.set_ring(nic, *ring == Ring::Rx, number()?)
            }
            Location::Coalesce { nic, field } => {
                self.ethtool()?.set_coalesce(nic, field, number()?)
            }
            Location::Limit(resource) => {
                let wrong = |_| io::Error::new(io::ErrorKind::InvalidInput, "it is not a number");
                Ok(raise(*resource, value.parse().map_err(wrong)?)?)
            }
        }
    }

    /// Whether it could be written, without writing: `Err` says why not. For a setting that is not
    /// a file, only writing shows it.
    pub(crate) fn may_write(&self, at: &Location) -> Result<(), NotWritable> {
        let (directory, path) = match at {
            Location::Sysctl(path) => (self.proc(), path.clone()),
            Location::Irq(number) => (self.proc(), affinity(*number)),
            Location::Sys { path, .. } => (self.sys(), path.clone()),
            Location::Feature { .. }
            | Location::Ring { .. }
            | Location::Coalesce { .. }
            | Location::Limit(_) => {
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

    /// Whether nobody may read it: a file that does something when it is written.
    pub(crate) fn is_write_only(&self, at: &Location) -> bool {
        let Location::Sysctl(path) = at else { return false };
        let Ok(directory) = self.proc() else { return false };
        let file = openat(directory, path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        file.and_then(fstat).is_ok_and(|stat| stat.st_mode & 0o666 == 0o200)
    }

    /// The most that a ring may have.
    pub(crate) fn most(&self, at: &Location) -> io::Result<Option<u32>> {
        match at {
            Location::Ring { nic, ring } => {
                Ok(Some(self.ethtool()?.ring(nic, *ring == Ring::Rx)?.most))
            }
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
