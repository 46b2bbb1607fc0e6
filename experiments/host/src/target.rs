//! What `lab probe` watches: a port in a network namespace, its listeners and their queues.
//!
//! Must not know: what the probes count, and how it is shown.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use spec::UsageError;

use crate::listeners::{Owner, is_listened_on, owners, ports_of};
use crate::namespace::Netns;
use crate::sock_diag::{Listener, listeners};

/// A server's port.
pub(crate) struct Target {
    pub(crate) port: u16,
    /// The inode of its network namespace.
    pub(crate) netns: u64,
    /// That namespace, when it is not this process's own.
    elsewhere: Option<Netns>,
    owners: Vec<Owner>,
}

/// SYNs answered by a cookie, because the queue of half-open connections was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Cookies {
    sent: u64,
    received: u64,
    failed: u64,
    /// SYNs that were dropped, since cookies are off.
    syns_dropped: u64,
}

/// The queues in front of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Queues {
    /// By listening socket; `None` when the kernel does not say.
    listeners: Option<Vec<Listener>>,
    /// Of the network namespace, for the kernel does not count them by listener.
    syn_cookies: Option<Cookies>,
}

fn refused(words: String) -> anyhow::Error {
    UsageError::error(words)
}

/// Nobody listens where it was looked: who does elsewhere.
fn not_listened_on(port: u16, netns: u64, whose: &str) -> anyhow::Error {
    let others: Vec<Owner> = owners(port).into_iter().filter(|it| it.netns != netns).collect();
    let mut words = format!("nobody listens on port {port} in {whose} network namespace");
    if others.is_empty() {
        words += ": start the server first";
    } else {
        words += "; in others do:";
        for Owner { pid, name, netns, .. } in &others {
            words += &format!(" {name} (process {pid}, namespace net:[{netns}]),");
        }
        let first = others.first().map_or(0, |it| it.pid);
        words += &format!(" to watch one of them: lab probe --pid {first}");
    }
    refused(words)
}

/// Whether somebody listens on a port in a process's network namespace, and no process has the
/// socket among its descriptors.
fn is_nobodys(port: u16, pid: u32, netns: u64) -> io::Result<bool> {
    let is_owned = || owners(port).iter().any(|it| it.netns == netns);
    Ok(is_listened_on(port, &pid.to_string())? && !is_owned())
}

fn netns_of(process: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{process}/ns/net"))?.ino())
}

impl Target {
    /// The port to watch, and where it is.
    ///
    /// # Errors
    /// [`UsageError`] that says who listens on what.
    pub(crate) fn find(port: Option<u16>, pid: Option<u32>) -> anyhow::Result<Self> {
        let own = netns_of("self")?;
        let Some(pid) = pid else {
            let port = port.unwrap_or(0);
            if !is_listened_on(port, "self")? {
                return Err(not_listened_on(port, own, "this"));
            }
            return Ok(Self::of(port, own, None));
        };
        let unseen =
            |error: io::Error| refused(format!("process {pid} cannot be looked at: {error}"));
        let ports = ports_of(pid).map_err(unseen)?;
        let netns = netns_of(&pid.to_string()).map_err(unseen)?;
        let port = match (port, &ports[..]) {
            (Some(port), _) if ports.contains(&port) => port,
            // A socket that a program keeps without a descriptor (io_uring) is nobody's in /proc.
            (Some(port), _) if is_nobodys(port, pid, netns).map_err(unseen)? => port,
            (Some(port), []) => return Err(not_listened_on(port, netns, "that process's")),
            (Some(port), _) => {
                return Err(refused(format!(
                    "process {pid} does not listen on port {port}, but on {ports:?}"
                )));
            }
            (None, [port]) => *port,
            (None, []) => {
                return Err(refused(format!("process {pid} listens on no TCP port")));
            }
            (None, _) => {
                return Err(refused(format!(
                    "process {pid} listens on {ports:?}: say which one with --port"
                )));
            }
        };
        let elsewhere =
            if netns == own { None } else { Some(Netns::of_process(pid).map_err(unseen)?) };
        Ok(Self::of(port, netns, elsewhere))
    }

    fn of(port: u16, netns: u64, elsewhere: Option<Netns>) -> Self {
        let owners = owners(port).into_iter().filter(|it| it.netns == netns).collect();
        Self { port, netns, elsewhere, owners }
    }

    /// Runs something in its network namespace.
    fn inside<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.elsewhere {
            Some(netns) => netns.run(act)?,
            None => act(),
        }
    }

    /// What is watched, and what is not known of it.
    pub(crate) fn sentences(&self, address: Option<IpAddr>, pid: Option<u32>) -> Vec<String> {
        let port = self.port;
        let mut sentences = vec![format!(
            "port {port}: when its requests were due, only their client knows (no T0); a request \
             is what the server reads after a wait, so pipelined commands are one"
        )];
        if self.elsewhere.is_some() {
            sentences.push(format!("in the network namespace net:[{}]", self.netns));
        }
        let listeners = self.queues().listeners.unwrap_or_default();
        let addresses: BTreeSet<IpAddr> = listeners.iter().map(|it| it.address).collect();
        if listeners.len() > 1 {
            let name = |it: &Listener| {
                let owner = self.owners.iter().find(|owner| owner.inode == it.inode);
                let owner = owner.map_or_else(String::new, |owner| {
                    format!(" ({}, process {})", owner.name, owner.pid)
                });
                format!("{}{owner}", it.address)
            };
            let names: Vec<String> = listeners.iter().map(name).collect();
            sentences.push(format!("it has {} listeners: {}", names.len(), names.join(", ")));
            if address.is_none() && addresses.len() > 1 {
                sentences.push(
                    "what follows is of all of them together; --address tells them apart"
                        .to_owned(),
                );
            }
        }
        if pid.is_some() && self.owners.len() > 1 {
            sentences.push(
                "requests, waits and services are those of the process and of what it began; \
                 packets, retransmissions and drops those of the port"
                    .to_owned(),
            );
        }
        sentences
    }

    /// The queues in front of it now.
    pub(crate) fn queues(&self) -> Queues {
        let port = self.port;
        let read = self.inside(|| {
            let netstat = fs::read_to_string("/proc/thread-self/net/netstat")?;
            Ok((listeners(port).ok(), netstat))
        });
        read.map_or_else(
            |_| Queues::default(),
            |(listeners, netstat)| Queues { listeners, syn_cookies: cookies(&netstat) },
        )
    }

    /// Of interfaces by name, in the server's namespace, those nearest its sockets: a packet that
    /// comes up through several (a bridge and its port) is counted at each.
    pub(crate) fn nearest<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<String> {
        let names: Vec<&str> = names.collect();
        let is_below = |name: &str| {
            // Only the own namespace's interfaces are in /sys.
            self.elsewhere.is_none() && is_below(Path::new("/sys/class/net"), name, &names)
        };
        names.iter().filter(|name| !is_below(name)).map(|name| (*name).to_owned()).collect()
    }
}

/// Whether an interface lies below one of others: a port of a bridge or bond, the card below a VLAN
/// or macvlan.
fn is_below(root: &Path, name: &str, others: &[&str]) -> bool {
    others.iter().any(|other| root.join(name).join(format!("upper_{other}")).exists())
}

/// A figure of netstat's pairs of lines, names above values.
fn cookies(netstat: &str) -> Option<Cookies> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let find = |name: &str| -> Option<u64> {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(own, _)| *own == name)?.1.parse().ok()
    };
    Some(Cookies {
        sent: find("SyncookiesSent")?,
        received: find("SyncookiesRecv")?,
        failed: find("SyncookiesFailed")?,
        syns_dropped: find("TCPReqQFullDrop")?,
    })
}

impl Queues {
    /// What came since an earlier look; how long the queues are, is as it is now.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let listeners = self.listeners.as_ref().map(|now| {
            let grown = now.iter().map(|listener| {
                let earlier = before.listeners.iter().flatten();
                let then = earlier.clone().find(|it| it.inode == listener.inode);
                let turned_away =
                    listener.turned_away.wrapping_sub(then.map_or(0, |it| it.turned_away));
                Listener { turned_away, ..listener.clone() }
            });
            grown.collect()
        });
        let syn_cookies = self.syn_cookies.zip(before.syn_cookies).map(|(now, then)| Cookies {
            sent: now.sent.saturating_sub(then.sent),
            received: now.received.saturating_sub(then.received),
            failed: now.failed.saturating_sub(then.failed),
            syns_dropped: now.syns_dropped.saturating_sub(then.syns_dropped),
        });
        Self { listeners, syn_cookies }
    }

    /// Connections that wait to be accepted.
    pub(crate) fn waiting(&self) -> u32 {
        self.listeners.iter().flatten().map(|it| it.waiting).sum()
    }

    /// Each listener's accept queue, and cookies where there were any.
    pub(crate) fn line(&self) -> String {
        let Some(listeners) = &self.listeners else { return "accept queue -".to_owned() };
        let many = listeners.len() > 1;
        let one = |it: &Listener| {
            let at = if many { format!(" {}", it.address) } else { String::new() };
            format!(
                "accept queue{at} {} of {}, {} turned away",
                it.waiting, it.limit, it.turned_away
            )
        };
        let mut line = match &listeners[..] {
            [] => "nobody listens".to_owned(),
            some => some.iter().map(one).collect::<Vec<_>>().join("  "),
        };
        if let Some(cookies) = self.syn_cookies.filter(|it| *it != Cookies::default()) {
            line += &format!(
                "  SYN cookies (of the namespace) sent {} taken {} wrong {}, SYNs dropped {}",
                cookies.sent, cookies.received, cookies.failed, cookies.syns_dropped
            );
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn queues(waiting: u32, turned_away: u32, sent: u64) -> Queues {
        let address = Ipv4Addr::LOCALHOST.into();
        let listener = Listener { address, inode: 7, waiting, limit: 4, turned_away };
        let syn_cookies = Some(Cookies { sent, ..Cookies::default() });
        Queues { listeners: Some(vec![listener]), syn_cookies }
    }

    #[test]
    fn a_queue_is_what_it_is_and_what_was_turned_away_since() {
        let grown = queues(5, 2, 30).since(&queues(1, u32::MAX, 10));
        assert_eq!(grown, queues(5, 3, 20));
        assert_eq!(grown.waiting(), 5);
        let line = grown.line();
        assert!(line.starts_with("accept queue 5 of 4, 3 turned away  SYN cookies"), "{line}");
        assert_eq!(queues(0, 0, 0).line(), "accept queue 0 of 4, 0 turned away");
        assert_eq!(Queues::default().line(), "accept queue -");
    }

    #[test]
    fn a_port_of_a_bridge_lies_below_it() {
        let root = std::env::temp_dir().join(format!("lab-below-{}", std::process::id()));
        fs::create_dir_all(root.join("eth0/upper_br0")).expect("a directory");
        let names = ["br0", "eth0"];
        assert!(is_below(&root, "eth0", &names) && !is_below(&root, "br0", &names));
        assert!(!is_below(&root, "eth0", &["eth0"]));
        fs::remove_dir_all(&root).expect("ours");
    }
}
