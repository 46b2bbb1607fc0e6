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
    /// What both sides kept of the last answers of connections; `None` in the records of versions
    /// that kept none.
    pub last_answers: Option<LastAnswers>,
}

/// What both sides kept of the last answers of all connections, as [`crate::Tail`] has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastAnswers {
    /// What the server wrote.
    pub written: Money,
    /// What of it clients read.
    pub read: Money,
    /// Requests on lost connections that another shake followed before they were answered: they had
    /// timed out. Answers to them may be missing without being among those written last.
    pub overtaken: u64,
}

impl LastAnswers {
    /// Whether so much can be missing of them.
    fn explain(&self, missing: Money, largest: u64) -> Result<(), Unexplained> {
        let Self { written, read, overtaken } = *self;
        let (Some(count), Some(amount)) =
            (written.count.checked_sub(read.count), written.amount.checked_sub(read.amount))
        else {
            return Err(Unexplained::Read { written, read });
        };
        let most = Money {
            count: count.saturating_add(overtaken),
            amount: amount.saturating_add(overtaken.saturating_mul(largest)),
        };
        let unexplained = Err(Unexplained::Written { missing, most });
        if missing.count > most.count || missing.amount > most.amount {
            return unexplained;
        }
        // What is not missing of them are shares as well: none is worth nothing.
        let rest = most - missing;
        let possible =
            rest.count <= rest.amount && rest.amount <= rest.count.saturating_mul(largest);
        if possible || overtaken > 0 { Ok(()) } else { unexplained }
    }
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
    /// The server wrote something else to those who can have missed it.
    Written {
        /// What is missing, beyond what the server could not deliver.
        missing: Money,
        /// What it wrote, and clients cannot have read.
        most: Money,
    },
    /// Clients read more of the last answers than the server wrote.
    Read {
        /// What it wrote.
        written: Money,
        /// What they read.
        read: Money,
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
            Self::Written { missing, most } => write!(
                f,
                "missing shares: {} of {} cents; what the server wrote to connections that did not \
                 read it: {} of {}",
                missing.count, missing.amount, most.count, most.amount
            ),
            Self::Read { written, read } => write!(
                f,
                "last answers of connections: {} shares of {} cents that clients read, and {} of \
                 {} that the server wrote",
                read.count, read.amount, written.count, written.amount
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
        let Self { unanswered, undelivered, overflows, largest_share: largest, last_answers } =
            *self;
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
        last_answers.map_or(Ok(()), |last| last.explain(Money { count, amount }, largest))
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
            last_answers: None,
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

    #[test]
    fn what_is_missing_is_what_the_server_wrote_to_those_who_missed_it() {
        let money = |count, amount| Money { count, amount };
        let last = |written, read, overtaken| LastAnswers { written, read, overtaken };
        let all = last(money(9, 900), money(9, 900), 0);
        let one = last(money(9, 900), money(8, 700), 0);
        let two = last(money(9, 900), money(7, 695), 0);
        for (case, unanswered, missing, last_answers, right) in [
            ("nothing", 0, money(0, 0), all, true),
            ("nothing of what may be", 1, money(0, 0), one, true),
            ("exactly that", 1, money(1, 200), one, true),
            ("a cent less", 1, money(1, 199), one, false),
            ("a cent more", 1, money(1, 201), one, false),
            ("another's share", 1, money(1, 200), all, false),
            ("one of the two", 1, money(1, 5), two, true),
            ("the other", 1, money(1, 200), two, true),
            ("none of the two", 1, money(1, 205), two, false),
            ("both", 2, money(2, 205), two, true),
            ("one that had timed out", 2, money(2, 400), last(one.written, one.read, 1), true),
            ("two that had", 3, money(3, 900), last(one.written, one.read, 1), false),
            ("read and not written", 1, money(0, 0), last(money(1, 5), money(2, 6), 0), false),
            ("nothing, and cents", 1, money(0, 0), last(money(1, 9), money(1, 5), 0), false),
        ] {
            let largest_share = 300;
            let last_answers = Some(last_answers);
            let losses = Losses { unanswered, largest_share, last_answers, ..Losses::default() };
            assert_eq!(losses.explain(missing).is_ok(), right, "{case}");
        }
    }
}
