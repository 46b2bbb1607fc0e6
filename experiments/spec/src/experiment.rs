//! An experiment: its fields, their defaults, and what of them must fit together.

use serde::{Deserialize, Serialize};

use crate::hosts::{Hosts, Network, OnLostHost};
use crate::phase::PhaseSpec;
use crate::programs::{ClientSpec, ServerSpec};
use crate::tuning::TuningSpec;
use crate::validity::{AttributionSpec, Validity};
use crate::values::{Name, Users};

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

    fn try_from(unchecked: Unchecked) -> Result<Self, String> {
        let Unchecked { name, about, users, seed, hosts, network, server, client, .. } = unchecked;
        let on_lost_host = unchecked.on_lost_host;
        let (tuning, probes, softirqs) = (unchecked.tuning, unchecked.probes, unchecked.softirqs);
        let (attribution, validity, phases) =
            (unchecked.attribution, unchecked.validity, unchecked.phases);
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
