//! What to watch.

use std::net::IpAddr;

use attribution::FlowLayout;

/// Entries of a hashed flow array when clients are not known: 32 MiB, and with 10,000 connections
/// 2% share a place with another.
pub(crate) const HASHED_FLOWS: u32 = 1 << 18;

/// What to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's port.
    pub port: u16,
    /// Where the flows lie: dense for clients of known addresses, else hashed.
    pub flows: FlowLayout,
    /// The server's process, if it runs already; others by [`crate::Probes::watch`].
    pub server_pid: Option<u32>,
    /// The clients' processes, if they run already.
    pub client_pids: Vec<u32>,
    /// Take a process that reads a connection of the port on the server's side for the server.
    pub learn_server: bool,
    /// Take a process that reads a connection to the port for a client.
    pub learn_clients: bool,
    /// Count the server's waits and services in the kernel: for a watcher of the server alone; a
    /// client that reads its requests' instants has them all, and spares the kernel the counting.
    pub server_histograms: bool,
    /// Stamp T6 in the kernel, too. A client that reads its requests' instants knows when it read,
    /// and what its thread did by then ([`attribution::Request::read_at`]).
    pub stamp_reads: bool,
    /// Stamp the server's ends of connections, too; not where the server is another host's.
    pub server_end: bool,
    /// Keep the server's ends of one request in [`crate::JOINED_ONE_IN`], and of those that take
    /// long, for [`crate::Probes::server_side`]: for clients on hosts with kernels of their own.
    pub keep_answers: bool,
    /// Time softirqs and count NAPI polls. On loopback each packet is a softirq and a poll, which
    /// makes these three probes cost 0.4 to 0.5 µs a request, as much as all the rest but the
    /// instants; `/proc/stat` and `/proc/net/softnet_stat` count nearly as much for nothing.
    pub softirqs: bool,
    /// Count the port's packets on every interface, 0.1 µs for each. Where nothing but the
    /// experiment uses an interface, its own counters count the same for nothing.
    pub packets: bool,
    /// Beyond so many requests a second for a second, stamp a sample of the connections; always
    /// all of them when `None`. For clients that ask [`crate::SampleTable`].
    pub sample_beyond: Option<u32>,
    /// The network namespace whose sockets count, by inode; those of all when `None`. A server of
    /// the same port in another one, and its clients there, are somebody else's.
    pub netns: Option<u32>,
    /// Count as the server's requests only what its own processes read: another process may have
    /// the port, too.
    pub owned: bool,
    /// The server's address whose connections count; all of them when `None`.
    pub address: Option<IpAddr>,
    /// Watch the children of watched processes, too.
    pub follow: bool,
    /// Probes to treat as absent, by name: for tests of what is left then.
    pub absent: Vec<String>,
}

impl Options {
    /// For a server nothing else is known of: connections are hashed, and the processes on both
    /// sides are found by what they read.
    pub const fn of_port(port: u16) -> Self {
        Self {
            port,
            flows: FlowLayout::Hashed { capacity: HASHED_FLOWS },
            server_pid: None,
            client_pids: Vec::new(),
            learn_server: true,
            learn_clients: true,
            server_histograms: true,
            stamp_reads: true,
            server_end: true,
            keep_answers: false,
            softirqs: true,
            packets: true,
            sample_beyond: None,
            netns: None,
            owned: false,
            address: None,
            follow: false,
            absent: Vec::new(),
        }
    }

    /// For clients of known addresses whose processes are named by [`crate::Probes::watch`] and
    /// that read their own requests.
    pub fn of_flows(port: u16, flows: FlowLayout) -> Self {
        Self {
            flows,
            learn_server: false,
            learn_clients: false,
            server_histograms: false,
            stamp_reads: false,
            softirqs: false,
            ..Self::of_port(port)
        }
    }
}
