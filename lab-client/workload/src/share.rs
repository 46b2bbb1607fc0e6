//! Which users belong to a client, and to each of its shards.

/// The users of one shard of one client, by their numbers over all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Users of all clients are `0..total_users`.
    pub total_users: u32,
    /// The first user of this client.
    pub first: u32,
    /// The exclusive end of the users of this client.
    pub end: u32,
    /// The shard.
    pub shard: usize,
    /// How many shards the client has.
    pub shards: usize,
}

impl Share {
    /// A user's number within the shard, `None` for the user of another.
    #[inline]
    pub fn local(&self, user: u32) -> Option<u32> {
        let number = user.checked_sub(self.first).filter(|_| user < self.end)?;
        let shards = self.shards as u32;
        (number as usize % self.shards == self.shard).then_some(number / shards)
    }

    /// The user with this number within the shard.
    #[inline]
    pub fn global(&self, local: u32) -> u32 {
        self.first + local * self.shards as u32 + self.shard as u32
    }

    /// How many users the shard has.
    #[inline]
    pub fn len(&self) -> u32 {
        self.below(self.end)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many users of the shard are below a number.
    #[inline]
    pub fn below(&self, user: u32) -> u32 {
        let numbers = user.clamp(self.first, self.end) - self.first;
        let shards = self.shards as u32;
        (numbers + shards - 1 - self.shard as u32) / shards
    }

    /// The part of a rate over all clients that falls to this shard.
    pub fn of_rate(&self, rate: f64) -> f64 {
        rate * f64::from(self.len()) / f64::from(self.total_users)
    }

    /// The part of a whole number over all clients that falls to this shard; the parts of all
    /// shards of all clients add up.
    pub fn of_count(&self, count: u32) -> u32 {
        let part = |count: u64, from: u64, to: u64, of: u64| count * to / of - count * from / of;
        let (total, shards) = (u64::from(self.total_users), self.shards as u64);
        let mine = part(u64::from(count), u64::from(self.first), u64::from(self.end), total);
        part(mine, self.shard as u64, self.shard as u64 + 1, shards) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_belongs_to_one_shard_and_parts_add_up() {
        for (first, end, shards) in [(0, 10, 1), (0, 1_000, 7), (333, 777, 2), (5, 6, 3)] {
            let parts: Vec<_> = (0..shards)
                .map(|shard| Share { total_users: 1_000, first, end, shard, shards })
                .collect();
            for user in 0..1_000 {
                let owners: Vec<_> =
                    parts.iter().filter_map(|part| Some((part, part.local(user)?))).collect();
                assert_eq!(owners.len(), usize::from((first..end).contains(&user)));
                assert!(owners.iter().all(|(part, local)| part.global(*local) == user));
                let below: u32 = parts.iter().map(|part| part.below(user)).sum();
                assert_eq!(below, user.clamp(first, end) - first);
            }
            assert_eq!(parts.iter().map(Share::len).sum::<u32>(), end - first);
        }
        let counts = |count| {
            let clients = [(0, 100), (100, 101), (101, 1_000)];
            let shares = clients.iter().flat_map(|(first, end)| {
                (0..4).map(move |shard| Share {
                    total_users: 1_000,
                    first: *first,
                    end: *end,
                    shard,
                    shards: 4,
                })
            });
            shares.map(|share| share.of_count(count)).sum::<u32>()
        };
        assert_eq!((counts(0), counts(7), counts(1_000)), (0, 7, 1_000));
    }
}
