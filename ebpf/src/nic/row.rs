//! What an interface counted in a second, as lines of JSON have it: what moved, and what was lost.
//!
//! Owns: which counters a line names, and packets by queue, whatever their driver calls them. Must
//! not know: who reads it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Direction, NicCounters, NicLoss, NicReading};

/// An interface's counts of a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicRow {
    /// The kernel's 64-bit counters, as `ip -s -s link` has them.
    pub link: BTreeMap<&'static str, Option<u64>>,
    /// The driver's counters of the whole interface that are not 0; `None` without any.
    pub driver_counters: Option<NicCounters>,
    /// Its queues; `None` where the driver has no counters.
    pub queues: Option<Vec<QueueRow>>,
    /// Frames that came in and were lost at the card.
    pub lost_received: Option<u64>,
    /// Frames that were to go out and were lost at the card.
    pub lost_sent: Option<u64>,
    /// What of these is known by name.
    pub losses: Vec<NicLoss>,
    /// Why something above is absent.
    pub missing: BTreeMap<&'static str, String>,
}

/// A queue's counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueRow {
    /// Its number.
    pub queue: u32,
    /// Packets received by it; `None` where the driver has no such counter that is known here.
    pub rx_packets: Option<u64>,
    /// Packets sent by it, likewise.
    pub tx_packets: Option<u64>,
    /// Its counters that are not 0.
    pub counters: NicCounters,
}

impl From<&NicReading> for NicRow {
    /// Of a difference of two readings.
    fn from(grown: &NicReading) -> Self {
        let losses = grown.losses();
        let queue = |(queue, counters): (&u32, &NicCounters)| QueueRow {
            queue: *queue,
            rx_packets: packets(counters, Direction::Received),
            tx_packets: packets(counters, Direction::Sent),
            counters: nonzero(counters),
        };
        Self {
            link: grown.link.clone(),
            driver_counters: grown.driver_counters.as_ref().map(nonzero),
            queues: grown.queues.as_ref().map(|queues| queues.iter().map(queue).collect()),
            lost_received: losses.received,
            lost_sent: losses.sent,
            losses: losses.by_name,
            missing: grown.missing.clone(),
        }
    }
}

/// Those that moved, and those that are not known.
fn nonzero(counters: &NicCounters) -> NicCounters {
    let moved = counters.iter().filter(|(_, value)| **value != Some(0));
    moved.map(|(name, value)| (name.clone(), *value)).collect()
}

/// The packets of a queue one way. Most drivers have their sum under one of four names, bnx2x, bnxt
/// and vmxnet3 those to one, to many and to all.
fn packets(counters: &NicCounters, direction: Direction) -> Option<u64> {
    let (way, atlantic) = match direction {
        Direction::Received => ("rx", "InPackets"),
        Direction::Sent => ("tx", "OutPackets"),
    };
    let sums = [format!("{way}_packets"), format!("{way}_pkts"), format!("{way}_cnt")];
    let sum = sums.iter().map(String::as_str).chain([atlantic]);
    if let Some(sum) = sum.into_iter().find_map(|name| counters.get(name)) {
        return *sum;
    }
    let parts = ["ucast", "mcast", "bcast"]
        .map(|cast| [format!("{way}_{cast}_packets"), format!("{cast} pkts {way}")]);
    let parts = parts.iter().filter_map(|names| names.iter().find_map(|it| counters.get(it)));
    parts.copied().reduce(|sum, more| Some(sum? + more?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::of_file;
    use super::*;

    #[test]
    fn a_queues_packets_are_known_whatever_its_driver_calls_them() {
        // Values are numbers of lines.
        let check = |file: &str, driver: &str, rx: Option<u64>, tx: Option<u64>| {
            let row = NicRow::from(&of_file(driver, file));
            let queue = &row.queues.as_ref().expect("queues")[0];
            assert_eq!((queue.queue, queue.rx_packets, queue.tx_packets), (0, rx, tx), "{file}");
        };
        check("be2net", "be2net", Some(39), Some(127));
        check("bnx2x", "bnx2x", Some(2 + 3 + 4), Some(11 + 12 + 13));
        check("ena", "ena", Some(20), Some(8));
        check("hv_netvsc", "hv_netvsc", Some(20), Some(18));
        check("i40e", "i40e", Some(21), Some(19));
        check("i40e-v2.3.2k", "i40e", Some(27), Some(25));
        check("iavf", "iavf", Some(16), Some(14));
        check("ice", "ice", Some(274), Some(18));
        check("ixgbe", "ixgbe", Some(52), Some(48));
        check("mlx5_core", "mlx5_core", Some(144), Some(512));
        check("sfc", "sfc", Some(118), Some(100));
        check("virtio_net", "virtio_net", Some(1), Some(5));
        check("virtio_net-6.9plus", "virtio_net", Some(2), Some(12));
        check("vmxnet3", "vmxnet3", Some(45 + 47 + 49), Some(5 + 7 + 9));
    }

    #[test]
    fn what_did_not_move_is_left_out_and_what_is_not_known_stays() {
        let counters = [("a", Some(0)), ("b", Some(3)), ("c", None)];
        let counters = counters.map(|(name, value)| (name.to_owned(), value)).into();
        let names: Vec<_> = nonzero(&counters).into_keys().collect();
        assert_eq!(names, ["b", "c"]);
        let part = [("rx_ucast_packets", Some(3)), ("rx_mcast_packets", None)];
        let part = part.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(packets(&part, Direction::Received), None);
        assert_eq!(packets(&part, Direction::Sent), None);
    }
}
