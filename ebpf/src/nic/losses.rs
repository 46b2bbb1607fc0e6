//! Frames lost at the card: which counters of a reading say so, and how many frames in all.
//!
//! A pure function of a reading and the table. A total is `None` when a counter that it needs is
//! not known, never 0 for want of one.

use serde::Serialize;

use super::{
    NicReading,
    loss_name::{Direction, LossName, Weight},
    suspects, table,
};

/// Whose counter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// The driver's, as `ethtool -S` shows it.
    Driver,
    /// The kernel's, as `ip -s link` shows it.
    Kernel,
}

/// A counter that says that frames were lost at the card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicLoss {
    /// Its name, without its queue.
    pub name: String,
    /// The queue, for a counter of one.
    pub queue: Option<u32>,
    /// Whose counter it is.
    pub counted_by: CountedBy,
    /// Which way the frames went.
    pub direction: Direction,
    /// What it is worth.
    pub weight: Weight,
    /// Frames, or events where `weight` is [`Weight::Perhaps`]; `None` when it went backwards,
    /// which is what a counter does when its card is reset.
    pub frames: Option<u64>,
    /// What happened to them.
    pub meaning: &'static str,
}

/// Losses at place `nic`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicLosses {
    /// Frames that came in and were lost, each counted once; `None` when that is not known.
    pub received: Option<u64>,
    /// Frames that were to go out and were lost, likewise.
    pub sent: Option<u64>,
    /// What of it is known by name: everything but zeros.
    pub by_name: Vec<NicLoss>,
}

impl NicLosses {
    /// Frames lost either way; `None` when one way is not known.
    pub fn frames(&self) -> Option<u64> {
        Some(self.received? + self.sent?)
    }
}

impl NicReading {
    /// The losses in this reading: since the card was started, or, of a difference, since the
    /// reading before.
    ///
    /// Each way the driver's own counters are summed where the table knows them, else the
    /// kernel's. Those that are not part of the sum are listed with what they are worth. A driver
    /// with counters that the table does not know has no sum, but its suspicious names.
    pub fn losses(&self) -> NicLosses {
        let driver = self.driver.as_ref().map_or("", |driver| driver.driver.as_str());
        let family = table::family(driver);
        let unknown = family.drivers.is_empty() && self.driver_counters.is_some();
        let mut rows = if unknown { self.suspicious() } else { self.by_driver(family.names) };
        rows.extend(self.by_kernel(family.link));
        let special: Vec<&str> = family.link.iter().map(|row| row.name).collect();
        for mut row in self.by_kernel(table::LINK) {
            let counted = rows.iter().any(|other| {
                other.weight == Weight::Lost
                    && other.direction == row.direction
                    && (other.counted_by == CountedBy::Driver
                        || special.contains(&other.name.as_str()))
            });
            if counted && row.weight == Weight::Lost {
                row.weight = Weight::PartOf;
            }
            rows.push(row);
        }
        let sum = |direction| if unknown { None } else { total(&rows, direction) };
        let (received, sent) = (sum(Direction::Received), sum(Direction::Sent));
        rows.retain(|row| row.frames != Some(0));
        NicLosses { received, sent, by_name: rows }
    }

    /// Whether the table of losses knows the driver.
    pub(crate) fn has_known_driver(&self) -> bool {
        let driver = self.driver.as_ref().map_or("", |driver| driver.driver.as_str());
        !table::family(driver).drivers.is_empty()
    }

    /// The driver's counters that a list names, of the whole interface and of queues.
    fn by_driver(&self, names: &'static [LossName]) -> Vec<NicLoss> {
        let mut rows = Vec::new();
        for (queue, name, frames) in self.of_driver() {
            let Some(known) = names.iter().find(|known| known.name == *name) else { continue };
            // A queue's share of what is counted for the whole interface, too.
            let shared = queue.is_some() && self.has(name, None);
            let within =
                known.part_of.iter().any(|name| self.has(name, None) || self.has(name, queue));
            rows.push(row(known, queue, CountedBy::Driver, *frames, shared || within));
        }
        rows
    }

    /// The driver's counters, of the whole interface and then of queues.
    pub(super) fn of_driver(&self) -> impl Iterator<Item = (Option<u32>, &String, &Option<u64>)> {
        let whole = self.driver_counters.iter().flatten().map(|(name, value)| (None, name, value));
        let queues = self.queues.iter().flatten().flat_map(|(queue, counters)| {
            counters.iter().map(move |(name, value)| (Some(*queue), name, value))
        });
        whole.chain(queues)
    }

    /// Counters of a driver that nobody here knows, whose names speak of a loss.
    fn suspicious(&self) -> Vec<NicLoss> {
        let suspects = self.of_driver().filter(|(_, name, _)| suspects::speaks_of_loss(name));
        suspects
            .map(|(queue, name, frames)| NicLoss {
                name: name.clone(),
                queue,
                counted_by: CountedBy::Driver,
                direction: suspects::direction(name),
                weight: Weight::Perhaps,
                frames: *frames,
                meaning: UNKNOWN,
            })
            .collect()
    }

    /// The kernel's counters that a list names.
    fn by_kernel(&self, names: &'static [LossName]) -> Vec<NicLoss> {
        let present = |name: &str| self.link.get(name).copied();
        names
            .iter()
            .filter_map(|known| {
                let within = known.part_of.iter().any(|name| present(name).is_some());
                Some(row(known, None, CountedBy::Kernel, present(known.name)?, within))
            })
            .collect()
    }

    fn has(&self, name: &str, queue: Option<u32>) -> bool {
        match queue {
            None => self.driver_counters.as_ref().is_some_and(|all| all.contains_key(name)),
            Some(queue) => {
                let counters = self.queues.as_ref().and_then(|queues| queues.get(&queue));
                counters.is_some_and(|counters| counters.contains_key(name))
            }
        }
    }
}

/// What a counter of an unknown driver means.
const UNKNOWN: &str = "its name speaks of a loss; what this driver means by it is not known here";

fn row(
    known: &'static LossName,
    queue: Option<u32>,
    counted_by: CountedBy,
    frames: Option<u64>,
    within: bool,
) -> NicLoss {
    let weight = if within && known.weight == Weight::Lost { Weight::PartOf } else { known.weight };
    NicLoss {
        name: known.name.to_owned(),
        queue,
        counted_by,
        direction: known.direction,
        weight,
        frames,
        meaning: known.meaning,
    }
}

/// The sum of what counts each frame once; `None` when there is no such counter, or one of them is
/// not known.
fn total(rows: &[NicLoss], direction: Direction) -> Option<u64> {
    let counted =
        rows.iter().filter(|row| row.direction == direction && row.weight == Weight::Lost);
    counted.map(|row| row.frames).reduce(|sum, more| Some(sum? + more?)).flatten()
}

#[cfg(test)]
mod tests;
