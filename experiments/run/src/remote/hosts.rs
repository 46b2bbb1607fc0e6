//! What an experiment asks of a fleet, and what its hosts are, before anything is started.

use std::collections::BTreeMap;

use anyhow::Context;
use attribution::FlowLayout;

use fleet::assign::Assignment;
use fleet::protocol::Card;
use host::probing::{ProbeSpec, flow_layout};
use spec::UsageError;
use spec::{Count, Experiment, HostSpec, Name, Probing as Wanted, Users};

use super::roster::Roster;
use crate::options::Options;

/// What a fleet cannot do.
pub(super) fn check(experiment: &Experiment, options: &Options) -> anyhow::Result<()> {
    let no = |what: &str| Err(UsageError::error(what));
    if experiment.phases.iter().any(|phase| !phase.faults.is_empty()) {
        return no("faults on purpose are for one machine: leave --nats out");
    }
    if options.user.is_some() {
        return no("as whom programs run is said on each host: lab agent --user");
    }
    if experiment.server.ledger.is_some() {
        return no(
            "a durable ledger is for one machine: an agent writes nowhere that a message says",
        );
    }
    if experiment.tuning.is_some() || options.tune_host {
        return no(
            "a fleet's hosts are tuned one by one: lab tune apply on each, and no tuning in the \
             experiment (--set tuning=null)",
        );
    }
    Ok(())
}

/// The hosts of an experiment as they are, in the words of its file.
pub(super) fn as_specs(cards: &[Card], assignment: &Assignment) -> anyhow::Result<spec::Hosts> {
    let count = |number: usize| Count::try_from(u32::try_from(number.max(1)).unwrap_or(u32::MAX));
    let spec = |name: &str, users: Option<(u32, u32)>, addresses: usize| {
        let card = cards.iter().find(|card| card.name == name).context("a host without a card")?;
        let descriptors = usize::try_from(card.machine.descriptors).unwrap_or(usize::MAX);
        let gib = usize::try_from(card.machine.memory_bytes >> 30)?;
        let of = |what: Result<Count, String>| what.map_err(anyhow::Error::msg);
        anyhow::Ok(HostSpec {
            name: Name::try_from(name.to_owned()).map_err(anyhow::Error::msg)?,
            count: of(count(1))?,
            cores: of(count(card.machine.cpus.len()))?,
            memory_gib: of(count(gib))?,
            users: users
                .map(|(first, end)| Users::try_from(end - first))
                .transpose()
                .map_err(anyhow::Error::msg)?,
            descriptors: of(count(descriptors))?,
            ports: card.machine.ports,
            addresses: of(count(addresses))?,
            labels: card.labels.clone(),
            range: users,
        })
    };
    let clients: anyhow::Result<Vec<HostSpec>> = assignment
        .clients
        .iter()
        .map(|host| {
            let users = (host.users.start, host.users.end);
            // On one machine there are as many loopback addresses as it takes.
            let (first, last) = host.ports;
            let needed = workload::sources_needed(users.1 - users.0, first, last);
            let addresses = host.sources.as_ref().map_or(needed as usize, Vec::len);
            spec(&host.agent, Some(users), addresses)
        })
        .collect();
    Ok(spec::Hosts::Fleet { server: spec(&assignment.server, None, 1)?, clients: clients? })
}

/// Where the flows of all clients lie, the same on all hosts.
fn layout(experiment: &Experiment, assignment: &Assignment) -> FlowLayout {
    let ports = assignment.clients.iter().map(|host| host.ports);
    let port_first = ports.clone().map(|(first, _)| first).min().unwrap_or(1);
    let port_last = ports.map(|(_, last)| last).max().unwrap_or(u16::MAX);
    let loopback = |host: &fleet::assign::ClientHost| {
        let (first, last) = host.ports;
        workload::loopback_sources(host.flows, first, last)
    };
    let sources = assignment.clients.iter();
    let sources = sources.flat_map(|host| host.sources.clone().unwrap_or_else(|| loopback(host)));
    flow_layout(sources, (port_first, port_last), experiment.users.get())
}

/// Which probes the server's host attaches, if any.
pub(super) fn probes_of_server(experiment: &Experiment, roster: &Roster) -> Option<ProbeSpec> {
    (experiment.probes != Wanted::Off).then(|| ProbeSpec {
        required: experiment.probes == Wanted::Required,
        softirqs: experiment.softirqs,
        port: None,
        server_end: true,
        join: roster.has_other_kernels(),
        layout: layout(experiment, &roster.assignment),
    })
}

/// Who tells of a machine, and of a network namespace, when agents share them: the first.
pub(super) fn who_tells<'a, K: Ord>(
    agents: &[&'a str],
    cards: &'a [Card],
    key: impl Fn(&'a Card) -> K,
) -> Vec<&'a str> {
    let mut first: BTreeMap<K, &str> = BTreeMap::new();
    for agent in agents {
        if let Some(card) = cards.iter().find(|card| card.name == *agent) {
            first.entry(key(card)).or_insert(agent);
        }
    }
    first.into_values().collect()
}
