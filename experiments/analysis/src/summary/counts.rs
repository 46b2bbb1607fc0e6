//! Whether the files of a run agree on how much happened. Each of them may be cut, or have lines
//! that nobody understands; what is left of it then says something else than what happened.
//!
//! Owns: which counts must be equal. Must not know: what is worked out of them.

use super::latency;
use attribution::{Segment, Tally};
use record::{EVENTS_FILE, HLOG, Outcome, Raw, SAMPLES_FILE};
use text::thousands;

/// What is wrong with the histograms of a phase, whose shakes came to `tally`.
pub(super) fn of_histograms(raw: &Raw, phase: &str, tally: &Tally, open: bool) -> Vec<String> {
    let recorded = |segment| {
        let histogram = raw.histograms.get(&record::hlog::tag(phase, segment));
        histogram.map_or(0, hdrhistogram::Histogram::len)
    };
    let compare = |segment, wanted: u64, of: &str| {
        let found = recorded(segment);
        (found != wanted).then(|| {
            format!(
                "{HLOG} has {} values of {of}, and {} were counted: percentiles are not of all",
                thousands(found),
                thousands(wanted)
            )
        })
    };
    // A shake that timed out counts as its timeout. Under a closed load none leaves late.
    let sent = tally.answered.saturating_add(tally.timed_out);
    let latency = if latency::is_of_every_shake(raw) {
        let sent = compare(Segment::LatencySent, sent, "latency of what was sent");
        compare(Segment::Latency, tally.offered, "latency").or(sent)
    } else {
        compare(Segment::Latency, sent, "latency")
    };
    let lag = if open { compare(Segment::SendLag, tally.sent, "send lag") } else { None };
    latency.into_iter().chain(lag).collect()
}

/// What is wrong with the seconds of a run all of whose phases have settled: with these tallies
/// when all clients have said so.
pub(super) fn of_seconds(raw: &Raw, settled: Option<&Tally>) -> Option<String> {
    if raw.manifest.outcome != Some(Outcome::Completed) {
        return None;
    }
    let settled = settled?;
    let mut seconds = Tally::default();
    raw.clients.iter().for_each(|row| seconds.add(&row.tally));
    [
        ("shakes due", seconds.offered, settled.offered),
        ("shakes sent", seconds.sent, settled.sent),
        ("answers", seconds.answered, settled.answered),
        ("shakes timed out", seconds.timed_out, settled.timed_out),
        ("shakes lost", seconds.lost, settled.lost),
    ]
    .into_iter()
    .find(|(_, seconds, settled)| seconds != settled)
    .map(|(what, seconds, settled)| {
        format!(
            "{SAMPLES_FILE} counts {} {what} in all its seconds, and {EVENTS_FILE} {}: lines are \
             missing",
            thousands(seconds),
            thousands(settled)
        )
    })
}

/// What is wrong with the server's seconds of a run that ended in order.
pub(super) fn of_server(raw: &Raw) -> Option<String> {
    let granted = raw.books().server?.granted.count;
    let seconds: u64 =
        raw.servers.iter().map(|row| row.counters.granted).fold(0, u64::saturating_add);
    (seconds != granted).then(|| {
        format!(
            "{SAMPLES_FILE} counts {} packets granted in all seconds of the server, and its ledger \
             {}: lines are missing",
            thousands(seconds),
            thousands(granted)
        )
    })
}
