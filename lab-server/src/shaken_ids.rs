//! Ids of packets to be shaken: given out in turn, round and round, each again when its former life
//! is over.
//!
//! Must not know: SETs, and who tells which packets wait.

/// Ids of shaken packets begin where those of the prototype do.
pub(crate) const FIRST_SHAKEN: u32 = 0x0010_0000;

/// Ids come in parts. A part is begun when no packet waits that has an id of it: what waits has
/// waited for almost a round then, of 4 billion packets.
const PART_BITS: u32 = 26;

/// Parts of a round.
pub(crate) const PARTS: usize = 1 << (u32::BITS - PART_BITS);

/// Parts that are passed over at most, so that what is later can be told from what is earlier: less
/// than half a round.
const MOST_SKIPPED: usize = PARTS / 2 - 2;

/// The part of an id.
pub(crate) fn part_of(id: u32) -> usize {
    (id >> PART_BITS) as usize
}

/// The ids to come.
#[derive(Debug)]
pub(crate) struct ShakenIds {
    next: u32,
    /// Ids that were given out, those of earlier lives of the server as far as `next` tells.
    given: u64,
}

/// An id that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShakenId {
    pub(crate) id: u32,
    /// It is the first of a part, and not the first of all: the shards should know how far ids are.
    pub(crate) begins: bool,
}

impl ShakenIds {
    pub(crate) fn new() -> Self {
        Self { next: FIRST_SHAKEN, given: 0 }
    }

    /// Goes on with this id; 0 when none was given out before.
    pub(crate) fn go_on_from(&mut self, next: u32) {
        self.next = next.max(FIRST_SHAKEN);
        self.given = u64::from(self.next - FIRST_SHAKEN);
    }

    /// How many were given out.
    pub(crate) fn given(&self) -> u64 {
        self.given
    }

    /// The next id; `None` while packets wait in all parts that may come next. `waiting` has a bit
    /// for each part in which one does, and is asked where a part begins.
    pub(crate) fn take(&mut self, waiting: impl FnOnce() -> u64) -> Option<ShakenId> {
        let first_of_part = |id: u32| id == FIRST_SHAKEN || id.trailing_zeros() >= PART_BITS;
        let begins = first_of_part(self.next);
        if begins {
            let waiting = waiting();
            let here = part_of(self.next);
            let free = |ahead: &usize| waiting >> ((here + ahead) % PARTS) & 1 == 0;
            let part = (here + (0..=MOST_SKIPPED).find(free)?) % PARTS;
            self.next = ((part as u32) << PART_BITS).max(FIRST_SHAKEN);
        }
        let (id, begins) = (self.next, begins && self.given > 0);
        self.next = self.next.wrapping_add(1).max(FIRST_SHAKEN);
        self.given += 1;
        Some(ShakenId { id, begins })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(ids: &mut ShakenIds, waiting: u64) -> Option<(u32, bool)> {
        ids.take(|| waiting).map(|it| (it.id, it.begins))
    }

    #[test]
    fn ids_go_round_and_pass_over_parts_where_packets_wait() {
        let mut ids = ShakenIds::new();
        assert_eq!(take(&mut ids, 0), Some((FIRST_SHAKEN, false)));
        assert_eq!(take(&mut ids, u64::MAX), Some((FIRST_SHAKEN + 1, false)), "amid a part");
        ids.go_on_from(u32::MAX);
        assert_eq!(take(&mut ids, 1), Some((u32::MAX, false)));
        assert_eq!(take(&mut ids, 0b1011), Some((2 << PART_BITS, true)), "0 and 1 are in use");
        ids.go_on_from(u32::MAX);
        assert_eq!(take(&mut ids, 0), Some((u32::MAX, false)));
        assert_eq!(take(&mut ids, 0), Some((FIRST_SHAKEN, true)));
        assert_eq!(ids.given(), u64::from(u32::MAX - FIRST_SHAKEN) + 2);
    }

    #[test]
    fn none_is_given_out_while_all_parts_ahead_are_in_use() {
        let mut ids = ShakenIds::new();
        ids.go_on_from(5 << PART_BITS);
        // Those behind are free, and too far ahead to be told from earlier ones.
        let ahead: u64 = (5..=5 + MOST_SKIPPED).map(|part| 1 << part).sum();
        assert_eq!(take(&mut ids, ahead), None);
        assert_eq!(take(&mut ids, ahead), None);
        assert_eq!(take(&mut ids, ahead & !(1 << 7)), Some((7 << PART_BITS, true)));
    }
}
