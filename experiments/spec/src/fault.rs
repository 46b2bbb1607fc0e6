//! What is made to go wrong on purpose in a phase, and how much of it: the lab's own proof that it
//! blames what is to blame. Must not know: how a fault is brought about.

use serde::{Deserialize, Serialize};

use crate::values::{Count, Micros, Share};

/// A fault of known size. Each goes from one whole second of its phase to another: from the start
/// and to the end of the phase unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FaultSpec {
    /// Threads of another process take the CPU.
    Hog {
        /// On which CPUs.
        cpus: Vec<usize>,
        /// The share of each period in which they want it.
        #[serde(default = "half")]
        busy: Share,
        /// The period.
        #[serde(default = "default_period")]
        period_us: Micros,
        /// Their nice level, from -20 to 19.
        #[serde(default)]
        nice: i8,
        /// Threads on each of the CPUs.
        #[serde(default = "Count::one")]
        threads: Count,
        /// The first second.
        #[serde(default)]
        from_s: u64,
        /// Its exclusive end; the end of the phase when `None`.
        #[serde(default)]
        until_s: Option<u64>,
    },
    /// The server takes its time over some shakes.
    SlowHandler {
        /// CPU time that it takes more.
        us: Micros,
        /// The share of the shakes.
        share: Share,
        /// The first second.
        #[serde(default)]
        from_s: u64,
        /// Its exclusive end; the end of the phase when `None`.
        #[serde(default)]
        until_s: Option<u64>,
    },
    /// The clients take their time over some answers.
    SlowClient {
        /// CPU time that they take more.
        us: Micros,
        /// The share of the answers.
        share: Share,
        /// The first second.
        #[serde(default)]
        from_s: u64,
        /// Its exclusive end; the end of the phase when `None`.
        #[serde(default)]
        until_s: Option<u64>,
    },
    /// Packets are thrown away where they arrive. Needs `hosts: Namespaces(n)`.
    Loss {
        /// The share of the packets.
        share: Share,
        /// Those that go there.
        direction: Direction,
        /// Packets without data, too.
        #[serde(default)]
        all: bool,
        /// The first second.
        #[serde(default)]
        from_s: u64,
        /// Its exclusive end; the end of the phase when `None`.
        #[serde(default)]
        until_s: Option<u64>,
    },
    /// Packets are held back before they arrive. Needs `hosts: Namespaces(n)`.
    Delay {
        /// For how long.
        us: Micros,
        /// Those that go there.
        direction: Direction,
        /// The share of the packets.
        #[serde(default = "whole")]
        share: Share,
        /// The first second.
        #[serde(default)]
        from_s: u64,
        /// Its exclusive end; the end of the phase when `None`.
        #[serde(default)]
        until_s: Option<u64>,
    },
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// From a client to the server.
    ToServer,
    /// From the server to a client.
    ToClient,
}

fn half() -> Share {
    Share::try_from(0.5).unwrap_or_else(|_| unreachable!("a constant in range"))
}

fn whole() -> Share {
    Share::try_from(1.0).unwrap_or_else(|_| unreachable!("a constant in range"))
}

fn default_period() -> Micros {
    Micros::try_from(20_000).unwrap_or_else(|_| unreachable!("a constant in range"))
}

impl FaultSpec {
    /// Its name, as files have it.
    pub fn kind(&self) -> &'static str {
        match self {
            FaultSpec::Hog { .. } => "hog",
            FaultSpec::SlowHandler { .. } => "slow_handler",
            FaultSpec::SlowClient { .. } => "slow_client",
            FaultSpec::Loss { .. } => "loss",
            FaultSpec::Delay { .. } => "delay",
        }
    }

    /// Its first second and, if it has one of its own, its exclusive end, within the phase.
    pub fn span(&self) -> (u64, Option<u64>) {
        match self {
            FaultSpec::Hog { from_s, until_s, .. }
            | FaultSpec::SlowHandler { from_s, until_s, .. }
            | FaultSpec::SlowClient { from_s, until_s, .. }
            | FaultSpec::Loss { from_s, until_s, .. }
            | FaultSpec::Delay { from_s, until_s, .. } => (*from_s, *until_s),
        }
    }

    /// Whether it is about packets on their way from one network interface to another.
    pub(crate) fn needs_namespaces(&self) -> bool {
        matches!(self, FaultSpec::Loss { .. } | FaultSpec::Delay { .. })
    }

    /// Compares it with a phase of so many seconds.
    pub(crate) fn check(&self, seconds: Option<u64>) -> Result<(), String> {
        let kind = self.kind();
        let (from, until) = self.span();
        if let Some(until) = until.filter(|until| *until <= from) {
            return Err(format!("{kind} lasts from second {from} until {until}, which is before"));
        }
        if let Some(seconds) = seconds.filter(|seconds| from >= *seconds) {
            return Err(format!("{kind} starts in second {from} of a phase of {seconds}"));
        }
        if let (Some(seconds), Some(until)) = (seconds, until)
            && until > seconds
        {
            return Err(format!("{kind} lasts until second {until} of a phase of {seconds}"));
        }
        match self {
            FaultSpec::Hog { cpus, .. } if cpus.is_empty() => {
                Err(format!("{kind} names no CPU: cpus: [0]"))
            }
            FaultSpec::Hog { nice, .. } if !(-20..=19).contains(nice) => {
                Err(format!("{kind} has nice level {nice}: between -20 and 19"))
            }
            _ => Ok(()),
        }
    }
}
