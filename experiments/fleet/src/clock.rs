//! How far the wall clock of a host is off, measured as NTP does: four instants of a question and
//! its answer. The exchange with the shortest way counts, since a way that is short cannot be very
//! lopsided (RFC 5905, section 8; Mills, "Improved algorithms for synchronizing computer network
//! clocks", 1995).

use std::time::Duration;

use async_nats::Client;

use crate::protocol::{Answer, Ask, ask};

/// Exchanges with each host: the shortest of eight is close to the shortest there is.
pub(crate) const EXCHANGES: usize = 8;

/// Clocks of a fleet may be off by this.
pub(crate) const MOST: Duration = Duration::from_millis(50);

/// Four instants in Unix nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exchange {
    /// When the question left, by our clock.
    asked_ns: u64,
    /// When it came, by theirs.
    came_ns: u64,
    /// When the answer left, by theirs.
    left_ns: u64,
    /// When it came back, by ours.
    back_ns: u64,
}

/// How far a clock is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    /// Their clock is ahead of ours by this, in nanoseconds.
    pub ahead_ns: i64,
    /// It may be this much more or less.
    pub error_ns: u64,
}

impl Exchange {
    /// What it says of the clock. The error is half of the way: all of it may have been one way.
    fn offset(self) -> Offset {
        let ahead = |theirs: u64, ours: u64| i128::from(theirs) - i128::from(ours);
        let sum = ahead(self.came_ns, self.asked_ns) + ahead(self.left_ns, self.back_ns);
        let way = self
            .back_ns
            .saturating_sub(self.asked_ns)
            .saturating_sub(self.left_ns.saturating_sub(self.came_ns));
        let ahead_ns = i64::try_from(sum / 2).unwrap_or(if sum > 0 { i64::MAX } else { i64::MIN });
        Offset { ahead_ns, error_ns: way / 2 }
    }
}

/// The most certain of some exchanges.
fn best(exchanges: impl IntoIterator<Item = Exchange>) -> Option<Offset> {
    exchanges.into_iter().map(Exchange::offset).min_by_key(|offset| offset.error_ns)
}

impl Offset {
    /// Whether the clock may be off by more than `most`.
    pub(crate) fn may_exceed(self, most: Duration) -> bool {
        u128::from(self.ahead_ns.unsigned_abs()) + u128::from(self.error_ns) > most.as_nanos()
    }
}

impl std::fmt::Display for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ns: f64| ns / 1e6;
        write!(f, "{:+.3} ms ± {:.3}", ms(self.ahead_ns as f64), ms(self.error_ns as f64))
    }
}

/// Measures the clock of an agent; `None` when it does not answer.
pub(crate) async fn measure(client: &Client, agent: &str, exchanges: usize) -> Option<Offset> {
    let question = bytes::Bytes::from(serde_json::to_vec(&Ask::Clock {}).ok()?);
    let mut seen = Vec::with_capacity(exchanges);
    for _ in 0..exchanges {
        let asked_ns = platform::realtime_ns();
        let asked = client.request(ask(agent), question.clone());
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(1), asked).await else {
            continue;
        };
        let back_ns = platform::realtime_ns();
        if let Ok(Answer::Clock { came_ns, left_ns }) = serde_json::from_slice(&answer.payload) {
            seen.push(Exchange { asked_ns, came_ns, left_ns, back_ns });
        }
    }
    best(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(ahead: i64, there: u64, back: u64) -> Exchange {
        let asked_ns = 1_000_000_000;
        let came_ns = (asked_ns + there).saturating_add_signed(ahead);
        Exchange { asked_ns, came_ns, left_ns: came_ns + 10, back_ns: asked_ns + there + 10 + back }
    }

    #[test]
    fn the_shortest_way_tells_the_clock() {
        for ahead in [0, 7_000_000, -3_000_000] {
            // Even ways tell it exactly, lopsided ones within their error.
            assert_eq!(
                exchange(ahead, 500, 500).offset(),
                Offset { ahead_ns: ahead, error_ns: 500 }
            );
            let lopsided = exchange(ahead, 4_000_000, 1_000).offset();
            assert!(lopsided.ahead_ns.abs_diff(ahead) <= lopsided.error_ns, "{lopsided:?}");
            let both = [exchange(ahead, 4_000_000, 1_000), exchange(ahead, 500, 500)];
            assert_eq!(best(both), Some(Offset { ahead_ns: ahead, error_ns: 500 }));
        }
        assert_eq!(best([]), None);
    }

    #[test]
    fn a_clock_is_refused_with_its_uncertainty() {
        let offset = |ahead_ns, error_ns| Offset { ahead_ns, error_ns };
        for (offset, refused) in [
            (offset(49_000_000, 500_000), false),
            (offset(51_000_000, 0), true),
            (offset(-51_000_000, 0), true),
            (offset(30_000_000, 25_000_000), true),
            (offset(i64::MIN, u64::MAX), true),
        ] {
            assert_eq!(offset.may_exceed(MOST), refused, "{offset:?}");
        }
    }
}
