//! The slowest requests of each second, of all shards together.

use std::collections::BTreeMap;

use attribution::Cause;
use serde_json::{Map, Value, json};

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
    /// Reads a line of `slow.jsonl`.
    pub(super) fn line(&mut self, line: &Map<String, Value>) -> Result<(), String> {
        let number = |name: &str| line.get(name).and_then(Value::as_u64);
        let Some((t, latency)) = number("t").zip(number("latency_us")) else {
            return Err("has no second (t) or no latency".to_owned());
        };
        let second = self.by_second.entry(t).or_default();
        // The slowest first.
        let place = second.partition_point(|(other, _)| *other >= latency);
        if place < KEPT {
            second.insert(place, (latency, row(line)));
            second.truncate(KEPT);
        }
        Ok(())
    }

    /// Rows of the seconds from `from` on.
    pub(super) fn to_json(&self, from: u64) -> Vec<&Value> {
        let each = (SHOWN / self.by_second.len().max(1)).clamp(LEAST, KEPT);
        let seconds = self.by_second.range(from..);
        seconds.flat_map(|(_, rows)| rows.iter().take(each).map(|(_, row)| row)).collect()
    }
}

fn row(line: &Map<String, Value>) -> Value {
    let of = |name: &str| line.get(name).cloned().unwrap_or(Value::Null);
    let seen = line.get("seen").cloned().unwrap_or(Value::Null);
    let causes: Option<Vec<u64>> =
        Cause::ALL.iter().map(|cause| seen["causes_us"][cause.name()].as_u64()).collect();
    json!([
        of("t"),
        of("latency_us"),
        of("send_lag_us"),
        of("phase"),
        of("user"),
        of("from"),
        causes,
        seen["segments_us"],
        seen["blamed"],
        seen["losses"],
        seen["mixed"],
        seen["client_thread"],
        seen["server_thread"],
        seen["client_held_by"],
        seen["server_held_by"],
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
            slow.line(line.as_object().expect("an object")).expect("a line");
        }
        let rows = slow.to_json(0);
        assert_eq!(rows.len(), 32);
        assert!(rows[..16].windows(2).all(|two| two[0][1].as_u64() >= two[1][1].as_u64()));
        assert_eq!(rows[0].as_array().map(Vec::len), Some(FIELDS.len()));
        assert_eq!(rows[0][6], Value::Null);
        assert_eq!(slow.to_json(6).len(), 16);
        assert!(slow.line(&Map::new()).is_err());
    }
}
