//! Evidence that contradicts itself, counted by how. Its time is unexplained.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Requests whose evidence contradicts itself, by how. One request may count for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contradictions {
    /// An instant lies before one that must come first, or after the client's own end.
    pub order: u64,
    /// A thread is said to have done more than there was time for.
    pub too_long: u64,
    /// The clocks of a thread ran backwards, or did not come to the time that passed.
    pub clocks: u64,
}

impl Contradictions {
    /// Each with its name in files and what it is.
    pub fn named(&self) -> [(&'static str, u64); 3] {
        [
            ("instants out of order", self.order),
            ("waits longer than the time for them", self.too_long),
            ("clocks that contradict the time", self.clocks),
        ]
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.named().into_iter().fold(0, |sum, (_, count)| sum.saturating_add(count))
    }
}

impl AddAssign for Contradictions {
    /// What a file says may be more than any number: it stays at the largest.
    fn add_assign(&mut self, other: Self) {
        self.order = self.order.saturating_add(other.order);
        self.too_long = self.too_long.saturating_add(other.too_long);
        self.clocks = self.clocks.saturating_add(other.clocks);
    }
}
