//! The durable ledger: records, a shard's state made of them, and a file of a shard.

use journal::{Batch, Header, Kind, Record, State, read_file};

/// The file whose bytes an input is, as its name would say.
const PLACE: Header =
    Header { kind: Kind::Segment, epoch: 3, shard: 1, shards: 2, number: 7, seq: 40 };

/// A file, and the records of a batch: a checksum keeps a fuzzer from them in a file.
pub(crate) fn ledger(bytes: &[u8]) {
    let mut next = None;
    let (header, _) = read_file(PLACE, bytes, |batch: Batch| {
        assert!(next.is_none_or(|next| next == batch.seq), "a batch is missing");
        next = Some(batch.seq + batch.records.len() as u64);
    });
    assert!(header.is_some() || next.is_none(), "batches without a header");

    let mut rest = bytes;
    let mut state = State::default();
    while let Some((record, used)) = Record::decode(rest) {
        let mut again = Vec::new();
        record.encode(&mut again);
        let (same, all) = Record::decode(&again).expect("it reads what it wrote");
        assert_eq!((&same, all), (&record, again.len()));
        if let Err(contradiction) = state.apply(&record) {
            return drop(contradiction.to_string());
        }
        rest = &rest[used..];
    }
    drop(state.check().map_err(|contradiction| contradiction.to_string()));
    let _ = (state.ledger(), state.queued());
    drop(state.clone().merge(state).map_err(|contradiction| contradiction.to_string()));
}
