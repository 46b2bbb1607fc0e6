//! What an experiment file can say. Every field but names, users and phases has a default, and
//! `lab check` prints the file with all of them written out.
//!
//! Owns: the fields, their defaults, errors with their place in the file, what the programs of a
//! run are told, and whether a run fits a machine. Must not know: processes, NATS, how a run goes
//! on.

pub mod configure;
mod fault;
pub mod machine;
mod order;
mod phase;
pub mod places;
pub mod preflight;
mod read;
mod tuning;
mod values;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use fault::{Direction, FaultSpec};
pub use order::OrderError;
pub use phase::{
    Abort, After, By, ChatSpec, ConnectSpec, PacketsSpec, PhaseSpec, PushSpec, SendsSpec, Shake,
    Until, Who,
};
pub use read::{ReadError, Source};
pub use tuning::TuningSpec;
pub use values::{Count, Micros, Name, PerSecond, Period, Seconds, Share, Users, WholePerSecond};
pub use workload::{Pacing, Rate};

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Unchecked")]
pub struct Experiment {
    /// Its name, which the directory of a run begins with.
    pub name: Name,
    /// What it is for, in a sentence.
    pub about: String,
    /// Users are `0..users`.
    pub users: Users,
    /// What schedules, amounts and splits come from.
    pub seed: u64,
    /// Where it runs.
    pub hosts: Hosts,
    /// What becomes of it when a host of the fleet is lost.
    #[serde(default)]
    pub on_lost_host: OnLostHost,
    /// The network between server and clients on one machine.
    pub network: Network,
    /// The server.
    pub server: ServerSpec,
    /// The clients.
    pub client: ClientSpec,
    /// The settings of the kernel; as they are when `None`.
    pub tuning: Option<TuningSpec>,
    /// Whether eBPF probes watch.
    pub probes: Probing,
    /// Whether the probes also time softirqs and count NAPI polls, per CPU. On loopback each packet
    /// is one of each.
    pub softirqs: bool,
    /// From where on something is to blame.
    pub attribution: AttributionSpec,
    /// When a phase counts as measured.
    pub validity: Validity,
    /// What happens, one after the other.
    pub phases: Vec<PhaseSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    name: Name,
    #[serde(default)]
    about: String,
    users: Users,
    #[serde(default = "default_seed")]
    seed: u64,
    #[serde(default)]
    hosts: Hosts,
    #[serde(default)]
    on_lost_host: OnLostHost,
    #[serde(default)]
    network: Network,
    #[serde(default)]
    server: ServerSpec,
    #[serde(default)]
    client: ClientSpec,
    #[serde(default)]
    tuning: Option<TuningSpec>,
    #[serde(default)]
    probes: Probing,
    #[serde(default)]
    softirqs: bool,
    #[serde(default)]
    attribution: AttributionSpec,
    #[serde(default)]
    validity: Validity,
    phases: Vec<PhaseSpec>,
}

/// The year of the articles.
fn default_seed() -> u64 {
    2015
}

impl TryFrom<Unchecked> for Experiment {
    type Error = String;

    fn try_from(it: Unchecked) -> Result<Self, String> {
        let Unchecked { name, about, users, seed, hosts, network, server, client, .. } = it;
        let on_lost_host = it.on_lost_host;
        let (tuning, probes, softirqs) = (it.tuning, it.probes, it.softirqs);
        let (attribution, validity, phases) = (it.attribution, it.validity, it.phases);
        if phases.is_empty() {
            return Err("an experiment needs at least one phase".to_owned());
        }
        if let Some(users_of_server) = server.users.filter(|most| most.get() < users.get()) {
            let (most, users) = (users_of_server.get(), users.get());
            return Err(format!("server.users is {most}, less than the experiment's {users}"));
        }
        if client.processes.get() > users.get() {
            return Err("client.processes is more than the users".to_owned());
        }
        hosts.check(&network, &client, &phases)?;
        Ok(Self {
            name,
            about,
            users,
            seed,
            hosts,
            on_lost_host,
            network,
            server,
            client,
            tuning,
            probes,
            softirqs,
            attribution,
            validity,
            phases,
        })
    }
}

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
    /// Holds them against the rest of an experiment.
    fn check(
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
                "hosts: Namespaces(n) and network.namespace: Host exclude each other: leave \
                        one out"
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
    #[serde(default = "one")]
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
    #[serde(default = "one")]
    pub addresses: Count,
    /// Labels that its agent must have; when there are any, its name counts for nothing.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its users, the first and the first behind them; by capacity when `None`.
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

fn one() -> Count {
    at_least_one(1)
}

fn at_least_one(count: u32) -> Count {
    Count::try_from(count).unwrap_or_else(|_| unreachable!("a constant that is not 0"))
}

/// What a login shell has by default on a system with systemd.
fn default_descriptors() -> Count {
    at_least_one(524_288)
}

/// The kernel's own default.
fn default_ports() -> (u16, u16) {
    (32_768, 60_999)
}

/// From where on something is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttributionSpec {
    /// Requests that take less are never slow, whatever the 99th percentile, in microseconds.
    pub slow_us: u32,
    /// A phase with a smaller share of such requests, and no second off, is quiet.
    pub quiet_share: Share,
    /// A second is off when its answers differ from what was due by more than this share.
    pub off_share: Share,
}

impl Default for AttributionSpec {
    fn default() -> Self {
        Self { slow_us: 1000, quiet_share: share(0.001), off_share: share(0.01) }
    }
}

/// Whether eBPF probes watch a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probing {
    /// When they may (root); what they would have measured is null otherwise.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// They must: the run does not start without them.
    Required,
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

/// The server of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSpec {
    /// Users that it knows; as many as the experiment has when `None`.
    pub users: Option<Users>,
    /// Shards; one a CPU, or more where descriptors are scarce, when `None`.
    pub shards: Option<Count>,
    /// CPUs of its shards; all when `None`.
    pub cpus: Option<Vec<usize>>,
    /// SETs in all.
    pub sets: Count,
    /// Shakes a second above which it answers "overloaded"; no limit when `None`.
    pub overload: Option<u64>,
    /// How notices of sent packets travel: "push", or "answer" for the prototype's way.
    pub notices: Notices,
    /// How long a sent packet can be claimed.
    pub packet_life_s: Period,
    /// Packets that wait in one SET at most.
    pub queue: Count,
    /// How connections find their shard.
    pub steering: Steering,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            users: None,
            shards: None,
            cpus: None,
            sets: at_least_one(256),
            overload: None,
            notices: Notices::Push,
            packet_life_s: Period::try_from(60.0)
                .unwrap_or_else(|_| unreachable!("a constant in range")),
            queue: at_least_one(4096),
            steering: Steering::Auto,
        }
    }
}

/// How notices of sent packets travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notices {
    /// To the named users' own connections.
    #[default]
    Push,
    /// The prototype's way: as the answer to the next shake of the named user's SET.
    Answer,
}

/// How connections find their shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Steering {
    /// By CPU on one machine with a CPU for each shard, else by hash.
    #[default]
    Auto,
    /// Evenly, by a hash over the addresses.
    Hash,
    /// To the shard on the CPU that took the first packet.
    Cpu,
}

/// The clients of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSpec {
    /// Processes among which the users are divided.
    pub processes: Count,
    /// Shards of each process; one a CPU when `None`.
    pub shards: Option<Count>,
    /// CPUs of its shards; all when `None`.
    pub cpus: Option<Vec<usize>>,
    /// Addresses that users come from; 17 loopback addresses, or as many as the ports make
    /// necessary, when `None`.
    pub sources: Option<Vec<Ipv4Addr>>,
    /// After this time without an answer a shake has timed out.
    pub timeout_s: Period,
    /// The shortest sleep worth a timer, in microseconds: shakes due within it leave together.
    pub timer_slack_us: u32,
    /// Whether clients speak the commands that the prototype does not have; when `None`, if a phase
    /// needs them.
    pub own_commands: Option<bool>,
    /// Connect again when a connection is lost.
    pub reconnect: bool,
    /// Slow requests that each shard records of a second, the worst of them.
    pub slow_kept: u32,
}

impl Default for ClientSpec {
    fn default() -> Self {
        Self {
            processes: one(),
            shards: None,
            cpus: None,
            sources: None,
            timeout_s: Period::try_from(5.0)
                .unwrap_or_else(|_| unreachable!("a constant in range")),
            timer_slack_us: 100,
            own_commands: None,
            reconnect: true,
            slow_kept: workload::SLOW_KEPT as u32,
        }
    }
}

/// When a phase counts as measured. A load that was not what was asked for measures nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "UncheckedValidity")]
pub struct Validity {
    /// A send that left more than this behind its instant was late, in microseconds.
    pub late_us: u32,
    /// The share of late sends that is still acceptable.
    pub late_share: Share,
    /// The share of the connections that must be there.
    pub connections_share: Share,
    /// The share of its time that the busiest client thread may be running or waiting for a CPU.
    pub client_busy_share: Share,
    /// Why these differ from the defaults; printed beside them.
    pub because: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UncheckedValidity {
    late_us: u32,
    late_share: Share,
    connections_share: Share,
    client_busy_share: Share,
    because: String,
}

fn share(share: f64) -> Share {
    Share::try_from(share).unwrap_or_else(|_| unreachable!("a constant in range"))
}

impl Default for UncheckedValidity {
    fn default() -> Self {
        Self {
            late_us: 1000,
            late_share: share(0.001),
            connections_share: share(1.0),
            client_busy_share: share(0.95),
            because: String::new(),
        }
    }
}

impl Default for Validity {
    fn default() -> Self {
        UncheckedValidity::default().checked()
    }
}

impl UncheckedValidity {
    fn checked(self) -> Validity {
        Validity {
            late_us: self.late_us,
            late_share: self.late_share,
            connections_share: self.connections_share,
            client_busy_share: self.client_busy_share,
            because: self.because,
        }
    }
}

impl TryFrom<UncheckedValidity> for Validity {
    type Error = String;

    fn try_from(it: UncheckedValidity) -> Result<Self, String> {
        let strict = UncheckedValidity::default();
        let looser = it.late_us > strict.late_us
            || it.late_share > strict.late_share
            || it.connections_share < strict.connections_share
            || it.client_busy_share > strict.client_busy_share;
        if looser && it.because.trim().is_empty() {
            return Err("validity is looser than the defaults: say why in `because`".to_owned());
        }
        Ok(it.checked())
    }
}
