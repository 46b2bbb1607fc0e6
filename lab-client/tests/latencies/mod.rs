//! What holds of the latencies of any client. Must not know: what happened to it.

use attribution::{Segment, Tally};
use lab_client::load::LoadGenerator;

/// Every shake that was due has a latency, and a bound where no answer came in time.
pub(crate) fn check(generators: &mut [LoadGenerator], tally: &Tally) {
    let all = generators.iter_mut().flat_map(LoadGenerator::take_histograms);
    let all: Vec<_> = all.map(|it| (it.segment, it.values.len())).collect();
    let of = |segment| all.iter().filter(|it| it.0 == segment).map(|it| it.1).sum::<u64>();
    assert_eq!(of(Segment::Latency), tally.offered);
    assert_eq!(of(Segment::LatencySent), tally.answered + tally.timed_out);
    assert!(of(Segment::LatencyAtLeast) >= tally.timed_out + tally.lost);
}
