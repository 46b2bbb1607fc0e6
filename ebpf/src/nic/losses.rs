//! Frames lost at the card: which counters of a reading say so, and how many frames in all.
//!
//! A pure function of a reading and the table. A total is `None` when a counter that it needs is
//! not known, never 0 for want of one.

use serde::Serialize;

use super::{
    NicReading,
    table::{self, Direction, LossName, Weight},
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
    /// kernel's. Those that are not part of the sum are listed with what they are worth.
    pub fn losses(&self) -> NicLosses {
        let driver = self.driver.as_ref().map_or("", |driver| driver.driver.as_str());
        let family = table::family(driver);
        let mut rows = self.by_driver(family.names);
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
        let received = total(&rows, Direction::Received);
        let sent = total(&rows, Direction::Sent);
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
        let whole = self.driver_counters.iter().flatten().map(|(name, value)| (None, name, value));
        let queues = self.queues.iter().flatten().flat_map(|(queue, counters)| {
            counters.iter().map(move |(name, value)| (Some(*queue), name, value))
        });
        for (queue, name, frames) in whole.chain(queues) {
            let Some(known) = names.iter().find(|known| known.name == *name) else { continue };
            // A queue's share of what is counted for the whole interface, too.
            let shared = queue.is_some() && self.has(name, None);
            let within =
                known.part_of.iter().any(|name| self.has(name, None) || self.has(name, queue));
            rows.push(row(known, queue, CountedBy::Driver, *frames, shared || within));
        }
        rows
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::nic::{Driver, assign, names};

    /// A card: its driver, the driver's counters and counters of the kernel's.
    fn card(driver: &str, own: &[(&str, u64)], kernel: &[(&'static str, u64)]) -> NicReading {
        let raw: Vec<_> = own.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let (whole, queues) = assign(names::sort(raw));
        let mut link: BTreeMap<_, _> =
            crate::nic::link::NAMES.into_iter().map(|name| (name, Some(0))).collect();
        link.extend(kernel.iter().map(|(name, value)| (*name, Some(*value))));
        NicReading {
            name: "eth0".to_owned(),
            link,
            driver: Some(Driver { driver: driver.to_owned(), ..Driver::default() }),
            driver_counters: Some(whole),
            queues: Some(queues),
            ..NicReading::default()
        }
    }

    fn check(reading: &NicReading, received: u64, sent: u64, listed: usize) {
        let losses = reading.losses();
        let found = (losses.received, losses.sent, losses.by_name.len());
        assert_eq!(found, (Some(received), Some(sent), listed), "{losses:#?}");
    }

    #[test]
    fn the_prototypes_screenshot_is_a_loss_at_the_card() {
        // Error counters of zero beside 26,000 discards a second.
        let own = [
            ("rx_bytes", 123_456_789),
            ("rx_crc_errors", 0),
            ("rx_discards", 0),
            ("rx_ftq_discards", 0),
            ("rx_fw_discards", 26_000),
            ("tx_mac_errors", 0),
        ];
        // The kernel's counter is the same frames again.
        let reading = card("bnx2", &own, &[("rx_missed_errors", 26_000)]);
        check(&reading, 26_000, 0, 2);
        let losses = reading.losses();
        assert_eq!(losses.by_name[0].name, "rx_fw_discards");
        assert_eq!(losses.by_name[0].weight, Weight::Lost);
        assert_eq!(losses.by_name[1].weight, Weight::PartOf);
        assert_eq!(losses.frames(), Some(26_000));
    }

    #[test]
    fn a_frame_is_counted_once() {
        // virtio: the sum and its parts.
        let own = [("rx_drops", 7), ("rx0_drops", 4), ("rx1_drops", 3), ("tx0_kicks", 1)];
        check(&card("virtio_net", &own, &[]), 7, 0, 3);
        // The same driver of an older kernel has the parts only.
        check(&card("virtio_net", &own[1..], &[]), 7, 0, 2);
        // igb: the queues' drops are summed up under another name.
        let own = [
            ("rx_missed_errors", 5),
            ("rx_fifo_errors", 9),
            ("rx_no_buffer_count", 100),
            ("rx_queue_0_drops", 9),
            ("tx_aborted_errors", 2),
        ];
        check(&card("igb", &own, &[("rx_errors", 77)]), 14, 2, 6);
        let own = [
            ("[0]: rx_discards", 3),
            ("[1]: rx_discards", 4),
            ("rx_total_discard_pkts", 7),
            ("rx_stat_discard", 1),
            ("rx_fcs_err_frames", 2),
        ];
        check(&card("bnxt_en", &own, &[]), 10, 0, 5);
        // vmxnet3: sections.
        let own = [
            ("Rx Queue#", 0),
            ("  pkts rx OOB", 6),
            ("  drv dropped rx total", 5),
            ("     err", 5),
            ("Rx Queue#", 1),
            ("  pkts rx OOB", 1),
        ];
        check(&card("vmxnet3", &own, &[]), 12, 0, 4);
    }

    #[test]
    fn drivers_without_counters_are_judged_by_the_kernels() {
        let kernel =
            [("rx_missed_errors", 5), ("rx_errors", 3), ("rx_crc_errors", 3), ("tx_errors", 1)];
        check(&card("r8169", &[("rx_unicast", 10)], &kernel), 8, 1, 4);
        // Names that are known of other drivers are shown, but not summed.
        check(&card("newnic", &[("rx_discards", 10)], &kernel), 8, 1, 5);
        // A pair of virtual interfaces drops on sending, and only the kernel's counter has it.
        let own = [("peer_ifindex", 3), ("rx_queue_0_drops", 2)];
        check(&card("veth", &own, &[("tx_dropped", 9)]), 2, 9, 2);
    }

    #[test]
    fn a_reset_counter_makes_the_sum_unknown() {
        let mut reading = card("bnx2", &[("rx_fw_discards", 5), ("tx_mac_errors", 0)], &[]);
        reading.driver_counters.as_mut().expect("counters").insert("rx_fw_discards".into(), None);
        let losses = reading.losses();
        assert_eq!((losses.received, losses.sent), (None, Some(0)));
        assert_eq!(losses.by_name.len(), 1);
        assert_eq!(losses.frames(), None);
        let nothing = NicReading::default().losses();
        assert_eq!((nothing.received, nothing.sent), (None, None));
    }
}
