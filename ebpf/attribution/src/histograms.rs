//! Histograms of durations, second by second and phase by phase.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::segments::{PerSegment, Segment};

/// The longest latency that is told apart, in microseconds: a minute. Longer ones count as that.
const MOST_US: u64 = 60_000_000;

/// Three significant digits: 1 ms is told from 1.001 ms.
const DIGITS: u8 = 3;

/// Histograms that wait to be used again: one second's worth of a phase that ends while another
/// begins.
const SPARE: usize = 14;

/// A histogram in microseconds.
pub type Latencies = Histogram<u32>;

/// An empty histogram.
pub fn empty() -> Latencies {
    // The crate accepts these constant bounds.
    Histogram::new_with_bounds(1, MOST_US, DIGITS).unwrap_or_else(|_| unreachable!())
}

/// A histogram on its way between processes: HdrHistogram's own V2 encoding, in base64.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded(pub Latencies);

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut bytes).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        hdrhistogram::serialization::Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map(Encoded)
            .map_err(serde::de::Error::custom)
    }
}

/// The histogram of a segment in a second of a phase.
#[derive(Debug)]
pub struct SegmentHistogram {
    /// The phase whose shakes it has.
    pub phase: u16,
    /// What was measured.
    pub segment: Segment,
    /// The values.
    pub values: Latencies,
}

/// The histograms of the second under way.
#[derive(Debug, Default)]
pub struct SegmentRecorder {
    open: Vec<SegmentHistogram>,
    /// Emptied ones to be used again, so that a second that begins allocates nothing.
    spare: Vec<Latencies>,
}

impl SegmentRecorder {
    /// Enters a duration.
    #[inline]
    pub fn record(&mut self, phase: u16, segment: Segment, duration_ns: u64) {
        let place =
            self.open.iter().position(|open| open.phase == phase && open.segment == segment);
        let place = place.unwrap_or_else(|| {
            let values = self.spare.pop().unwrap_or_else(empty);
            self.open.push(SegmentHistogram { phase, segment, values });
            self.open.len() - 1
        });
        // Rounded up: what took 1 ns did not take nothing.
        self.open[place].values.saturating_record(duration_ns.div_ceil(1000));
    }

    /// Enters the segments of a request from T1 on, in nanoseconds.
    #[inline]
    pub fn record_segments(&mut self, phase: u16, segments_ns: PerSegment<u64>) {
        for (segment, ns) in segments_ns.named() {
            self.record(phase, segment, ns);
        }
    }

    /// The histograms of the second that ends.
    pub fn take(&mut self) -> std::vec::Drain<'_, SegmentHistogram> {
        self.open.drain(..)
    }

    /// Takes a histogram back to be used again.
    pub fn give_back(&mut self, mut values: Latencies) {
        if self.spare.len() < SPARE {
            values.reset();
            self.spare.push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_survive_the_way_between_processes() {
        let mut values = empty();
        for value in [1, 7, 7, 1_000, 59_999_999] {
            values.saturating_record(value);
        }
        let text = serde_json::to_string(&Encoded(values.clone())).expect("encodes");
        let back: Encoded = serde_json::from_str(&text).expect("decodes");
        assert_eq!(back.0, values);
        assert!(serde_json::from_str::<Encoded>("\"bm9uc2Vuc2U=\"").is_err());
    }

    #[test]
    fn phases_and_segments_are_kept_apart() {
        let mut recorder = SegmentRecorder::default();
        recorder.record(1, Segment::Latency, 1);
        recorder.record(1, Segment::Latency, 2_000_000);
        recorder.record(2, Segment::Latency, u64::MAX);
        recorder.record(1, Segment::SendLag, 500);
        let all: Vec<_> = recorder.take().collect();
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].values.len(), all[0].values.min(), all[0].values.max()), (2, 1, 2_000));
        assert!(all[1].values.max() >= MOST_US);
        for one in all {
            recorder.give_back(one.values);
        }
        recorder.record(3, Segment::Push, 7_000);
        let again: Vec<_> = recorder.take().collect();
        assert_eq!((again[0].values.len(), again[0].values.max()), (1, 7));
    }
}
