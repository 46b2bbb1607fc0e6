//! The causes by name, and figures for each of them.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{AddAssign, Index, IndexMut};

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// How many causes there are.
const COUNT: usize = 18;

/// How many of them the first format of files knew: the first ones.
const FIRST: usize = 7;

/// What can be to blame. The names are those of files, tables and plots. New causes come last, so
/// that the places of the others stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The client's thread was runnable, and another program had its CPU.
    ClientRunqueue,
    /// The client's thread ran, or waited for another thread of the client.
    ClientBusy,
    /// A packet of the connection was lost on the way.
    NetworkLoss,
    /// On the way without any loss.
    NetworkDelay,
    /// The server's thread was runnable, and another program had its CPU.
    ServerRunqueue,
    /// The server's thread ran, or waited for another thread of the server.
    ServerBusy,
    /// None of these.
    Unexplained,
    /// The client's cgroup had used up its share of CPU time.
    ClientThrottled,
    /// The client's thread was stopped by a signal, traced or frozen.
    ClientStopped,
    /// The client's thread slept in the kernel although it had work: disk, memory, a lock.
    ClientBlocked,
    /// Interrupts had the CPU of the client's thread.
    ClientInterrupts,
    /// The CPU of the client's thread did not run, or was slow to wake.
    ClientStalled,
    /// The client's thread slept by its own choice.
    ClientPacing,
    /// The server's cgroup had used up its share of CPU time.
    ServerThrottled,
    /// The server's thread was stopped by a signal, traced or frozen.
    ServerStopped,
    /// The server's thread slept in the kernel although it had work: disk, memory, a lock.
    ServerBlocked,
    /// Interrupts had the CPU of the server's thread.
    ServerInterrupts,
    /// The CPU of the server's thread did not run, or was slow to wake.
    ServerStalled,
}

impl Cause {
    /// All of them, in the order of files.
    pub const ALL: [Cause; COUNT] = [
        Cause::ClientRunqueue,
        Cause::ClientBusy,
        Cause::NetworkLoss,
        Cause::NetworkDelay,
        Cause::ServerRunqueue,
        Cause::ServerBusy,
        Cause::Unexplained,
        Cause::ClientThrottled,
        Cause::ClientStopped,
        Cause::ClientBlocked,
        Cause::ClientInterrupts,
        Cause::ClientStalled,
        Cause::ClientPacing,
        Cause::ServerThrottled,
        Cause::ServerStopped,
        Cause::ServerBlocked,
        Cause::ServerInterrupts,
        Cause::ServerStalled,
    ];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::ClientRunqueue => "client_runqueue",
            Cause::ClientBusy => "client_busy",
            Cause::NetworkLoss => "network_loss",
            Cause::NetworkDelay => "network_delay",
            Cause::ServerRunqueue => "server_runqueue",
            Cause::ServerBusy => "server_busy",
            Cause::Unexplained => "unexplained",
            Cause::ClientThrottled => "client_throttled",
            Cause::ClientStopped => "client_stopped",
            Cause::ClientBlocked => "client_blocked",
            Cause::ClientInterrupts => "client_interrupts",
            Cause::ClientStalled => "client_stalled",
            Cause::ClientPacing => "client_pacing",
            Cause::ServerThrottled => "server_throttled",
            Cause::ServerStopped => "server_stopped",
            Cause::ServerBlocked => "server_blocked",
            Cause::ServerInterrupts => "server_interrupts",
            Cause::ServerStalled => "server_stalled",
        }
    }

    /// Whether the first format of files knew it. Such causes are written down even where they took
    /// nothing; the others only where they took something.
    pub const fn is_of_first_format(self) -> bool {
        (self as usize) < FIRST
    }
}

/// A figure for each cause, found by the cause alone. In files an array in the order of
/// [`Cause::ALL`]; one of the first format has seven figures, and the other causes took nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent, bound(serialize = "T: Serialize"))]
pub struct PerCause<T>([T; COUNT]);

impl<T> PerCause<T> {
    /// The figure that `figure` gives for each cause.
    pub fn from_fn(figure: impl FnMut(Cause) -> T) -> Self {
        Self(Cause::ALL.map(figure))
    }

    /// Each cause with its figure.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, &T)> {
        Cause::ALL.into_iter().zip(&self.0)
    }

    /// Each cause with its figure, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Cause, &mut T)> {
        Cause::ALL.into_iter().zip(&mut self.0)
    }

    /// The figures alone.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// What `change` makes of each figure.
    #[must_use]
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> PerCause<U> {
        PerCause(self.0.map(change))
    }
}

impl<T: Copy + Default + PartialEq> PerCause<T> {
    /// What is written down by name: the causes of the first format, and those that took something.
    pub fn named(&self) -> impl Iterator<Item = (Cause, T)> + '_ {
        let occurs =
            |(cause, figure): &(Cause, T)| cause.is_of_first_format() || *figure != T::default();
        self.iter().map(|(cause, figure)| (cause, *figure)).filter(occurs)
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for PerCause<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Figures(PhantomData))
    }
}

/// Reads an array of as many figures as one of the formats has.
struct Figures<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Figures<T> {
    type Value = PerCause<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {FIRST} or {COUNT} figures, one for each cause")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut figures: A) -> Result<Self::Value, A::Error> {
        let mut all = PerCause::from_fn(|_| T::default());
        let mut count = 0;
        while let Some(figure) = figures.next_element()? {
            let Some(place) = all.0.get_mut(count) else {
                return Err(A::Error::invalid_length(count + 1, &self));
            };
            *place = figure;
            count += 1;
        }
        match count {
            FIRST | COUNT => Ok(all),
            _ => Err(A::Error::invalid_length(count, &self)),
        }
    }
}

impl<T> Index<Cause> for PerCause<T> {
    type Output = T;

    fn index(&self, cause: Cause) -> &T {
        &self.0[cause as usize]
    }
}

impl<T> IndexMut<Cause> for PerCause<T> {
    fn index_mut(&mut self, cause: Cause) -> &mut T {
        &mut self.0[cause as usize]
    }
}

impl AddAssign for PerCause<u64> {
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
    fn figures_are_found_by_cause_and_written_in_order() {
        for (place, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, place);
            assert_eq!(serde_json::to_string(&cause).expect("JSON"), format!("{:?}", cause.name()));
        }
        let mut figures = PerCause::from_fn(|cause| cause as u64 * 10);
        figures[Cause::ServerBusy] += 1;
        assert_eq!(figures[Cause::ServerBusy], 51);
        let text = serde_json::to_string(&figures).expect("JSON");
        assert_eq!(text, "[0,10,20,30,40,51,60,70,80,90,100,110,120,130,140,150,160,170]");
        assert_eq!(serde_json::from_str::<PerCause<u64>>(&text).expect("the same"), figures);
    }

    #[test]
    fn figures_of_the_first_format_are_still_read() {
        let figures: PerCause<u64> = serde_json::from_str("[1,2,3,4,5,6,7]").expect("seven");
        assert_eq!(figures[Cause::Unexplained], 7);
        assert_eq!(figures.values().sum::<u64>(), 28);
        let list = |count: usize| serde_json::to_string(&vec![1; count]).expect("JSON");
        for count in [0, 6, 8, 17, 19] {
            let error = serde_json::from_str::<PerCause<u64>>(&list(count)).expect_err("refused");
            let said = error.to_string();
            assert!(said.contains("an array of 7 or 18 figures"), "{count}: {said}");
        }
    }

    #[test]
    fn what_took_nothing_is_named_only_if_every_format_knows_it() {
        let mut figures = PerCause::<u64>::default();
        figures[Cause::ServerStopped] = 3;
        let named: Vec<(Cause, u64)> = figures.named().collect();
        assert_eq!(named.len(), FIRST + 1);
        assert_eq!(named[FIRST], (Cause::ServerStopped, 3));
        assert!(named[..FIRST].iter().all(|(cause, us)| cause.is_of_first_format() && *us == 0));
    }
}
