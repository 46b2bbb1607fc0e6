//! Which ports are listened on, by which process: for watching a server that was started elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Listening ports of a network namespace with the inodes of their sockets, from the text of
/// `/proc/net/tcp` or `tcp6`.
fn parse(text: &str, into: &mut BTreeMap<u16, BTreeSet<u64>>) {
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = fields[..] else { continue };
        let port = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        if let (Some(port), Ok(inode)) = (port, inode.parse()) {
            into.entry(port).or_default().insert(inode);
        }
    }
}

fn of_namespace(process: &str) -> io::Result<BTreeMap<u16, BTreeSet<u64>>> {
    let mut ports = BTreeMap::new();
    parse(&fs::read_to_string(format!("/proc/{process}/net/tcp"))?, &mut ports);
    // Absent where the kernel has no IPv6.
    if let Ok(text) = fs::read_to_string(format!("/proc/{process}/net/tcp6")) {
        parse(&text, &mut ports);
    }
    Ok(ports)
}

/// A process that has a port of some network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    /// What it is called.
    pub(crate) name: String,
    /// The inode of its network namespace.
    pub(crate) netns: u64,
    /// The number of its listening socket.
    pub(crate) inode: u64,
}

/// The processes that listen on a port, in whatever network namespace: one for each socket, the
/// one with the lowest number. What may not be looked at is left out.
pub(crate) fn owners(port: u16) -> Vec<Owner> {
    let mut by_namespace: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut owners: BTreeMap<(u64, u64), Owner> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        processes.filter_map(|it| it.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let process = pid.to_string();
        let Ok(netns) = fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        let netns = netns.ino();
        let sockets = by_namespace.entry(netns).or_insert_with(|| {
            of_namespace(&process).unwrap_or_default().remove(&port).unwrap_or_default()
        });
        if sockets.is_empty() {
            continue;
        }
        for inode in inodes_of(pid).unwrap_or_default().intersection(sockets) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let name = name.trim_end().to_owned();
            let owner = Owner { pid, name, netns, inode: *inode };
            owners.entry((netns, *inode)).or_insert(owner);
        }
    }
    owners.into_values().collect()
}

/// Whether anything listens on a port in the network namespace of a process, a number or `self`.
///
/// # Errors
/// When there is no such process, or it may not be looked at.
pub(crate) fn is_listened_on(port: u16, process: &str) -> io::Result<bool> {
    Ok(of_namespace(process)?.contains_key(&port))
}

/// The ports that a process listens on, in its own network namespace.
///
/// # Errors
/// When there is no such process, or it may not be looked at.
pub(crate) fn ports_of(pid: u32) -> io::Result<Vec<u16>> {
    let inodes = inodes_of(pid)?;
    let ports = of_namespace(&pid.to_string())?;
    Ok(ports
        .into_iter()
        .filter(|(_, own)| !own.is_disjoint(&inodes))
        .map(|(port, _)| port)
        .collect())
}

/// The numbers of a process's sockets.
fn inodes_of(pid: u32) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor that was closed meanwhile is none.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert!(is_listened_on(port, "self").expect("readable"));
        assert!(ports_of(std::process::id()).expect("readable").contains(&port));
        let found = owners(port);
        let [owner] = &found[..] else { panic!("one: {found:?}") };
        assert_eq!(owner.pid, std::process::id());
        drop(listener);
        assert!(!ports_of(std::process::id()).expect("readable").contains(&port));
        assert!(ports_of(u32::MAX).is_err());
    }
}
