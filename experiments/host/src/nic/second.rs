//! A second of a machine's interfaces as data, for whatever shows it.
//!
//! Owns: what is read each second. Must not know: words and lines.

use std::time::{SystemTime, UNIX_EPOCH};

use ebpf::nic::{NicError, NicSecond, NicWatch, interfaces};
use ebpf::proc::{MachineReading, ProcReader};
use serde::Serialize;
use spec::UsageError;

/// A second of all interfaces, and of the queues of CPUs behind them.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Second {
    /// When it ended, in seconds since 1970.
    pub(super) t: u64,
    /// The interfaces.
    #[serde(flatten)]
    pub(super) nics: NicSecond,
    /// What CPUs did with what the cards gave them; `None` where the kernel does not say.
    pub(super) softnet: Option<Softnet>,
}

/// Sums of `/proc/net/softnet_stat` over all CPUs. They are of the whole machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Softnet {
    /// Packets dropped because a CPU's queue was full.
    pub(super) dropped: u64,
    /// Packets dropped because their flow filled it; `None` with an old kernel.
    pub(super) flow_limit: Option<u64>,
    /// Rounds of work that were cut off with packets left.
    pub(super) time_squeeze: u64,
}

/// What is watched, second by second.
pub(super) struct Watch {
    nics: NicWatch,
    reader: ProcReader,
    before: MachineReading,
}

impl Watch {
    /// Watches interfaces of the calling thread's network namespace; all without a name.
    ///
    /// # Errors
    /// [`UsageError`] for a name that no interface has, else what keeps them from being read.
    pub(super) fn open(names: &[String]) -> anyhow::Result<Self> {
        let nics = NicWatch::open(names.to_vec()).map_err(|error| match error {
            NicError::Missing(name) => UsageError::error(no_interface(&name)),
            error => error.into(),
        })?;
        let reader = ProcReader::default();
        Ok(Self { nics, before: reader.machine(), reader })
    }

    /// What happened since the last call.
    ///
    /// # Errors
    /// When the interfaces cannot be listed.
    pub(super) fn second(&mut self) -> anyhow::Result<Second> {
        let t = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let nics = self.nics.second().map_err(NicError::Unlisted)?;
        let now = self.reader.machine();
        let softnet = now.since(&self.before).softnet.map(|cpus| Softnet {
            dropped: cpus.iter().map(|cpu| cpu.dropped).sum(),
            flow_limit: cpus.iter().map(|cpu| cpu.flow_limit).sum(),
            time_squeeze: cpus.iter().map(|cpu| cpu.time_squeeze).sum(),
        });
        self.before = now;
        Ok(Second { t, nics, softnet })
    }
}

fn no_interface(name: &str) -> String {
    let error = NicError::Missing(name.to_owned());
    let there = interfaces().unwrap_or_default();
    match text::nearest(name, there.iter().map(String::as_str)) {
        Some(near) => format!("{error}; did you mean {near}?"),
        None => error.to_string(),
    }
}
