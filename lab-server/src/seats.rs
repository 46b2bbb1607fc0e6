//! The limit of connections, which is one for all shards. Must not know: sockets.
//!
//! Touched when a connection comes and after one has gone, and never for a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The connections that all shards together may hold.
#[derive(Debug)]
pub(crate) struct Hall {
    taken: AtomicU32,
    limit: u32,
}

impl Hall {
    /// Room for `limit` connections.
    pub(crate) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self { taken: AtomicU32::new(0), limit })
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
}
