//! The slowest requests of a second, as records.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

/// Records of a second and shard: the worst are kept, so that a bad second costs no more to record
/// than a good one.
const KEPT: usize = 8;

/// Faster requests are never recorded.
const SLOW_NS: u64 = 1_000_000;

/// A slow request, as the client alone sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowRequest {
    /// Who shook.
    pub user: u32,
    /// The client's end of the connection.
    pub from: SocketAddrV4,
    /// The phase in which it was due.
    pub phase: u16,
    /// When it was due, on the monotonic clock in nanoseconds.
    pub due_ns: u64,
    /// How late it left, in microseconds.
    pub send_lag_us: u64,
    /// From the intended instant to the answer, in microseconds.
    pub latency_us: u64,
}

/// The slowest requests of the second under way.
#[derive(Debug, Default)]
pub struct Slow {
    kept: Vec<SlowRequest>,
    /// Once all places are taken, the latency of the fastest kept, in nanoseconds.
    least_ns: u64,
}

impl Slow {
    /// Whether a request with this latency would be kept.
    pub fn wants(&self, latency_ns: u64) -> bool {
        latency_ns >= SLOW_NS && latency_ns > self.least_ns
    }

    /// Keeps a request in the place of a faster one.
    pub fn enter(&mut self, request: SlowRequest) {
        if self.kept.len() < KEPT {
            self.kept.push(request);
        } else if let Some(fastest) = self.kept.iter_mut().min_by_key(|kept| kept.latency_us) {
            *fastest = request;
        }
        if self.kept.len() == KEPT {
            let least_us = self.kept.iter().map(|kept| kept.latency_us).min();
            self.least_ns = least_us.unwrap_or_default() * 1000;
        }
    }

    /// The requests kept; the next second begins with none.
    pub fn take(&mut self) -> impl Iterator<Item = SlowRequest> + '_ {
        self.least_ns = 0;
        self.kept.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_kept() {
        let mut slow = Slow::default();
        for latency_us in (0..100).map(|n| 500 + n * 37 % 100 * 100) {
            let request = SlowRequest {
                user: 1,
                from: "127.0.0.1:1".parse().unwrap(),
                phase: 0,
                due_ns: 0,
                send_lag_us: 0,
                latency_us,
            };
            if slow.wants(latency_us * 1000) {
                slow.enter(request);
            }
        }
        let mut kept: Vec<_> = slow.take().map(|request| request.latency_us).collect();
        kept.sort_unstable();
        assert_eq!(kept, (92..100).map(|n| 500 + n * 100).collect::<Vec<_>>());
        assert!(!slow.wants(999_999) && slow.wants(1_000_000));
    }
}
