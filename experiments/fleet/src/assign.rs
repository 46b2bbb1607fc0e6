//! Which host does what: roles and ranges of users, from an experiment and the cards of agents.
//! A pure function. Must not know: how clocks are measured and hosts leased.

use std::net::Ipv4Addr;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::protocol::{Card, Role};
use spec::UsageError;
use spec::places::sources_needed;
use spec::{Experiment, HostSpec, Hosts, Users};

/// Client processes of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHost {
    /// The agent.
    pub agent: String,
    /// The numbers of its processes.
    pub processes: Range<u32>,
    /// Its users.
    pub users: Range<u32>,
    /// The addresses that they come from; as on one machine when `None`.
    pub sources: Option<Vec<Ipv4Addr>>,
    /// Its ports: the first and the last.
    pub ports: (u16, u16),
    /// The user that would have the first address and port: agents of one network namespace share
    /// them.
    pub first_flow: u32,
    /// Users of all agents of the network namespace.
    pub flows: u32,
}

/// Who does what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The server's agent.
    pub server: String,
    /// The address on which it listens.
    pub address: Ipv4Addr,
    /// The clients' hosts, in the order of their users.
    pub clients: Vec<ClientHost>,
    /// Hosts that are only watched.
    pub watched: Vec<String>,
}

impl Assignment {
    /// All agents, each once.
    pub fn agents(&self) -> Vec<&str> {
        let mut all = vec![self.server.as_str()];
        let others = self.clients.iter().map(|it| &it.agent).chain(&self.watched);
        for agent in others {
            if !all.contains(&agent.as_str()) {
                all.push(agent);
            }
        }
        all
    }

    /// Client processes in all.
    pub fn processes(&self) -> u32 {
        self.clients.iter().map(|it| it.processes.end).max().unwrap_or(0)
    }

    /// The host of a client process.
    pub fn host_of(&self, process: u32) -> Option<&ClientHost> {
        self.clients.iter().find(|it| it.processes.contains(&process))
    }

    /// The users of a client process.
    pub fn users_of(&self, process: u32) -> Option<Range<u32>> {
        let host = self.host_of(process)?;
        let (users, processes) = (host.users.len() as u64, host.processes.len() as u64);
        let from = |process: u32| {
            let place = u64::from(process - host.processes.start);
            host.users.start + (users * place / processes) as u32
        };
        Some(from(process)..from(process + 1))
    }
}

/// What agents are there, for a person who looks for another one.
fn there(cards: &[Card]) -> String {
    let names: Vec<String> = cards
        .iter()
        .map(|card| {
            let roles: Vec<String> = card.roles.iter().map(Role::to_string).collect();
            format!("{} ({})", card.name, roles.join(", "))
        })
        .collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// A name with its numbers as numbers, so that vm2 comes before vm10.
fn in_order(name: &str) -> Vec<(bool, u64, String)> {
    let mut parts: Vec<(bool, u64, String)> = Vec::new();
    for letter in name.chars() {
        let digit = letter.to_digit(10);
        match (digit, parts.last_mut()) {
            (Some(digit), Some((true, number, _))) => {
                *number = number.saturating_mul(10).saturating_add(u64::from(digit));
            }
            (Some(digit), _) => parts.push((true, u64::from(digit), String::new())),
            (None, Some((false, _, text))) => text.push(letter),
            (None, _) => parts.push((false, 0, letter.to_string())),
        }
    }
    parts
}

fn fits(spec: &HostSpec, card: &Card) -> bool {
    if spec.labels.is_empty() {
        return card.name.starts_with(spec.name.as_str());
    }
    spec.labels.iter().all(|(key, value)| card.labels.get(key) == Some(value))
}

fn wanted(spec: &HostSpec) -> String {
    if spec.labels.is_empty() {
        return format!("named {}…", spec.name);
    }
    let labels: Vec<String> =
        spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("labelled {}", labels.join(" "))
}

/// A client host before its users are known: how many it takes at most, what its share is
/// proportional to, and which users it must have.
struct Candidate<'a> {
    card: &'a Card,
    most: Option<u32>,
    weight: u64,
    range: Option<(u32, u32)>,
}

fn server_of<'a>(experiment: &Experiment, cards: &'a [Card]) -> anyhow::Result<&'a Card> {
    let mut able: Vec<&Card> =
        cards.iter().filter(|card| card.roles.contains(&Role::Server)).collect();
    if let Hosts::Fleet { server, .. } = &experiment.hosts {
        able.retain(|card| fits(server, card));
        // Its very name is better than one that begins with it.
        able.sort_by_key(|card| (card.name != server.name.as_str(), in_order(&card.name)));
        return able.first().copied().ok_or_else(|| {
            let wanted = wanted(server);
            UsageError::error(format!(
                "nobody {wanted} can be the server; there is {}",
                there(cards)
            ))
        });
    }
    // One that cannot be a client is spared no use; then the largest.
    able.sort_by_key(|card| {
        let client = card.roles.contains(&Role::Client);
        (client, std::cmp::Reverse(card.machine.cpus.len()), in_order(&card.name))
    });
    able.first().copied().ok_or_else(|| {
        UsageError::error(format!("nobody can be the server; there is {}", there(cards)))
    })
}

fn candidates<'a>(
    experiment: &Experiment,
    cards: &'a [Card],
    server: &Card,
) -> anyhow::Result<Vec<Candidate<'a>>> {
    let mut able: Vec<&Card> =
        cards.iter().filter(|card| card.roles.contains(&Role::Client)).collect();
    able.sort_by_key(|card| in_order(&card.name));
    let Hosts::Fleet { clients, .. } = &experiment.hosts else {
        // The server's own host only when there is no other.
        if able.iter().any(|card| card.name != server.name) {
            able.retain(|card| card.name != server.name);
        }
        if able.is_empty() {
            let there = there(cards);
            return Err(UsageError::error(format!("nobody can be a client; there is {there}")));
        }
        let weight = |card: &Card| card.machine.cpus.len().max(1) as u64;
        return Ok(able
            .into_iter()
            .map(|card| Candidate { card, most: None, weight: weight(card), range: None })
            .collect());
    };
    let mut taken: Vec<Candidate<'_>> = Vec::new();
    for spec in clients {
        let free = |card: &&&Card| {
            card.name != server.name && taken.iter().all(|it| it.card.name != card.name)
        };
        let fit: Vec<&Card> =
            able.iter().filter(free).filter(|card| fits(spec, card)).copied().collect();
        let count = spec.count.get() as usize;
        if fit.len() < count {
            return Err(UsageError::error(format!(
                "clients {} are needed on {count} hosts, and {} can be that; there is {}",
                wanted(spec),
                fit.len(),
                there(cards)
            )));
        }
        let users = spec.users.map(Users::get);
        taken.extend(fit.into_iter().take(count).map(|card| Candidate {
            card,
            most: users,
            weight: users.map_or_else(|| u64::from(spec.cores.get()), u64::from),
            range: spec.range,
        }));
    }
    Ok(taken)
}

/// Whether ranges have every user once.
///
/// # Errors
/// [`UsageError`]: which ranges overlap, or which users have no host.
fn check_ranges(ranges: &[(String, Range<u32>)], users: u32) -> anyhow::Result<()> {
    let mut sorted: Vec<&(String, Range<u32>)> = ranges.iter().collect();
    sorted.sort_by_key(|(_, range)| (range.start, range.end));
    let mut next = 0;
    let mut before = "";
    for (host, range) in sorted {
        let Range { start, end } = *range;
        if start >= end || end > users {
            return Err(UsageError::error(format!(
                "users {start}..{end} of {host} are no ascending range within the {users} users"
            )));
        }
        if start < next {
            return Err(UsageError::error(format!(
                "users {start}..{} are those of {before} and of {host}: ranges overlap",
                next.min(end)
            )));
        }
        if start > next {
            return Err(UsageError::error(format!("users {next}..{start} are on no host")));
        }
        (next, before) = (end, host);
    }
    if next < users {
        return Err(UsageError::error(format!("users {next}..{users} are on no host")));
    }
    Ok(())
}

fn ranges(candidates: &[Candidate<'_>], users: u32) -> anyhow::Result<Vec<Range<u32>>> {
    let given = candidates.iter().filter(|it| it.range.is_some()).count();
    if given > 0 && given < candidates.len() {
        return Err(UsageError::error(
            "either all clients of a fleet have a range of users, or none",
        ));
    }
    let limited = candidates.iter().filter(|it| it.most.is_some()).count();
    if given == 0 && limited > 0 && limited < candidates.len() {
        return Err(UsageError::error(
            "either all clients of a fleet have a number of users, or none: users and cores are no \
             shares of one sum",
        ));
    }
    let room: Option<u64> = candidates.iter().map(|it| it.most.map(u64::from)).sum();
    if given == 0 && room.is_some_and(|room| room < u64::from(users)) {
        let room = room.unwrap_or(0);
        return Err(UsageError::error(format!(
            "{users} users do not fit the hosts of the clients, which take {room} together"
        )));
    }
    let sum: u64 = candidates.iter().map(|it| it.weight).sum::<u64>().max(1);
    let mut before = 0;
    let ranges = candidates.iter().map(|candidate| match candidate.range {
        Some((start, end)) => start..end,
        None => {
            // Shares are proportional, so with limits for weights none is exceeded.
            let at =
                |weight: u64| (u128::from(users) * u128::from(weight) / u128::from(sum)) as u32;
            let range = at(before)..at(before + candidate.weight);
            before += candidate.weight;
            range
        }
    });
    Ok(ranges.collect())
}

/// Works out who does what.
///
/// # Errors
/// [`UsageError`]: a role that no host can fill, users that do not fit, ranges that overlap.
pub fn assign(experiment: &Experiment, cards: &[Card]) -> anyhow::Result<Assignment> {
    if let Hosts::Namespaces(_) = experiment.hosts {
        return Err(UsageError::error(
            "hosts: Namespaces(n) are on one machine: --set 'hosts=\"Local\"' takes the agents \
             that are there",
        ));
    }
    let server = server_of(experiment, cards)?;
    let address = *server.addresses.first().ok_or_else(|| {
        UsageError::error(format!("{} offers no address for the server", server.name))
    })?;
    let candidates = candidates(experiment, cards, server)?;
    let users = experiment.users.get();
    let ranges = ranges(&candidates, users)?;
    let named: Vec<(String, Range<u32>)> = candidates
        .iter()
        .zip(&ranges)
        .map(|(it, range)| (it.card.name.clone(), range.clone()))
        .collect();
    check_ranges(&named, users)?;
    let each = experiment.client.processes.get();
    let mut clients = Vec::with_capacity(candidates.len());
    for (place, (candidate, users)) in candidates.iter().zip(&ranges).enumerate() {
        let (before, flows) = flows_beside(&candidates, &ranges, place);
        let first = u32::try_from(place)? * each;
        if (users.len() as u64) < u64::from(each) {
            return Err(UsageError::error(format!(
                "{}: {} users for {each} client processes",
                candidate.card.name,
                users.len()
            )));
        }
        let sources = sources(candidate.card, (server, address), flows)?;
        clients.push(ClientHost {
            agent: candidate.card.name.clone(),
            processes: first..first + each,
            users: users.clone(),
            sources,
            ports: candidate.card.machine.ports,
            first_flow: users.start - before,
            flows,
        });
    }
    let used =
        |card: &&Card| card.name == server.name || clients.iter().any(|it| it.agent == card.name);
    let watched = match experiment.hosts {
        // Others in the account may be there for something else.
        Hosts::Fleet { .. } => Vec::new(),
        _ => cards
            .iter()
            .filter(|card| card.roles == [Role::Probe] && !used(card))
            .map(|card| card.name.clone())
            .collect(),
    };
    Ok(Assignment { server: server.name.clone(), address, clients, watched })
}

/// The users before those of a host and in all, on agents of its network namespace: they share its
/// addresses and ports.
fn flows_beside(candidates: &[Candidate<'_>], ranges: &[Range<u32>], place: usize) -> (u32, u32) {
    let namespace = |card: &'_ Card| (card.boot.clone(), card.netns);
    let mine = namespace(candidates[place].card);
    let together = candidates.iter().zip(ranges).filter(|(it, _)| namespace(it.card) == mine);
    together.fold((0, 0), |(before, all), (_, users)| {
        let count = users.end - users.start;
        let earlier = users.start < ranges[place].start;
        (before + if earlier { count } else { 0 }, all + count)
    })
}

/// The addresses that the users of a host come from.
fn sources(
    card: &Card,
    (server, address): (&Card, Ipv4Addr),
    users: u32,
) -> anyhow::Result<Option<Vec<Ipv4Addr>>> {
    if address.is_loopback() {
        if (&card.boot, card.netns) == (&server.boot, server.netns) {
            return Ok(None);
        }
        return Err(UsageError::error(format!(
            "{} cannot reach the server: {} offers only {address}; give its agent --address",
            card.name, server.name
        )));
    }
    let (first, last) = card.machine.ports;
    let needed = sources_needed(users, first, last) as usize;
    if card.addresses.len() < needed {
        return Err(UsageError::error(format!(
            "{users} users on {} need {needed} addresses with ports {first} to {last}, and it \
             offers {}: more ports (net.ipv4.ip_local_port_range), or --address again and again",
            card.name,
            card.addresses.len()
        )));
    }
    Ok(Some(card.addresses[..needed].to_vec()))
}

#[cfg(test)]
mod tests;
