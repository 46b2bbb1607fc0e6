//! The server and the clients of an experiment.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service::{Notices, Steering};

use crate::values::{Count, Period, Users};

/// The server of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSpec {
    /// Users that it knows; as many as the experiment has when `None`.
    pub users: Option<Users>,
    /// Shards; one a CPU, or more where descriptors are scarce, when `None`.
    pub shards: Option<Count>,
    /// CPUs of its shards; all when `None`.
    pub cpus: Option<Vec<usize>>,
    /// SETs in all.
    pub sets: Count,
    /// Shakes a second above which it answers "overloaded"; no limit when `None`.
    pub overload: Option<u64>,
    /// How notices of sent packets travel: "push", or "answer" for the prototype's way.
    pub notices: Notices,
    /// How long a sent packet can be claimed.
    pub packet_life_s: Period,
    /// Packets that wait in one SET at most.
    pub queue: Count,
    /// How connections find their shard.
    pub steering: Steering,
    /// Where a durable ledger is kept, on the server's machine; a new directory for each run. None
    /// is kept when `None`.
    pub ledger: Option<PathBuf>,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            users: None,
            shards: None,
            cpus: None,
            sets: Count::at_least_one(256),
            overload: None,
            notices: Notices::Push,
            packet_life_s: Period::try_from(60.0)
                .unwrap_or_else(|_| unreachable!("a constant in range")),
            queue: Count::at_least_one(4096),
            steering: Steering::Auto,
            ledger: None,
        }
    }
}

/// The clients of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSpec {
    /// Processes among which the users are divided.
    pub processes: Count,
    /// Shards of each process; one a CPU when `None`.
    pub shards: Option<Count>,
    /// CPUs of its shards; all when `None`.
    pub cpus: Option<Vec<usize>>,
    /// Addresses that users come from; 17 loopback addresses, or as many as the ports make
    /// necessary, when `None`.
    pub sources: Option<Vec<Ipv4Addr>>,
    /// After this time without an answer a shake has timed out.
    pub timeout_s: Period,
    /// The shortest sleep worth a timer, in microseconds: shakes due within it leave together.
    pub timer_slack_us: u32,
    /// Whether clients speak the commands that the prototype does not have; when `None`, if a phase
    /// needs them.
    pub own_commands: Option<bool>,
    /// Connect again when a connection is lost.
    pub reconnect: bool,
    /// Slow requests that each shard records of a second, the worst of them.
    pub slow_kept: u32,
}

impl Default for ClientSpec {
    fn default() -> Self {
        Self {
            processes: Count::one(),
            shards: None,
            cpus: None,
            sources: None,
            timeout_s: Period::try_from(5.0)
                .unwrap_or_else(|_| unreachable!("a constant in range")),
            timer_slack_us: 100,
            own_commands: None,
            reconnect: true,
            slow_kept: workload::SLOW_KEPT as u32,
        }
    }
}
