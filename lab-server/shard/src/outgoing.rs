//! What a poll wants sent: one send a connection, whose bytes lie in one arena.
//!
//! Two sends to one socket in a batch could swap their order when the first is cut short, so frames
//! for the same connection are joined.

use crate::registered::SendOp;
use crate::slots::{ConnId, NONE, Slot};

/// Bytes of frames that wait for the end of the poll. At least a whole backlog must fit
/// ([`crate::Limits::backlog_bytes`]); at 28 bytes an answer it holds 9,000 of them.
pub(crate) const ARENA_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Outgoing {
    arena: Box<[u8]>,
    used: usize,
    ops: Vec<SendOp>,
    /// The connection of each operation.
    ids: Vec<ConnId>,
    /// Since when the bytes of each have waited, 0 for those that are new.
    since_ns: Vec<u64>,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self {
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            used: 0,
            ops: Vec::new(),
            ids: Vec::new(),
            since_ns: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many connections something is for.
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether `len` more bytes for this connection fit, with those it may have to carry along.
    pub(crate) fn has_room(&self, slot: &Slot, len: usize) -> bool {
        let carried = self.ops.get(slot.link as usize).map_or(0, |op| op.len as usize);
        self.used + carried + len <= self.arena.len()
    }

    /// Room for `len` bytes after what this connection already sends in this poll.
    pub(crate) fn reserve(&mut self, id: ConnId, slot: &mut Slot, len: usize) -> &mut [u8] {
        let start = self.used;
        if slot.link == NONE {
            slot.link = self.ops.len() as u32;
            self.ops.push(SendOp { slot: id.slot, start: start as u32, len: 0 });
            self.ids.push(id);
            self.since_ns.push(0);
        }
        let op = &mut self.ops[slot.link as usize];
        let (old_start, old_len) = (op.start as usize, op.len as usize);
        if old_start + old_len != start {
            self.arena.copy_within(old_start..old_start + old_len, start);
            op.start = start as u32;
            self.used += old_len;
        }
        op.len += len as u32;
        self.used += len;
        &mut self.arena[self.used - len..self.used]
    }

    /// Notes since when what this connection sends has waited.
    pub(crate) fn waits_since(&mut self, slot: &Slot, since_ns: u64) {
        self.since_ns[slot.link as usize] = since_ns;
    }

    /// Since when what an operation did not send has waited, if it sent so many bytes now.
    pub(crate) fn waiting_since(&self, op: usize, sent: usize, now_ns: u64) -> u64 {
        let since_ns = self.since_ns[op];
        if sent == 0 && since_ns != 0 { since_ns } else { now_ns }
    }

    /// Sends nothing for a connection that is gone: its slot may be another's by then.
    pub(crate) fn cancel(&mut self, slot: &mut Slot) {
        if let Some(op) = self.ops.get_mut(slot.link as usize) {
            op.len = 0;
        }
        slot.link = NONE;
    }

    /// The operations, their bytes, and the connections they are for.
    pub(crate) fn parts(&self) -> (&[SendOp], &[u8], &[ConnId]) {
        (&self.ops, &self.arena, &self.ids)
    }

    /// The bytes of an operation.
    pub(crate) fn bytes_of(&self, op: usize) -> &[u8] {
        let op = self.ops[op];
        &self.arena[op.start as usize..][..op.len as usize]
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.ops.clear();
        self.ids.clear();
        self.since_ns.clear();
    }
}
