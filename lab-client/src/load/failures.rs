//! Why connections could not be opened, counted by reason, with the way out of each. Must not know:
//! sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;

use shard::Closed;

/// Counts by reason. There are as many reasons as the kernel has for a socket: some dozens.
pub(crate) type ConnectFailures = BTreeMap<ConnectFailure, u64>;

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectFailure {
    /// The kernel said so; the errno.
    Errno(i32),
    /// The server closed it in order before the user was logged in.
    ByServer,
    /// The server did not let the user log in for too long.
    Late,
    /// The shard has no slot left.
    NoSlot,
}

impl From<&io::Error> for ConnectFailure {
    fn from(error: &io::Error) -> Self {
        error.raw_os_error().map_or(Self::NoSlot, Self::Errno)
    }
}

impl From<Closed> for ConnectFailure {
    fn from(why: Closed) -> Self {
        match why {
            Closed::NotConnected(errno) | Closed::Broken(errno) => Self::Errno(errno),
            Closed::ByPeer | Closed::NotReading | Closed::FrameTooLong => Self::ByServer,
        }
    }
}

impl ConnectFailure {
    /// Its name, as the kernel's headers have it.
    fn name(self) -> String {
        let Self::Errno(errno) = self else {
            return match self {
                Self::ByServer => "closed before the login",
                Self::Late => "no login in time",
                _ => "no slot",
            }
            .to_owned();
        };
        let name = match errno {
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::ECONNRESET => "ECONNRESET",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::EMFILE => "EMFILE",
            libc::ENFILE => "ENFILE",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::EHOSTUNREACH => "EHOSTUNREACH",
            libc::EPERM => "EPERM",
            libc::EACCES => "EACCES",
            libc::ENOBUFS => "ENOBUFS",
            libc::ENOMEM => "ENOMEM",
            libc::EPIPE => "EPIPE",
            _ => return format!("errno {errno}"),
        };
        name.to_owned()
    }

    /// What happened, who did it, and the way out.
    pub(crate) fn sentence(self, server: SocketAddrV4) -> String {
        let name = self.name();
        let Self::Errno(errno) = self else {
            return match self {
                Self::ByServer => format!(
                    "{server} closed connections before their users were logged in: it turns them \
                     away, or ends; it says why itself"
                ),
                Self::Late => format!(
                    "{server} let users wait for their login for too long: it is overloaded, or \
                     stands still"
                ),
                _ => "a shard of this client has no slot left for a connection".to_owned(),
            };
        };
        format!("{name}: {}", of_errno(errno, server))
    }
}

/// What an errno of a connection to a server means, and what to do.
fn of_errno(errno: i32, server: SocketAddrV4) -> String {
    let port = server.port();
    match errno {
        libc::ECONNREFUSED => format!(
            "{server} refuses connections: nobody listens there; has the server ended, or is \
                 it another port? ss -ltn 'sport = :{port}' there shows it"
        ),
        libc::ECONNRESET | libc::EPIPE => format!(
            "{server} broke connections before their users were logged in: it turns them away, \
                 as one that has as many as it may hold does, or has ended; it says why itself"
        ),
        libc::EADDRNOTAVAIL => "a source address is not of this machine, or has no port left: \
                                    ip -brief address, sysctl net.ipv4.ip_local_port_range"
            .to_owned(),
        libc::EADDRINUSE => "source ports are taken by other connections: widen \
                                 net.ipv4.ip_local_port_range, give more source addresses, or wait \
                                 a minute for TIME_WAIT to pass"
            .to_owned(),
        libc::ETIMEDOUT => format!(
            "{server} does not answer: a firewall drops the SYN, the host is down, or its \
                 accept queue is full (ss -ltn 'sport = :{port}' there, net.core.somaxconn)"
        ),
        libc::EMFILE => "this process may open no more files: ulimit -n".to_owned(),
        libc::ENFILE => "this machine may open no more files: sysctl fs.file-max".to_owned(),
        libc::ENETUNREACH | libc::EHOSTUNREACH => format!(
            "there is no way to {server}: ip route get {} shows which one is taken",
            server.ip()
        ),
        libc::EPERM | libc::EACCES => format!(
            "a rule of this machine forbids connections to {server}: nft list ruleset, or the \
                 container's policy"
        ),
        libc::ENOBUFS | libc::ENOMEM => {
            "the kernel has no memory for another socket: fewer users, or a larger memory \
                 limit (lab check names it)"
                .to_owned()
        }
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}

/// All of them in a line, the most frequent first; `None` when every connection was opened.
pub(crate) fn in_all(failures: &ConnectFailures) -> Option<String> {
    let all: u64 = failures.values().sum();
    let mut by_count: Vec<_> = failures.iter().collect();
    by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let parts: Vec<String> =
        by_count.into_iter().map(|(why, count)| format!("{} {count}", why.name())).collect();
    (all > 0).then(|| format!("connections that could not be opened: {all} ({})", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn every_reason_has_a_name_who_and_a_way_out() {
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1025);
        let check = |errno: i32, name: &str, parts: &[&str]| {
            let sentence = ConnectFailure::Errno(errno).sentence(server);
            assert!(sentence.starts_with(&format!("{name}: ")), "{sentence}");
            assert!(parts.iter().all(|part| sentence.contains(part)), "{parts:?}: {sentence}");
        };
        check(libc::ECONNREFUSED, "ECONNREFUSED", &["127.0.0.1:1025", "nobody listens", "ss -ltn"]);
        check(libc::EADDRNOTAVAIL, "EADDRNOTAVAIL", &["source address", "ip_local_port_range"]);
        check(libc::EADDRINUSE, "EADDRINUSE", &["source ports", "ip_local_port_range"]);
        check(libc::ETIMEDOUT, "ETIMEDOUT", &["127.0.0.1:1025", "firewall", "somaxconn"]);
        check(libc::EMFILE, "EMFILE", &["this process", "ulimit -n"]);
        check(libc::ENFILE, "ENFILE", &["this machine", "fs.file-max"]);
        check(libc::EHOSTUNREACH, "EHOSTUNREACH", &["ip route get 127.0.0.1"]);
        check(libc::EPERM, "EPERM", &["127.0.0.1:1025", "nft"]);
        check(libc::ENOMEM, "ENOMEM", &["memory"]);
        check(libc::ECONNRESET, "ECONNRESET", &["127.0.0.1:1025", "turns them away"]);
        check(libc::EXDEV, "errno 18", &["cross-device"]);
        for other in [ConnectFailure::ByServer, ConnectFailure::Late] {
            assert!(other.sentence(server).contains("127.0.0.1:1025"), "{other:?}");
        }
        let no_slot = ConnectFailure::from(&io::Error::other("the shard has no slot left"));
        assert!(no_slot.sentence(server).contains("slot"));
    }

    #[test]
    fn the_sum_names_each_reason() {
        let refused = ConnectFailure::from(Closed::NotConnected(libc::ECONNREFUSED));
        let counts = ConnectFailures::from([(ConnectFailure::Late, 2), (refused, 800)]);
        let expected =
            "connections that could not be opened: 802 (ECONNREFUSED 800, no login in time 2)";
        assert_eq!(in_all(&counts).as_deref(), Some(expected));
        assert_eq!(in_all(&ConnectFailures::new()), None);
    }
}
