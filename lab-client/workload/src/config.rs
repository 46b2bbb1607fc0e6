//! What a client is started with.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use attribution::Handover;
use platform::{DescriptorLimits, Placement, sockets_per_ring};
use serde::{Deserialize, Serialize};
use service::{MOST_AHEAD_NS, MOST_SHARDS, Notices};

use crate::flows::{Flows, TooFewPorts, loopback_sources};

/// Records of slow requests of a second and shard unless told otherwise: the worst are kept, so
/// that a bad second costs no more to record than a good one.
pub const SLOW_KEPT: usize = 8;

/// The most users of one client: 2 GiB, at 32 bytes each.
const MOST_USERS: u32 = 1 << 26;

/// The most slow requests that can be recorded of a second and shard.
const MOST_SLOW_KEPT: usize = 100_000;

/// How to start a client. [`Config::default`] has the defaults of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The server.
    pub server: SocketAddrV4,
    /// Users of all clients are `0..total_users`.
    pub total_users: u32,
    /// The first user of this client.
    pub first_user: u32,
    /// The exclusive end of the users of this client.
    pub end_user: u32,
    /// The first user of this machine: flows are numbered from here, so that several clients on one
    /// machine share its addresses and ports.
    pub first_flow: u32,
    /// How many users the clients of this machine have in all.
    pub flows: u32,
    /// Shards; one a CPU when `None`.
    pub shards: Option<usize>,
    /// CPUs for the shards; all that the process may use when `None`.
    pub cpus: Option<Vec<usize>>,
    /// Addresses to come from; enough loopback addresses for a server on this machine, and the
    /// address of the route to the server otherwise, when `None`.
    pub sources: Option<Vec<Ipv4Addr>>,
    /// What the schedule comes from.
    pub seed: u64,
    /// How notices come.
    pub notices: Notices,
    /// After this time without an answer a shake has timed out.
    pub timeout: Duration,
    /// A send that is later than this is counted.
    pub late: Duration,
    /// Tell the server that we speak this project's own commands: needed for pushes and chat.
    pub own_commands: bool,
    /// The shortest sleep worth a timer: shakes due within it leave together.
    pub timer_slack: Duration,
    /// Congestion control of the connections; the system's default when `None`.
    pub congestion: Option<String>,
    /// Connect again when a connection is lost.
    pub reconnect: bool,
    /// Slow requests recorded of a second and shard.
    pub slow_kept: usize,
    /// How far this machine's wall clock is ahead of the one that seconds are agreed on, in
    /// nanoseconds.
    #[serde(default)]
    pub clock_ahead_ns: i64,
    /// Pass a sample of the requests on, to be joined with the server's ends of them: for clients
    /// whose kernel does not see the server.
    #[serde(default)]
    pub join: bool,
    /// Arrays of probes, inherited from the process that attached them.
    pub probes: Option<Handover>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1025),
            total_users: 1000,
            first_user: 0,
            end_user: 1000,
            first_flow: 0,
            flows: 1000,
            shards: None,
            cpus: None,
            sources: None,
            seed: 2015,
            notices: Notices::Push,
            timeout: Duration::from_secs(5),
            late: Duration::from_millis(1),
            own_commands: false,
            timer_slack: Duration::from_micros(100),
            congestion: None,
            reconnect: true,
            slow_kept: SLOW_KEPT,
            clock_ahead_ns: 0,
            join: false,
            probes: None,
        }
    }
}

/// Why a configuration is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No user, or users that are not among all users.
    #[error("users {first}..{end} are no ascending range within the {total} users of all clients")]
    Users {
        /// The first.
        first: u32,
        /// Their exclusive end.
        end: u32,
        /// All users.
        total: u32,
    },
    /// More users than there is memory for.
    #[error("{0} users are more than one client can have: at most {MOST_USERS}")]
    TooManyUsers(u32),
    /// Flows that begin after the first user's.
    #[error("first_flow {first_flow}: at most the first user, {first}")]
    Flow {
        /// As asked for.
        first_flow: u32,
        /// The first user.
        first: u32,
    },
    /// No shard at all.
    #[error("--shards 0: a client needs at least one shard")]
    NoShards,
    /// More shards than there can be.
    #[error("--shards {0}: at most {MOST_SHARDS}")]
    TooManyShards(usize),
    /// More records than there is room for.
    #[error("slow_kept {0}: at most {MOST_SLOW_KEPT}")]
    SlowKept(usize),
    /// A clock that cannot be so wrong.
    #[error("clock_ahead_ns {0}: at most {MOST_AHEAD_NS} (a year) in either direction")]
    Clock(i64),
    /// CPUs that the process may not use.
    #[error("--cpus {cpu}: this process may use CPUs {allowed:?}")]
    Cpu {
        /// The CPU asked for.
        cpu: usize,
        /// Those that may be used.
        allowed: Vec<usize>,
    },
    /// Too few addresses or ports.
    #[error(transparent)]
    Ports(#[from] TooFewPorts),
}

/// What a configuration comes to on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Shards.
    pub shards: usize,
    /// Where they run.
    pub placement: Placement,
    /// Sockets in one ring.
    pub per_ring: u32,
    /// Where users come from.
    pub flows: Flows,
}

impl Config {
    /// Works out what the configuration comes to with these CPUs, limits and ports.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn resolve(
        &self,
        allowed: &[usize],
        limits: DescriptorLimits,
        (first_port, last_port): (u16, u16),
    ) -> Result<Resolved, ConfigError> {
        let (first, end, total) = (self.first_user, self.end_user, self.total_users);
        if first >= end || end > total {
            return Err(ConfigError::Users { first, end, total });
        }
        if end - first > MOST_USERS {
            return Err(ConfigError::TooManyUsers(end - first));
        }
        if self.first_flow > first {
            return Err(ConfigError::Flow { first_flow: self.first_flow, first });
        }
        if self.slow_kept > MOST_SLOW_KEPT {
            return Err(ConfigError::SlowKept(self.slow_kept));
        }
        if self.clock_ahead_ns.unsigned_abs() > MOST_AHEAD_NS {
            return Err(ConfigError::Clock(self.clock_ahead_ns));
        }
        let cpus = self.cpus.clone().unwrap_or_else(|| allowed.to_vec());
        if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(ConfigError::Cpu { cpu: *cpu, allowed: allowed.to_vec() });
        }
        let shards = self.shards.unwrap_or(cpus.len().max(1));
        if shards == 0 {
            return Err(ConfigError::NoShards);
        }
        if shards > MOST_SHARDS {
            return Err(ConfigError::TooManyShards(shards));
        }
        let flows = self.flows.max(end - self.first_flow.min(end));
        let sources = match &self.sources {
            Some(sources) => sources.clone(),
            None if self.server.ip().is_loopback() => {
                loopback_sources(flows, first_port, last_port)
            }
            // The kernel chooses the address by its route; ports are ours to choose all the same.
            None => vec![Ipv4Addr::UNSPECIFIED],
        };
        let flows_of_machine = Flows { sources, first_port, last_port, but: self.server.port() };
        flows_of_machine.check(flows)?;
        Ok(Resolved {
            shards,
            placement: if cpus.is_empty() { Placement::Free } else { Placement::Pinned(cpus) },
            per_ring: sockets_per_ring(limits),
            flows: flows_of_machine,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DescriptorLimits = DescriptorLimits { soft: 20_000, hard: 20_000 };

    #[test]
    fn a_million_users_fit_two_shards() {
        let config = Config { total_users: 1_000_000, end_user: 1_000_000, ..Config::default() };
        let resolved = config.resolve(&[0, 1], LIMITS, (1024, 65_535)).expect("fits");
        assert_eq!((resolved.shards, resolved.per_ring), (2, 20_000));
        assert_eq!(resolved.flows.sources.len(), 17);
    }

    #[test]
    fn impossible_configurations_are_refused_in_words() {
        let base = Config::default;
        for (config, words) in [
            (Config { first_user: 5, end_user: 5, ..base() }, "users 5..5"),
            (Config { end_user: 2_000, ..base() }, "within the 1000 users"),
            (Config { total_users: u32::MAX, end_user: u32::MAX, ..base() }, "at most 67108864"),
            (Config { first_flow: 1, ..base() }, "first_flow 1"),
            (Config { slow_kept: usize::MAX, ..base() }, "slow_kept 1844"),
            (Config { clock_ahead_ns: i64::MIN, ..base() }, "clock_ahead_ns -92"),
            (Config { shards: Some(usize::MAX), ..base() }, "--shards 1844"),
            (Config { shards: Some(0), ..base() }, "--shards 0"),
            (Config { cpus: Some(vec![9]), ..base() }, "--cpus 9"),
            (
                Config {
                    total_users: 60_000,
                    end_user: 60_000,
                    sources: Some(vec![Ipv4Addr::LOCALHOST]),
                    ..base()
                },
                "need 3 source addresses",
            ),
        ] {
            let error = config.resolve(&[0, 1], LIMITS, (32_768, 60_999)).expect_err("impossible");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
