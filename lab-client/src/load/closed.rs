//! A closed load: which users shake next, and how many should.

use workload::{Permutation, Share};

/// A load that keeps a number of shakes under way.
#[derive(Debug)]
pub(super) struct ClosedLoad {
    /// Shakes that should be under way and are not.
    pub(super) missing: u32,
    pub(super) order: Permutation,
    pub(super) place: u32,
    pub(super) users: u32,
}

impl ClosedLoad {
    pub(super) fn new(share: &Share, in_flight: u32, order: u64) -> Option<Self> {
        let users = share.len();
        (users > 0).then(|| Self {
            missing: share.of_count(in_flight),
            order: Permutation::new(users, order),
            place: 0,
            users,
        })
    }

    pub(super) fn next_user(&mut self) -> u32 {
        let user = self.order.at(self.place);
        self.place = (self.place + 1) % self.users;
        user
    }
}
