//! Where an experiment runs: machines, and the network between server and clients on one machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::phase::PhaseSpec;
use crate::programs::ClientSpec;
use crate::values::{Count, Name, Users};

/// Where an experiment runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Hosts {
    /// Server and clients on this machine.
    #[default]
    Local,
    /// On this machine, the server in one network namespace and the client processes divided among
    /// so many others, with links between them that packets really cross.
    Namespaces(Count),
    /// A server and client machines of their own.
    Fleet {
        /// The server's machine.
        server: HostSpec,
        /// The clients' machines.
        clients: Vec<HostSpec>,
    },
}

/// The most namespaces of clients: each has an octet of an address, and a link of its own.
const MOST_NAMESPACES: u32 = 64;

impl Hosts {
    /// Compares them with the rest of an experiment.
    pub(crate) fn check(
        &self,
        network: &Network,
        client: &ClientSpec,
        phases: &[PhaseSpec],
    ) -> Result<(), String> {
        let Hosts::Namespaces(count) = self else {
            let needs = phases.iter().find_map(|phase| {
                let fault = phase.faults.iter().find(|fault| fault.needs_namespaces())?;
                Some((&phase.name, fault.kind()))
            });
            return match needs {
                None => Ok(()),
                Some((phase, kind)) => Err(format!(
                    "phase \"{phase}\": {kind} needs packets that cross an interface: give \
                     hosts: Namespaces(1)"
                )),
            };
        };
        let (count, processes) = (count.get(), client.processes.get());
        if count > MOST_NAMESPACES {
            return Err(format!("hosts: Namespaces({count}): at most {MOST_NAMESPACES}"));
        }
        if processes < count {
            return Err(format!(
                "hosts: Namespaces({count}) needs a client process in each, and client.processes \
                 is {processes}"
            ));
        }
        if network.namespace == Namespace::Host {
            return Err(
                "hosts: Namespaces(n) and network.namespace: Host exclude each other: leave one \
                 out"
                .to_owned(),
            );
        }
        if client.sources.is_some() {
            return Err("hosts: Namespaces(n) has addresses of its own: leave client.sources out"
                .to_owned());
        }
        Ok(())
    }
}

/// A machine of a fleet, or several of the same kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Its name, or what the names begin with.
    pub name: Name,
    /// How many there are of the kind.
    #[serde(default = "Count::one")]
    pub count: Count,
    /// Cores.
    pub cores: Count,
    /// Memory in GiB.
    pub memory_gib: Count,
    /// Users on each, for clients.
    #[serde(default)]
    pub users: Option<Users>,
    /// Descriptors that a process may have (`ulimit -n`).
    #[serde(default = "default_descriptors")]
    pub descriptors: Count,
    /// Ports for clients, the first and the last (`net.ipv4.ip_local_port_range`).
    #[serde(default = "default_ports")]
    pub ports: (u16, u16),
    /// Addresses that clients there come from.
    #[serde(default = "Count::one")]
    pub addresses: Count,
    /// Labels that its agent must have; when there are any, its name counts for nothing.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its users, the first and the exclusive end; by capacity when `None`.
    #[serde(default)]
    pub range: Option<(u32, u32)>,
}

/// What becomes of a run when a host of the fleet is not heard of for some seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnLostHost {
    /// It ends.
    #[default]
    Abort,
    /// It goes on with the others; what the host measured is kept, and merged when it comes back.
    Continue,
}

/// What a login shell has by default on a system with systemd.
fn default_descriptors() -> Count {
    Count::at_least_one(524_288)
}

/// The kernel's own default.
fn default_ports() -> (u16, u16) {
    (32_768, 60_999)
}

/// In which network namespace server and clients on one machine run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// In one of the run's own when it may make one (root), else in that of the machine.
    #[default]
    Auto,
    /// In one of the run's own, which vanishes with it.
    Own,
    /// In that of the machine.
    Host,
}

/// The network between server and clients on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// In which namespace they run.
    pub namespace: Namespace,
    /// Buckets of the table of established sockets of a namespace of the run's own: a machine's
    /// table is fixed at boot, and two million sockets in 262,144 buckets mean chains of eight.
    pub socket_table: Option<u32>,
    /// Congestion control of all connections; the system's default when `None`.
    pub congestion: Option<String>,
    /// Ports for clients in a namespace of the run's own, the first and the last.
    pub ports: (u16, u16),
}

impl Default for Network {
    fn default() -> Self {
        Self {
            namespace: Namespace::Auto,
            socket_table: None,
            congestion: None,
            ports: (1024, 65_535),
        }
    }
}
