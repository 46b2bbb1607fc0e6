//! Histograms of durations, second by second and phase by phase.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::serialization::{DeserializeError, Serializer as _, V2Serializer};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::segments::{PerSegment, Segment};

/// The longest latency that is told apart, in microseconds: a minute. Longer ones count as that.
const MOST_US: u64 = 60_000_000;

/// Three significant digits: 1 ms is told from 1.001 ms.
const DIGITS: u8 = 3;

/// Histograms that wait to be used again: one second's worth of a phase that ends while another
/// begins.
const SPARE: usize = 18;

/// The head of an encoded histogram: cookie, bytes of the counts, an offset, digits, the least and
/// the largest value, a ratio.
const HEAD: usize = 40;

/// Counts of three digits up to the largest 64-bit value (2,048, and 1,024 for each of 53 powers of
/// two), of 9 bytes at most.
const MOST_COUNTS: usize = 9 * (2048 + 53 * 1024);

/// The cookies of the encoding V2, plain and compressed.
const PLAIN: u32 = 0x1c84_9313;
const COMPRESSED: u32 = 0x1c84_9314;

/// Why bytes are no histogram of ours.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// They end before they should, or go on.
    #[error("its counts have another length than it says")]
    Length,
    /// It is more exact than the lab's, and so larger.
    #[error("it has {0} significant digits, and those of the lab have {DIGITS}")]
    Digits(u32),
    /// A count is none.
    #[error("a count is beyond all numbers")]
    Count,
    /// What is compressed is damaged.
    #[error("it cannot be uncompressed")]
    Compression(#[from] std::io::Error),
    /// The format's own reader refuses it.
    #[error(transparent)]
    Format(#[from] DeserializeError),
}

/// A histogram from HdrHistogram's encoding V2, plain or compressed. The format's own reader
/// allocates what a length field says: so lengths are compared first with the bytes that are there.
///
/// # Errors
/// [`HistogramError`].
pub fn decode_histogram<T: Counter>(bytes: &[u8]) -> Result<Histogram<T>, HistogramError> {
    let (cookie, rest) = word(bytes)?;
    if cookie != COMPRESSED {
        return decode_plain(bytes);
    }
    let (length, rest) = word(rest)?;
    if length as usize != rest.len() {
        return Err(HistogramError::Length);
    }
    let mut plain = Vec::new();
    ZlibDecoder::new(rest).take((HEAD + MOST_COUNTS) as u64 + 1).read_to_end(&mut plain)?;
    decode_plain(&plain)
}

fn decode_plain<T: Counter>(bytes: &[u8]) -> Result<Histogram<T>, HistogramError> {
    let (cookie, rest) = word(bytes)?;
    let (length, rest) = word(rest)?;
    let (_, rest) = word(rest)?;
    let (digits, _) = word(rest)?;
    let counts = bytes.get(HEAD..).ok_or(HistogramError::Length)?;
    if cookie == PLAIN {
        if length as usize != counts.len() || counts.len() > MOST_COUNTS {
            return Err(HistogramError::Length);
        }
        if digits > u32::from(DIGITS) {
            return Err(HistogramError::Digits(digits));
        }
        // The least 64-bit number: hdrhistogram 7.6 negates it, which overflows.
        if counts.windows(9).any(|count| count == [0xff; 9]) {
            return Err(HistogramError::Count);
        }
    }
    Ok(hdrhistogram::serialization::Deserializer::new().deserialize(&mut &*bytes)?)
}

fn word(bytes: &[u8]) -> Result<(u32, &[u8]), HistogramError> {
    let (word, rest) = bytes.split_first_chunk().ok_or(HistogramError::Length)?;
    Ok((u32::from_be_bytes(*word), rest))
}

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
        decode_histogram(&bytes).map(Encoded).map_err(serde::de::Error::custom)
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
        let place = self.place(phase, segment);
        // Rounded up: what took 1 ns did not take nothing.
        self.open[place].values.saturating_record(duration_ns.div_ceil(1000));
    }

    #[inline]
    fn place(&mut self, phase: u16, segment: Segment) -> usize {
        let place =
            self.open.iter().position(|open| open.phase == phase && open.segment == segment);
        place.unwrap_or_else(|| {
            let values = self.spare.pop().unwrap_or_else(empty);
            self.open.push(SegmentHistogram { phase, segment, values });
            self.open.len() - 1
        })
    }

    /// A shake that was due and got no answer in time: its latency is so much or more.
    pub fn record_at_least(&mut self, phase: u16, duration_ns: u64) {
        self.record(phase, Segment::Latency, duration_ns);
        self.record(phase, Segment::LatencyAtLeast, duration_ns);
    }

    /// Shakes that were sent were due. Adding them once a second costs a request nothing.
    fn add_sent_to_due(&mut self) {
        for sent in 0..self.open.len() {
            if self.open[sent].segment == Segment::LatencySent {
                let due = self.place(self.open[sent].phase, Segment::Latency);
                if let Ok([sent, due]) = self.open.get_disjoint_mut([sent, due]) {
                    // Histograms of the same bounds always add up.
                    let _ = due.values.add(&sent.values);
                }
            }
        }
    }

    /// Enters the segments of a request from T1 on, in nanoseconds.
    #[inline]
    pub fn record_segments(&mut self, phase: u16, segments_ns: PerSegment<u64>) {
        for (segment, ns) in segments_ns.named() {
            self.record(phase, segment, ns);
        }
    }

    /// The histograms of the second that ends. What was recorded as [`Segment::LatencySent`] is in
    /// [`Segment::Latency`], too.
    pub fn take(&mut self) -> std::vec::Drain<'_, SegmentHistogram> {
        self.add_sent_to_due();
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

    /// A head with these fields, and counts.
    fn plain(length: usize, digits: u32, counts: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [PLAIN, length as u32, 0, digits] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(1_u64.to_be_bytes());
        bytes.extend(MOST_US.to_be_bytes());
        bytes.extend(1_f64.to_be_bytes());
        bytes.extend(counts);
        bytes
    }

    fn compressed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::read::ZlibEncoder::new(plain, flate2::Compression::best());
        let mut counts = Vec::new();
        encoder.read_to_end(&mut counts).expect("compressed");
        [&COMPRESSED.to_be_bytes()[..], &(counts.len() as u32).to_be_bytes(), &counts].concat()
    }

    /// What fuzzing found: four gigabytes that a length field asks for, and a count that the
    /// format's reader cannot negate.
    #[test]
    fn histograms_that_lie_are_refused_without_memory_for_them() {
        let good = plain(2, 3, &[2, 2]);
        assert_eq!(decode_histogram::<u64>(&good).expect("good").len(), 2);
        assert_eq!(decode_histogram::<u64>(&compressed(&good)).expect("good").len(), 2);
        let (huge, bomb) = (u32::MAX as usize, plain(2_000_000, 3, &vec![1; 2_000_000]));
        for (what, bytes, sentence) in [
            ("a length", plain(huge, 3, &[2, 2]), "another length"),
            ("a compressed length", compressed(&plain(huge, 3, &[2, 2])), "another length"),
            ("2 MB of counts", compressed(&bomb), "another length"),
            ("digits", plain(2, 5, &[2, 2]), "5 significant digits"),
            ("the least number", plain(9, 3, &[0xff; 9]), "beyond all numbers"),
            ("nothing", Vec::new(), "another length"),
            ("a head that is cut", good[..20].to_vec(), "another length"),
        ] {
            let error = decode_histogram::<u64>(&bytes).expect_err(what);
            assert!(error.to_string().contains(sentence), "{what}: {error}");
        }
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

    /// Every shake that was due is in one histogram, and those without an answer are told apart.
    #[test]
    fn shakes_that_were_sent_are_among_those_that_were_due() {
        let mut recorder = SegmentRecorder::default();
        recorder.record(1, Segment::LatencySent, 7_000);
        recorder.record(2, Segment::LatencySent, 9_000);
        recorder.record(1, Segment::Latency, 50_000);
        recorder.record_at_least(1, 80_000);
        let mut counts: Vec<_> = recorder
            .take()
            .map(|it| (it.phase, it.segment.name(), it.values.len(), it.values.max()))
            .collect();
        counts.sort_unstable();
        let expected = [
            (1, "latency", 3, 80),
            (1, "latency_at_least", 1, 80),
            (1, "latency_sent", 1, 7),
            (2, "latency", 1, 9),
            (2, "latency_sent", 1, 9),
        ];
        assert_eq!(counts, expected);
    }
}
