//! Files of records: a header, then batches, each checksummed as a whole.
//!
//! A batch is what one write and one sync make durable. The writer begins no batch before the one
//! ahead of it is durable, so only the last batch of a file can be torn. That tells a torn tail
//! from damage: behind a torn batch there is no whole one.

use crate::record::Record;

/// What the first eight bytes of each file are: format 1.
const MAGIC: [u8; 8] = *b"lab-ldg1";

/// What each batch begins with.
const BATCH_MAGIC: [u8; 4] = *b"btch";

/// Bytes of the header of a file.
const HEADER: usize = 48;

/// Bytes before the records of a batch.
const BATCH_HEADER: usize = 24;

/// The longest batch, so that a torn length is seen as such: more than a shard gives out between
/// two syncs.
pub(crate) const MOST_BATCH: usize = 64 << 20;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Records in the order in which they were made.
    Segment,
    /// A state.
    Snapshot,
    /// That an epoch began; without records.
    Epoch,
}

/// The header of a file. Its place is in its name, too, and both must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the file is.
    pub kind: Kind,
    /// The epoch: each start of a server begins one.
    pub epoch: u64,
    /// The shard that wrote it.
    pub shard: u32,
    /// Shards in that epoch.
    pub shards: u32,
    /// Which of the shard's files of this kind it is.
    pub number: u64,
    /// Records that the epoch had before those of this file.
    pub seq: u64,
}

fn kind_code(kind: Kind) -> u32 {
    match kind {
        Kind::Segment => 1,
        Kind::Snapshot => 2,
        Kind::Epoch => 3,
    }
}

impl Header {
    /// The header as it stands in the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for word in [kind_code(self.kind), self.shard, self.shards] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for long in [self.epoch, self.number, self.seq] {
            bytes.extend_from_slice(&long.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        debug_assert_eq!(bytes.len(), HEADER);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER)?;
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if bytes[..8] != MAGIC || u32::from_le_bytes(*crc) != crc32fast::hash(body) {
            return None;
        }
        let word = |at: usize| bytes[at..].first_chunk().map(|word| u32::from_le_bytes(*word));
        let long = |at: usize| bytes[at..].first_chunk().map(|long| u64::from_le_bytes(*long));
        let kind = match word(8)? {
            1 => Kind::Segment,
            2 => Kind::Snapshot,
            3 => Kind::Epoch,
            _ => return None,
        };
        Some(Header {
            kind,
            shard: word(12)?,
            shards: word(16)?,
            epoch: long(20)?,
            number: long(28)?,
            seq: long(36)?,
        })
    }

    /// What the checksums of the file's batches begin with: a batch of another file, left in a
    /// reused block, is none of this one.
    fn seed(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&kind_code(self.kind).to_le_bytes());
        hasher.update(&self.epoch.to_le_bytes());
        hasher.update(&self.shard.to_le_bytes());
        hasher.update(&self.number.to_le_bytes());
        hasher.finalize()
    }

    /// A batch of this file: `count` records, which are those from `seq` on.
    pub(crate) fn batch(&self, seq: u64, count: u32, records: &[u8], into: &mut Vec<u8>) {
        debug_assert!(records.len() <= MOST_BATCH);
        let start = into.len();
        into.extend_from_slice(&BATCH_MAGIC);
        into.extend_from_slice(&(records.len() as u32).to_le_bytes());
        into.extend_from_slice(&seq.to_le_bytes());
        into.extend_from_slice(&count.to_le_bytes());
        let crc = self.checksum(&into[start..], records);
        into.extend_from_slice(&crc.to_le_bytes());
        into.extend_from_slice(records);
    }

    fn checksum(&self, head: &[u8], records: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed());
        hasher.update(head);
        hasher.update(records);
        hasher.finalize()
    }
}

/// A batch as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Records of the epoch before it.
    pub seq: u64,
    /// Its records.
    pub records: Vec<Record>,
}

/// How the batches of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the last byte.
    Whole,
    /// With so many bytes of a batch that was not written to its end: nobody was told of it.
    Torn(u64),
    /// With damage at this byte: whole batches follow it, or its records make no sense.
    Damaged(u64),
}

/// Reads a file with the place that its name says; hands on each batch in order. The header is
/// `None` when that is torn, which a file has before it is used.
pub fn read_file(
    expected: Header,
    bytes: &[u8],
    mut each: impl FnMut(Batch),
) -> (Option<Header>, Ending) {
    let Some(header) = Header::decode(bytes) else { return (None, ending(&expected, bytes, 0)) };
    let is_here = (header.kind, header.epoch, header.shard, header.number)
        == (expected.kind, expected.epoch, expected.shard, expected.number);
    if !is_here {
        // Whole, and another file's: no crash does that. What it holds is missing elsewhere.
        return (None, Ending::Damaged(0));
    }
    let (mut at, mut seq) = (HEADER, header.seq);
    while at < bytes.len() {
        let Some((first, count, records)) = batch_at(&header, &bytes[at..]) else {
            return (Some(header), ending(&header, bytes, at));
        };
        let decoded = decode_all(records).filter(|decoded| decoded.len() == count as usize);
        let next = seq.checked_add(u64::from(count)).filter(|_| first == seq);
        let (Some(decoded), Some(next)) = (decoded, next) else {
            return (Some(header), Ending::Damaged(at as u64));
        };
        seq = next;
        each(Batch { seq: first, records: decoded });
        at += BATCH_HEADER + records.len();
    }
    (Some(header), Ending::Whole)
}

/// The whole batch at the beginning of these bytes: its sequence number, its count, its records.
fn batch_at<'a>(header: &Header, bytes: &'a [u8]) -> Option<(u64, u32, &'a [u8])> {
    let head = bytes.get(..BATCH_HEADER)?;
    if head[..4] != BATCH_MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(*head[4..].first_chunk()?) as usize;
    let records = bytes.get(BATCH_HEADER..).filter(|_| len <= MOST_BATCH)?.get(..len)?;
    let crc = u32::from_le_bytes(*head[20..].first_chunk()?);
    if header.checksum(&head[..20], records) != crc {
        return None;
    }
    let seq = u64::from_le_bytes(*head[8..].first_chunk()?);
    let count = u32::from_le_bytes(*head[16..].first_chunk()?);
    Some((seq, count, records))
}

fn decode_all(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, used) = Record::decode(bytes)?;
        records.push(record);
        bytes = &bytes[used..];
    }
    Some(records)
}

/// How many times over beginnings of batches may claim the bytes behind the last whole one.
const MOST_CLAIMED: usize = 64;

/// What a batch that is not whole at `at` means: whether a whole one follows.
fn ending(header: &Header, bytes: &[u8], at: usize) -> Ending {
    let rest = &bytes[at..];
    let starts = rest.windows(BATCH_MAGIC.len()).enumerate();
    let starts = starts.filter(|(_, window)| **window == BATCH_MAGIC);
    let mut claimed = 0;
    for (start, _) in starts {
        let here = &rest[start..];
        if batch_at(header, here).is_some() {
            return Ending::Damaged(at as u64);
        }
        // Each beginning claims a length, over which its checksum is. What a crash leaves claims
        // its bytes about once, and what claims them again and again was not left by one.
        let len = here.get(4..8).and_then(|len| len.first_chunk());
        let len = len.map_or(0, |len| u32::from_le_bytes(*len) as usize);
        let is_there = len <= MOST_BATCH && here.len().saturating_sub(BATCH_HEADER) >= len;
        claimed += if is_there { len } else { 0 };
        if claimed > MOST_CLAIMED * rest.len() {
            return Ending::Damaged(at as u64);
        }
    }
    Ending::Torn(rest.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Header =
        Header { kind: Kind::Segment, epoch: 3, shard: 1, shards: 2, number: 7, seq: 40 };

    fn record(packet: u32) -> Record {
        Record::Created { set: 1, packet, amount: 5 }
    }

    /// A file of three batches with 2, 1 and 3 records, and where each begins.
    fn file() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = PLACE.encode();
        let (mut starts, mut seq) = (Vec::new(), PLACE.seq);
        for count in [2, 1, 3] {
            let mut records = Vec::new();
            (0..count).for_each(|packet| record(packet).encode(&mut records));
            starts.push(bytes.len());
            PLACE.batch(seq, count, &records, &mut bytes);
            seq += u64::from(count);
        }
        (bytes, starts)
    }

    fn read(bytes: &[u8]) -> (usize, Ending) {
        let mut records = 0;
        let (_, ending) = read_file(PLACE, bytes, |batch| records += batch.records.len());
        (records, ending)
    }

    #[test]
    fn a_file_cut_anywhere_ends_before_the_batch_that_is_cut() {
        let (bytes, starts) = file();
        assert_eq!(read(&bytes), (6, Ending::Whole));
        for cut in HEADER..bytes.len() {
            let whole = starts.iter().skip(1).filter(|start| **start <= cut).count();
            let last = starts.iter().rfind(|start| **start <= cut).copied().unwrap_or(HEADER);
            let expected = match cut - last {
                0 => Ending::Whole,
                torn => Ending::Torn(torn as u64),
            };
            assert_eq!(read(&bytes[..cut]), ([0, 2, 3][whole], expected), "cut to {cut}");
        }
        for cut in 0..HEADER {
            assert_eq!(read(&bytes[..cut]), (0, Ending::Torn(cut as u64)));
        }
    }

    #[test]
    fn a_changed_bit_is_damage_in_the_middle_and_a_torn_tail_at_the_end() {
        let (bytes, starts) = file();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let (records, ending) = read(&bytes);
                if at < HEADER {
                    assert_eq!((records, ending), (0, Ending::Damaged(0)), "bit {bit} of {at}");
                } else if at >= starts[2] {
                    assert!(records == 3 && matches!(ending, Ending::Torn(_)), "{at}: {ending:?}");
                } else {
                    assert!(matches!(ending, Ending::Damaged(_)), "bit {bit} of {at}: {ending:?}");
                }
            }
        }
    }

    #[test]
    fn a_batch_of_another_file_is_none() {
        let (bytes, starts) = file();
        let other = Header { number: 8, ..PLACE };
        let mut mixed = other.encode();
        mixed.extend_from_slice(&bytes[starts[0]..]);
        let (header, ending) = read_file(other, &mixed, |_| panic!("none"));
        assert_eq!(header, Some(other));
        assert!(matches!(ending, Ending::Torn(_)));
    }

    /// As when segments of two shards were copied to each other's names.
    #[test]
    fn a_whole_file_of_another_place_is_damage() {
        let (bytes, _) = file();
        for other in [
            Header { shard: 0, ..PLACE },
            Header { number: 8, ..PLACE },
            Header { epoch: 4, ..PLACE },
        ] {
            let (header, ending) = read_file(other, &bytes, |_| panic!("none"));
            assert_eq!((header, ending), (None, Ending::Damaged(0)), "{other:?}");
        }
    }

    /// Beginnings of batches that each claim half of the file: without a bound, reading them takes
    /// as many times as there are.
    #[test]
    fn beginnings_that_claim_the_same_bytes_again_and_again_are_damage() {
        let (mut bytes, _) = file();
        let whole = bytes.len();
        let claim = 1_u32 << 20;
        for _ in 0..claim / 4 {
            bytes.extend_from_slice(&BATCH_MAGIC);
            bytes.extend_from_slice(&claim.to_le_bytes());
        }
        assert_eq!(read(&bytes), (6, Ending::Damaged(whole as u64)));
    }

    #[test]
    fn a_batch_that_is_missing_in_between_is_damage() {
        let (bytes, starts) = file();
        let gap = [&bytes[..starts[1]], &bytes[starts[2]..]].concat();
        assert_eq!(read(&gap), (2, Ending::Damaged(starts[1] as u64)));
    }
}
