//! The end of what a connection carried: money that its client cannot have confirmed by asking on.
//!
//! Both ends keep it, each of the answers that it wrote or read, and add it up when a connection is
//! over. Of a client that got everything both are the same; what was lost is the difference. A user
//! shakes again when the last shake is answered, so that a shake confirms that answer and whatever
//! came before it. Must not know: who keeps it, and when a connection is over.

use crate::money::Money;

/// Bits of the cents in a word; the rest is the number of shares.
const CENTS: u32 = 28;

/// Shares and cents in one word, for there is one in each connection: 15 shares, 2.6 million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Few(u32);

impl Few {
    fn money(self) -> Money {
        Money::shares(self.0 >> CENTS, self.0 & ((1 << CENTS) - 1))
    }

    /// Adds a share; false when there is no room for it.
    #[inline]
    fn add(&mut self, cents: u32) -> bool {
        let sum = (self.0 & ((1 << CENTS) - 1)).saturating_add(cents);
        let shares = (self.0 >> CENTS) + 1;
        let fits = sum >> CENTS == 0 && shares < 1 << (u32::BITS - CENTS);
        if fits {
            self.0 = (shares << CENTS) | sum;
        }
        fits
    }
}

/// Money of the last answers on a connection: 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Up to the answer of the last shake.
    last: Few,
    /// What claims brought after it.
    since: Few,
}

impl Tail {
    /// Another shake, at the server when it comes, at the client when it is answered: what came up
    /// to the answer of the one before is confirmed.
    #[inline]
    pub fn shake(&mut self) {
        self.last = std::mem::take(&mut self.since);
    }

    /// That shake was answered with a packet. False when there is no room to note it.
    #[inline]
    #[must_use]
    pub fn grant(&mut self, cents: u32) -> bool {
        self.last.add(cents)
    }

    /// A claim was answered with a share. False when there is no room to note it.
    #[inline]
    #[must_use]
    pub fn claim(&mut self, cents: u32) -> bool {
        self.since.add(cents)
    }

    /// The end of what was written, after the last shake that came.
    pub fn written(self) -> Money {
        self.last.money() + self.since.money()
    }

    /// The same of what was read, with so many shakes not answered: each may have come, so that
    /// what was read before confirms the more.
    pub fn read(self, unanswered_shakes: u64) -> Money {
        match unanswered_shakes {
            0 => self.written(),
            1 => self.since.money(),
            _ => Money::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Answer {
        Shake(u32),
        Claim(u32),
    }

    /// What a client keeps of answers.
    fn read_of(answers: &[Answer]) -> Tail {
        let mut tail = Tail::default();
        for answer in answers {
            let noted = match *answer {
                Answer::Shake(cents) => {
                    tail.shake();
                    cents == 0 || tail.grant(cents)
                }
                Answer::Claim(cents) => tail.claim(cents),
            };
            assert!(noted);
        }
        tail
    }

    fn sum(answers: &[Answer]) -> Money {
        let mut sum = Money::default();
        for answer in answers {
            let (Answer::Shake(cents) | Answer::Claim(cents)) = *answer;
            sum += Money { count: u64::from(cents > 0), amount: u64::from(cents) };
        }
        sum
    }

    #[test]
    fn what_was_lost_is_the_difference_of_the_two_ends() {
        use Answer::{Claim, Shake};
        let answers = [Shake(5), Claim(1), Claim(2), Shake(0), Claim(3), Shake(7), Claim(4)];
        for read in 0..=answers.len() {
            let lost = sum(&answers[read..]);
            let shakes_lost =
                answers[read..].iter().filter(|answer| matches!(answer, Shake(_))).count() as u64;
            let written = read_of(&answers).written();
            let received = read_of(&answers[..read]).read(shakes_lost);
            if shakes_lost < 2 {
                // Exactly what was lost, for every shake came.
                assert_eq!(written - received, lost, "{read} read");
            }
            // A shake that did not come confirms nothing at the server: the bound is wider.
            let asked = read_of(&answers[..read]);
            let bound = asked.written() - asked.read(1);
            assert!(bound.amount >= asked.read(0).amount - asked.read(1).amount);
            assert_eq!(asked.written() - asked.read(0), Money::default(), "all was read");
        }
    }

    #[test]
    fn what_finds_no_room_is_said() {
        let mut tail = Tail::default();
        assert!(!tail.grant(u32::MAX) && !tail.claim(1 << CENTS));
        assert!((0..15).all(|_| tail.claim(1)) && !tail.claim(1));
        assert!(tail.grant((1 << CENTS) - 1) && !tail.grant(1));
        assert_eq!(tail.written(), Money { count: 16, amount: (1 << CENTS) - 1 + 15 });
    }
}
