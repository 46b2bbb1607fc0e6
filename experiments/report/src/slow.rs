//! The slowest requests of each second, of all shards together.

use std::collections::BTreeMap;

use attribution::{Cause, Trace};
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
    /// See [`Slow::causes`].
    causes: usize,
}

impl Slow {
    /// Adds a request, unless enough slower ones of its second are known.
    pub(super) fn add(&mut self, request: &SlowRow) {
        let latency = request.latency_us;
        let second = self.by_second.entry(request.t).or_default();
        // The slowest first.
        let place = second.partition_point(|(other, _)| *other >= latency);
        if place < KEPT {
            let causes = request.seen.as_ref().map(causes_us);
            self.causes = self.causes.max(causes.as_ref().map_or(0, Vec::len));
            second.insert(place, (latency, to_json(request, causes.as_deref())));
            second.truncate(KEPT);
        }
    }

    /// How many causes, in the order of [`Cause::ALL`], hold all that took something.
    pub(super) fn causes(&self) -> usize {
        self.causes
    }

    /// Rows of the seconds from `from` on.
    pub(super) fn to_json(&self, from: u64) -> Vec<&Value> {
        let each = (SHOWN / self.by_second.len().max(1)).clamp(LEAST, KEPT);
        let seconds = self.by_second.range(from..);
        seconds.flat_map(|(_, rows)| rows.iter().take(each).map(|(_, row)| row)).collect()
    }
}

/// What each cause took of a request, in the order of [`Cause::ALL`] as far as one took something.
fn causes_us(seen: &Trace) -> Vec<u64> {
    let mut all: Vec<u64> =
        Cause::ALL.iter().map(|cause| seen.causes_us.get(cause).copied().unwrap_or(0)).collect();
    while all.last() == Some(&0) && !Cause::ALL[all.len() - 1].is_of_first_format() {
        all.pop();
    }
    all
}

/// The fields of a request in the order of [`FIELDS`].
fn to_json(request: &SlowRow, causes: Option<&[u64]>) -> Value {
    let seen = request.seen.as_ref();
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
    fn causes_are_listed_as_far_as_one_took_something() {
        let mut slow = Slow::default();
        let seen = |causes: &Value| {
            json!({ "instants_us": [null, null, null, null, null, null], "segments_us": null,
                "causes_us": causes, "blamed": "unexplained", "losses": 0, "mixed": false,
                "client_thread": null, "server_thread": null, "client_held_by": null,
                "server_held_by": null })
        };
        let mut causes = |causes: Value| {
            let line = json!({ "t": 5, "latency_us": 9, "seen": seen(&causes) }).to_string();
            slow.add(&record::parse(line.as_bytes()).expect("a row"));
            (slow.by_second[&5].last().expect("a row").1[6].clone(), slow.causes())
        };
        assert_eq!(causes(json!({ "client_busy": 4 })), (json!([0, 4, 0, 0, 0, 0, 0]), 7));
        let stopped = json!({ "client_busy": 4, "client_stopped": 5 });
        assert_eq!(causes(stopped), (json!([0, 4, 0, 0, 0, 0, 0, 0, 5]), 9));
        assert_eq!(causes(json!({ "unexplained": 9 })).1, 9);
    }

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
