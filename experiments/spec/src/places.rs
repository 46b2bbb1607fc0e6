//! The users, client processes and addresses of each network namespace of an experiment. Must not
//! know: how a namespace is made.
//!
//! The addresses of all clients follow one another, since probes count by the number of an address.

use std::net::Ipv4Addr;
use std::ops::Range;

pub use workload::{loopback_sources, sources_needed};

use crate::experiment::Experiment;
use crate::hosts::Hosts;

/// Where the server listens, the same on each of its links.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 1);

/// The first address of the clients.
const FIRST_CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 253, 1, 1);

/// The clients of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Their processes.
    pub processes: Range<u32>,
    /// Their users.
    pub users: Range<u32>,
    /// Their addresses.
    pub sources: Vec<Ipv4Addr>,
}

/// The users of one of the client processes.
pub(crate) fn users_of_client(experiment: &Experiment, process: u32) -> (u32, u32) {
    let (users, processes) =
        (u64::from(experiment.users.get()), u64::from(experiment.client.processes.get()));
    let from = |process: u64| (users * process / processes) as u32;
    (from(u64::from(process)), from(u64::from(process) + 1))
}

/// The clients of each namespace; none when hosts are no namespaces.
pub fn groups(experiment: &Experiment) -> Vec<Group> {
    let Hosts::Namespaces(count) = experiment.hosts else { return Vec::new() };
    let (count, processes) = (u64::from(count.get()), u64::from(experiment.client.processes.get()));
    // The first process that belongs to a group or a later one.
    let first = |group: u64| (group * processes).div_ceil(count) as u32;
    let users = |range: &Range<u32>| {
        let (from, _) = users_of_client(experiment, range.start);
        let (_, end) = users_of_client(experiment, range.end - 1);
        from..end
    };
    let (first_port, last_port) = experiment.network.ports;
    let mut next = u32::from(FIRST_CLIENT_ADDRESS);
    (0..count)
        .map(|group| {
            let processes = first(group)..first(group + 1);
            let users = users(&processes);
            let needed = sources_needed(users.end - users.start, first_port, last_port);
            let sources = (next..next + needed).map(Ipv4Addr::from).collect();
            next += needed;
            Group { processes, users, sources }
        })
        .collect()
}

/// The number of the namespace of a client process, and what is in it.
pub fn group_of(experiment: &Experiment, process: u32) -> Option<(usize, Group)> {
    groups(experiment).into_iter().enumerate().find(|(_, group)| group.processes.contains(&process))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::read::Source;

    #[test]
    fn each_user_has_a_place_and_addresses_follow_one_another() {
        for (users, processes, count, ports) in
            [(10, 1, 1, "(1024, 65535)"), (1000, 7, 3, "(1024, 1300)"), (200_000, 4, 4, "(1, 9)")]
        {
            let text = format!(
                "(name: \"x\", users: {users}, hosts: Namespaces({count}),
                client: (processes: {processes}), network: (ports: {ports}),
                phases: [(name: \"a\", seconds: 1)])"
            );
            let source = Source::parse(Path::new("x.ron"), text, &[]).expect("valid");
            let groups = groups(&source.experiment);
            assert_eq!(groups.len(), count);
            let (mut process, mut user) = (0, 0);
            let mut address = u32::from(FIRST_CLIENT_ADDRESS);
            for group in &groups {
                assert_eq!((group.processes.start, group.users.start), (process, user));
                assert!(!group.processes.is_empty() && !group.sources.is_empty());
                (process, user) = (group.processes.end, group.users.end);
                for source in &group.sources {
                    assert_eq!(u32::from(*source), address);
                    address += 1;
                }
            }
            assert_eq!((process, user), (processes, users));
            let last = group_of(&source.experiment, processes - 1).expect("somewhere");
            assert_eq!(last, (count - 1, groups[count - 1].clone()));
        }
    }
}
