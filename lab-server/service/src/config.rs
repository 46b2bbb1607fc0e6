//! What a server is started with, and what that means on this machine.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use platform::{DescriptorLimits, NANOS_PER_SECOND, Placement, sockets_per_ring};
use serde::{Deserialize, Serialize};

/// Descriptors that one executor needs before its shard has a table of its own: three rings, two
/// event descriptors, an epoll instance, and some to spare.
const DESCRIPTORS_PER_EXECUTOR: u64 = 12;

/// Descriptors that the process needs whatever the number of shards, and that a shard keeps free
/// for accepting.
const DESCRIPTORS_SPARE: u64 = 64;

/// The largest number of SETs: a session remembers its SET in 16 bits.
const MAX_SETS: usize = 1 << 16;

/// Packets and notices that may wait in all SETs together: 2 GiB, at 32 bytes each.
const MOST_QUEUED: usize = 1 << 26;

/// The most sent packets that can be kept at a time: some 16 GB.
const MOST_PACKETS: usize = 1 << 26;

/// The longest life of a packet.
const LONGEST_LIFE: Duration = Duration::from_secs(31 * 86_400);

/// The most shards of a program.
pub const MOST_SHARDS: usize = 1024;

/// How far a clock can be ahead of another, or behind it, in nanoseconds: a year.
pub const MOST_AHEAD_NS: u64 = 365 * 86_400 * NANOS_PER_SECOND;

/// How notices of sent packets reach their users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notices {
    /// Written to the named users' own connections.
    #[default]
    Push,
    /// The prototype's way: put into the queue of the named user's SET, to travel as the answer to
    /// that SET's next shake, from any of its users.
    Answer,
}

/// What one user may have under way: far more than a person makes use of, and far less than it
/// takes to keep others from theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budgets {
    /// Packets of a user that are open, on all shards.
    pub packets: u32,
    /// Messages to users and shards that a user's requests have on their way: a claim until
    /// it is answered, a notice for each recipient of a packet, all at most until their second is
    /// over.
    pub mail: u16,
    /// Chat texts of a user without a receipt, at most until their second is over.
    pub chats: u16,
}

impl Default for Budgets {
    fn default() -> Self {
        // Packets: 1,000 users fill a server. Mail: four packets for as many users as a frame can
        // name, and 16 users fill a shard's outbox (65,536) that nobody reads. Chats: a megabyte.
        Self { packets: 1000, mail: 4096, chats: 256 }
    }
}

/// How the kernel chooses the shard of a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolvedSteering {
    /// By a hash over both addresses: even, whatever the network card does.
    #[default]
    Hash,
    /// The shard on the CPU that took the first packet (SO_INCOMING_CPU): a flow then stays on one
    /// core from the card to the shard. Even only if the card's queues, or the connecting threads
    /// on this machine, are spread evenly over the shards' CPUs.
    Cpu,
}

/// Which steering a server is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Steering {
    /// By CPU when clients are on this machine (a loopback address) and every shard has a CPU of
    /// its own, else by hash: a network card with fewer queues than shards would leave some idle.
    #[default]
    Auto,
    /// See [`ResolvedSteering::Hash`].
    Hash,
    /// See [`ResolvedSteering::Cpu`].
    Cpu,
}

/// How to start a server. [`Config::default`] has the defaults of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Where to listen; port 0 for any that is free.
    pub listen: SocketAddrV4,
    /// Users are `0..users`.
    pub users: u32,
    /// Connections at the same time; a little more than the users when `None`.
    pub connections: Option<u32>,
    /// Shards; one a CPU, or more where descriptors are scarce, when `None`.
    pub shards: Option<usize>,
    /// CPUs for the shards; all that the process may use when `None`.
    pub cpus: Option<Vec<usize>>,
    /// SETs in all, spread over the shards.
    pub sets: usize,
    /// Shakes per second that are answered with more than "overloaded"; no limit when `None`.
    pub overload: Option<u64>,
    /// How notices of sent packets travel.
    pub notices: Notices,
    /// How long a sent packet can be claimed.
    pub packet_life: Duration,
    /// Packets that wait in one SET at most.
    pub queue_bound: usize,
    /// Sent packets kept at a time, over all shards.
    pub packets_bound: usize,
    /// What one user may have under way.
    #[serde(default)]
    pub budgets: Budgets,
    /// What amounts and splits come from.
    pub seed: u64,
    /// How connections find their shard.
    pub steering: Steering,
    /// Congestion control of the connections; the system's default when `None`.
    pub congestion: Option<String>,
    /// How far this machine's wall clock is ahead of the one that seconds are agreed on, in
    /// nanoseconds.
    #[serde(default)]
    pub clock_ahead_ns: i64,
    /// Where the durable ledger is; none is kept when `None`.
    #[serde(default)]
    pub ledger: Option<PathBuf>,
    /// Keep all of the durable ledger, and not only what a restart needs.
    #[serde(default)]
    pub ledger_history: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1025),
            users: 1_200_000,
            connections: None,
            shards: None,
            cpus: None,
            sets: 256,
            overload: None,
            notices: Notices::Push,
            packet_life: Duration::from_secs(60),
            queue_bound: 4096,
            packets_bound: 1 << 20,
            budgets: Budgets::default(),
            seed: 2015,
            steering: Steering::Auto,
            congestion: None,
            clock_ahead_ns: 0,
            ledger: None,
            ledger_history: false,
        }
    }
}

/// Why a configuration is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No user could log in.
    #[error("--users 0: a server needs at least one user")]
    NoUsers,
    /// More users than there is room for in memory.
    #[error("--users {0}: at most {MOST_USERS} are possible")]
    TooManyUsers(u32),
    /// Shards of which some would have no SET.
    #[error("--sets {sets} is less than the {shards} shards, of which each needs a SET of its own")]
    TooFewSets {
        /// SETs asked for.
        sets: usize,
        /// Shards there are to be.
        shards: usize,
    },
    /// More SETs than can be numbered.
    #[error("--sets {0}: at most {MAX_SETS} are possible")]
    TooManySets(usize),
    /// Queues of which none could hold a packet, or which could hold more than there is memory.
    #[error(
        "--queue {queue}: at least 1, and at most {MOST_QUEUED} packets in all of {sets} SETs \
         together"
    )]
    Queue {
        /// Packets in one SET.
        queue: usize,
        /// SETs.
        sets: usize,
    },
    /// More packets than there is memory.
    #[error("packets_bound {0}: at most {MOST_PACKETS}")]
    Packets(usize),
    /// A life that is longer than any experiment.
    #[error(
        "--packet-life {}: at most {} seconds (31 days)",
        .0.as_secs_f64(), LONGEST_LIFE.as_secs()
    )]
    Life(Duration),
    /// A clock that cannot be so wrong.
    #[error("clock_ahead_ns {0}: at most {MOST_AHEAD_NS} (a year) in either direction")]
    Clock(i64),
    /// A server that nobody can connect to.
    #[error("--connections 0: a server needs room for at least one connection")]
    NoConnections,
    /// No shard at all, or more than descriptors allow.
    #[error(
        "--shards {shards}: between 1 and {most} are possible with {descriptors} descriptors \
         (ulimit -n)"
    )]
    Shards {
        /// Shards asked for.
        shards: usize,
        /// The most there can be.
        most: usize,
        /// The limit on descriptors.
        descriptors: u64,
    },
    /// CPUs that the process may not use.
    #[error("--cpus {cpu}: this process may use CPUs {allowed:?}")]
    Cpu {
        /// The CPU asked for.
        cpu: usize,
        /// Those that may be used.
        allowed: Vec<usize>,
    },
    /// More connections than descriptors allow, however they are spread.
    #[error(
        "{connections} connections on {shards} shards need more than {descriptors} descriptors a \
         shard: raise ulimit -n, or give more shards"
    )]
    Connections {
        /// Connections asked for.
        connections: u32,
        /// Shards there are to be.
        shards: usize,
        /// The limit on descriptors.
        descriptors: u64,
    },
}

/// What a configuration comes to on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Shards.
    pub shards: usize,
    /// Where they run.
    pub placement: Placement,
    /// Connections that all shards together may hold.
    pub connections: u32,
    /// Connections that one shard can hold; unused ones cost nothing.
    pub connections_per_shard: u32,
    /// Sockets in one ring.
    pub per_ring: u32,
    /// How connections find their shard.
    pub steering: ResolvedSteering,
}

/// The most users: the directory of 10 bytes a user is reserved beforehand, 2.7 GB of it.
const MOST_USERS: u32 = 1 << 28;

/// Connections beyond a sixteenth more than the users, unless told otherwise.
const CONNECTIONS_SPARE: u32 = 1024;

/// Connections that one shard can hold with `shards` executors in one process: a ring costs a
/// descriptor and holds as many sockets as the limit allows descriptors.
fn shard_capacity(limits: DescriptorLimits, shards: usize) -> u32 {
    let base = DESCRIPTORS_SPARE + DESCRIPTORS_PER_EXECUTOR * shards as u64;
    let rings = limits.soft.saturating_sub(base);
    u32::try_from(rings.saturating_mul(u64::from(sockets_per_ring(limits)))).unwrap_or(u32::MAX)
}

impl Config {
    /// Checks what depends on no machine.
    fn check_bounds(&self) -> Result<(), ConfigError> {
        let (sets, queue) = (self.sets, self.queue_bound);
        if sets > MAX_SETS {
            return Err(ConfigError::TooManySets(sets));
        }
        if queue == 0 || queue.checked_mul(sets).is_none_or(|in_all| in_all > MOST_QUEUED) {
            return Err(ConfigError::Queue { queue, sets });
        }
        if self.packets_bound > MOST_PACKETS {
            return Err(ConfigError::Packets(self.packets_bound));
        }
        if self.packet_life > LONGEST_LIFE {
            return Err(ConfigError::Life(self.packet_life));
        }
        if self.clock_ahead_ns.unsigned_abs() > MOST_AHEAD_NS {
            return Err(ConfigError::Clock(self.clock_ahead_ns));
        }
        if self.connections == Some(0) {
            return Err(ConfigError::NoConnections);
        }
        Ok(())
    }

    /// Works out what the configuration comes to with these CPUs and limits.
    ///
    /// # Errors
    /// [`ConfigError`], in words that name the option.
    pub fn resolve(
        &self,
        allowed: &[usize],
        limits: DescriptorLimits,
    ) -> Result<Resolved, ConfigError> {
        if self.users == 0 {
            return Err(ConfigError::NoUsers);
        }
        if self.users > MOST_USERS {
            return Err(ConfigError::TooManyUsers(self.users));
        }
        self.check_bounds()?;
        let cpus = self.cpus.clone().unwrap_or_else(|| allowed.to_vec());
        if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(ConfigError::Cpu { cpu: *cpu, allowed: allowed.to_vec() });
        }
        let connections =
            self.connections.unwrap_or(self.users + self.users / 16 + CONNECTIONS_SPARE);
        let spare = limits.soft.saturating_sub(DESCRIPTORS_SPARE + 1);
        let most = usize::try_from(spare / DESCRIPTORS_PER_EXECUTOR)
            .unwrap_or(usize::MAX)
            .min(MOST_SHARDS);
        let shards = match self.shards {
            Some(shards) => shards,
            // More shards than CPUs only when fewer could not hold the connections.
            None => (cpus.len()..=most)
                .find(|shards| {
                    let all = u64::from(shard_capacity(limits, *shards)) * *shards as u64;
                    all >= u64::from(connections)
                })
                .unwrap_or(cpus.len()),
        };
        if shards == 0 || shards > most {
            return Err(ConfigError::Shards { shards, most, descriptors: limits.soft });
        }
        let capacity = shard_capacity(limits, shards);
        if u64::from(capacity) * (shards as u64) < u64::from(connections) {
            return Err(ConfigError::Connections { connections, shards, descriptors: limits.soft });
        }
        if self.sets < shards {
            return Err(ConfigError::TooFewSets { sets: self.sets, shards });
        }
        let own_cpus = shards <= cpus.len();
        let by_cpu = match self.steering {
            Steering::Auto => own_cpus && self.listen.ip().is_loopback(),
            Steering::Hash => false,
            Steering::Cpu => true,
        };
        Ok(Resolved {
            shards,
            placement: if cpus.is_empty() { Placement::Free } else { Placement::Pinned(cpus) },
            connections,
            connections_per_shard: capacity.min(connections),
            per_ring: sockets_per_ring(limits),
            steering: if by_cpu { ResolvedSteering::Cpu } else { ResolvedSteering::Hash },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(soft: u64) -> DescriptorLimits {
        DescriptorLimits { soft, hard: soft }
    }

    #[test]
    fn a_million_fits_two_shards_with_twenty_thousand_descriptors() {
        let resolved = Config::default().resolve(&[0, 1], limits(20_000)).expect("fits");
        assert_eq!(resolved.shards, 2);
        assert_eq!(resolved.placement, Placement::Pinned(vec![0, 1]));
        assert_eq!(resolved.connections_per_shard, 1_276_024);
        assert_eq!(resolved.connections, 1_276_024);
        assert_eq!((resolved.per_ring, resolved.steering), (20_000, ResolvedSteering::Cpu));
        let shards = |soft| Config::default().resolve(&[0, 1], limits(soft)).map(|it| it.shards);
        assert_eq!(shards(1024), Ok(2));
        // Where even rings do not hold half of the connections, there are more shards.
        assert_eq!(shards(700), Ok(4));
    }

    #[test]
    fn steering_is_by_cpu_only_where_it_is_even() {
        let steering =
            |config: Config| config.resolve(&[0, 1], limits(20_000)).map(|it| it.steering);
        let remote = Config { listen: "10.0.0.1:1025".parse().unwrap(), ..Config::default() };
        assert_eq!(steering(remote.clone()), Ok(ResolvedSteering::Hash));
        let forced = Config { steering: Steering::Cpu, ..remote };
        assert_eq!(steering(forced), Ok(ResolvedSteering::Cpu));
        let many = Config { shards: Some(50), ..Config::default() };
        assert_eq!(steering(many), Ok(ResolvedSteering::Hash));
    }

    #[test]
    fn impossible_configurations_are_refused_in_words() {
        let error = |config: Config, soft| {
            config.resolve(&[0, 1], limits(soft)).expect_err("impossible").to_string()
        };
        let base = Config::default;
        for (config, soft, words) in [
            (Config { users: 0, ..base() }, 20_000, "--users 0"),
            (Config { users: u32::MAX, ..base() }, 20_000, "--users 4294967295: at most 268435456"),
            // The most that get as far as the descriptors.
            (Config { users: MOST_USERS, ..base() }, 300, "raise ulimit -n"),
            (Config { sets: 1, ..base() }, 20_000, "--sets 1 is less than the 2 shards"),
            (Config { sets: 1 << 17, ..base() }, 20_000, "at most 65536"),
            (Config { queue_bound: 0, ..base() }, 20_000, "--queue 0: at least 1"),
            (Config { queue_bound: usize::MAX, ..base() }, 20_000, "in all of 256 SETs"),
            (Config { queue_bound: 1 << 19, ..base() }, 20_000, "--queue 524288"),
            (Config { packets_bound: usize::MAX, ..base() }, 20_000, "packets_bound 1844"),
            (Config { packet_life: Duration::MAX, ..base() }, 20_000, "(31 days)"),
            (Config { clock_ahead_ns: i64::MIN, ..base() }, 20_000, "clock_ahead_ns -92"),
            (Config { connections: Some(0), ..base() }, 20_000, "--connections 0"),
            (Config { shards: Some(0), ..base() }, 20_000, "between 1 and 1024"),
            (Config { shards: Some(90), ..base() }, 1_024, "between 1 and 79"),
            (Config { shards: Some(2), ..base() }, 256, "raise ulimit -n"),
            (Config { cpus: Some(vec![0, 7]), ..base() }, 20_000, "--cpus 7"),
        ] {
            let said = error(config, soft);
            assert!(said.contains(words), "{said}");
        }
    }
}
