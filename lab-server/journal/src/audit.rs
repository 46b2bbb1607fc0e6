//! The audit of a ledger: every record that is there, in order, and what must hold of all of them.

use accounting::{Ledger, Money};
use serde::{Deserialize, Serialize};

use crate::frame::{Header, Kind};
use crate::lives::{Lives, ShardLives};
use crate::names::name_of;
use crate::record::Record;
use crate::recovery::{Files, JournalError, read_segment, read_snapshot, recover};
use crate::state::State;
use crate::storage::Storage;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Epochs that were read.
    pub epochs: u64,
    /// Snapshots that were read.
    pub snapshots: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of batches that were not written to their end; nobody was told of them.
    pub torn_bytes: u64,
    /// Whether all is there since the ledger was new: only then every grant was looked at.
    pub complete: bool,
    /// Packets granted in the records that are there.
    pub grants: Money,
    /// Shares claimed in the records that are there.
    pub claims: Money,
    /// The books in the end.
    pub ledger: Ledger,
    /// Sent packets that are open.
    pub packets_open: u64,
    /// Packets that wait in queues.
    pub queued: u64,
    /// What is wrong, a sentence each.
    pub faults: Vec<String>,
}

impl Audit {
    /// Whether nothing is wrong.
    pub fn is_balanced(&self) -> bool {
        self.faults.is_empty()
    }
}

/// What is looked at over all files.
#[derive(Default)]
struct Look {
    audit: Audit,
    lives: Lives,
}

impl Look {
    fn record(&mut self, lives: &mut ShardLives, record: &Record, each: &mut impl FnMut(&Record)) {
        match record {
            Record::Granted { amount, .. } => self.audit.grants += Money::share(*amount),
            Record::Claimed { amount, .. } => self.audit.claims += Money::share(*amount),
            _ => {}
        }
        self.audit.faults.extend(self.lives.record(lives, record));
        each(record);
    }
}

/// Reads a whole ledger, history included, and checks it. `each` sees every record.
///
/// # Errors
/// What keeps it from being read at all; what is wrong in it is among the audit's faults.
pub fn audit(storage: &impl Storage, mut each: impl FnMut(&Record)) -> Result<Audit, JournalError> {
    let files = Files::list(storage)?;
    let mut look = Look::default();
    let epochs = match files.epochs(storage) {
        Ok(epochs) => epochs,
        Err(error @ JournalError::Io { .. }) => return Err(error),
        Err(fault) => {
            look.audit.faults.push(fault.to_string());
            return Ok(look.audit);
        }
    };
    // Of epochs before one that keeps no history, only leftovers are there.
    let from = epochs.iter().rposition(|epoch| epoch.seq == 0).unwrap_or(0);
    let epochs = &epochs[from..];
    look.audit.complete = epochs.first().is_some_and(|epoch| epoch.epoch == 1);
    let mut before: Option<State> = None;
    for epoch in epochs {
        let state = match audit_epoch(storage, &files, epoch, before.as_ref(), &mut look, &mut each)
        {
            Ok(state) => state,
            Err(error @ JournalError::Io { .. }) => return Err(error),
            Err(fault) => {
                look.audit.faults.push(fault.to_string());
                return Ok(look.audit);
            }
        };
        look.audit.epochs += 1;
        look.lives.end_epoch();
        before = Some(state);
    }
    // A restart must come to the same, by its own way through the files.
    match recover(storage) {
        Ok(recovered) if Some(&recovered.state) == before.as_ref() || before.is_none() => {
            let state = recovered.state;
            look.audit.ledger = state.ledger();
            look.audit.packets_open = state.open.len() as u64;
            look.audit.queued = state.queued();
        }
        Ok(_) => look.audit.faults.push("a restart would find another state".to_owned()),
        Err(error @ JournalError::Io { .. }) => return Err(error),
        Err(fault) => look.audit.faults.push(fault.to_string()),
    }
    if look.audit.complete {
        check_sums(&mut look.audit);
    }
    Ok(look.audit)
}

fn check_sums(audit: &mut Audit) {
    for (what, records, books) in [
        ("granted", audit.grants, audit.ledger.granted),
        ("claimed", audit.claims, audit.ledger.claimed),
    ] {
        if records != books {
            let Money { count, amount } = records;
            audit.faults.push(format!(
                "{what}: {count} shares of {amount} cents by the records, {} of {} by the books",
                books.count, books.amount
            ));
        }
    }
}

/// Reads an epoch, and returns what all its shards had in the end.
fn audit_epoch(
    storage: &impl Storage,
    files: &Files,
    epoch: &Header,
    before: Option<&State>,
    look: &mut Look,
    each: &mut impl FnMut(&Record),
) -> Result<State, JournalError> {
    let (mut begun, mut ended) = (State::default(), State::default());
    for shard in 0..epoch.shards {
        let place = Header { shard, ..*epoch };
        let (first, last) = audit_shard(storage, files, &place, look, each)?;
        for (all, one) in [(&mut begun, first), (&mut ended, last)] {
            let name = format!("epoch {}, shard {shard}", epoch.epoch);
            all.merge(one).map_err(|source| JournalError::Contradiction { name, source })?;
        }
    }
    match before {
        None => {}
        // Packets may have moved between SETs when shards became more or fewer.
        Some(before) => {
            let of = |state: &State| (state.ledger(), state.queued(), state.open.len());
            let same = of(before) == of(&begun);
            if !same {
                let fault = format!("epoch {} did not begin with what was there", epoch.epoch);
                look.audit.faults.push(fault);
            }
        }
    }
    Ok(ended)
}

/// Reads a shard's files of an epoch: its state at the first snapshot that is there, and at the
/// end.
fn audit_shard(
    storage: &impl Storage,
    files: &Files,
    place: &Header,
    look: &mut Look,
    each: &mut impl FnMut(&Record),
) -> Result<(State, State), JournalError> {
    let snapshots = files.of(place.epoch, place.shard, Kind::Snapshot);
    let segments = files.of(place.epoch, place.shard, Kind::Segment);
    let Some(first) = snapshots.first() else {
        let missing = Header { kind: Kind::Snapshot, number: 0, ..*place };
        return Err(JournalError::Missing(name_of(&missing)));
    };
    look.audit.complete &= first.number == 0;
    let begun = read_snapshot(storage, first)?;
    let mut lives = look.lives.begin(&begun);
    let (mut state, mut here) = (begun.clone(), begun.clone());
    for (at, snapshot) in snapshots.iter().enumerate() {
        look.audit.snapshots += 1;
        if here != state {
            let name = name_of(snapshot);
            look.audit.faults.push(format!("{name} has not what the records before it come to"));
            state = here;
        }
        let next = snapshots.get(at + 1).map(|next| read_snapshot(storage, next)).transpose()?;
        let until = next.as_ref().map_or(u64::MAX, |next| next.seq);
        here = next.unwrap_or_default();
        let Some(segment) = segments.iter().find(|one| one.number == snapshot.number) else {
            continue;
        };
        let read = read_segment(storage, segment, until, &mut state, |record| {
            look.record(&mut lives, record, each);
        })?;
        look.audit.segments += 1;
        look.audit.records += read.records;
        look.audit.torn_bytes += read.torn_bytes;
    }
    look.audit.faults.extend(look.lives.end(lives));
    state.check().map_err(|source| {
        let name = format!("epoch {}, shard {}", place.epoch, place.shard);
        JournalError::Contradiction { name, source }
    })?;
    Ok((begun, state))
}
