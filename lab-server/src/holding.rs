//! What waits for records to be durable: answers, messages and ends of connections, in the order in
//! which they are to leave.
//!
//! Pure: the loop of a shard, and a simulation, say what is durable and carry out what is released.
//! An answer that nothing was recorded for waits only behind one of the same connection that does.

use std::collections::{HashMap, VecDeque};

use journal::Record;
use shard::ConnId;

use crate::message::Message;

/// Bytes that wait before no more money moves: 170,000 grants, or with 4 ms a sync 40 million a
/// second.
const MONEY_BYTES: usize = 8 << 20;

/// Bytes that wait before a connection whose next answer would have to wait, too, is cut off. A
/// peer that goes on asking behind a held answer gets no further with it.
const MOST_BYTES: usize = 4 * MONEY_BYTES;

/// What one thing that waits costs beside its bytes.
const OVERHEAD: usize = 48;

/// Something that waits.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    /// A frame for a connection, as bytes.
    Frame(ConnId, Box<[u8]>),
    /// The end of a connection, after its frames.
    Finish(ConnId),
    /// A message for a shard, this one included.
    Post(usize, Message),
}

impl Held {
    fn bytes(&self) -> usize {
        match self {
            Held::Frame(_, bytes) => OVERHEAD + bytes.len(),
            Held::Finish(_) => OVERHEAD,
            Held::Post(..) => 2 * OVERHEAD,
        }
    }

    fn conn(&self) -> Option<ConnId> {
        match self {
            Held::Frame(conn, _) | Held::Finish(conn) => Some(*conn),
            Held::Post(..) => None,
        }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    things: u32,
    finishing: bool,
}

/// The records of a shard that are not durable yet, and what waits for them.
#[derive(Debug, Default)]
pub struct Holding {
    /// Those that no one has taken to write.
    records: Vec<Record>,
    recorded: u64,
    durable: u64,
    /// With how many records must be durable first, oldest first.
    held: VecDeque<(u64, Held)>,
    bytes: usize,
    conns: HashMap<ConnId, Waits>,
    /// Connections to be cut off.
    cut: Vec<ConnId>,
}

impl Holding {
    /// Adds a record.
    pub fn record(&mut self, record: Record) {
        self.records.push(record);
        self.recorded += 1;
    }

    /// How many records there were.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Whether there are records that no one has taken to write.
    pub(crate) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Hands these over, after those that are there.
    pub fn hand_over(&mut self, to: &mut Vec<Record>) {
        to.append(&mut self.records);
    }

    /// So many records are durable.
    pub fn set_durable(&mut self, records: u64) {
        debug_assert!(records <= self.recorded);
        self.durable = self.durable.max(records);
    }

    /// Whether everything is durable and nothing waits.
    pub(crate) fn is_settled(&self) -> bool {
        self.durable == self.recorded && self.held.is_empty()
    }

    /// Whether so much waits that no more money may move.
    pub(crate) fn is_full(&self) -> bool {
        let records = (self.recorded - self.durable) as usize;
        self.bytes.max(records * OVERHEAD) >= MONEY_BYTES
    }

    /// Whether what is said about a record made by now must wait.
    pub fn is_behind(&self) -> bool {
        self.durable < self.recorded
    }

    /// Whether answers of this connection wait, so that later ones wait behind them.
    pub fn waits(&self, conn: ConnId) -> bool {
        !self.conns.is_empty() && self.conns.contains_key(&conn)
    }

    /// Whether a connection is to end once its answers have left: it is not read any more.
    pub(crate) fn is_finishing(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|waits| waits.finishing)
    }

    /// Lets something wait until everything recorded by now is durable.
    pub fn hold(&mut self, held: Held) {
        if let Some(conn) = held.conn() {
            let waits = self.conns.entry(conn).or_default();
            if waits.finishing {
                return;
            }
            if self.bytes >= MOST_BYTES {
                waits.finishing = true;
                self.cut.push(conn);
                return;
            }
            waits.things += 1;
            waits.finishing = matches!(held, Held::Finish(_));
        }
        self.bytes += held.bytes();
        self.held.push_back((self.recorded, held));
    }

    /// The next thing that need not wait any more.
    pub fn release(&mut self) -> Option<Held> {
        let (after, _) = self.held.front()?;
        if *after > self.durable {
            return None;
        }
        let (_, held) = self.held.pop_front()?;
        self.bytes -= held.bytes();
        if let Some(conn) = held.conn()
            && let Some(waits) = self.conns.get_mut(&conn)
        {
            waits.things -= 1;
            if waits.things == 0 {
                self.conns.remove(&conn);
            }
        }
        Some(held)
    }

    /// Whether the next thing need not wait any more.
    pub(crate) fn releases(&self) -> bool {
        self.held.front().is_some_and(|(after, _)| *after <= self.durable)
    }

    /// A connection that must be cut off, for nothing more of it finds room.
    pub(crate) fn take_cut(&mut self) -> Option<ConnId> {
        let conn = self.cut.pop()?;
        if self.conns.get(&conn).is_some_and(|waits| waits.things == 0) {
            self.conns.remove(&conn);
        }
        Some(conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 1 }
    }

    fn frame(slot: u32, byte: u8) -> Held {
        Held::Frame(conn(slot), Box::new([byte]))
    }

    fn record() -> Record {
        Record::Created { set: 0, packet: 1, amount: 1 }
    }

    #[test]
    fn a_connection_keeps_its_order_and_others_do_not_wait() {
        let mut holding = Holding::default();
        assert!(!holding.is_behind() && holding.is_settled());
        holding.record(record());
        assert!(holding.is_behind());
        holding.hold(frame(1, 1));
        assert!(holding.waits(conn(1)) && !holding.waits(conn(2)));
        holding.hold(frame(1, 2));
        holding.record(record());
        holding.hold(frame(2, 3));
        holding.hold(Held::Finish(conn(1)));
        assert!(holding.is_finishing(conn(1)) && !holding.is_finishing(conn(2)));
        holding.hold(frame(1, 9));
        assert_eq!(holding.release(), None);
        holding.set_durable(1);
        assert_eq!(holding.release(), Some(frame(1, 1)));
        assert_eq!(holding.release(), Some(frame(1, 2)));
        assert_eq!(holding.release(), None);
        assert!(holding.waits(conn(1)), "its end waits");
        holding.set_durable(2);
        assert_eq!(holding.release(), Some(frame(2, 3)));
        assert_eq!(holding.release(), Some(Held::Finish(conn(1))));
        assert_eq!(holding.release(), None);
        assert!(holding.is_settled() && !holding.waits(conn(1)) && holding.bytes == 0);
    }

    #[test]
    fn what_waits_has_a_bound_for_money_and_another_for_everything() {
        let mut holding = Holding::default();
        holding.record(record());
        let kilobyte = |slot| Held::Frame(conn(slot), vec![0; 1024].into());
        while !holding.is_full() {
            holding.hold(kilobyte(1));
        }
        assert_eq!(holding.take_cut(), None, "there is room for what is no money");
        while holding.cut.is_empty() {
            holding.hold(kilobyte(1));
        }
        assert!(holding.bytes < MOST_BYTES + 2048);
        holding.hold(kilobyte(1));
        assert_eq!(holding.take_cut(), Some(conn(1)), "once");
        assert_eq!(holding.take_cut(), None);
        holding.hold(kilobyte(2));
        assert_eq!(holding.take_cut(), Some(conn(2)), "nothing of it waits");
        assert!(!holding.waits(conn(2)));
        holding.set_durable(1);
        while holding.release().is_some() {}
        assert!(holding.is_settled() && holding.conns.is_empty());
    }

    #[test]
    fn records_that_are_not_written_are_bounded_too() {
        let mut holding = Holding::default();
        while !holding.is_full() {
            holding.record(record());
        }
        assert!(holding.recorded() < 200_000);
        let mut records = Vec::new();
        holding.hand_over(&mut records);
        assert_eq!(records.len() as u64, holding.recorded());
        assert!(!holding.has_records() && holding.is_full());
        holding.set_durable(holding.recorded());
        assert!(!holding.is_full() && holding.is_settled());
    }
}
