//! Faults on purpose: started and ended on the seconds that the experiment names, and written down
//! as they really were.
//!
//! Owns: which injector brings a fault about, and the truth that injectors tell. Must not know:
//! what probes or attribution make of it.

mod hold;
mod packets;
mod truth;

use std::path::Path;

use platform::{SlowOrder, Spins, monotonic_ns};
use serde_json::{Value, json};
use service::Command as ServerCommand;
use workload::Command as ClientCommand;

use host::hog;
use spec::{FaultSpec, PhaseSpec, Share};

use crate::Run;
use crate::heard::Heard;
use crate::programs::Program;
use host::program::Who;
use packets::Meddlers;
use truth::{Sums, Truth};

/// A fault that has begun, or is about to.
struct Fault {
    /// Its phase, by number and name.
    phase: (u16, String),
    spec: FaultSpec,
    /// The first Unix second behind it; `None` while nobody knows.
    until: Option<u64>,
    /// Its beginning and end on the monotonic clock.
    from_ns: u64,
    until_ns: u64,
    /// How many injectors have not said their last word.
    open: usize,
    /// One has ended without a last word.
    failed: bool,
    /// What it came to so far.
    sums: Sums,
    /// That has been recorded.
    recorded: bool,
    hog: Option<Program>,
    meddlers: Meddlers,
}

/// The faults of a run.
pub(super) struct Faults {
    truth: Truth,
    begun: Vec<Fault>,
}

impl Faults {
    /// None yet; the file for their truth is made if any phase has one.
    pub(super) fn new(directory: &Path, phases: &[PhaseSpec]) -> anyhow::Result<Self> {
        let wanted = phases.iter().any(|phase| !phase.faults.is_empty());
        Ok(Self { truth: Truth::create(directory, wanted)?, begun: Vec::new() })
    }

    /// Whether every injector has said its last word.
    pub(super) fn are_over(&self) -> bool {
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

    /// What requests were kept waiting on purpose.
    pub(super) fn spun(
        &mut self,
        client: Option<u32>,
        shard: usize,
        spins: &Spins,
    ) -> std::io::Result<()> {
        for it in &spins.spins {
            let mut line = json!({
                "t": it.t, "end_ns": it.end_ns, "ns": it.spun_ns, "user": it.user, "shard": shard,
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

    /// What a hog says.
    pub(super) fn hogged(&mut self, id: u32, line: hog::Line) -> std::io::Result<()> {
        match line {
            hog::Line::Ran(period) => {
                for (t, end_ns) in &period.intervals {
                    let (cpu, thread) = (period.cpu, period.thread);
                    let line = json!({ "t": t, "end_ns": end_ns, "cpu": cpu, "thread": thread });
                    self.write(id, &line)?;
                }
            }
            hog::Line::Ended { ran_ns, schedstat_ns, intervals, not_kept } => {
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

    /// A hog has ended. Returns whether it should have.
    pub(super) fn hog_gone(&mut self, id: u32) -> bool {
        let Some(fault) = self.begun.get_mut(id as usize) else { return true };
        fault.hog = None;
        fault.failed |= std::mem::take(&mut fault.open) > 0;
        !fault.failed
    }
}

/// A share as a whole number of a billion.
fn per_billion(share: Share) -> u32 {
    (share.get() * 1e9).round() as u32
}

impl Run {
    /// Prepares the faults of a phase that starts at `start` and, if that is known, ends before
    /// `end`.
    pub(super) async fn begin_faults(
        &mut self,
        spec: &PhaseSpec,
        index: u16,
        start: u64,
        end: Option<u64>,
    ) -> anyhow::Result<()> {
        for fault in &spec.faults {
            let id = u32::try_from(self.faults.begun.len())?;
            let (from_s, until_s) = fault.span();
            let from = start + from_s;
            let until = until_s.map(|until| start + until).or(end);
            let until_ns = until.map_or(u64::MAX, |until| self.clock.start_of(until));
            let from_ns = self.clock.start_of(from);
            self.faults.begun.push(Fault {
                phase: (index, spec.name.to_string()),
                spec: fault.clone(),
                until,
                from_ns,
                until_ns,
                open: 0,
                failed: false,
                sums: Sums::default(),
                recorded: false,
                hog: None,
                meddlers: Meddlers::default(),
            });
            self.inject(fault, id, from_ns, until_ns).await?;
            let fields = json!({
                "fault": id,
                "phase": spec.name,
                "kind": fault.kind(),
                "until": until,
                "spec": fault,
            });
            self.event_at(from, "fault_starts", fields)?;
        }
        Ok(())
    }

    /// Brings a fault about from one instant to another.
    async fn inject(
        &mut self,
        spec: &FaultSpec,
        id: u32,
        from_ns: u64,
        until_ns: u64,
    ) -> anyhow::Result<()> {
        let seed = self.source.experiment.seed.rotate_left(32) ^ u64::from(id);
        let slow = |us: u32, share| SlowOrder {
            id,
            spin_ns: u64::from(us) * 1000,
            per_billion: per_billion(share),
            seed,
            from_ns,
            until_ns,
        };
        let (mut hog, mut meddlers) = (None, Meddlers::default());
        let open = match spec {
            FaultSpec::Hog { cpus, busy, period_us, nice, threads, .. } => {
                let period_ns = u64::from(period_us.get()) * 1000;
                let order = hog::Order {
                    cpus: cpus.clone(),
                    threads: threads.get(),
                    period_ns,
                    busy_ns: (period_ns as f64 * busy.get()) as u64,
                    nice: *nice,
                    from_ns,
                    until_ns,
                };
                let tell = self.tell.clone();
                hog = Some(Program::start(Who::Hog(id), &order, None, Vec::new(), &[], tell)?);
                1
            }
            FaultSpec::SlowHandler { us, share, .. } => {
                let order = slow(us.get(), *share);
                self.server.tell(&ServerCommand::Slow(order)).await?;
                threads(&self.manifest.server)
            }
            FaultSpec::SlowClient { us, share, .. } => {
                self.tell_clients(&ClientCommand::Slow(slow(us.get(), *share))).await?;
                self.manifest.clients.iter().map(threads).sum()
            }
            FaultSpec::Loss { .. } | FaultSpec::Delay { .. } => {
                meddlers = Meddlers::attach(self, spec, id, seed)?;
                meddlers.during(from_ns, until_ns)?;
                meddlers.voices()
            }
        };
        if let Some(begun) = self.faults.begun.get_mut(id as usize) {
            (begun.open, begun.hog, begun.meddlers) = (open, hog, meddlers);
        }
        Ok(())
    }

    /// Ends the faults of a phase that ends before `end` now that this is known.
    pub(super) async fn end_faults(&mut self, index: u16, end: u64) -> anyhow::Result<()> {
        let until_ns = self.clock.start_of(end);
        for id in 0..self.faults.begun.len() {
            let fault = &mut self.faults.begun[id];
            if fault.phase.0 != index || fault.until.is_some_and(|until| until <= end) {
                continue;
            }
            (fault.until, fault.until_ns) = (Some(end), until_ns);
            fault.meddlers.during(fault.from_ns, until_ns)?;
            if let Some(hog) = &mut fault.hog {
                // One that does not listen has ended, and its silence is heard.
                let _ = hog.tell(&until_ns).await;
            }
            let spec = fault.spec.clone();
            let id = u32::try_from(id)?;
            match spec {
                FaultSpec::SlowHandler { .. } => {
                    self.server.tell(&ServerCommand::EndSlow { id, until_ns }).await?;
                }
                FaultSpec::SlowClient { .. } => {
                    self.tell_clients(&ClientCommand::EndSlow { id, until_ns }).await?;
                }
                FaultSpec::Hog { .. } | FaultSpec::Loss { .. } | FaultSpec::Delay { .. } => {}
            }
        }
        Ok(())
    }

    /// Takes down what faults did in the second that has just ended.
    pub(super) fn look_at_faults(&mut self) -> anyhow::Result<()> {
        self.faults.look(monotonic_ns())?;
        self.record_faults(false)
    }

    /// Records what faults came to that are over; at the end of the run, also what is known of the
    /// others.
    pub(super) fn record_faults(&mut self, last: bool) -> anyhow::Result<()> {
        self.faults.truth.flush()?;
        for id in 0..self.faults.begun.len() {
            let fault = &mut self.faults.begun[id];
            let over = fault.open == 0;
            if fault.recorded || !(over || last) {
                continue;
            }
            let complete = over && !fault.failed;
            fault.recorded = true;
            let until = fault.until;
            let fields = json!({
                "fault": id,
                "phase": fault.phase.1,
                "kind": fault.spec.kind(),
                "complete": complete,
                "truth": fault.sums.to_json(&fault.spec),
            });
            let until = until.unwrap_or_else(|| self.now());
            self.event_at(until, "fault_ends", fields)?;
        }
        Ok(())
    }

    /// Takes down what an injector says.
    pub(super) fn note_fault(&mut self, heard: Heard) -> anyhow::Result<()> {
        match heard {
            Heard::Hog(id, line) => self.faults.hogged(id, line)?,
            Heard::Silence(Who::Hog(id)) if !self.faults.hog_gone(id) => {
                self.warn(&Who::Hog(id).to_string(), "ended without a word about what it did")?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The number of threads that a program has told of when it was ready.
fn threads(ready: &Value) -> usize {
    ready["threads"].as_array().map_or(0, Vec::len)
}
