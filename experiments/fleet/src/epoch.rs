//! Which of several coordinators of a run leads it. Every order and every pulse carries an epoch,
//! and an agent only ever lets it increase: what an older coordinator still says is refused.

use serde::{Deserialize, Serialize};

/// A coordinator's place among all that lead the same run, one after the other: a count in the high
/// half, and chance in the low one, so that two that take over at once differ.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// Of a coordinator that leads after this one.
    pub fn next(self, chance: u32) -> Self {
        let count = (self.0 >> 32).saturating_add(1).min(u64::from(u32::MAX));
        Self(count << 32 | u64::from(chance))
    }
}

/// A coordinator that leads a run, or has led it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its epoch.
    pub epoch: Epoch,
    /// Which process it is, on which host, and since when, for people.
    pub who: String,
}

impl Leader {
    /// A message of this epoch was heard: an epoch only increases.
    ///
    /// # Errors
    /// This leader itself, when it is a later one.
    pub(crate) fn heard(&mut self, epoch: Epoch) -> Result<(), Self> {
        if epoch < self.epoch {
            return Err(self.clone());
        }
        if epoch > self.epoch {
            // It has not introduced itself here.
            *self = Self { epoch, who: "a coordinator that took over".to_owned() };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_only_increases() {
        let first = Epoch::default().next(u32::MAX);
        let (one, other) = (first.next(1), first.next(2));
        assert!(first < one && one < other, "whatever chance says");
        let mut leader = Leader { epoch: first, who: "the first".to_owned() };
        assert_eq!(leader.heard(first), Ok(()));
        assert_eq!(leader.heard(other), Ok(()));
        let later = leader.heard(one).expect_err("an older one");
        assert_eq!(later.epoch, other);
        assert_eq!(leader.heard(first).map_err(|it| it.epoch), Err(other));
        assert_eq!(leader.epoch, other);
        // A count that is used up stays where it is, and chance may still decide.
        let last = Epoch(u64::MAX);
        assert_eq!(last.next(7), Epoch(u64::from(u32::MAX) << 32 | 7));
    }
}
