//! What a profile says: settings with their reasons. Must not know: how a setting is read or
//! written.

mod embedded;
mod read;

use serde::{Deserialize, Serialize};

use crate::facts;
use crate::formula::Template;
use crate::value::{Relation, Rounding};

pub use embedded::{EMBEDDED, names};
pub(crate) use read::MOST_TEXT;
pub use read::ProfileError;

/// A profile with everything that it includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// Its settings, included ones first, each key once.
    pub settings: Vec<PlacedSetting>,
}

/// A setting and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedSetting {
    /// The file and the line of its key.
    pub place: Place,
    /// The setting.
    pub setting: Setting,
}

/// A place in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A setting as a profile has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What is set.
    pub key: Key,
    /// To what.
    pub value: Wanted,
    /// Why, in a sentence.
    pub because: String,
    /// Where that is known from.
    pub source: String,
    /// A kernel that has it: the first one, or the first that the profile's author knows of.
    pub since: KernelVersion,
    /// The kernel that has it no more.
    #[serde(default)]
    pub until: Option<KernelVersion>,
    /// Of what it is a setting.
    pub scope: Scope,
    /// Whether a machine without it is fine.
    #[serde(default)]
    pub optional: bool,
    /// When it takes effect.
    #[serde(default)]
    pub effect: Effect,
    /// What the kernel makes of the number.
    #[serde(default)]
    pub rounding: Rounding,
    /// The interfaces, for settings of interfaces; all network cards when `None`.
    #[serde(default)]
    pub nics: Option<Vec<String>>,
    /// What has become of it since the profile's values were written.
    #[serde(default)]
    pub since_then: Option<String>,
}

/// What is set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Key {
    /// A file below `/proc/sys`, with dots or slashes.
    Sysctl(String),
    /// A resource limit, such as `nofile`.
    Limit(Resource),
    /// A feature of an interface, under the kernel's name or one of ethtool's short ones.
    Feature(String),
    /// The entries of an interface's ring, `rx` or `tx`.
    Ring(Ring),
    /// When an interface's interrupts are held together, as `ethtool -C` names it.
    Coalesce(String),
    /// The CPUs that take packets from each receive queue of an interface (RPS).
    Rps,
    /// The flows that each receive queue of an interface remembers (RFS).
    RpsFlows,
    /// The CPUs that send over each transmit queue of an interface (XPS).
    Xps,
    /// The CPUs that each interrupt of an interface goes to.
    Irq,
    /// The frequency governor of all CPUs.
    Governor,
    /// The exit latency, in microseconds, of the deepest idle state that CPUs may enter.
    CStates,
    /// Transparent huge pages: `enabled`, `defrag` or `shmem_enabled`.
    Thp(Thp),
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Descriptors in one table.
    Nofile,
    /// Bytes that may not be swapped out.
    Memlock,
    /// Threads of a user.
    Nproc,
    /// Real-time priority.
    Rtprio,
}

/// A ring of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    /// Received packets.
    Rx,
    /// Packets to be sent.
    Tx,
}

/// A file of transparent huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thp {
    /// For anonymous memory.
    Enabled,
    /// How hard the kernel looks for one.
    Defrag,
    /// For shared memory.
    ShmemEnabled,
}

impl Resource {
    /// Its name in limits.conf.
    pub const fn name(self) -> &'static str {
        match self {
            Resource::Nofile => "nofile",
            Resource::Memlock => "memlock",
            Resource::Nproc => "nproc",
            Resource::Rtprio => "rtprio",
        }
    }
}

impl Ring {
    /// Its name at ethtool.
    pub const fn name(self) -> &'static str {
        match self {
            Ring::Rx => "rx",
            Ring::Tx => "tx",
        }
    }
}

impl Thp {
    /// The file.
    pub const fn name(self) -> &'static str {
        match self {
            Thp::Enabled => "enabled",
            Thp::Defrag => "defrag",
            Thp::ShmemEnabled => "shmem_enabled",
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Sysctl(name) => f.write_str(name),
            Key::Limit(resource) => write!(f, "limit.{}", resource.name()),
            Key::Feature(name) => write!(f, "nic.feature.{name}"),
            Key::Ring(ring) => write!(f, "nic.ring.{}", ring.name()),
            Key::Coalesce(name) => write!(f, "nic.coalesce.{name}"),
            Key::Rps => f.write_str("nic.rps"),
            Key::RpsFlows => f.write_str("nic.rps-flows"),
            Key::Xps => f.write_str("nic.xps"),
            Key::Irq => f.write_str("nic.irq"),
            Key::Governor => f.write_str("cpu.governor"),
            Key::CStates => f.write_str("cpu.c-states"),
            Key::Thp(thp) => write!(f, "thp.{}", thp.name()),
        }
    }
}

/// A value, and how it is meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum Wanted {
    /// This one.
    Exactly(Template),
    /// Not less.
    AtLeast(Template),
    /// Not more.
    AtMost(Template),
}

impl Wanted {
    /// How it is meant.
    pub(crate) const fn relation(&self) -> Relation {
        match self {
            Wanted::Exactly(_) => Relation::Exactly,
            Wanted::AtLeast(_) => Relation::AtLeast,
            Wanted::AtMost(_) => Relation::AtMost,
        }
    }

    /// The value.
    pub const fn text(&self) -> &Template {
        match self {
            Wanted::Exactly(text) | Wanted::AtLeast(text) | Wanted::AtMost(text) => text,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let relation = match self.relation() {
            Relation::Exactly => "exactly",
            Relation::AtLeast => "at least",
            Relation::AtMost => "at most",
        };
        write!(f, "{relation} {}", self.text().source())
    }
}

/// Of what a setting is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Of each network namespace.
    Namespace,
    /// Of the machine.
    Machine,
    /// Of a process and its children.
    Process,
}

/// When a setting takes effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Effect {
    /// When it is written.
    #[default]
    Now,
    /// In network namespaces that are made after it was written. What the present one has can be
    /// read from this sysctl; below zero, or no number, it shares that of the machine.
    NewNamespace {
        /// The sysctl.
        shown_by: String,
    },
}

/// A kernel's version, of which two numbers count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KernelVersion {
    /// Major and minor.
    pub numbers: (u32, u32),
}

impl TryFrom<String> for KernelVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers = facts::version(&text);
        let numbers = numbers.ok_or_else(|| format!("'{text}' is no kernel version like 4.15"))?;
        Ok(Self { numbers })
    }
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.numbers;
        write!(f, "{major}.{minor}")
    }
}
