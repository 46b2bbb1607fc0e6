//! The connections of a shard by slot: what the shard must remember of each between two polls.

use std::mem;

/// A connection of this shard. A slot is used again after its connection has gone; the generation
/// tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Index, dense from 0: fit for a `Vec` beside the connections.
    pub slot: u32,
    /// Which connection in this slot it is.
    pub generation: u32,
}

impl ConnId {
    pub(crate) const fn to_u64(self) -> u64 {
        ((self.generation as u64) << 32) | self.slot as u64
    }

    pub(crate) const fn from_u64(value: u64) -> Self {
        Self { slot: value as u32, generation: (value >> 32) as u32 }
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot is empty.
    Free,
    /// The handshake of an outgoing connection is under way.
    Connecting,
    /// Bytes may flow.
    Open,
    /// Nothing more is sent; what comes in is thrown away until the peer closes.
    Finishing,
    /// The socket is gone and the handler has not been told yet.
    Dead,
}

/// Bytes that the socket did not take.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) bytes: Vec<u8>,
    /// Since when the peer has taken nothing.
    pub(crate) since_ns: u64,
}

/// The first bytes of a frame whose rest has not come.
#[derive(Debug, Default)]
pub(crate) struct Stash {
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const NONE: u32 = u32::MAX;

/// 32 bytes; the boxes exist only while a frame is half read or half written.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    /// In a free slot the next free one, else the index of this poll's send or [`NONE`].
    pub(crate) link: u32,
    pub(crate) state: State,
    /// The peer has shut its sending side: after the bytes before that, the reader must read on,
    /// for there will be no other event.
    pub(crate) hung_up: bool,
    /// Neither side can send any more: reading says why, whatever still waits to be sent.
    pub(crate) broken: bool,
    /// The peer opened it: it is the one that asks, and must read before it may ask more.
    pub(crate) accepted: bool,
    /// In a queue of [`crate::turns::Turns`].
    pub(crate) waiting: bool,
    /// Its turn came while answers waited for the peer to read: it is read when they have left.
    pub(crate) held: bool,
    /// There may be room again for what waits to be sent.
    pub(crate) writable: bool,
    /// Somebody looks whether its backlog moves.
    pub(crate) watched: bool,
    pub(crate) stash: Option<Box<Stash>>,
    pub(crate) backlog: Option<Box<Backlog>>,
}

const _: () = assert!(mem::size_of::<Slot>() == 32);

impl Slot {
    fn new(generation: u32, state: State) -> Self {
        Self {
            generation,
            link: NONE,
            state,
            hung_up: false,
            broken: false,
            accepted: state == State::Open,
            waiting: false,
            held: false,
            writable: false,
            watched: false,
            stash: None,
            backlog: None,
        }
    }
}

/// Slots `0..capacity`, handed out lowest first while none was given back.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    first_free: u32,
    capacity: u32,
    in_use: u32,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { slots: Vec::new(), first_free: NONE, capacity, in_use: 0 }
    }

    pub(crate) fn in_use(&self) -> u32 {
        self.in_use
    }

    pub(crate) fn is_full(&self) -> bool {
        self.in_use == self.capacity
    }

    /// A slot for a new connection, `None` when all are in use.
    pub(crate) fn acquire(&mut self, state: State) -> Option<ConnId> {
        let slot = if self.first_free != NONE {
            let slot = self.first_free;
            self.first_free = self.slots[slot as usize].link;
            slot
        } else if self.slots.len() < self.capacity as usize {
            self.slots.push(Slot::new(0, State::Free));
            (self.slots.len() - 1) as u32
        } else {
            return None;
        };
        self.in_use += 1;
        let at = &mut self.slots[slot as usize];
        *at = Slot::new(at.generation, state);
        Some(ConnId { slot, generation: at.generation })
    }

    /// The slot of a connection that has not gone.
    pub(crate) fn get(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots
            .get_mut(id.slot as usize)
            .filter(|slot| slot.generation == id.generation && slot.state != State::Free)
    }

    /// Empties a slot; the id is dead from here on.
    pub(crate) fn release(&mut self, id: ConnId) {
        let slot = &mut self.slots[id.slot as usize];
        debug_assert!(slot.generation == id.generation && slot.state != State::Free);
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = State::Free;
        slot.stash = None;
        slot.backlog = None;
        slot.link = self.first_free;
        self.first_free = id.slot;
        self.in_use -= 1;
    }

    /// Every connection that has not gone.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.slots
            .iter()
            .zip(0..)
            .filter(|(slot, _)| slot.state != State::Free)
            .map(|(slot, index)| ConnId { slot: index, generation: slot.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_dies_with_its_connection() {
        let mut slots = Slots::new(2);
        let first = slots.acquire(State::Open).expect("room");
        let second = slots.acquire(State::Open).expect("room");
        assert!(slots.acquire(State::Open).is_none() && slots.is_full());
        slots.release(first);
        assert!(slots.get(first).is_none());
        let third = slots.acquire(State::Open).expect("room again");
        assert_eq!(third.slot, first.slot);
        assert!(slots.get(first).is_none() && slots.get(third).is_some());
        assert_eq!(slots.ids().collect::<Vec<_>>(), vec![third, second]);
        assert_eq!(ConnId::from_u64(third.to_u64()), third);
    }
}
