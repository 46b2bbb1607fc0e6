//! Which ports are listened on, by which process: for watching a server that was started elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

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

/// Whether a process in this network namespace listens on a port.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn is_listened_on(port: u16) -> io::Result<bool> {
    Ok(of_namespace("self")?.contains_key(&port))
}

/// The ports that a process listens on, in its own network namespace.
///
/// # Errors
/// When there is no such process, or it may not be looked at.
pub(crate) fn ports_of(pid: u32) -> io::Result<Vec<u16>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor that was closed meanwhile is none.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    let ports = of_namespace(&pid.to_string())?;
    Ok(ports
        .into_iter()
        .filter(|(_, own)| !own.is_disjoint(&inodes))
        .map(|(port, _)| port)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert!(is_listened_on(port).expect("readable"));
        assert!(ports_of(std::process::id()).expect("readable").contains(&port));
        drop(listener);
        assert!(!ports_of(std::process::id()).expect("readable").contains(&port));
        assert!(ports_of(u32::MAX).is_err());
    }
}
