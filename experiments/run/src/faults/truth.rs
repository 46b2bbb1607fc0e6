//! The truth about faults: a file of lines, and the sums of each fault.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use record::{Appender, TRUTH};
use spec::FaultSpec;

/// The file of a run, one line for each interval, spin, drop or hold; made when there is something
/// to write.
pub(super) struct Truth {
    file: Option<Appender<File>>,
}

impl Truth {
    /// Makes the file in the directory of a run, when its experiment has faults.
    pub(super) fn create(directory: &Path, wanted: bool) -> std::io::Result<Self> {
        if !wanted {
            return Ok(Self { file: None });
        }
        let path = directory.join(format!("{TRUTH}.jsonl"));
        let file = File::create_new(&path)?;
        Ok(Self { file: Some(Appender::new(path.display().to_string(), file)) })
    }

    /// Writes a line.
    pub(super) fn write(&mut self, line: &Value) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        file.append(&text);
        Ok(())
    }

    /// Hands everything to the system, as far as there is room. Returns what a person should know,
    /// and whether nothing waits.
    pub(super) fn flush(&mut self) -> (Vec<String>, bool) {
        let Some(file) = &mut self.file else { return (Vec::new(), true) };
        let whole = file.flush();
        (file.take_news(), whole)
    }
}

/// What a fault came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Intervals, spins, drops or holds.
    pub(super) count: u64,
    /// How long they were together.
    pub(super) ns: u64,
    /// Out of how many requests or packets.
    pub(super) seen: u64,
    /// Those that are counted here and have no line.
    pub(super) not_kept: u64,
    /// Packets that could not be held.
    pub(super) not_held: u64,
    /// Packets on their way to be held; those that are not among the held were lost.
    pub(super) diverted: u64,
    /// CPU time of the hog as the kernel has it.
    pub(super) schedstat_ns: Option<u64>,
}

impl Sums {
    /// As events have it, in the words of the kind.
    pub(super) fn to_json(self, spec: &FaultSpec) -> Value {
        let Sums { count, ns, seen, not_kept, not_held, diverted, schedstat_ns } = self;
        match spec {
            FaultSpec::Hog { .. } => json!({
                "intervals": count,
                "ran_ns": ns,
                "schedstat_ns": schedstat_ns,
                "not_kept": not_kept,
            }),
            FaultSpec::SlowHandler { .. } | FaultSpec::SlowClient { .. } => json!({
                "spins": count, "spun_ns": ns, "seen": seen, "not_kept": not_kept,
            }),
            FaultSpec::Loss { .. } => {
                json!({ "dropped": count, "seen": seen, "not_kept": not_kept })
            }
            FaultSpec::Delay { .. } => json!({
                "held": count, "held_ns": ns, "seen": seen, "diverted": diverted,
                "not_held": not_held, "not_kept": not_kept,
            }),
        }
    }
}
