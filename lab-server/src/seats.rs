//! The limit of connections, which is one for all shards. Must not know: sockets.
//!
//! Touched when a connection comes and after one has gone, and never for a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use shard::NetCounters;

/// The connections that all shards together may hold.
#[derive(Debug)]
pub(crate) struct Hall {
    taken: AtomicU32,
    limit: u32,
    /// Whether people know that the limit is reached, and that descriptors have run out.
    told: [AtomicBool; 2],
    /// Shards that have not left.
    shards: AtomicU32,
    /// Peers turned away by shards that have left.
    turned_away: AtomicU64,
}

impl Hall {
    /// Room for `limit` connections.
    pub(crate) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicU32::new(0),
            limit,
            told: Default::default(),
            shards: AtomicU32::new(0),
            turned_away: AtomicU64::new(0),
        })
    }
}

/// What one shard has of it.
#[derive(Debug)]
pub(crate) struct Seats {
    hall: Arc<Hall>,
    taken: u32,
    /// Connections that found none.
    pub(crate) refused: u64,
}

impl Seats {
    /// None taken.
    pub(crate) fn new(hall: Arc<Hall>) -> Self {
        hall.shards.fetch_add(1, Ordering::Relaxed);
        Self { hall, taken: 0, refused: 0 }
    }

    /// A seat for one more connection; false, and counted, when all are taken.
    pub(crate) fn take(&mut self) -> bool {
        let limit = self.hall.limit;
        let one_more = |taken: u32| (taken < limit).then(|| taken + 1);
        let taken =
            self.hall.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        self.taken += u32::from(taken);
        self.refused += u64::from(!taken);
        taken
    }

    /// The shard has so many connections now: the seats of those that have gone are free again.
    pub(crate) fn keep(&mut self, connections: u32) {
        if connections < self.taken {
            self.hall.taken.fetch_sub(self.taken - connections, Ordering::Relaxed);
            self.taken = connections;
        }
    }

    /// What people must know of the peers that this shard and its sockets turned away: each reason
    /// is said once, by one of the shards. One shard has places for as many as all may hold.
    pub(crate) fn new_reason(&self, sockets: &NetCounters) -> Option<String> {
        let short = sockets.turned_away - sockets.found_full;
        let [full, out] = &self.hall.told;
        let is_new = |told: &AtomicBool| !told.swap(true, Ordering::Relaxed);
        if self.refused + sockets.found_full > 0 && is_new(full) {
            return Some(format!(
                "turns connections away: all places are taken, or all of a shard; it may hold {} \
                 at a time (--connections N; by default its users and some more)",
                self.hall.limit
            ));
        }
        (short > 0 && is_new(out)).then(|| {
            "turns connections away: no descriptor is left for them (ulimit -n, sysctl fs.file-max)"
                .to_owned()
        })
    }

    /// The shard ends. Returns how many peers all shards have turned away, when it is the last and
    /// there were any.
    pub(crate) fn leave(&self, sockets: &NetCounters) -> Option<String> {
        let own = self.refused + sockets.turned_away;
        let all = self.hall.turned_away.fetch_add(own, Ordering::Relaxed) + own;
        let is_last = self.hall.shards.fetch_sub(1, Ordering::AcqRel) == 1;
        (is_last && all > 0).then(|| format!("turned {all} connections away in all"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shards_together_keep_the_limit_however_connections_fall() {
        for shards in [1, 2, 3, 7, 54] {
            for limit in [1, 5, 500] {
                let hall = Hall::new(limit);
                let mut seats: Vec<_> =
                    (0..shards).map(|_| Seats::new(Arc::clone(&hall))).collect();
                // Uneven: the last shard is asked as often as all others.
                let of =
                    |peer: usize| if peer.is_multiple_of(2) { shards - 1 } else { peer % shards };
                let inside = (0..2_000).filter(|peer| seats[of(*peer)].take()).count();
                assert_eq!(inside as u32, limit, "{shards} shards");
                assert_eq!(
                    seats.iter().map(|seats| seats.refused).sum::<u64>(),
                    2_000 - inside as u64
                );
                let last = &mut seats[shards - 1];
                let left = last.taken / 2;
                let gone = last.taken - left;
                last.keep(left);
                last.keep(left);
                let again = (0..2_000).filter(|_| seats[0].take()).count();
                assert_eq!(again as u32, gone);
            }
        }
    }

    #[test]
    fn who_is_turned_away_is_said_once_and_counted_at_the_end() {
        let hall = Hall::new(2);
        let mut seats: Vec<_> = (0..2).map(|_| Seats::new(Arc::clone(&hall))).collect();
        let sockets = |turned_away, found_full| NetCounters {
            turned_away,
            found_full,
            ..NetCounters::default()
        };
        assert!(seats[0].take() && seats[1].take());
        assert_eq!(seats[0].new_reason(&sockets(0, 0)), None);
        assert!(!seats[0].take() && !seats[1].take());
        let said = seats[0].new_reason(&sockets(0, 0)).expect("the limit is reached");
        assert!(said.contains("may hold 2 at a time"), "{said}");
        assert_eq!(seats[1].new_reason(&sockets(2, 2)), None, "it was said");
        let said = seats[1].new_reason(&sockets(3, 2)).expect("descriptors have run out");
        assert!(said.contains("ulimit -n"), "{said}");
        assert_eq!(seats[0].new_reason(&sockets(1, 0)), None, "it was said");
        assert_eq!(seats[0].leave(&sockets(1, 0)), None);
        let all = seats[1].leave(&sockets(3, 2));
        assert_eq!(all.as_deref(), Some("turned 6 connections away in all"));
        let full = Seats::new(Hall::new(2)).new_reason(&sockets(1, 1)).expect("a full shard");
        assert!(full.contains("may hold 2 at a time"), "{full}");
        assert_eq!(Seats::new(Hall::new(2)).leave(&sockets(0, 0)), None);
    }
}
