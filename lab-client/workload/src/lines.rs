//! What a client says of itself, as lines of JSON for a recorder.
//!
//! Must not know: who puts a line together.

use attribution::{CauseRows, Encoded, Sample, Sampled, Segment, SlowRequest, Tally};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use platform::Spins;
use serde::{Deserialize, Serialize};

use crate::receipts::Receipts;

/// What a client says about itself when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where its own control interface listens.
    pub control: String,
    /// Its process.
    pub pid: u32,
    /// The threads of its shards.
    pub threads: Vec<i32>,
    /// Its users: the first, and the exclusive end.
    pub users: (u32, u32),
    /// The addresses that they come from.
    pub sources: Vec<String>,
}

/// What the users of a client received, to be compared with the server's ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// The sums.
    #[serde(rename = "books")]
    pub receipts: Receipts,
    /// A bit for each packet granted, little-endian words in base64.
    pub seen: String,
}

impl Audit {
    /// The receipts of all users of a client.
    pub fn of(receipts: &Receipts) -> Self {
        let bytes: Vec<u8> = receipts.seen().iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { receipts: receipts.clone(), seen: STANDARD.encode(bytes) }
    }

    /// The receipts, packets included.
    ///
    /// # Errors
    /// When the packets are no base64.
    pub fn into_receipts(self) -> Result<Receipts, base64::DecodeError> {
        let bytes = STANDARD.decode(&self.seen)?;
        let words: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let mut receipts = self.receipts;
        receipts.add_seen(&words);
        Ok(receipts)
    }
}

/// A line of JSON for a recorder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The client is ready for phases.
    Ready(Ready),
    /// A second of a shard.
    Sample(Box<Sample>),
    /// A histogram of a second of a shard.
    Histogram {
        /// The Unix second.
        t: u64,
        /// The phase whose shakes it has.
        phase: u16,
        /// What was measured.
        segment: Segment,
        /// The values in microseconds.
        values: Encoded,
    },
    /// Why the requests of a second of a shard took their time.
    Causes {
        /// The Unix second.
        t: u64,
        /// The shard.
        shard: usize,
        /// The phase in which they were due.
        phase: u16,
        /// Their sums.
        #[serde(flatten)]
        rows: Box<CauseRows>,
    },
    /// The slowest requests of a second of a shard.
    Slow {
        /// The Unix second.
        t: u64,
        /// The requests.
        requests: Vec<SlowRequest>,
    },
    /// The requests of a second of a shard that are to be joined with the server's ends.
    Sampled {
        /// The Unix second.
        t: u64,
        /// The requests.
        requests: Vec<Sampled>,
    },
    /// All users that a phase was to log in are logged in.
    Established {
        /// The phase.
        phase: u16,
        /// Seconds since the phase began.
        seconds: f64,
    },
    /// A phase has ended and nothing of it is under way any more.
    Settled {
        /// The phase.
        phase: u16,
        /// What became of its shakes.
        tally: Box<Tally>,
    },
    /// What a fault on purpose did in a second of a shard.
    Spun {
        /// The shard.
        shard: usize,
        /// What it did.
        #[serde(flatten)]
        spins: Spins,
    },
    /// A command failed, or a shard could not go on.
    Error(String),
    /// The client has ended.
    Ended(Audit),
}
