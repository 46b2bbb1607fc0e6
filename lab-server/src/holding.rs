//! What waits for records to be durable: answers, messages and ends of connections, in the order in
//! which they are to leave.
//!
//! Pure: the loop of a shard, and a simulation, say what is durable and carry out what is released.
//! What says nothing of a record never waits for the disk: it waits only behind what does, for the
//! same connection, and leaves right after it.

use std::collections::{HashMap, VecDeque};

use journal::Record;
use shard::ConnId;

use crate::directory::Address;
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

    /// For whom it is, where order matters.
    fn line(&self) -> Option<Line> {
        match self {
            Held::Frame(conn, _) | Held::Finish(conn) => Some(Line::Frames(*conn)),
            Held::Post(_, Message::Claimed { at, .. }) => Some(Line::Claims(*at)),
            Held::Post(..) => None,
        }
    }
}

/// Things that leave in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Line {
    /// What is sent on a connection of this shard.
    Frames(ConnId),
    /// What a connection of any shard is told about its claims here.
    Claims(Address),
}

/// The last of a line that waits for the disk.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    /// Its number; `None` when nothing of the line waits.
    last: Option<u64>,
    finishing: bool,
}

/// Something that waits for the disk.
#[derive(Debug)]
struct Entry {
    /// How many records must be durable first.
    after: u64,
    line: Option<Line>,
    /// `None` once it has left before those behind it.
    held: Option<Held>,
    /// What says nothing of a record, and leaves right after it.
    behind: VecDeque<Held>,
}

/// The records of a shard that are not durable yet, and what waits for them.
#[derive(Debug, Default)]
pub struct Holding {
    /// Those that no one has taken to write.
    records: Vec<Record>,
    recorded: u64,
    durable: u64,
    /// Oldest first. The first one has something that has not left.
    held: VecDeque<Entry>,
    /// The number of the first one.
    first: u64,
    bytes: usize,
    lines: HashMap<Line, Waits>,
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
    pub fn is_full(&self) -> bool {
        let records = (self.recorded - self.durable) as usize;
        self.bytes.max(records * OVERHEAD) >= MONEY_BYTES
    }

    /// Whether what is said about a record made by now must wait.
    pub fn is_behind(&self) -> bool {
        self.durable < self.recorded
    }

    /// Whether answers on this connection wait, so that later ones wait behind them.
    pub fn waits(&self, conn: ConnId) -> bool {
        !self.lines.is_empty() && self.lines.contains_key(&Line::Frames(conn))
    }

    /// Whether shares of this connection wait, so that refusals wait behind them.
    pub fn keeps_share_of(&self, at: Address) -> bool {
        !self.lines.is_empty() && self.lines.contains_key(&Line::Claims(at))
    }

    /// Whether a connection is to end once its answers have left: it is not read any more.
    pub(crate) fn is_finishing(&self, conn: ConnId) -> bool {
        self.lines.get(&Line::Frames(conn)).is_some_and(|waits| waits.finishing)
    }

    /// Lets something wait until everything recorded by now is durable.
    pub fn hold(&mut self, held: Held) {
        let number = self.first + self.held.len() as u64;
        let line = held.line();
        if let Some(line) = line {
            let Some(waits) = self.waits_of_line(line) else { return };
            waits.last = Some(number);
            waits.finishing = matches!(held, Held::Finish(_));
        }
        self.bytes += held.bytes();
        let (held, behind) = (Some(held), VecDeque::new());
        self.held.push_back(Entry { after: self.recorded, line, held, behind });
    }

    /// Lets something that says nothing of a record wait behind what it must not overtake.
    pub fn hold_behind(&mut self, held: Held) {
        let Some(line) = held.line() else { return self.hold(held) };
        let first = self.first;
        let Some(waits) = self.waits_of_line(line) else { return };
        let Some(last) = waits.last else { return self.hold(held) };
        waits.finishing = matches!(held, Held::Finish(_));
        self.bytes += held.bytes();
        self.held[(last - first) as usize].behind.push_back(held);
    }

    /// What a line waits for. `None` when nothing more of it finds room: then what it says is over.
    fn waits_of_line(&mut self, line: Line) -> Option<&mut Waits> {
        let waits = self.lines.entry(line).or_default();
        if waits.finishing {
            return None;
        }
        if let Line::Frames(conn) = line
            && self.bytes >= MOST_BYTES
        {
            waits.finishing = true;
            self.cut.push(conn);
            return None;
        }
        Some(waits)
    }

    /// The next thing that need not wait any more.
    pub fn release(&mut self) -> Option<Held> {
        let entry = self.held.front_mut().filter(|entry| entry.after <= self.durable)?;
        let held = entry.held.take().or_else(|| entry.behind.pop_front())?;
        self.bytes -= held.bytes();
        if entry.behind.is_empty() {
            let line = entry.line;
            if let Some(line) = line
                && self.lines.get(&line).is_some_and(|waits| waits.last == Some(self.first))
            {
                self.lines.remove(&line);
            }
            self.held.pop_front();
            self.first += 1;
        }
        Some(held)
    }

    /// Whether the next thing need not wait any more.
    pub(crate) fn releases(&self) -> bool {
        self.held.front().is_some_and(|entry| entry.after <= self.durable)
    }

    /// A connection that must be cut off, for nothing more of it finds room.
    pub(crate) fn take_cut(&mut self) -> Option<ConnId> {
        let conn = self.cut.pop()?;
        let line = Line::Frames(conn);
        if self.lines.get(&line).is_some_and(|waits| waits.last.is_none()) {
            self.lines.remove(&line);
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
        holding.hold_behind(frame(1, 2));
        holding.record(record());
        holding.hold(frame(2, 3));
        holding.hold(frame(1, 4));
        holding.hold_behind(Held::Finish(conn(1)));
        assert!(holding.is_finishing(conn(1)) && !holding.is_finishing(conn(2)));
        holding.hold(frame(1, 9));
        assert_eq!(holding.release(), None);
        holding.set_durable(1);
        assert_eq!(holding.release(), Some(frame(1, 1)));
        assert_eq!(holding.release(), Some(frame(1, 2)));
        assert_eq!(holding.release(), None);
        assert!(holding.waits(conn(1)), "more of it waits");
        holding.set_durable(2);
        assert_eq!(holding.release(), Some(frame(2, 3)));
        assert_eq!(holding.release(), Some(frame(1, 4)));
        assert!(holding.waits(conn(1)), "its end waits");
        assert_eq!(holding.release(), Some(Held::Finish(conn(1))));
        assert_eq!(holding.release(), None);
        assert!(holding.is_settled() && !holding.waits(conn(1)) && holding.bytes == 0);
    }

    #[test]
    fn what_says_nothing_of_a_record_waits_for_its_own_line_and_not_for_the_disk() {
        let mut holding = Holding::default();
        holding.record(record());
        holding.hold(frame(1, 1));
        // The disk is full from here on.
        holding.record(record());
        holding.hold_behind(frame(1, 2));
        holding.set_durable(1);
        assert_eq!(holding.release(), Some(frame(1, 1)));
        // What comes while the line leaves is the last of it.
        holding.hold_behind(frame(1, 3));
        assert!(holding.releases());
        assert_eq!(holding.release(), Some(frame(1, 2)));
        assert_eq!(holding.release(), Some(frame(1, 3)));
        assert!(!holding.waits(conn(1)) && holding.release().is_none() && holding.bytes == 0);
    }

    #[test]
    fn a_refusal_waits_behind_a_share_of_the_same_connection_alone() {
        let at = |shard| Address { shard, conn: conn(1) };
        let claimed = |shard, amount| {
            Held::Post(1, Message::Claimed { at: at(shard), user: 1, packet: 9, amount })
        };
        let mut holding = Holding::default();
        holding.record(record());
        holding.hold(claimed(1, 5));
        assert!(holding.keeps_share_of(at(1)) && !holding.keeps_share_of(at(2)));
        assert!(!holding.waits(conn(1)), "other answers have no order with those to claims");
        holding.hold_behind(claimed(1, 0));
        assert_eq!(holding.release(), None);
        holding.set_durable(1);
        assert_eq!(holding.release(), Some(claimed(1, 5)));
        assert_eq!(holding.release(), Some(claimed(1, 0)));
        assert!(holding.is_settled() && holding.lines.is_empty());
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
        assert!(holding.is_settled() && holding.lines.is_empty());
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
