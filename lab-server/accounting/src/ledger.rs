//! Where the money is. Every cent that was created is granted, claimed, refunded, or remains.
//!
//! Money is booked in the SET that holds it and moves only within its books, in one step, so that
//! the identity holds at every instant, in each SET and in the sum over all of them.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// The books of a SET, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Everything that ever came in.
    pub created: Money,
    /// Packets given to users who shook.
    pub granted: Money,
    /// Shares given to users who claimed.
    pub claimed: Money,
    /// Shares of expired packets, back with their creators.
    pub refunded: Money,
    /// What waits in queues and in packets not yet expired.
    pub remaining: Money,
    /// The largest share given to a user who shook or claimed, in cents; `None` before the first,
    /// and in books of versions that did not note it.
    #[serde(default)]
    pub largest_share: Option<u64>,
}

impl Ledger {
    /// A packet to be shaken, or one sent to users, comes in.
    #[inline]
    pub fn create(&mut self, money: Money) {
        self.created += money;
        self.remaining += money;
    }

    /// A packet goes to a user who shook.
    #[inline]
    pub fn grant(&mut self, money: Money) {
        self.remaining -= money;
        self.granted += money;
        self.largest_share = self.largest_share.max(Some(money.amount));
    }

    /// A share goes to a user who claimed.
    #[inline]
    pub fn claim(&mut self, money: Money) {
        self.remaining -= money;
        self.claimed += money;
        self.largest_share = self.largest_share.max(Some(money.amount));
    }

    /// Unclaimed shares go back.
    pub fn refund(&mut self, money: Money) {
        self.remaining -= money;
        self.refunded += money;
    }

    /// What of the money granted and claimed no client received; [`crate::Losses`] says whether it
    /// can have been lost on the way. `None` when clients received more than was given out.
    pub fn undelivered(&self, received: Money) -> Option<Money> {
        let given = self.granted + self.claimed;
        Some(Money {
            count: given.count.checked_sub(received.count)?,
            amount: given.amount.checked_sub(received.amount)?,
        })
    }

    /// Whether every share and every cent is somewhere, and only once.
    pub fn is_balanced(&self) -> bool {
        self.created == self.granted + self.claimed + self.refunded + self.remaining
    }
}

impl AddAssign<&Ledger> for Ledger {
    fn add_assign(&mut self, other: &Ledger) {
        self.created += other.created;
        self.granted += other.granted;
        self.claimed += other.claimed;
        self.refunded += other.refunded;
        self.remaining += other.remaining;
        self.largest_share = self.largest_share.max(other.largest_share);
    }
}

impl<'a> std::iter::Sum<&'a Ledger> for Ledger {
    fn sum<I: Iterator<Item = &'a Ledger>>(ledgers: I) -> Self {
        ledgers.fold(Ledger::default(), |mut sum, ledger| {
            sum += ledger;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_client_received_is_undelivered() {
        let money = |count, amount| Money { count, amount };
        let ledger = Ledger { granted: money(3, 50), claimed: money(2, 9), ..Ledger::default() };
        assert_eq!(ledger.undelivered(money(4, 57)), Some(money(1, 2)));
        assert_eq!(ledger.undelivered(money(5, 59)), Some(Money::default()));
        assert_eq!(ledger.undelivered(money(6, 0)), None, "more shares than were given out");
        assert_eq!(ledger.undelivered(money(0, 60)), None, "more cents than were given out");
    }
}
