//! The slowest requests of each second, of all shards together.

use std::collections::BTreeMap;

use attribution::Cause;
use record::SlowRow;
use serde_json::{Value, json};

/// Kept of each second while lines are read. A shard writes down eight of a second at most.
const KEPT: usize = 16;

/// Shown in all. Of long runs fewer of each second are shown, at least [`LEAST`].
const SHOWN: usize = 10_000;

/// Shown of each second, however long the run.
const LEAST: usize = 3;

/// The names of what [`Slow::to_json`] lists of a request, in that order.
pub(super) const FIELDS: [&str; 15] = [
    "t",
    "latency_us",
    "send_lag_us",
    "phase",
    "user",
    "from",
    "causes_us",
    "segments_us",
    "blamed",
    "losses",
    "mixed",
    "client_thread",
    "server_thread",
    "client_held_by",
    "server_held_by",
];

/// Slow requests by second.
#[derive(Debug, Default)]
pub(super) struct Slow {
    by_second: BTreeMap<u64, Vec<(u64, Value)>>,
}

impl Slow {
    /// Adds a request, unless enough slower ones of its second are known.
    pub(super) fn add(&mut self, request: &SlowRow) {
        let latency = request.latency_us;
        let second = self.by_second.entry(request.t).or_default();
        // The slowest first.
        let place = second.partition_point(|(other, _)| *other >= latency);
        if place < KEPT {
            second.insert(place, (latency, to_json(request)));
            second.truncate(KEPT);
        }
    }

    /// Rows of the seconds from `from` on.
    pub(super) fn to_json(&self, from: u64) -> Vec<&Value> {
        let each = (SHOWN / self.by_second.len().max(1)).clamp(LEAST, KEPT);
        let seconds = self.by_second.range(from..);
        seconds.flat_map(|(_, rows)| rows.iter().take(each).map(|(_, row)| row)).collect()
    }
}

/// The fields of a request in the order of [`FIELDS`].
fn to_json(request: &SlowRow) -> Value {
    let seen = request.seen.as_ref();
    let causes: Option<Vec<u64>> =
        Cause::ALL.iter().map(|cause| seen?.causes_us.get(cause).copied()).collect();
    json!([
        request.t,
        request.latency_us,
        request.send_lag_us,
        request.phase,
        request.user,
        request.from,
        causes,
        seen.map(|seen| seen.segments_us),
        seen.map(|seen| seen.blamed),
        seen.map(|seen| seen.losses),
        seen.map(|seen| seen.mixed),
        seen.map(|seen| seen.client_thread),
        seen.map(|seen| seen.server_thread),
        seen.map(|seen| &seen.client_held_by),
        seen.map(|seen| &seen.server_held_by),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_second_are_kept_slowest_first() {
        let mut slow = Slow::default();
        for latency in 0..40_u64 {
            let line = json!({ "t": 5 + latency % 2, "latency_us": latency * 7 % 40, "user": 1 });
            slow.add(&record::parse(line.to_string().as_bytes()).expect("a row"));
        }
        let rows = slow.to_json(0);
        assert_eq!(rows.len(), 32);
        assert!(rows[..16].windows(2).all(|two| two[0][1].as_u64() >= two[1][1].as_u64()));
        assert_eq!(rows[0].as_array().map(Vec::len), Some(FIELDS.len()));
        assert_eq!(rows[0][6], Value::Null);
        assert_eq!(slow.to_json(6).len(), 16);
        assert!(record::parse::<SlowRow>(b"{}").is_err());
    }
}
