//! Whether money that was given out and not received can have been lost on the way.
//!
//! Owns: what explains missing answers, in number and in cents. What was counted comes from both
//! sides, each from its own books: never from the difference that is to be explained.

use std::fmt;

use crate::money::Money;

/// What server and clients counted of answers that can have been lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Shakes and claims without an answer on connections that were lost, or at clients that were
    /// told to end: as the clients counted them.
    pub unanswered: u64,
    /// Shares that the server could not hand to their claimers' connections: as it counted them.
    pub undelivered: Money,
    /// Messages that the server's shards dropped.
    pub overflows: u64,
    /// The largest share given to anybody, in cents.
    pub largest_share: u64,
}

/// Why missing money cannot have been lost on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unexplained {
    /// Less is missing than the server could not deliver.
    Undelivered {
        /// What is missing.
        missing: Money,
        /// What the server could not deliver.
        undelivered: Money,
    },
    /// More answers are missing than were under way.
    Shares {
        /// Shares that are missing, beyond those that the server could not deliver.
        missing: u64,
        /// Requests that can have been answered with them.
        unanswered: u64,
    },
    /// So many shares are not worth that.
    Cents {
        /// What is missing, beyond what the server could not deliver.
        missing: Money,
        /// The largest share, in cents.
        largest: u64,
    },
}

impl fmt::Display for Unexplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Undelivered { missing, undelivered } => write!(
                f,
                "missing shares: {} of {} cents, less than the {} of {} that the server could not \
                 deliver",
                missing.count, missing.amount, undelivered.count, undelivered.amount
            ),
            Self::Shares { missing, unanswered } => write!(
                f,
                "missing shares: {missing} that the server sent; requests under way on connections \
                 that were lost, or at clients that were told to end: {unanswered}"
            ),
            Self::Cents { missing, largest } => write!(
                f,
                "missing shares: {} that would be worth {} cents, and no share is less than 1 or \
                 more than {largest}",
                missing.count, missing.amount
            ),
        }
    }
}

impl std::error::Error for Unexplained {}

impl Losses {
    /// Whether so much can be missing.
    ///
    /// # Errors
    /// [`Unexplained`] when it cannot.
    pub fn explain(&self, missing: Money) -> Result<(), Unexplained> {
        let Self { unanswered, undelivered, overflows, largest_share: largest } = *self;
        let count = missing.count.checked_sub(undelivered.count);
        let amount = missing.amount.checked_sub(undelivered.amount);
        let (Some(count), Some(amount)) = (count, amount) else {
            return Err(Unexplained::Undelivered { missing, undelivered });
        };
        // A share that found its claimer gone was a claim under way on a lost connection: it is
        // among the unanswered, and explains nothing else. One that found no room was not.
        let found_gone = undelivered.count.saturating_sub(overflows);
        let unanswered = unanswered.saturating_sub(found_gone);
        if count > unanswered {
            return Err(Unexplained::Shares { missing: count, unanswered });
        }
        if amount < count || amount > count.saturating_mul(largest) {
            return Err(Unexplained::Cents { missing: Money { count, amount }, largest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_explained_as_far_as_it_was_under_way() {
        let money = |count, amount| Money { count, amount };
        let losses = |unanswered, undelivered, overflows| Losses {
            unanswered,
            undelivered,
            overflows,
            largest_share: 300,
        };
        let none = money(0, 0);
        for (case, missing, losses, right) in [
            ("nothing is missing", none, losses(0, none, 0), true),
            ("cents without a share", money(0, 1), losses(9, none, 0), false),
            ("one under way", money(1, 300), losses(1, none, 0), true),
            ("one under way, and 156 missing", money(156, 9_000), losses(1, none, 0), false),
            ("none under way", money(1, 5), losses(0, none, 0), false),
            ("more than a share is worth", money(1, 301), losses(1, none, 0), false),
            ("less than a share is worth", money(2, 1), losses(2, none, 0), false),
            ("undelivered, not missing", none, losses(1, money(1, 5), 0), false),
            ("undelivered, its claim was lost", money(1, 5), losses(1, money(1, 5), 0), true),
            ("the same claim twice", money(2, 9), losses(1, money(1, 5), 0), false),
            ("no room, and one lost", money(2, 9), losses(1, money(1, 5), 1), true),
            ("no room, other cents", money(1, 6), losses(0, money(1, 5), 1), false),
        ] {
            assert_eq!(losses.explain(missing).is_ok(), right, "{case}");
        }
    }
}
