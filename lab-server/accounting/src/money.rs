//! Shares and cents, as server and client both count them.

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
    #[inline]
    pub fn share(amount: u32) -> Self {
        Self::shares(1, amount)
    }

    /// Several shares that are worth this many cents together.
    pub fn shares(count: u32, amount: u32) -> Self {
        Self { count: u64::from(count), amount: u64::from(amount) }
    }
}

impl Money {
    /// The sum, where there is a number for it.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let count = self.count.checked_add(other.count)?;
        Some(Self { count, amount: self.amount.checked_add(other.amount)? })
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // No money that there is comes near the end: but a file may say so.
        let count = self.count.saturating_add(other.count);
        Self { count, amount: self.amount.saturating_add(other.amount) }
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
