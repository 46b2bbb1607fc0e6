//! What a client is to do in a phase.

use platform::LAST_SECOND;
use serde::{Deserialize, Serialize};
use service::LATEST_START_S;

use crate::schedule::{Pacing, Rate};

/// The most shakes, texts or created packets a second over all clients, as for any rate of an
/// experiment: every shard works out the whole schedule, and 10 million shakes take it a tenth of
/// its time.
const MOST_PER_SECOND: f64 = 10_000_000.0;

/// What shakes a phase offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Load {
    /// None.
    #[default]
    None,
    /// Shakes at instants that a schedule fixes beforehand, whether answers come or not.
    Open {
        /// Shakes per second, over all clients.
        rate: Rate,
        /// How they are spread over a second.
        pacing: Pacing,
    },
    /// So many users shake at a time, over all clients; each answer brings the next shake. For
    /// saturation: latency counts from the send.
    Closed {
        /// Shakes under way.
        in_flight: u32,
    },
}

/// How users connect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// How many users of all clients are to be logged in.
    pub users: u32,
    /// Connections begun per second, over all clients; as fast as they complete when `None`.
    pub rate: Option<f64>,
}

/// Chat between users.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// Texts per second, over all clients; each is answered once by its recipient.
    pub rate: f64,
    /// Bytes of a text.
    pub bytes: u32,
}

/// Packets created by users for three others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Creates {
    /// Packets per second, over all clients.
    pub rate: f64,
}

/// A phase as clients know it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its place in the experiment, from 0.
    pub index: u16,
    /// Its name.
    pub name: String,
    /// The Unix second at which it starts.
    pub start: u64,
    /// How long it is, in seconds; until told to end when `None`.
    pub seconds: Option<u64>,
    /// What is offered.
    pub load: Load,
    /// Whether users connect.
    pub connect: Option<Connect>,
    /// Whether users chat.
    pub chat: Option<Chat>,
    /// Whether users create packets.
    pub creates: Option<Creates>,
}

impl Phase {
    /// Whether the phase can be carried out at all.
    ///
    /// # Errors
    /// [`PhaseError`].
    pub fn check(&self) -> Result<(), PhaseError> {
        if let Some(rate) = self.connect.and_then(|connect| connect.rate) {
            if !rate.is_finite() || rate < 0.0 {
                return Err(PhaseError::ConnectRate(rate));
            }
            if rate == 0.0 {
                return Err(PhaseError::NoConnections);
            }
        }
        if let Some(chat) = self.chat {
            check_rate("chat rate", chat.rate)?;
        }
        if let Some(creates) = self.creates {
            check_rate("creates rate", creates.rate)?;
        }
        if let Load::Open { rate, .. } = self.load {
            check_rate("rate", f64::from(rate.highest()))?;
        }
        if self.load == (Load::Closed { in_flight: 0 }) {
            return Err(PhaseError::NothingInFlight);
        }
        let (start, seconds) = (self.start, self.seconds.unwrap_or_default());
        if start > LAST_SECOND {
            return Err(PhaseError::Start(start));
        }
        if seconds > LAST_SECOND - start {
            return Err(PhaseError::Seconds { seconds, most: LAST_SECOND - start });
        }
        Ok(())
    }
}

impl Phase {
    /// Whether the phase can still be begun in Unix second `now`: all that was due since it started
    /// is due at once, late.
    ///
    /// # Errors
    /// [`PhaseError::Past`].
    pub fn check_start(&self, now: u64) -> Result<(), PhaseError> {
        let start = self.start;
        if start.saturating_add(LATEST_START_S) < now {
            return Err(PhaseError::Past { start, now });
        }
        Ok(())
    }
}

/// Why a phase cannot be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PhaseError {
    /// A rate of connections that is no rate.
    #[error("connect rate {0}: a number that is not negative")]
    ConnectRate(f64),
    /// Users are to connect, and none ever does.
    #[error("connect rate 0: no user would ever connect")]
    NoConnections,
    /// A rate of texts or packets that is out of range.
    #[error("{what} {rate}: between 0 and {MOST_PER_SECOND} a second")]
    Rate {
        /// Of what.
        what: &'static str,
        /// As asked for.
        rate: f64,
    },
    /// A closed load without a shake.
    #[error("closed load with 0 in flight: nothing would ever be sent")]
    NothingInFlight,
    /// A start beyond the clocks.
    #[error("start {0}: a Unix second, at most {LAST_SECOND}")]
    Start(u64),
    /// A start long ago.
    #[error("start {start}: a Unix second that is over; it is {now} now")]
    Past {
        /// As asked for.
        start: u64,
        /// The present second.
        now: u64,
    },
    /// An end beyond the clocks.
    #[error("{seconds} seconds: at most {most} from then on")]
    Seconds {
        /// As asked for.
        seconds: u64,
        /// How many there are.
        most: u64,
    },
}

/// Checks a rate of texts or packets.
///
/// # Errors
/// [`PhaseError::Rate`].
pub fn check_rate(what: &'static str, rate: f64) -> Result<(), PhaseError> {
    if (0.0..=MOST_PER_SECOND).contains(&rate) {
        Ok(())
    } else {
        Err(PhaseError::Rate { what, rate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_phases_are_refused_in_words() {
        let chat = |rate| Phase { chat: Some(Chat { rate, bytes: 9 }), ..Phase::default() };
        let connect = |rate| {
            let connect = Some(Connect { users: 1, rate: Some(rate) });
            Phase { connect, ..Phase::default() }
        };
        let open = |rate| {
            let load = Load::Open { rate, pacing: Pacing::Even };
            Phase { load, ..Phase::default() }
        };
        for (phase, words) in [
            (open(Rate::Fixed(u32::MAX)), "rate 4294967295: between 0 and 10000000"),
            (open(Rate::Ramp { from: 10_000_001, to: 0, seconds: 9 }), "rate 10000001"),
            (open(Rate::Staircase { from: 0, step: 1, every: 1, to: 20_000_000 }), "rate 20000000"),
            (chat(-1.0), "chat rate -1"),
            (chat(f64::NAN), "chat rate NaN"),
            (chat(10_000_001.0), "between 0 and 10000000 a second"),
            (Phase { creates: Some(Creates { rate: 1e300 }), ..Phase::default() }, "creates rate"),
            (connect(0.0), "no user would ever connect"),
            (connect(f64::INFINITY), "connect rate inf"),
            (Phase { load: Load::Closed { in_flight: 0 }, ..Phase::default() }, "0 in flight"),
            (Phase { start: 99_999_999_999, ..Phase::default() }, "start 99999999999"),
            (Phase { start: 5, seconds: Some(u64::MAX), ..Phase::default() }, "at most"),
        ] {
            let error = phase.check().expect_err("impossible").to_string();
            assert!(error.contains(words), "{error}");
        }
        let past = Phase { start: 1, ..Phase::default() }.check_start(1_000).expect_err("over");
        assert_eq!(past.to_string(), "start 1: a Unix second that is over; it is 1000 now");
        assert_eq!(Phase { start: 991, ..Phase::default() }.check_start(1_000), Ok(()));
        assert_eq!(open(Rate::Fixed(10_000_000)).check(), Ok(()));
        assert_eq!(chat(MOST_PER_SECOND).check(), Ok(()));
        assert_eq!(Phase { start: LAST_SECOND, ..Phase::default() }.check(), Ok(()));
    }
}
