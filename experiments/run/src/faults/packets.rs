//! Faults of packets: they are dropped or held where they arrive at the links between namespaces.

use anyhow::Context;
use ebpf::{DroppedPacket, PacketFaultCounts, PacketFaultInjector, PacketFaultSpec};
use serde_json::json;

use crate::links::{CLIENT_END, Namespaces, server_end};
use host::namespace::Netns;
use spec::Direction;

use super::hold::{Held, Holder};
use super::{Fault, FaultSpec, Faults, Run, per_billion};

/// After the end of a fault nothing is dropped or diverted any more: a program that was about to
/// has done so within this time.
const GRACE_NS: u64 = 10_000_000;

/// What drops or holds the packets of a fault.
#[derive(Default)]
pub(super) struct Meddlers {
    programs: Vec<PacketFaultInjector>,
    holders: Vec<Holder>,
}

/// Where packets of a direction arrive: each namespace with its ends of links.
fn ends(namespaces: &Namespaces, direction: Direction) -> Vec<(&Netns, Vec<String>)> {
    match direction {
        Direction::ToServer => {
            let ends = (0..namespaces.clients.len()).map(server_end).collect();
            namespaces.server.iter().map(|it| (it.as_ref(), Vec::clone(&ends))).collect()
        }
        Direction::ToClient => {
            let clients = namespaces.clients.iter();
            clients.map(|it| (it.as_ref(), vec![CLIENT_END.to_owned()])).collect()
        }
    }
}

impl Meddlers {
    /// Those of a fault, at every link. They do nothing before they are told when.
    pub(super) fn attach(run: &Run, spec: &FaultSpec, id: u32, seed: u64) -> anyhow::Result<Self> {
        let (direction, share, all, hold) = match spec {
            FaultSpec::Loss { direction, share, all, .. } => (*direction, *share, *all, None),
            FaultSpec::Delay { direction, share, us, .. } => (*direction, *share, true, Some(us)),
            _ => return Ok(Self::default()),
        };
        let port = run.server_address.port();
        let mut made = Self::default();
        for (namespace, interfaces) in ends(&run.namespaces, direction) {
            let mut divert_to = None;
            if let Some(us) = hold {
                let hold_ns = u64::from(us.get()) * 1000;
                let holder = Holder::start(namespace, id, hold_ns, port)
                    .context("packets cannot be held")?;
                divert_to = Some(holder.interface);
                made.holders.push(holder);
            }
            for interface in interfaces {
                let meddling = PacketFaultSpec {
                    port,
                    to_server: direction == Direction::ToServer,
                    all,
                    per_billion: per_billion(share),
                    seed: seed ^ ((made.programs.len() as u64) << 48),
                    divert_to,
                };
                let program =
                    namespace.run(|| PacketFaultInjector::attach(&interface, &meddling))??;
                made.programs.push(program);
            }
        }
        anyhow::ensure!(!made.programs.is_empty(), "{} needs links to be at", spec.kind());
        Ok(made)
    }

    /// Says from when until when.
    pub(super) fn during(&mut self, from_ns: u64, until_ns: u64) -> anyhow::Result<()> {
        for program in &mut self.programs {
            program.during(from_ns, until_ns).context("a fault cannot be told when")?;
        }
        Ok(())
    }

    /// How many will say when they are over: each holder, or all programs together.
    pub(super) fn voices(&self) -> usize {
        self.holders.len().max(usize::from(!self.programs.is_empty()))
    }

    fn read(&mut self) -> anyhow::Result<(PacketFaultCounts, Vec<DroppedPacket>)> {
        let (mut sum, mut hits) = (PacketFaultCounts::default(), Vec::new());
        for program in &mut self.programs {
            hits.extend(program.take_dropped());
            let counts = program.counts().context("what a fault did cannot be read")?;
            sum.seen += counts.seen;
            sum.chosen += counts.chosen;
            sum.not_kept += counts.not_kept;
        }
        Ok((sum, hits))
    }
}

impl Faults {
    /// Takes down what was dropped and held, and ends what is over.
    pub(super) fn look(&mut self, now_ns: u64) -> anyhow::Result<()> {
        for id in 0..self.begun.len() {
            let (hits, held) = self.begun[id].look(now_ns)?;
            let id = u32::try_from(id)?;
            for it in hits {
                let (flow, sequence) = (it.flow.to_string(), it.sequence);
                let line = json!({
                    "t": it.at_ns, "flow": flow, "sequence": sequence, "bytes": it.payload,
                });
                self.write(id, &line)?;
            }
            for it in held.iter().flat_map(|held| &held.holds) {
                let (flow, sequence, ns) = (it.flow.to_string(), it.sequence, it.end_ns - it.t);
                let line = json!({
                    "t": it.t, "end_ns": it.end_ns, "ns": ns, "flow": flow, "sequence": sequence,
                    "bytes": it.payload,
                });
                self.write(id, &line)?;
            }
        }
        Ok(())
    }
}

impl Fault {
    /// What was dropped and held since this was asked the last time.
    fn look(&mut self, now_ns: u64) -> anyhow::Result<(Vec<DroppedPacket>, Vec<Held>)> {
        let Meddlers { programs, holders } = &self.meddlers;
        let is_loss = holders.is_empty();
        let mut hits = Vec::new();
        if !programs.is_empty() {
            // Before the reading: what is over now is read to its end.
            let over = self.until_ns.saturating_add(GRACE_NS) <= now_ns;
            let counts;
            (counts, hits) = self.meddlers.read()?;
            self.sums.seen = counts.seen;
            if is_loss {
                (self.sums.count, self.sums.not_kept) = (counts.chosen, counts.not_kept);
            } else {
                self.sums.diverted = counts.chosen;
            }
            if over {
                self.meddlers.programs.clear();
                self.meddlers.holders.iter().for_each(Holder::stop);
                if is_loss {
                    self.open = 0;
                }
            }
        }
        let holders = self.meddlers.holders.iter();
        let held: Vec<Held> = holders.flat_map(|holder| holder.heard.try_iter()).collect();
        for it in &held {
            self.sums.count += it.count;
            self.sums.ns += it.ns;
            self.sums.not_kept += it.count - it.holds.len() as u64;
            self.sums.not_held += it.failed;
            self.open = self.open.saturating_sub(usize::from(it.over));
        }
        if self.open == 0 {
            self.meddlers.holders.clear();
        }
        Ok((hits, held))
    }
}
