//! Slowness on purpose: CPU time spent for nothing on a share of the requests, and the exact truth
//! about it. Must not know: what a request is.
//!
//! A program that was not asked for it holds an empty list, and pays a comparison with 0.

use std::fmt;
use std::hint::spin_loop;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::clock::{NANOS_PER_SECOND, monotonic_ns};
use crate::splitmix::splitmix64;

/// Spins of one second that are kept one by one; all are counted. The kernel's clocks leave room
/// for some 50,000 spins of 20 µs in a second; the lab's own faults make a few hundred.
pub(crate) const SPINS_KEPT: usize = 8192;

/// The most CPU time of one spin, in nanoseconds: 10 s, as in experiment files.
pub(crate) const MOST_SPIN_NS: u64 = 10 * NANOS_PER_SECOND;

/// Orders that may be in force at a time: each keeps its spins, 256 KB a shard.
pub(crate) const MOST_SLOW_ORDERS: usize = 16;

/// CPU time that a shard spends on purpose before it looks at its sockets and messages again, in
/// nanoseconds, but for the spin that exceeds it. What is hit beyond that is counted and not spun.
pub const SPIN_PER_POLL_NS: u64 = NANOS_PER_SECOND;

/// Requests of which `per_billion` are hit.
const BILLION: u32 = 1_000_000_000;

/// Why an order is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowError {
    /// A spin that would keep a shard from answering for too long.
    Spin(u64),
    /// A share above all.
    Share(u32),
    /// It ends before it begins.
    Span {
        /// As asked for.
        from_ns: u64,
        /// As asked for.
        until_ns: u64,
    },
    /// As many as may be are in force.
    TooMany,
}

impl fmt::Display for SlowError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spin(ns) => write!(to, "spin_ns {ns}: between 1 and {MOST_SPIN_NS} (10 s)"),
            Self::Share(share) => write!(to, "per_billion {share}: at most {BILLION}"),
            Self::Span { from_ns, until_ns } => {
                write!(to, "until_ns {until_ns}: after from_ns {from_ns}, on the monotonic clock")
            }
            Self::TooMany => {
                write!(to, "{MOST_SLOW_ORDERS} slow orders are in force: end one first (end_slow)")
            }
        }
    }
}

impl std::error::Error for SlowError {}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowOrder {
    /// Repeated in the truth.
    pub id: u32,
    /// CPU time of one spin, in nanoseconds.
    pub spin_ns: u64,
    /// How many of a billion requests.
    pub per_billion: u32,
    /// What decides which ones.
    pub seed: u64,
    /// From when on, on the monotonic clock in nanoseconds.
    pub from_ns: u64,
    /// Until when.
    pub until_ns: u64,
}

impl SlowOrder {
    /// Whether the request of a user at an instant is one of them: a pure function.
    pub fn hits(&self, user: u32, at_ns: u64) -> bool {
        let drawn = splitmix64(splitmix64(self.seed ^ u64::from(user)) ^ at_ns);
        drawn % 1_000_000_000 < u64::from(self.per_billion)
    }
}

/// The orders in force, as those know them who hand them out.
#[derive(Debug, Default)]
pub struct SlowOrders {
    /// Their ids, and when they end.
    orders: Vec<(u32, u64)>,
}

impl SlowOrders {
    /// Checks an order that is handed out at `now_ns`, and remembers it.
    ///
    /// # Errors
    /// [`SlowError`]; nothing has changed then.
    pub fn admit(&mut self, order: &SlowOrder, now_ns: u64) -> Result<(), SlowError> {
        let SlowOrder { id, spin_ns, per_billion, from_ns, until_ns, .. } = *order;
        if spin_ns == 0 || spin_ns > MOST_SPIN_NS {
            return Err(SlowError::Spin(spin_ns));
        }
        if per_billion > BILLION {
            return Err(SlowError::Share(per_billion));
        }
        if until_ns <= from_ns {
            return Err(SlowError::Span { from_ns, until_ns });
        }
        self.orders.retain(|(_, until_ns)| *until_ns > now_ns);
        if self.orders.len() >= MOST_SLOW_ORDERS {
            return Err(SlowError::TooMany);
        }
        self.orders.push((id, until_ns));
        Ok(())
    }

    /// An order ends at an instant at the latest.
    pub fn end_at(&mut self, id: u32, until_ns: u64) {
        let of_id = self.orders.iter_mut().filter(|(other, _)| *other == id);
        of_id.for_each(|(_, until)| *until = (*until).min(until_ns));
    }
}

/// A spin as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spin {
    /// Whose request.
    pub user: u32,
    /// When it began, on the monotonic clock in nanoseconds.
    pub t: u64,
    /// When it was over.
    pub end_ns: u64,
    /// CPU time that it took in between.
    pub spun_ns: u64,
}

/// What a slowness did since it was last drained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spins {
    /// Of which order.
    pub id: u32,
    /// Spins.
    pub count: u64,
    /// CPU time of all of them.
    pub spun_ns: u64,
    /// Requests that were examined.
    pub seen: u64,
    /// Spins one by one, at most `SPINS_KEPT`.
    pub spins: Vec<Spin>,
    /// Spins that were counted and not kept.
    pub not_kept: u64,
    /// Requests that were hit and for which no time was left before the shard had to look round.
    #[serde(default)]
    pub not_spun: u64,
    /// Nothing more will come of this order.
    pub over: bool,
}

/// Slowness under way on one shard.
#[derive(Debug)]
pub struct Slowness {
    order: SlowOrder,
    since: Spins,
}

impl Slowness {
    /// Slowness as ordered.
    pub fn new(order: SlowOrder) -> Self {
        let since =
            Spins { id: order.id, spins: Vec::with_capacity(SPINS_KEPT), ..Spins::default() };
        Self { order, since }
    }

    /// A request of a user that is handled at `at_ns`: takes its time if it is one of those chosen,
    /// and if some is left of [`SPIN_PER_POLL_NS`].
    pub fn handle(
        &mut self,
        user: u32,
        at_ns: u64,
        left_ns: &mut u64,
        spin: impl FnOnce(u64) -> Spin,
    ) {
        let order = &self.order;
        if !(order.from_ns..order.until_ns).contains(&at_ns) {
            return;
        }
        self.since.seen += 1;
        if !order.hits(user, at_ns) {
            return;
        }
        if *left_ns == 0 {
            self.since.not_spun += 1;
            return;
        }
        let spin = Spin { user, ..spin(order.spin_ns) };
        *left_ns = left_ns.saturating_sub(spin.spun_ns);
        self.since.count += 1;
        self.since.spun_ns += spin.spun_ns;
        if self.since.spins.len() < SPINS_KEPT {
            self.since.spins.push(spin);
        } else {
            self.since.not_kept += 1;
        }
    }

    /// Ends it at an instant, if it would go on beyond that.
    pub fn end_at(&mut self, id: u32, until_ns: u64) {
        if self.order.id == id {
            self.order.until_ns = self.order.until_ns.min(until_ns);
        }
    }

    /// What it did since it was last drained.
    pub fn drain(&mut self, now_ns: u64) -> Spins {
        let over = now_ns >= self.order.until_ns;
        let room = if over { 0 } else { SPINS_KEPT };
        let next = Spins { id: self.order.id, spins: Vec::with_capacity(room), ..Spins::default() };
        Spins { over, ..std::mem::replace(&mut self.since, next) }
    }

    /// Keeps what could not be handed on.
    pub fn put_back(&mut self, spins: Spins) {
        let newer = std::mem::replace(&mut self.since, Spins { over: false, ..spins });
        let since = &mut self.since;
        since.count += newer.count;
        since.spun_ns += newer.spun_ns;
        since.seen += newer.seen;
        since.not_kept += newer.not_kept;
        since.not_spun += newer.not_spun;
        let room = SPINS_KEPT.saturating_sub(since.spins.len());
        since.not_kept += newer.spins.len().saturating_sub(room) as u64;
        since.spins.extend(newer.spins.into_iter().take(room));
    }
}

/// CPU time of this thread, in nanoseconds.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Both fields of a running clock are non-negative.
    time.tv_sec.cast_unsigned() * NANOS_PER_SECOND + time.tv_nsec.cast_unsigned()
}

/// Spends CPU time of this thread: time in which another one had the CPU does not count.
pub fn spin(ns: u64) -> Spin {
    let t = monotonic_ns();
    let began_ns = thread_ns();
    let mut spun_ns = 0;
    while spun_ns < ns {
        spin_loop();
        spun_ns = thread_ns() - began_ns;
    }
    Spin { user: 0, t, end_ns: monotonic_ns(), spun_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: SlowOrder = SlowOrder {
        id: 3,
        spin_ns: 1000,
        per_billion: 250_000_000,
        seed: 9,
        from_ns: 100,
        until_ns: 50_000,
    };
    const ALL: u32 = BILLION;

    #[test]
    fn the_share_is_hit_and_the_seed_decides() {
        let hits = |order: SlowOrder| -> Vec<u64> {
            (0..40_000).filter(|at_ns| order.hits(7, *at_ns)).collect()
        };
        let found = hits(ORDER);
        assert!((9_700..10_300).contains(&found.len()), "{}", found.len());
        assert_eq!(found, hits(ORDER));
        assert_ne!(found, hits(SlowOrder { seed: 10, ..ORDER }));
        assert_eq!(hits(SlowOrder { per_billion: 0, ..ORDER }).len(), 0);
        assert_eq!(hits(SlowOrder { per_billion: ALL, ..ORDER }).len(), 40_000);
    }

    #[test]
    fn what_is_not_kept_is_counted() {
        let mut slowness = Slowness::new(SlowOrder { per_billion: ALL, ..ORDER });
        let spun = |ns| Spin { user: 0, t: 5, end_ns: 5 + ns, spun_ns: ns };
        let mut left_ns = SPIN_PER_POLL_NS;
        for at_ns in 0..40_000 {
            slowness.handle(7, at_ns, &mut left_ns, spun);
        }
        assert_eq!(left_ns, SPIN_PER_POLL_NS - (40_000 - 100) * 1000);
        let first = slowness.drain(40_000);
        let (kept, count) = (SPINS_KEPT as u64, 40_000 - 100);
        assert_eq!((first.count, first.seen, first.spun_ns), (count, count, count * 1000));
        assert_eq!((first.spins.len() as u64, first.not_kept), (kept, count - kept));
        assert_eq!((first.spins[0].user, first.over), (7, false));
        slowness.handle(8, 40_001, &mut left_ns, spun);
        slowness.put_back(first);
        slowness.end_at(9, 0);
        slowness.end_at(3, 40_002);
        slowness.handle(8, 40_002, &mut left_ns, spun);
        let last = slowness.drain(40_002);
        assert_eq!((last.count, last.not_kept), (count + 1, count + 1 - kept));
        assert!(last.over);
    }

    #[test]
    fn a_poll_spins_no_longer_than_it_may() {
        let most = SlowOrder { per_billion: ALL, spin_ns: MOST_SPIN_NS, ..ORDER };
        let mut slowness = Slowness::new(most);
        let spun = |ns| Spin { user: 0, t: 0, end_ns: ns, spun_ns: ns };
        let mut left_ns = SPIN_PER_POLL_NS;
        for at_ns in 1_000..1_100 {
            slowness.handle(7, at_ns, &mut left_ns, spun);
        }
        let spins = slowness.drain(1_100);
        assert_eq!((spins.seen, spins.count, spins.not_spun), (100, 1, 99));
        assert_eq!(spins.spun_ns, MOST_SPIN_NS);
    }

    #[test]
    fn impossible_orders_and_too_many_are_refused_in_words() {
        let mut orders = SlowOrders::default();
        for (order, words) in [
            (SlowOrder { spin_ns: u64::MAX, ..ORDER }, "spin_ns 18446744073709551615: between 1"),
            (SlowOrder { spin_ns: 0, ..ORDER }, "spin_ns 0"),
            (SlowOrder { per_billion: ALL + 1, ..ORDER }, "per_billion 1000000001: at most"),
            (SlowOrder { until_ns: 100, ..ORDER }, "until_ns 100: after from_ns 100"),
        ] {
            let error = orders.admit(&order, 0).expect_err("impossible").to_string();
            assert!(error.contains(words), "{error}");
        }
        let order = |id| SlowOrder { id, until_ns: u64::MAX, ..ORDER };
        for id in 0..MOST_SLOW_ORDERS as u32 {
            assert_eq!(orders.admit(&order(id), 5), Ok(()));
        }
        assert_eq!(orders.admit(&order(99), 5), Err(SlowError::TooMany));
        orders.end_at(3, 10);
        assert_eq!(orders.admit(&order(99), 9), Err(SlowError::TooMany));
        assert_eq!(orders.admit(&order(99), 10), Ok(()));
    }

    #[test]
    fn a_spin_takes_its_time() {
        let spun = spin(300_000);
        assert!(spun.spun_ns >= 300_000 && spun.end_ns - spun.t >= spun.spun_ns, "{spun:?}");
    }
}
