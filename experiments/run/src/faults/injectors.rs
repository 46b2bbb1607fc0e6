//! Injectors of packet faults: packets are dropped or held where they arrive at the links between
//! namespaces.

use anyhow::Context;
use ebpf::{DroppedPacket, PacketFaultCounts, PacketFaultInjector, PacketFaultSpec};
use host::namespace::Netns;
use spec::{Direction, FaultSpec, Share};

use super::hold::{HoldReport, Holder};
use crate::links::{CLIENT_END, Namespaces, server_end};

/// A share as a whole number of a billion.
pub(super) fn per_billion(share: Share) -> u32 {
    (share.get() * 1e9).round() as u32
}

/// What drops or holds the packets of a fault.
#[derive(Default)]
pub(super) struct PacketInjectors {
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

impl PacketInjectors {
    /// Those of a fault, at every link. They do nothing before they are told when.
    pub(super) fn attach(
        namespaces: &Namespaces,
        port: u16,
        spec: &FaultSpec,
        id: u32,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let (direction, share, all, hold) = match spec {
            FaultSpec::Loss { direction, share, all, .. } => (*direction, *share, *all, None),
            FaultSpec::Delay { direction, share, us, .. } => (*direction, *share, true, Some(us)),
            _ => return Ok(Self::default()),
        };
        let mut made = Self::default();
        for (namespace, interfaces) in ends(namespaces, direction) {
            let mut divert_to = None;
            if let Some(us) = hold {
                let hold_ns = u64::from(us.get()) * 1000;
                let holder = Holder::start(namespace, id, hold_ns, port)
                    .context("packets cannot be held")?;
                divert_to = Some(holder.interface);
                made.holders.push(holder);
            }
            for interface in interfaces {
                let fault = PacketFaultSpec {
                    port,
                    to_server: direction == Direction::ToServer,
                    all,
                    per_billion: per_billion(share),
                    seed: seed ^ ((made.programs.len() as u64) << 48),
                    divert_to,
                };
                let program =
                    namespace.run(|| PacketFaultInjector::attach(&interface, &fault))??;
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

    /// How many reports there will be that an injector has ended: one of each holder, or one of all
    /// programs together.
    pub(super) fn reports(&self) -> usize {
        self.holders.len().max(usize::from(!self.programs.is_empty()))
    }

    /// What was done so far, and what was dropped since this was read the last time.
    pub(super) fn read(&mut self) -> anyhow::Result<(PacketFaultCounts, Vec<DroppedPacket>)> {
        let (mut sum, mut dropped) = (PacketFaultCounts::default(), Vec::new());
        for program in &mut self.programs {
            dropped.extend(program.take_dropped());
            let counts = program.counts().context("what a fault did cannot be read")?;
            sum.seen += counts.seen;
            sum.chosen += counts.chosen;
            sum.not_kept += counts.not_kept;
        }
        Ok((sum, dropped))
    }

    /// Whether packets are held, not dropped.
    pub(super) fn holds(&self) -> bool {
        !self.holders.is_empty()
    }

    /// Whether there are programs at the links.
    pub(super) fn are_attached(&self) -> bool {
        !self.programs.is_empty()
    }

    /// Detaches the programs. Holders end once they hold nothing any more.
    pub(super) fn detach(&mut self) {
        self.programs.clear();
        self.holders.iter().for_each(Holder::stop);
    }

    /// What holders have reported since this was asked the last time.
    pub(super) fn held(&self) -> Vec<HoldReport> {
        self.holders.iter().flat_map(|holder| holder.reports.try_iter()).collect()
    }

    /// Ends with the holders.
    pub(super) fn drop_holders(&mut self) {
        self.holders.clear();
    }
}
