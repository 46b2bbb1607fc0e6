//! What a thread's time between two instants went by with.

use std::ops::{AddAssign, Index, IndexMut};

use events::{KINDS, kind};
use serde::{Deserialize, Serialize};

/// What a thread's time goes by with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Doing {
    /// It ran.
    Run,
    /// Interrupts or softirqs had its CPU, or the kernel's threads for them.
    Interrupts,
    /// It was runnable, and its own program had the CPU.
    WaitOwn,
    /// It was runnable, and another program had the CPU.
    WaitOther,
    /// It was runnable, and the CPU was idle.
    WaitIdle,
    /// The quota of its group was used up.
    Throttled,
    /// It was stopped by a signal, traced or frozen.
    Stopped,
    /// It slept so that no signal could wake it: disk, page fault, reclaim, the kernel's locks.
    Blocked,
    /// It slept by its own choice.
    Asleep,
    /// Its CPU did not run.
    Stalled,
    /// Not known.
    Unknown,
    /// Not known, because what was written down contradicts itself.
    Contradicted,
}

/// How many there are.
const COUNT: usize = 12;

impl Doing {
    /// All of them, in the order of files.
    pub const ALL: [Self; COUNT] = [
        Self::Run,
        Self::Interrupts,
        Self::WaitOwn,
        Self::WaitOther,
        Self::WaitIdle,
        Self::Throttled,
        Self::Stopped,
        Self::Blocked,
        Self::Asleep,
        Self::Stalled,
        Self::Unknown,
        Self::Contradicted,
    ];

    /// What one of the kernel's clocks counts.
    pub(crate) const fn of_clock(clock: usize) -> Self {
        match clock {
            kind::RUN => Self::Run,
            kind::INTERRUPTED | kind::WAIT_INTERRUPTS => Self::Interrupts,
            kind::WAIT_OWN => Self::WaitOwn,
            kind::WAIT_OTHER => Self::WaitOther,
            kind::WAIT_IDLE => Self::WaitIdle,
            kind::THROTTLED => Self::Throttled,
            kind::STOPPED => Self::Stopped,
            kind::BLOCKED => Self::Blocked,
            kind::ASLEEP => Self::Asleep,
            _ => Self::Unknown,
        }
    }

    /// Whether it needs a CPU that runs: a timer that was to end a sleep does, too.
    const fn needs_a_cpu(self) -> bool {
        !matches!(
            self,
            Self::Throttled | Self::Stopped | Self::Blocked | Self::Unknown | Self::Contradicted
        )
    }
}

/// A stretch of a thread's time, in nanoseconds. In files an array in the order of [`Doing::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spent([u64; COUNT]);

impl Spent {
    #[cfg(test)]
    pub(crate) const NOTHING: Self = Self([0; COUNT]);

    /// All of it went by with one thing.
    pub fn all(doing: Doing, ns: u64) -> Self {
        let mut spent = Self::default();
        spent[doing] = ns;
        spent
    }

    /// What the kernel's clocks say.
    pub(crate) fn of_clocks(clocks_ns: &[u64; KINDS]) -> Self {
        let mut spent = Self::default();
        for (clock, ns) in clocks_ns.iter().enumerate().filter(|(_, ns)| **ns > 0) {
            spent[Doing::of_clock(clock)] += ns;
        }
        spent
    }

    /// How long it was.
    pub fn total_ns(&self) -> u64 {
        self.0.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    /// Each thing that took time, with that.
    pub fn iter(&self) -> impl Iterator<Item = (Doing, u64)> {
        Doing::ALL.into_iter().zip(self.0).filter(|(_, ns)| *ns > 0)
    }

    /// What `ns` of `whole_ns` went by with, in proportion: exact where one thing took all of it.
    #[must_use]
    pub fn part(&self, ns: u64, whole_ns: u64) -> Self {
        let (mut part, mut left_ns, mut most) = (Self::default(), ns.min(self.total_ns()), 0);
        if ns >= whole_ns {
            return *self;
        }
        for (place, spent_ns) in self.0.into_iter().enumerate() {
            part.0[place] = in_proportion(spent_ns, ns, whole_ns).min(left_ns);
            left_ns -= part.0[place];
            if spent_ns > self.0[most] {
                most = place;
            }
        }
        if self.total_ns() == whole_ns {
            // What rounding leaves belongs to the largest.
            part.0[most] += left_ns;
        }
        part
    }

    /// A part of it lies in a time in which the CPU did not run: what needs one was stalled.
    pub(crate) fn stall(&mut self, part: &Self) {
        for (doing, ns) in part.iter().filter(|(doing, _)| doing.needs_a_cpu()) {
            let moved = ns.min(self[doing]);
            self[doing] -= moved;
            self[Doing::Stalled] += moved;
        }
    }
}

/// `of * part / whole`, rounded down.
pub(crate) fn in_proportion(of: u64, part: u64, whole: u64) -> u64 {
    match of.checked_mul(part) {
        Some(product) => product / whole,
        None => (u128::from(of) * u128::from(part) / u128::from(whole)) as u64,
    }
}

impl Index<Doing> for Spent {
    type Output = u64;

    fn index(&self, doing: Doing) -> &u64 {
        &self.0[doing as usize]
    }
}

impl IndexMut<Doing> for Spent {
    fn index_mut(&mut self, doing: Doing) -> &mut u64 {
        &mut self.0[doing as usize]
    }
}

impl AddAssign for Spent {
    /// What a file says may be more than any number: it stays at the largest.
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_it_is_in_proportion_and_adds_up() {
        let stopped = Spent::all(Doing::Stopped, 300);
        assert_eq!(stopped.part(100, 300), Spent::all(Doing::Stopped, 100));
        assert_eq!(stopped.part(300, 300), stopped);
        let mut both = stopped;
        both += Spent::all(Doing::Run, 101);
        let part = both.part(200, 401);
        assert_eq!((part[Doing::Stopped], part[Doing::Run], part.total_ns()), (150, 50, 200));
        // Of the other half nothing is known: not of its part either.
        assert_eq!(stopped.part(300, 600), Spent::all(Doing::Stopped, 150));
        let most = Spent::all(Doing::Run, u64::MAX);
        assert_eq!(most.part(u64::MAX - 1, u64::MAX)[Doing::Run], u64::MAX - 1);
    }
}
