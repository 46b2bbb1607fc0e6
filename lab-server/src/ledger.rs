//! Where the money is. Every cent that was created is granted, claimed, refunded, or remains.
//!
//! Money is booked in the SET that holds it and moves only within its books, in one step, so that
//! the identity holds at every instant, in each SET and in the sum over all of them.

use std::ops::{Add, AddAssign, Sub, SubAssign};

use serde::{Deserialize, Serialize};

/// A number of shares and what they are worth. A shaken packet is one share; a sent packet has as
/// many as it is split into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Shares.
    pub count: u64,
    /// Cents.
    pub amount: u64,
}

impl Money {
    /// One share of this many cents.
    pub fn share(amount: u32) -> Self {
        Self::shares(1, amount)
    }

    /// Several shares that are worth this many cents together.
    pub fn shares(count: u32, amount: u32) -> Self {
        Self { count: u64::from(count), amount: u64::from(amount) }
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { count: self.count + other.count, amount: self.amount + other.amount }
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { count: self.count - other.count, amount: self.amount - other.amount }
    }
}

impl SubAssign for Money {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

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
}

impl Ledger {
    /// A packet to be shaken, or one sent to users, comes in.
    pub fn create(&mut self, money: Money) {
        self.created += money;
        self.remaining += money;
    }

    /// A packet goes to a user who shook.
    pub fn grant(&mut self, money: Money) {
        self.remaining -= money;
        self.granted += money;
    }

    /// A share goes to a user who claimed.
    pub fn claim(&mut self, money: Money) {
        self.remaining -= money;
        self.claimed += money;
    }

    /// What nobody claimed goes back.
    pub fn refund(&mut self, money: Money) {
        self.remaining -= money;
        self.refunded += money;
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
