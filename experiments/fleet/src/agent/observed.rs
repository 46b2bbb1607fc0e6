//! What a host tells of itself during a run: samples of every second, its probes, the kernel's
//! connections.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddrV4};

use rustix::fd::OwnedFd;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::events::LocalEvent;
use super::outbox::Outbox;
use crate::protocol::{HostReport, Lease};
use attribution::ServerSide;
use host::probing::{ProbeSpec, Probing};
use host::program::Who;
use host::sock_diag;
use host::surroundings::Surroundings;
use spec::machine::sysctls;

/// What a host tells of itself.
pub(super) struct Observed {
    agent: String,
    /// Whether this agent tells of the machine, and of the network namespace.
    machine: bool,
    network: bool,
    /// Whether the network namespace is looked at.
    reads_network: bool,
    surroundings: Surroundings,
    probing: Probing,
    /// The probes that were ordered.
    ordered: Option<ProbeSpec>,
    /// Where the server listens, if it is here.
    server: Option<SocketAddrV4>,
    events: UnboundedSender<LocalEvent>,
}

impl Observed {
    /// Nothing is looked at yet but the machine.
    pub(super) fn new(agent: &str, lease: &Lease, events: UnboundedSender<LocalEvent>) -> Self {
        let surroundings = if lease.machine {
            Surroundings::of_machine()
        } else {
            Surroundings::without_machine()
        };
        Self {
            agent: agent.to_owned(),
            machine: lease.machine,
            network: lease.network,
            reads_network: false,
            surroundings,
            probing: Probing::none("no program was started on this host"),
            ordered: None,
            server: None,
            events,
        }
    }

    /// The settings that matter, as this host has them.
    pub(super) fn settings() -> HostReport {
        HostReport::Settings { sysctls: sysctls() }
    }

    /// Begins to look at the network namespace, unless another agent tells of it.
    pub(super) fn add_network(&mut self, outbox: &mut Outbox) {
        if !self.network || self.reads_network {
            return;
        }
        self.reads_network = true;
        for what in self.surroundings.add_network(&self.agent, None) {
            outbox.warn(what);
        }
    }

    /// Whether the network namespace is looked at.
    pub(super) fn reads_network(&self) -> bool {
        self.reads_network
    }

    /// Tells of the second `t`, which has just ended.
    pub(super) fn second(&mut self, t: u64, outbox: &mut Outbox) {
        for row in self.surroundings.second(t) {
            let of = row.of.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            let (source, values) = (row.source.to_owned(), row.values);
            outbox.push(HostReport::Sample { source, of, values });
        }
        // Where agents share a kernel, one tells of it, and each of its own programs.
        if let Some(values) = self.probing.second(t, None, self.machine) {
            outbox.push(HostReport::Sample { source: "probe".to_owned(), of: Vec::new(), values });
        }
    }

    /// Orders probes, unless they were ordered before. Those of the server's host are attached when
    /// it listens, all others now.
    ///
    /// # Errors
    /// Only when the run cannot do without the probes.
    pub(super) async fn order_probes(
        &mut self,
        probes: ProbeSpec,
        outbox: &mut Outbox,
    ) -> anyhow::Result<()> {
        if self.probing.is_attached() || self.ordered.is_some() {
            return Ok(());
        }
        if let Some(port) = probes.port {
            self.attach(&probes, port, None, outbox).await?;
        }
        self.ordered = Some(probes);
        Ok(())
    }

    /// What a client inherits of the probes: what its configuration says, and descriptors.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn handover(&self) -> io::Result<Option<(Value, Vec<OwnedFd>)>> {
        let handover = self.probing.handover()?;
        Ok(handover.map(|(handover, fds)| (json!(handover), Vec::from(fds))))
    }

    /// A client is ready: its threads are looked at.
    pub(super) fn client_ready(&mut self, number: u32, pid: u32) {
        self.surroundings.add_process(Who::Client(number), pid);
        self.probing.watch_client(number, pid);
    }

    /// The server is ready: its threads are looked at, and the probes attached that were ordered.
    pub(super) async fn server_ready(
        &mut self,
        pid: u32,
        listens: Option<SocketAddrV4>,
        outbox: &mut Outbox,
    ) {
        self.surroundings.add_process(Who::Server, pid);
        self.server = listens;
        let Some((address, probes)) = listens.zip(self.ordered.clone()) else { return };
        if let Err(error) = self.attach(&probes, address.port(), Some(pid), outbox).await {
            outbox.push(HostReport::Failed { why: format!("{error:#}") });
        }
    }

    /// Attaches probes in a thread of its own, which takes seconds on a slow machine: beats go on
    /// meanwhile.
    ///
    /// # Errors
    /// Only when the run cannot do without the probes.
    async fn attach(
        &mut self,
        probes: &ProbeSpec,
        port: u16,
        server_pid: Option<u32>,
        outbox: &mut Outbox,
    ) -> anyhow::Result<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let probes = probes.clone();
        std::thread::Builder::new().name("lab-agent-bpf".to_owned()).spawn(move || {
            // Nothing receives it any more when this process ends.
            let _ = tell.send(Probing::attach_spec(&probes, port, server_pid));
        })?;
        let (probing, outcome) = match told.await? {
            Ok(probing) => (probing, Ok(())),
            Err(error) => (Probing::none(&format!("{error:#}")), Err(error)),
        };
        self.probing = probing;
        outbox.push(HostReport::Probes { probes: self.probing.to_json() });
        outcome
    }

    /// The server's end of requests, as the probes saw them.
    pub(super) fn server_sides(&self, requests: &[(SocketAddrV4, u32)]) -> Vec<Option<ServerSide>> {
        self.probing.server_sides(requests)
    }

    /// Asks the kernel for the server's connections. The walk over a large table takes seconds, so
    /// the answer is an event. Returns false when there is no server here.
    pub(super) fn ask_kernel(&self, wanted: u64) -> bool {
        let Some(server) = self.server else { return false };
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            // Nothing receives it any more when this process ends.
            let _ = events.send(LocalEvent::Kernel(sock_diag::established(server), wanted));
        });
        true
    }
}

/// What to tell of the connections that the kernel has.
pub(super) fn kernel(counts: io::Result<BTreeMap<IpAddr, u64>>, wanted: u64) -> HostReport {
    match counts {
        Ok(counts) => {
            let by_address =
                counts.into_iter().map(|(address, count)| (address.to_string(), count));
            HostReport::Kernel { by_address: by_address.collect(), wanted }
        }
        Err(error) => HostReport::Warning { what: format!("sock_diag: {error}") },
    }
}
