//! `latency.hlog`: a histogram log with a histogram for each second, phase and segment.
//!
//! Owns: the format of that file, as its only writer and its only decoder. Must not know: what
//! percentiles are wanted. Values are microseconds, a tag is `phase:segment`.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use attribution::{HistogramError, Latencies, Segment};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};

/// The log of histograms.
pub const HLOG: &str = "latency.hlog";

/// Why a line of a histogram log cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum HlogError {
    /// It has another format.
    #[error("is no line of a histogram log")]
    NotALine,
    /// Its histogram is not base64.
    #[error(transparent)]
    Base64(#[from] base64::DecodeError),
    /// What the base64 holds is not a histogram.
    #[error(transparent)]
    Histogram(#[from] HistogramError),
}

/// The histogram of one second, phase and segment.
#[derive(Clone, Debug)]
pub struct Interval {
    /// The Unix second.
    pub t: u64,
    /// Phase and segment, as [`tag`] joins them.
    pub tag: String,
    /// Values in microseconds.
    pub values: Histogram<u64>,
}

impl Interval {
    /// The phase and the name of the segment.
    pub fn phase_and_segment(&self) -> (&str, &str) {
        self.tag.rsplit_once(':').unwrap_or((&self.tag, ""))
    }
}

/// What the histograms of a phase and a segment are tagged with.
pub fn tag(phase: &str, segment: Segment) -> String {
    format!("{phase}:{}", segment.name())
}

/// Decodes the lines of a log in their order: the first ones say when the log begins.
#[derive(Default)]
pub struct Decoder {
    base_s: f64,
    line: Vec<u8>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("base_s", &self.base_s).finish_non_exhaustive()
    }
}

impl Decoder {
    /// The histogram of a line, given without its end; `None` for a comment and for a histogram
    /// whose tag is not `wanted`.
    ///
    /// # Errors
    /// [`HlogError`]. The next line can be decoded all the same.
    pub fn line(
        &mut self,
        line: &[u8],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<Interval>, HlogError> {
        self.line.clear();
        self.line.extend_from_slice(line);
        self.line.push(b'\n');
        for entry in IntervalLogIterator::new(&self.line) {
            let interval = match entry.map_err(|_| HlogError::NotALine)? {
                LogEntry::StartTime(since) | LogEntry::BaseTime(since) => {
                    self.base_s = since.as_secs_f64();
                    continue;
                }
                LogEntry::Interval(interval) => interval,
            };
            let tag = interval.tag().map_or("", |tag| tag.as_str());
            if !wanted(tag) {
                continue;
            }
            let bytes = STANDARD.decode(interval.encoded_histogram())?;
            let values = attribution::decode_histogram(&bytes)?;
            let t = (self.base_s + interval.start_timestamp().as_secs_f64()).round() as u64;
            return Ok(Some(Interval { t, tag: tag.to_owned(), values }));
        }
        Ok(None)
    }
}

/// Begins a log.
pub(crate) fn begin(out: &mut impl Write, started: u64) -> std::io::Result<()> {
    let start = UNIX_EPOCH + Duration::from_secs(started);
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Values are microseconds; tags are phase:segment]")
        .with_start_time(start)
        .with_base_time(start)
        .begin_log_with(out, &mut V2DeflateSerializer::new())?;
    let legend = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",";
    writeln!(out, "{legend}\"Interval_Compressed_Histogram\"")
}

/// Appends the histogram of a second that began `since_s` after the start of the log.
pub(crate) fn append(
    out: &mut impl Write,
    since_s: u64,
    tag: &str,
    values: &Latencies,
) -> std::io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let start = Duration::from_secs(since_s);
    let mut log = IntervalLogWriterBuilder::new().begin_log_with(out, &mut serializer)?;
    log.write_histogram(values, start, Duration::from_secs(1), Tag::new(tag))
        .map_err(|error| std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_decoded_with_its_second_and_its_tag() {
        let mut values = attribution::empty();
        [100, 200].iter().for_each(|us| values.saturating_record(*us));
        let mut log = Vec::new();
        begin(&mut log, 1000).expect("begins");
        append(&mut log, 5, &tag("a:b", Segment::Latency), &values).expect("appends");
        append(&mut log, 6, &tag("c", Segment::Network), &values).expect("appends");

        let mut decoder = Decoder::default();
        let lines = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let found: Vec<Interval> = lines
            .filter_map(|line| decoder.line(line, |tag| tag != "c:network").expect("a line"))
            .collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].t, found[0].values.len()), (1005, 2));
        assert_eq!(found[0].phase_and_segment(), ("a:b", "latency"));

        for nonsense in ["nonsense", "Tag=a:latency,1,1,1,????"] {
            let decoded = decoder.line(nonsense.as_bytes(), |_| true);
            assert!(matches!(decoded, Err(HlogError::NotALine)), "{decoded:?}");
        }
        let broken = b"Tag=a:latency,1.000,1.000,0.1,HISTbroken";
        assert!(decoder.line(broken, |_| true).is_err());
        assert!(decoder.line(broken, |_| false).is_ok(), "not looked at");
    }
}
