//! What happens to money, one record each, as bytes.
//!
//! Numbers are little-endian and of fixed width; a record says its kind in its first byte and ends
//! where its kind says.

use accounting::{Ledger, Money};

/// The most users that one record names: more than a frame can, and so many that a wrong length
/// costs no memory.
pub(crate) const MOST_USERS: usize = 4096;

/// Something that happened to money. Ids, users and SETs are those of the server, cents are cents,
/// instants are Unix time in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A packet to be shaken came into the queue of a SET.
    Created {
        /// The SET among all SETs.
        set: u32,
        /// The packet.
        packet: u32,
        /// Its cents.
        amount: u32,
    },
    /// The first packet of a SET's queue went to a user who shook.
    Granted {
        /// The SET.
        set: u32,
        /// The packet.
        packet: u32,
        /// Its cents.
        amount: u32,
        /// Who got it.
        user: u32,
    },
    /// A packet was sent to users.
    Opened {
        /// The packet.
        packet: u32,
        /// What it is.
        open: Open,
    },
    /// A user claimed a share.
    Claimed {
        /// The packet.
        packet: u32,
        /// Who got it.
        user: u32,
        /// Its cents.
        amount: u32,
    },
    /// The right to claim moved from one user to another.
    Entitled {
        /// The packet.
        packet: u32,
        /// Who was named.
        named: u32,
        /// Who may claim now.
        user: u32,
    },
    /// What was left of a packet went back to its creator.
    Refunded {
        /// The packet.
        packet: u32,
        /// Shares that were not claimed.
        shares: u32,
        /// Their cents.
        amount: u32,
    },
    /// In a snapshot: the books of a SET.
    Books {
        /// The SET.
        set: u32,
        /// Its books.
        ledger: Ledger,
    },
    /// In a snapshot: a packet in the queue of a SET; the books have it already.
    Waiting {
        /// The SET.
        set: u32,
        /// The packet.
        packet: u32,
        /// Its cents.
        amount: u32,
    },
    /// In a snapshot: an open packet; the books have it already.
    Held {
        /// The packet.
        packet: u32,
        /// What is left of it.
        open: Open,
    },
    /// The ids that come after all that were given out; 0 when none was. In a snapshot, and in a
    /// segment now and then: ids go round, and a shard that gets none for long must know how far.
    Next {
        /// Of packets to be shaken.
        shaken: u32,
        /// Of sent packets.
        sent: u32,
    },
    /// In a snapshot: nothing follows.
    End,
}

/// A sent packet, as it was made or as what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The SET in whose books it is.
    pub set: u32,
    /// Who gets back what is not claimed.
    pub creator: u32,
    /// Cents that are left.
    pub left: u32,
    /// Shares that are left.
    pub shares: u32,
    /// When it expires.
    pub deadline_ns: u64,
    /// Who may claim, in ascending order.
    pub waiting: Vec<u32>,
}

fn put(bytes: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
}

fn put_open(bytes: &mut Vec<u8>, packet: u32, open: &Open) {
    let count = open.waiting.len().min(MOST_USERS) as u32;
    put(bytes, &[packet, open.set, open.creator, open.left, open.shares]);
    bytes.extend_from_slice(&open.deadline_ns.to_le_bytes());
    put(bytes, &[count]);
    put(bytes, &open.waiting[..count as usize]);
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn money(&mut self) -> Option<Money> {
        Some(Money { count: self.long()?, amount: self.long()? })
    }

    fn open(&mut self) -> Option<(u32, Open)> {
        let packet = self.word()?;
        let (set, creator) = (self.word()?, self.word()?);
        let (left, shares) = (self.word()?, self.word()?);
        let deadline_ns = self.long()?;
        let count = self.word()? as usize;
        if count > MOST_USERS || count > self.0.len() / 4 {
            return None;
        }
        let waiting = (0..count).map(|_| self.word()).collect::<Option<Vec<u32>>>()?;
        Some((packet, Open { set, creator, left, shares, deadline_ns, waiting }))
    }
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Record::Created { .. } => 1,
            Record::Granted { .. } => 2,
            Record::Opened { .. } => 3,
            Record::Claimed { .. } => 4,
            Record::Entitled { .. } => 5,
            Record::Refunded { .. } => 6,
            Record::Books { .. } => 16,
            Record::Waiting { .. } => 17,
            Record::Held { .. } => 18,
            Record::Next { .. } => 19,
            Record::End => 20,
        }
    }

    /// Appends the record.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.kind());
        match self {
            Record::Created { set, packet, amount } | Record::Waiting { set, packet, amount } => {
                put(bytes, &[*set, *packet, *amount]);
            }
            Record::Granted { set, packet, amount, user } => {
                put(bytes, &[*set, *packet, *amount, *user]);
            }
            Record::Opened { packet, open } | Record::Held { packet, open } => {
                put_open(bytes, *packet, open);
            }
            Record::Claimed { packet, user, amount } => put(bytes, &[*packet, *user, *amount]),
            Record::Entitled { packet, named, user } => put(bytes, &[*packet, *named, *user]),
            Record::Refunded { packet, shares, amount } => {
                put(bytes, &[*packet, *shares, *amount]);
            }
            Record::Books { set, ledger } => {
                put(bytes, &[*set]);
                let Ledger { created, granted, claimed, refunded, remaining, largest_share } =
                    ledger;
                for money in [created, granted, claimed, refunded, remaining] {
                    bytes.extend_from_slice(&money.count.to_le_bytes());
                    bytes.extend_from_slice(&money.amount.to_le_bytes());
                }
                // No share has 0 cents.
                bytes.extend_from_slice(&largest_share.unwrap_or(0).to_le_bytes());
            }
            Record::Next { shaken, sent } => put(bytes, &[*shaken, *sent]),
            Record::End => {}
        }
    }

    /// The record at the beginning of `bytes`, and how many of them it takes; `None` when there is
    /// none.
    pub fn decode(bytes: &[u8]) -> Option<(Record, usize)> {
        let mut reader = Reader(bytes);
        let [kind] = reader.bytes()?;
        let mut word = || reader.word();
        let record = match kind {
            1 => Record::Created { set: word()?, packet: word()?, amount: word()? },
            2 => Record::Granted { set: word()?, packet: word()?, amount: word()?, user: word()? },
            4 => Record::Claimed { packet: word()?, user: word()?, amount: word()? },
            5 => Record::Entitled { packet: word()?, named: word()?, user: word()? },
            6 => Record::Refunded { packet: word()?, shares: word()?, amount: word()? },
            16 => Record::Books {
                set: word()?,
                ledger: Ledger {
                    created: reader.money()?,
                    granted: reader.money()?,
                    claimed: reader.money()?,
                    refunded: reader.money()?,
                    remaining: reader.money()?,
                    largest_share: Some(reader.long()?).filter(|cents| *cents > 0),
                },
            },
            17 => Record::Waiting { set: word()?, packet: word()?, amount: word()? },
            3 | 18 => {
                let (packet, open) = reader.open()?;
                if kind == 3 {
                    Record::Opened { packet, open }
                } else {
                    Record::Held { packet, open }
                }
            }
            19 => Record::Next { shaken: word()?, sent: word()? },
            20 => Record::End,
            _ => return None,
        };
        let used = bytes.len() - reader.0.len();
        Some((record, used))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn money(count: u64) -> Money {
        Money { count, amount: 3 * count }
    }

    #[test]
    fn every_record_reads_back_as_it_was_and_none_is_read_short() {
        let open = Open {
            set: 3,
            creator: u32::MAX,
            left: 99,
            shares: 2,
            deadline_ns: u64::MAX - 5,
            waiting: vec![1, 5, 9],
        };
        let ledger = Ledger {
            created: money(10),
            granted: money(1),
            claimed: money(2),
            refunded: money(3),
            remaining: money(4),
            largest_share: Some(3),
        };
        let all = [
            Record::Created { set: 1, packet: 2, amount: 3 },
            Record::Granted { set: 1, packet: 2, amount: 3, user: 4 },
            Record::Opened { packet: 7, open: open.clone() },
            Record::Claimed { packet: 7, user: 5, amount: 50 },
            Record::Entitled { packet: 7, named: 1, user: 2 },
            Record::Refunded { packet: 7, shares: 1, amount: 49 },
            Record::Books { set: 8, ledger },
            Record::Books { set: 9, ledger: Ledger { largest_share: None, ..ledger } },
            Record::Waiting { set: 1, packet: 2, amount: 3 },
            Record::Held { packet: 7, open },
            Record::Next { shaken: 5, sent: 6 },
            Record::End,
        ];
        for record in all {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..cut]), None, "{record:?} cut to {cut}");
            }
            bytes.push(77);
            let whole = bytes.len() - 1;
            assert_eq!(Record::decode(&bytes), Some((record, whole)));
        }
        assert_eq!(Record::decode(&[99]), None);
    }

    proptest! {
        /// Nonsense is no record, or one that would be written the same.
        #[test]
        fn nonsense_is_refused_or_means_what_it_says(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some((record, used)) = Record::decode(&bytes) {
                let mut again = Vec::new();
                record.encode(&mut again);
                prop_assert_eq!(&again[..], &bytes[..used]);
            }
        }
    }
}
