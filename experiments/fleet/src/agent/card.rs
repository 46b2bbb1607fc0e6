//! What an agent says of its host.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::MetadataExt;

use async_nats::Client;
use serde_json::{Value, json};

use super::args::AgentArgs;
use crate::protocol::{Beat, Card, PROTOCOL, Role};
use spec::machine::Machine;

/// The load average of the last minute.
pub(super) fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// What this agent and its host are.
pub(super) fn card(args: &AgentArgs, client: &Client) -> anyhow::Result<Card> {
    let mut roles = args.roles.clone();
    if roles.is_empty() {
        roles = vec![Role::Server, Role::Client, Role::Probe];
    }
    roles.sort_unstable();
    roles.dedup();
    let session = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    let addresses = if args.addresses.is_empty() {
        addresses(args.access.url()?, client)
    } else {
        args.addresses.clone()
    };
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(Card {
        name: args.name.clone(),
        session,
        version: host::VERSION.to_owned(),
        protocol: PROTOCOL,
        roles,
        labels: args.labels.iter().cloned().collect(),
        addresses,
        machine: Machine::this(),
        boot: boot.trim().to_owned(),
        netns: std::fs::metadata("/proc/self/ns/net")?.ino(),
        since: platform::realtime_ns() / platform::NANOS_PER_SECOND,
        findings: json!(ebpf::doctor::examine()),
        privileges: Value::Null,
        kept: Vec::new(),
        beat: Beat::default(),
    })
}

/// The addresses of this host, the one towards NATS first; 127.0.0.1 only if there is no other.
fn addresses(url: &str, client: &Client) -> Vec<Ipv4Addr> {
    let text = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut all = local_addresses(&text);
    let first = towards(url, client).filter(|address| !address.is_loopback());
    if let Some(first) = first {
        all.retain(|address| *address != first);
        all.insert(0, first);
    }
    if all.is_empty() {
        all.push(Ipv4Addr::LOCALHOST);
    }
    all
}

/// The address from which packets go to NATS. Nothing is sent for that.
fn towards(url: &str, client: &Client) -> Option<Ipv4Addr> {
    let port = client.server_info().port;
    let host = url.rsplit("://").next()?.rsplit('@').next()?;
    let (host, port) = match host.rsplit_once(':') {
        Some((host, given)) => (host, given.parse().unwrap_or(port)),
        None => (host, port),
    };
    let to = (host, port).to_socket_addrs().ok()?.find(SocketAddr::is_ipv4)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(to).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}

/// The addresses of this network namespace but loopback ones, from the kernel's own table of
/// routes: below an address stands `/32 host LOCAL` when it is one of ours.
fn local_addresses(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in fib_trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(address) = last
            && !address.is_loopback()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_read_from_the_routes() {
        let text = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 10.1.0.255
        /32 link BROADCAST
Local:
     |-- 10.1.0.7
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 10.1.0.7
        /32 host LOCAL
";
        assert_eq!(local_addresses(text), [Ipv4Addr::new(10, 1, 0, 7)]);
        assert!(local_addresses("").is_empty());
    }
}
