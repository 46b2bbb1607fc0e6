//! A counter's name that says that a frame was lost at the card, and what it is worth.
//!
//! Owns: the types of the tables and their shorthand. Knows no driver.

/// Which way the frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It came in.
    Received,
    /// It was to go out.
    Sent,
}

/// What a counter of the table is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Each count is a frame lost.
    Lost,
    /// Each count is a frame lost that another counter of the list has counted already.
    PartOf,
    /// The card or driver was short of something; the frame may have been saved yet.
    Perhaps,
}

/// A name of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossName {
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) weight: Weight,
    /// Counters that include this one, where the driver has them.
    pub(crate) part_of: &'static [&'static str],
    pub(crate) meaning: &'static str,
}

const fn line(
    name: &'static str,
    direction: Direction,
    weight: Weight,
    meaning: &'static str,
) -> LossName {
    LossName { name, direction, weight, part_of: &[], meaning }
}

/// A frame that came in was lost.
pub(crate) const fn rx(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Received, Weight::Lost, meaning)
}

/// A frame that was to go out was lost.
pub(crate) const fn tx(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Sent, Weight::Lost, meaning)
}

/// Something ran short on the way in.
pub(crate) const fn rx_perhaps(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Received, Weight::Perhaps, meaning)
}

/// Something ran short on the way out.
pub(crate) const fn tx_perhaps(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Sent, Weight::Perhaps, meaning)
}

/// The same, which other counters include.
pub(crate) const fn within(part_of: &'static [&'static str], name: LossName) -> LossName {
    LossName { part_of, ..name }
}

pub(crate) const CRC: &str = "checksum of the frame wrong: cable, transceiver or the other end";
pub(crate) const ALIGNED: &str =
    "frame without a whole number of bytes: cable or the other end's duplex";
pub(crate) const SHORT: &str = "frame shorter than 64 bytes";
pub(crate) const LONG: &str = "frame longer than the card takes: MTU of the other end";
pub(crate) const MISSED: &str = "the card's own buffer was full: it was not emptied in time";
pub(crate) const NO_DESCRIPTOR: &str =
    "no receive descriptor free: the ring is too small or its CPU too busy";
pub(crate) const NO_BUFFER: &str =
    "no receive descriptor was free; kept in the card's buffer while that lasts";
pub(crate) const NO_MEMORY: &str = "no memory for a receive buffer; the ring is filled later";
pub(crate) const COLLISIONS: &str = "given up after 16 collisions: half duplex";
pub(crate) const LATE: &str = "collision after 64 bytes: half duplex, or a cable too long";
pub(crate) const CARRIER: &str = "no carrier while sending: link went down";
pub(crate) const LINK_DOWN: &str = "given up because the link was down";
pub(crate) const UNDERRUN: &str = "the card ran out of data while sending: memory or bus too slow";
