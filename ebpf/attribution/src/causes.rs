//! The causes by name, and figures for each of them.

use std::ops::{AddAssign, Index, IndexMut};

use serde::{Deserialize, Serialize};

/// What can be to blame. The names are those of files, tables and plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The client's thread was runnable, and its CPU was idle or another program's.
    ClientRunqueue,
    /// The client's thread was busy, or waited for another thread of the client.
    ClientBusy,
    /// A packet of the connection was dropped or sent again on the way.
    NetworkLoss,
    /// On the way without any loss.
    NetworkDelay,
    /// The server's thread was runnable, and its CPU was idle or another program's.
    ServerRunqueue,
    /// The server's thread was busy, or waited for another thread of the server.
    ServerBusy,
    /// None of these.
    Unexplained,
}

impl Cause {
    /// All of them, in the order of files.
    pub const ALL: [Cause; 7] = [
        Cause::ClientRunqueue,
        Cause::ClientBusy,
        Cause::NetworkLoss,
        Cause::NetworkDelay,
        Cause::ServerRunqueue,
        Cause::ServerBusy,
        Cause::Unexplained,
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
        }
    }
}

/// A figure for each cause, found by the cause alone. In files an array in the order of
/// [`Cause::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent, bound(deserialize = "[T; 7]: Deserialize<'de>", serialize = "T: Serialize"))]
pub struct PerCause<T>(pub(crate) [T; 7]);

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
        assert_eq!(text, "[0,10,20,30,40,51,60]");
        assert_eq!(serde_json::from_str::<PerCause<u64>>(&text).expect("the same"), figures);
        assert!(serde_json::from_str::<PerCause<u64>>("[1,2,3,4,5,6]").is_err());
    }
}
