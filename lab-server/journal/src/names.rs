//! The names of the ledger's files: kind, epoch, shard, number.

use crate::frame::{Header, Kind};

/// What a file is called until it is complete.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// The name of a file with this header.
pub(crate) fn name_of(header: &Header) -> String {
    let Header { kind, epoch, shard, number, .. } = *header;
    match kind {
        Kind::Segment => format!("{epoch:08}-{shard:04}-{number:08}.segment"),
        Kind::Snapshot => format!("{epoch:08}-{shard:04}-{number:08}.snapshot"),
        Kind::Epoch => format!("{epoch:08}.epoch"),
    }
}

/// The place that a name says, if it is the name of a file of a ledger.
pub(crate) fn place_of(name: &str) -> Option<Header> {
    let (stem, kind) = name.split_once('.')?;
    let mut parts = stem.split('-');
    let epoch = parts.next()?.parse().ok()?;
    let (kind, shard, number) = match kind {
        "epoch" => (Kind::Epoch, 0, 0),
        "segment" => (Kind::Segment, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
        "snapshot" => (Kind::Snapshot, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
        _ => return None,
    };
    let place = Header { kind, epoch, shard, shards: 0, number, seq: 0 };
    (name_of(&place) == name).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_place_and_nothing_else_is_a_name() {
        for kind in [Kind::Segment, Kind::Snapshot] {
            let place = Header { kind, epoch: 12, shard: 3, shards: 0, number: 45, seq: 0 };
            assert_eq!(place_of(&name_of(&place)), Some(place));
        }
        for name in ["", "lock", "00000001.segment", "1-2-3.segment", "00000001.epoch.unfinished"] {
            assert_eq!(place_of(name), None, "{name}");
        }
        assert!(place_of("00000007.epoch").is_some());
    }
}
