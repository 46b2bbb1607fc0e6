//! Whether a run fits the fleet that it declares.

use platform::DescriptorLimits;

use super::item::{
    BASE_BYTES, CLIENT_BYTES, Item, KERNEL_BYTES_PER_SOCKET, SERVER_BYTES, Verdict, item, memory,
};
use crate::configure::server_config;
use crate::experiment::Experiment;
use crate::hosts::HostSpec;
use crate::values::Users;

/// All comparisons for a run on a fleet.
pub(super) fn fleet(experiment: &Experiment, server: &HostSpec, clients: &[HostSpec]) -> Vec<Item> {
    let users = experiment.users.get();
    let on_host = |what: &str, host: &HostSpec| format!("{what} of {}", host.name);
    let mut items = Vec::new();
    let cpus: Vec<usize> = (0..server.cores.get() as usize).collect();
    let limit = u64::from(server.descriptors.get());
    let limits = DescriptorLimits { soft: limit, hard: limit };
    let resolved = server_config(experiment).resolve(&cpus, limits);
    items.push(item(
        &on_host("descriptors", server),
        resolved.as_ref().map_or_else(ToString::to_string, |it| format!("{} shards", it.shards)),
        format!("{limit} a table"),
        resolved.is_err().then(|| format!("ulimit -n {}", limit * 4)),
    ));
    let gib = |host: &HostSpec| u64::from(host.memory_gib.get()) << 30;
    let needs = u64::from(users) * (KERNEL_BYTES_PER_SOCKET + SERVER_BYTES) + BASE_BYTES;
    items.push(memory(&on_host("memory", server), needs, gib(server), "in all"));
    let mut room: u64 = 0;
    for host in clients {
        let each = host.users.map_or(0, Users::get);
        room += u64::from(each) * u64::from(host.count.get());
        let (first, last) = host.ports;
        let needed = workload::sources_needed(each, first, last);
        items.push(item(
            &on_host("client ports", host),
            format!("{needed} addresses for {each} users"),
            match host.addresses.get() {
                1 => format!("1 address, ports {first} to {last}"),
                more => format!("{more} addresses, ports {first} to {last}"),
            },
            (needed > host.addresses.get()).then(|| {
                format!("on {}: sysctl -w net.ipv4.ip_local_port_range='1024 65535'", host.name)
            }),
        ));
        let needs = u64::from(each) * (KERNEL_BYTES_PER_SOCKET + CLIENT_BYTES) + BASE_BYTES;
        items.push(memory(&on_host("memory", host), needs, gib(host), "in all"));
    }
    items.push(item(
        "users",
        users.to_string(),
        format!("{room} on the clients"),
        (room < u64::from(users)).then(|| "more client machines, or more users on each".to_owned()),
    ));
    items.push(Item {
        what: "clocks".to_owned(),
        needs: "within 50 ms of each other".to_owned(),
        has: "measured when the fleet is there".to_owned(),
        verdict: Verdict::Note,
    });
    items
}
