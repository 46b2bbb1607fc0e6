//! The faults of a run: what they are, what their injectors report, and how they are recorded.

use std::path::Path;
use std::sync::Arc;

use ebpf::DroppedPacket;
use host::hog;
use host::privileges::Privileges;
use host::program::{Line, Program};
use platform::Spins;
use serde_json::{Value, json};
use spec::{FaultSpec, PhaseSpec};

use super::hold::HoldReport;
use super::injectors::PacketInjectors;
use super::truth::{Sums, Truth};
use crate::records::Records;

/// After the end of a fault nothing is dropped or diverted any more: a program that was about to
/// has done so within this time.
const GRACE_NS: u64 = 10_000_000;

/// Takes the lines of the hog of a fault, by its number; `None` at their end.
pub(crate) type HogLines = Arc<dyn Fn(u32, Option<Line>) + Send + Sync>;

/// A fault that has begun, or is about to.
pub(super) struct Fault {
    pub(super) phase: u16,
    phase_name: String,
    pub(super) spec: FaultSpec,
    /// Its exclusive end as a Unix second, once that is known.
    pub(super) until: Option<u64>,
    /// Its beginning and end on the monotonic clock.
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
    /// How many injectors have not reported that they ended.
    pub(super) open: usize,
    /// One has ended without a report.
    failed: bool,
    /// What the injectors did so far.
    sums: Sums,
    /// The sums have been recorded.
    recorded: bool,
    pub(super) hog: Option<Program>,
    pub(super) packets: PacketInjectors,
}

/// The faults of a run.
pub(crate) struct Faults {
    truth: Truth,
    pub(super) begun: Vec<Fault>,
    pub(super) hog_lines: HogLines,
    /// As whom hogs run.
    pub(super) privileges: Privileges,
}

impl Faults {
    /// None yet; the file for their truth is made if any phase has one.
    pub(crate) fn new(
        directory: &Path,
        phases: &[PhaseSpec],
        hog_lines: HogLines,
        privileges: Privileges,
    ) -> anyhow::Result<Self> {
        let wanted = phases.iter().any(|phase| !phase.faults.is_empty());
        let truth = Truth::create(directory, wanted)?;
        Ok(Self { truth, begun: Vec::new(), hog_lines, privileges })
    }

    /// Whether every injector has reported that it ended.
    pub(crate) fn are_over(&self) -> bool {
        self.begun.iter().all(|fault| fault.open == 0)
    }

    /// What every line of truth begins with.
    fn line(&self, id: u32) -> Value {
        let kind = self.begun.get(id as usize).map(|fault| fault.spec.kind());
        json!({ "fault": id, "kind": kind })
    }

    fn write(&mut self, id: u32, fields: &Value) -> std::io::Result<()> {
        let mut line = self.line(id);
        if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
            line.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        self.truth.write(&line)
    }

    /// Requests were delayed on purpose.
    pub(crate) fn on_spins(
        &mut self,
        client: Option<u32>,
        shard: usize,
        spins: &Spins,
    ) -> std::io::Result<()> {
        for spin in &spins.spins {
            let mut line = json!({
                "t": spin.t, "end_ns": spin.end_ns, "ns": spin.spun_ns, "user": spin.user,
                "shard": shard,
            });
            if let Some(client) = client {
                line["client"] = client.into();
            }
            self.write(spins.id, &line)?;
        }
        if let Some(fault) = self.begun.get_mut(spins.id as usize) {
            fault.sums.count += spins.count;
            fault.sums.ns += spins.spun_ns;
            fault.sums.seen += spins.seen;
            fault.sums.not_kept += spins.not_kept;
            fault.open = fault.open.saturating_sub(usize::from(spins.over));
        }
        Ok(())
    }

    /// A line of a hog.
    pub(crate) fn on_hog(&mut self, id: u32, line: hog::HogLine) -> std::io::Result<()> {
        match line {
            hog::HogLine::Ran(period) => {
                for (t, end_ns) in &period.intervals {
                    let (cpu, thread) = (period.cpu, period.thread);
                    let line = json!({ "t": t, "end_ns": end_ns, "cpu": cpu, "thread": thread });
                    self.write(id, &line)?;
                }
            }
            hog::HogLine::Ended { ran_ns, schedstat_ns, intervals, not_kept } => {
                if let Some(fault) = self.begun.get_mut(id as usize) {
                    let count = intervals;
                    fault.sums =
                        Sums { count, ns: ran_ns, not_kept, schedstat_ns, ..Sums::default() };
                    fault.open = 0;
                }
            }
        }
        Ok(())
    }

    /// The program of a hog that has ended, or is about to.
    pub(crate) fn take_hog(&mut self, id: u32) -> Option<host::program::Program> {
        self.begun.get_mut(id as usize)?.hog.take()
    }

    /// A hog has ended. Returns whether it should have.
    pub(crate) fn on_hog_ended(&mut self, id: u32) -> bool {
        let Some(fault) = self.begun.get_mut(id as usize) else { return true };
        fault.hog = None;
        fault.failed |= std::mem::take(&mut fault.open) > 0;
        !fault.failed
    }

    /// Takes in what was dropped and held, and ends what is over.
    pub(crate) fn tick(&mut self, now_ns: u64) -> anyhow::Result<()> {
        for id in 0..self.begun.len() {
            let (dropped, reports) = self.begun[id].tick(now_ns)?;
            let id = u32::try_from(id)?;
            for packet in dropped {
                let (flow, sequence) = (packet.flow.to_string(), packet.sequence);
                let line = json!({
                    "t": packet.at_ns, "flow": flow, "sequence": sequence, "bytes": packet.payload,
                });
                self.write(id, &line)?;
            }
            for hold in reports.iter().flat_map(|report| &report.holds) {
                let (flow, sequence) = (hold.flow.to_string(), hold.sequence);
                let line = json!({
                    "t": hold.t, "end_ns": hold.end_ns, "ns": hold.end_ns - hold.t, "flow": flow,
                    "sequence": sequence, "bytes": hold.payload,
                });
                self.write(id, &line)?;
            }
        }
        Ok(())
    }

    /// Hands what is known of them to the system, as far as there is room, and tells a person of
    /// that. Returns whether nothing waits.
    pub(crate) fn flush(&mut self, records: &mut Records) -> anyhow::Result<bool> {
        let (news, whole) = self.truth.flush();
        news.iter().try_for_each(|news| records.warn_of_files(news))?;
        Ok(whole)
    }

    /// Records the faults that are over.
    pub(crate) fn record_over(&mut self, now: u64, records: &mut Records) -> anyhow::Result<()> {
        self.record(false, now, records)
    }

    /// Records all faults at the end of a run, also what is known of those that are not over.
    pub(crate) fn record_all(&mut self, now: u64, records: &mut Records) -> anyhow::Result<()> {
        self.record(true, now, records)
    }

    fn record(&mut self, all: bool, now: u64, records: &mut Records) -> anyhow::Result<()> {
        self.flush(records)?;
        for (id, fault) in self.begun.iter_mut().enumerate() {
            let over = fault.open == 0;
            if fault.recorded || !(over || all) {
                continue;
            }
            fault.recorded = true;
            let fields = json!({
                "fault": id,
                "phase": fault.phase_name,
                "kind": fault.spec.kind(),
                "complete": over && !fault.failed,
                "truth": fault.sums.to_json(&fault.spec),
            });
            records.event_at(fault.until.unwrap_or(now), "fault_ends", fields)?;
        }
        Ok(())
    }
}

impl Fault {
    /// A fault of a phase, from one instant until another, that no injector works at yet.
    pub(super) fn new(
        (phase, phase_name): (u16, String),
        spec: &FaultSpec,
        until: Option<u64>,
        (from_ns, until_ns): (u64, u64),
    ) -> Self {
        Self {
            phase,
            phase_name,
            spec: spec.clone(),
            until,
            from_ns,
            until_ns,
            open: 0,
            failed: false,
            sums: Sums::default(),
            recorded: false,
            hog: None,
            packets: PacketInjectors::default(),
        }
    }

    /// What was dropped and held since the tick before.
    fn tick(&mut self, now_ns: u64) -> anyhow::Result<(Vec<DroppedPacket>, Vec<HoldReport>)> {
        let is_loss = !self.packets.holds();
        let mut dropped = Vec::new();
        if self.packets.are_attached() {
            // Before the reading: what is over now is read to its end.
            let over = self.until_ns.saturating_add(GRACE_NS) <= now_ns;
            let counts;
            (counts, dropped) = self.packets.read()?;
            self.sums.seen = counts.seen;
            if is_loss {
                (self.sums.count, self.sums.not_kept) = (counts.chosen, counts.not_kept);
            } else {
                self.sums.diverted = counts.chosen;
            }
            if over {
                self.packets.detach();
                if is_loss {
                    self.open = 0;
                }
            }
        }
        let reports = self.packets.held();
        for held in &reports {
            self.sums.count += held.count;
            self.sums.ns += held.ns;
            self.sums.not_kept += held.count - held.holds.len() as u64;
            self.sums.not_held += held.failed;
            self.open = self.open.saturating_sub(usize::from(held.over));
        }
        if self.open == 0 {
            self.packets.drop_holders();
        }
        Ok((dropped, reports))
    }
}
