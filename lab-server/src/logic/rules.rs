//! What all shards of a server must agree on.

use service::{Budgets, Notices};

/// What all shards must agree on.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Users are `0..users`.
    pub users: u32,
    /// How notices travel.
    pub notices: Notices,
    /// How long a sent packet can be claimed, in nanoseconds.
    pub packet_life_ns: u64,
    /// Packets and notices that wait in one SET at most.
    pub queue_bound: usize,
    /// Sent packets that one shard keeps at a time.
    pub packets_bound: usize,
    /// What one user may have under way.
    pub budgets: Budgets,
    /// What splits come from.
    pub seed: u64,
}
