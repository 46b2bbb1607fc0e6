//! From a user to the shard and connection on which the user is logged in.
//!
//! Each user has a home shard, `user % shards`, whose directory alone knows the user's connection.
//! Others ask it by message; nothing is shared.

use shard::ConnId;

/// A connection of any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The shard that holds the connection.
    pub shard: u16,
    /// The connection.
    pub conn: ConnId,
}

/// The shard whose directory knows a user.
pub fn home_of(user: u32, shards: usize) -> usize {
    user as usize % shards
}

/// The users whose home this shard is. 10 bytes a user, touched when the user logs in.
#[derive(Debug)]
pub struct Directory {
    shards: usize,
    /// The connection's slot and generation, by `user / shards`.
    conns: Vec<u64>,
    /// Its shard plus one; 0 for a user who is not logged in.
    places: Vec<u16>,
}

impl Directory {
    /// An empty directory for the share of `users` users whose home is one of `shards` shards.
    pub fn new(users: u32, shards: usize) -> Self {
        let mine = (users as usize).div_ceil(shards);
        // Zeroed pages are not resident until a user logs in.
        Self { shards, conns: vec![0; mine], places: vec![0; mine] }
    }

    fn index(&self, user: u32) -> usize {
        user as usize / self.shards
    }

    /// Where the user is logged in.
    pub fn find(&self, user: u32) -> Option<Address> {
        let index = self.index(user);
        let place = *self.places.get(index)?;
        let conn = *self.conns.get(index)?;
        let conn = ConnId { slot: conn as u32, generation: (conn >> 32) as u32 };
        (place != 0).then(|| Address { shard: place - 1, conn })
    }

    /// Records a login; returns the older connection of the user, which is replaced.
    pub fn enter(&mut self, user: u32, at: Address) -> Option<Address> {
        let older = self.find(user);
        let index = self.index(user);
        self.conns[index] = (u64::from(at.conn.generation) << 32) | u64::from(at.conn.slot);
        self.places[index] = at.shard + 1;
        older.filter(|older| *older != at)
    }

    /// Records that a connection went; one that was replaced before changes nothing.
    pub(crate) fn leave(&mut self, user: u32, at: Address) {
        if self.find(user) == Some(at) {
            let index = self.index(user);
            self.places[index] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_login_wins_and_the_older_cannot_undo_it() {
        let mut directory = Directory::new(10, 3);
        let at = |shard, slot, generation| Address { shard, conn: ConnId { slot, generation } };
        for user in [0, 3, 6, 9] {
            assert_eq!(directory.find(user), None);
            assert_eq!(directory.enter(user, at(1, 5, 0)), None);
            assert_eq!(directory.enter(user, at(2, 5, 0)), Some(at(1, 5, 0)));
            directory.leave(user, at(1, 5, 0));
            assert_eq!(directory.find(user), Some(at(2, 5, 0)));
            assert_eq!(directory.enter(user, at(2, 5, 1)), Some(at(2, 5, 0)));
            directory.leave(user, at(2, 5, 1));
            assert_eq!(directory.find(user), None);
        }
        assert_eq!(directory.find(4_000_000_000), None);
    }
}
