//! Why an answer was late: from the instants of a request to the time that each cause took of it,
//! and the sums of a second that clients keep and reports read.
//!
//! Owns: causes and segments by name, what the kernel saw of a request, the joining of its two
//! ends, sums, histograms and records of a second, and where a client finds what the kernel saw
//! ([`Handover`]). Must not know: how instants are taken, files, sockets, threads; it depends on
//! nothing that does.
//!
//! Read it from the instants on: [`Request`] and [`ServerSide`], [`attribute()`], then what is
//! kept: [`CauseRecorder`], [`SegmentRecorder`], [`Slowest`], [`Tally`].

mod attribute;
mod causes;
mod contradictions;
mod handover;
mod histograms;
mod join;
mod percentile;
mod request;
mod row;
mod sampled;
mod segments;
mod slow;
mod spent;
mod stalls;
mod sums;
mod tally;
mod timeline;

pub use attribute::{Attributed, Evidence, attribute, attribute_half};
pub use causes::{Cause, PerCause};
pub use contradictions::Contradictions;
pub use handover::{FlowLayout, Handover, port_span};
pub use histograms::{
    Encoded, HistogramError, Latencies, SegmentHistogram, SegmentRecorder, decode_histogram, empty,
};
pub use join::{ServerSide, is_joined_at};
pub use percentile::Percentile;
pub use request::Request;
pub use sampled::{ClientSide, Sampled, record_joined};
pub use segments::{PerSegment, Segment, Segments};
pub use slow::{End, Holder, SlowRequest, Slowest, Trace, TracedThread, Turn};
pub use spent::{Doing, Spent};
pub use stalls::Stalls;
pub use sums::{
    BUCKETS, CauseCount, CauseRecorder, CauseRows, LatencySum, LeftOut, MovedCount, Seconds,
    bucket, bucket_floor,
};
pub use tally::{Sample, Tally};
pub use timeline::{Ring, Timeline, spent};

#[cfg(test)]
mod fixtures;

/// How the reason of a probe begins in files when a better probe stands in for it: nothing is
/// missed.
pub const NOT_NEEDED: &str = "not needed";
