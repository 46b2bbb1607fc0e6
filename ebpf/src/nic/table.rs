//! Which counters say that a frame was lost at the card, driver by driver.
//!
//! A table and nothing else. The names are the drivers' own; what they mean is from the drivers'
//! sources and the cards' manuals. A counter that another one of the list includes says so
//! (`part_of`): a frame is counted once.

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

/// A family of drivers.
pub(crate) struct Family {
    /// As GDRVINFO names them; none: any driver that the table does not know.
    pub(crate) drivers: &'static [&'static str],
    /// Counters of the driver, of the whole interface or of a queue.
    pub(crate) names: &'static [LossName],
    /// Counters of the kernel's own that mean a loss at the card with this driver only.
    pub(crate) link: &'static [LossName],
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
const fn rx(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Received, Weight::Lost, meaning)
}

/// A frame that was to go out was lost.
const fn tx(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Sent, Weight::Lost, meaning)
}

/// Something ran short on the way in.
const fn rx_perhaps(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Received, Weight::Perhaps, meaning)
}

/// Something ran short on the way out.
const fn tx_perhaps(name: &'static str, meaning: &'static str) -> LossName {
    line(name, Direction::Sent, Weight::Perhaps, meaning)
}

/// The same, which other counters include.
const fn within(part_of: &'static [&'static str], name: LossName) -> LossName {
    LossName { part_of, ..name }
}

const CRC: &str = "checksum of the frame wrong: cable, transceiver or the other end";
const ALIGNED: &str = "frame without a whole number of bytes: cable or the other end's duplex";
const SHORT: &str = "frame shorter than 64 bytes";
const LONG: &str = "frame longer than the card takes: MTU of the other end";
const MISSED: &str = "the card's own buffer was full: it was not emptied in time";
const NO_DESCRIPTOR: &str = "no receive descriptor free: the ring is too small or its CPU too busy";
const NO_BUFFER: &str =
    "no receive descriptor was free; kept in the card's buffer while that lasts";
const NO_MEMORY: &str = "no memory for a receive buffer; the ring is filled later";
const COLLISIONS: &str = "given up after 16 collisions: half duplex";
const LATE: &str = "collision after 64 bytes: half duplex, or a cable too long";
const CARRIER: &str = "no carrier while sending: link went down";
const LINK_DOWN: &str = "given up because the link was down";
const UNDERRUN: &str = "the card ran out of data while sending: memory or bus too slow";

/// Counters of the kernel's own, for what the driver's say nothing about. `rx_missed_errors` is
/// no part of `rx_errors` (Linux, `struct rtnl_link_stats64`).
pub(crate) const LINK: &[LossName] = &[
    rx("rx_missed_errors", MISSED),
    rx("rx_errors", "frame damaged or refused by the card"),
    within(&["rx_errors"], rx("rx_crc_errors", CRC)),
    within(&["rx_errors"], rx("rx_frame_errors", ALIGNED)),
    within(&["rx_errors"], rx("rx_length_errors", "length wrong")),
    within(&["rx_errors"], rx("rx_over_errors", "did not fit into the buffers given")),
    within(&["rx_errors"], rx("rx_fifo_errors", "overrun of the card's buffer")),
    tx("tx_errors", "not sent by the card"),
    within(&["tx_errors"], tx("tx_aborted_errors", COLLISIONS)),
    within(&["tx_errors"], tx("tx_carrier_errors", CARRIER)),
    within(&["tx_errors"], tx("tx_fifo_errors", UNDERRUN)),
    within(&["tx_errors"], tx("tx_heartbeat_errors", "no heartbeat from the transceiver")),
    within(&["tx_errors"], tx("tx_window_errors", LATE)),
];

/// The families, the one of any other driver last.
pub(crate) const FAMILIES: &[Family] = &[
    Family { drivers: &["bnx2"], names: BNX2, link: &[] },
    Family { drivers: &["bnx2x"], names: BNX2X, link: &[] },
    Family { drivers: &["e1000", "e1000e", "igb", "igc", "igbvf"], names: E1000, link: &[] },
    Family { drivers: &["ixgbe", "ixgbevf"], names: IXGBE, link: &[] },
    Family { drivers: &["i40e", "iavf"], names: I40E, link: &[] },
    Family { drivers: &["ice"], names: ICE, link: &[] },
    Family { drivers: &["mlx5_core", "mlx5e_rep", "mlx5_core.sf"], names: MLX5, link: &[] },
    Family { drivers: &["bnxt_en"], names: BNXT, link: &[] },
    Family { drivers: &["tg3"], names: TG3, link: &[] },
    Family { drivers: &["virtio_net"], names: VIRTIO, link: &[] },
    Family { drivers: &["veth"], names: VETH, link: VETH_LINK },
    Family { drivers: &["ena"], names: ENA, link: ENA_LINK },
    Family { drivers: &["vmxnet3"], names: VMXNET3, link: &[] },
    Family { drivers: &[], names: ANY, link: &[] },
];

/// Broadcom NetXtreme II: the card of a Dell R2950.
const BNX2: &[LossName] = &[
    rx("rx_fw_discards", "the card's firmware had no receive buffer: the ring was empty"),
    rx("rx_ftq_discards", "a queue inside the card was full"),
    rx("rx_discards", "the card's own packet memory was full"),
    rx("rx_crc_errors", CRC),
    rx("rx_align_errors", ALIGNED),
    rx("rx_undersize_packets", SHORT),
    rx("rx_oversize_packets", LONG),
    tx("tx_mac_errors", "the card failed inside while sending"),
    tx("tx_carrier_errors", CARRIER),
    tx("tx_excess_collisions", COLLISIONS),
    tx("tx_late_collisions", LATE),
];

/// Broadcom NetXtreme II of ten gigabits.
const BNX2X: &[LossName] = &[
    rx("rx_discards", NO_DESCRIPTOR),
    rx("rx_fw_discards", "the card's firmware had no receive buffer: the ring was empty"),
    rx("rx_brb_discard", MISSED),
    rx("rx_phy_ip_err_discards", "frame in error at the card"),
    rx("rx_skb_alloc_discard", "no memory to take the frame out of the ring"),
    rx("rx_crc_errors", CRC),
    rx("rx_align_errors", ALIGNED),
    rx("rx_undersize_packets", SHORT),
    rx("rx_oversize_packets", LONG),
    tx("tx_mac_errors", "the card failed inside while sending"),
    tx("tx_carrier_errors", CARRIER),
    tx("tx_excess_collisions", COLLISIONS),
    tx("tx_late_collisions", LATE),
];

/// Intel's cards of one and two and a half gigabits.
const E1000: &[LossName] = &[
    rx("rx_missed_errors", MISSED),
    rx("rx_fifo_errors", NO_DESCRIPTOR),
    within(&["rx_fifo_errors"], rx("rx_drops", NO_DESCRIPTOR)),
    rx_perhaps("rx_no_buffer_count", NO_BUFFER),
    rx_perhaps("rx_alloc_failed", NO_MEMORY),
    rx_perhaps("alloc_rx_buff_failed", NO_MEMORY),
    rx("rx_crc_errors", CRC),
    rx("rx_align_errors", ALIGNED),
    rx("rx_short_length_errors", SHORT),
    rx("rx_long_length_errors", LONG),
    within(&["rx_long_length_errors"], rx("rx_length_errors", "length wrong")),
    tx("tx_aborted_errors", COLLISIONS),
    tx("tx_carrier_errors", CARRIER),
    tx("tx_window_errors", LATE),
    within(&["tx_window_errors"], tx("tx_abort_late_coll", LATE)),
    tx("tx_fifo_errors", UNDERRUN),
];

/// Intel's 82598 to X550.
const IXGBE: &[LossName] = &[
    rx("rx_missed_errors", MISSED),
    rx("rx_no_dma_resources", NO_DESCRIPTOR),
    rx_perhaps("rx_no_buffer_count", NO_BUFFER),
    rx_perhaps("alloc_rx_page_failed", NO_MEMORY),
    rx_perhaps("alloc_rx_buff_failed", NO_MEMORY),
    rx("rx_crc_errors", CRC),
    rx("rx_short_length_errors", SHORT),
    rx("rx_long_length_errors", LONG),
    within(&["rx_long_length_errors"], rx("rx_length_errors", "length wrong")),
    rx("rx_fcoe_dropped", "storage frame without a context"),
    tx("tx_carrier_errors", CARRIER),
    tx("tx_aborted_errors", COLLISIONS),
    tx("tx_fifo_errors", UNDERRUN),
];

/// Intel's 700 series.
const I40E: &[LossName] = &[
    rx("rx_dropped", NO_DESCRIPTOR),
    rx("port.rx_dropped", MISSED),
    rx_perhaps("rx_missed_errors", "discarded for a reason that the card does not give"),
    rx("port.rx_crc_errors", CRC),
    within(&["port.rx_crc_errors"], rx("rx_crc_errors", CRC)),
    rx("port.rx_length_errors", "length wrong"),
    within(&["port.rx_length_errors"], rx("rx_length_errors", "length wrong")),
    rx("port.rx_undersize", SHORT),
    rx("port.rx_oversize", LONG),
    rx("port.rx_fragments", "piece of a frame"),
    rx("port.rx_jabber", "frame too long and damaged"),
    rx_perhaps("veb.rx_discards", "discarded by the switch inside the card"),
    rx_perhaps("rx_alloc_fail", NO_MEMORY),
    tx("port.tx_errors", "not sent by the card"),
    within(&["port.tx_errors"], tx("tx_errors", "not sent by the card")),
    tx("port.tx_dropped_link_down", LINK_DOWN),
    tx_perhaps("veb.tx_discards", "discarded by the switch inside the card"),
];

/// Intel's 800 series.
const ICE: &[LossName] = &[
    rx("rx_dropped", NO_DESCRIPTOR),
    rx("rx_dropped.nic", MISSED),
    rx("rx_crc_errors.nic", CRC),
    rx("rx_length_errors.nic", "length wrong"),
    rx("rx_undersize.nic", SHORT),
    rx("rx_oversize.nic", LONG),
    rx("rx_fragments.nic", "piece of a frame"),
    rx("rx_jabber.nic", "frame too long and damaged"),
    rx_perhaps("rx_alloc_fail", NO_MEMORY),
    rx_perhaps("rx_pg_alloc_fail", NO_MEMORY),
    tx("tx_errors.nic", "not sent by the card"),
    within(&["tx_errors.nic"], tx("tx_errors", "not sent by the card")),
    tx("tx_dropped_link_down.nic", LINK_DOWN),
];

/// NVIDIA ConnectX-4 and later.
const MLX5: &[LossName] = &[
    rx("rx_out_of_buffer", NO_DESCRIPTOR),
    rx("rx_discards_phy", MISSED),
    rx("rx_oversize_pkts_buffer", "longer than the receive buffers are"),
    rx("rx_oversize_pkts_sw_drop", "longer than the driver takes"),
    rx("rx_wqe_err", "receive descriptor in error"),
    rx("rx_if_down_packets", "the interface was down"),
    rx("rx_crc_errors_phy", CRC),
    rx("rx_symbol_err_phy", "damaged on the wire: cable or transceiver"),
    rx("rx_in_range_len_errors_phy", "length wrong"),
    rx("rx_out_of_range_len_phy", LONG),
    rx("rx_undersize_pkts_phy", SHORT),
    rx("rx_oversize_pkts_phy", LONG),
    rx("rx_fragments_phy", "piece of a frame"),
    rx("rx_jabbers_phy", "frame too long and damaged"),
    rx_perhaps("rx_buff_alloc_err", NO_MEMORY),
    rx_perhaps("rx_steer_missed_packets", "no rule wanted the frame"),
    tx("tx_discards_phy", "discarded at the port: paused for too long, or the link went down"),
    tx("tx_errors_phy", "not sent by the port"),
    tx("tx_queue_dropped", "the driver could not map or describe it"),
    within(&["tx_queue_dropped"], tx("tx_dropped", "the driver could not map or describe it")),
    tx("tx_cqe_err", "send descriptor in error"),
];

/// Broadcom NetXtreme-C and -E.
const BNXT: &[LossName] = &[
    rx("rx_total_discard_pkts", NO_DESCRIPTOR),
    within(&["rx_total_discard_pkts"], rx("rx_total_ring_discards", NO_DESCRIPTOR)),
    within(&["rx_total_discard_pkts", "rx_total_ring_discards"], rx("rx_discards", NO_DESCRIPTOR)),
    rx("rx_total_oom_discards", "no memory to take the frame out of the ring"),
    within(&["rx_total_oom_discards"], rx("rx_oom_discards", "no memory to take it out")),
    rx("rx_total_netpoll_discards", "discarded while the console was polled"),
    rx("rx_total_buf_errors", "receive buffer in error"),
    within(&["rx_total_buf_errors"], rx("rx_buf_errors", "receive buffer in error")),
    rx("rx_drops", "frame in error on a ring"),
    within(&["rx_drops"], rx("rx_errors", "frame in error on a ring")),
    rx("rx_stat_discard", MISSED),
    rx("rx_fcs_err_frames", CRC),
    rx("rx_align_err_frames", ALIGNED),
    rx("rx_undrsz_frames", SHORT),
    rx("rx_ovrsz_frames", LONG),
    rx("rx_jbr_frames", "frame too long and damaged"),
    tx("tx_total_discard_pkts", "discarded by the card on a send ring"),
    within(&["tx_total_discard_pkts"], tx("tx_total_ring_discards", "discarded on a send ring")),
    within(
        &["tx_total_discard_pkts", "tx_total_ring_discards"],
        tx("tx_discards", "discarded on a send ring"),
    ),
    tx("tx_stat_discard", "discarded at the port"),
    tx("tx_err", "not sent by the port"),
    tx("tx_fifo_underruns", UNDERRUN),
];

/// Broadcom Tigon3.
const TG3: &[LossName] = &[
    rx("rx_discards", "no receive descriptor free, or the card's buffer was full"),
    rx("rx_errors", "frame damaged or refused by the card"),
    within(&["rx_errors"], rx("rx_fcs_errors", CRC)),
    within(&["rx_errors"], rx("rx_align_errors", ALIGNED)),
    within(&["rx_errors"], rx("rx_undersize_packets", SHORT)),
    within(&["rx_errors"], rx("rx_frame_too_long_errors", LONG)),
    within(&["rx_errors"], rx("rx_jabbers", "frame too long and damaged")),
    within(&["rx_errors"], rx("rx_fragments", "piece of a frame")),
    rx_perhaps("rxbds_empty", NO_BUFFER),
    rx_perhaps("mbuf_lwm_thresh_hit", "the card's packet memory ran low"),
    tx("tx_discards", "discarded by the card"),
    tx("tx_errors", "not sent by the card"),
    within(&["tx_errors"], tx("tx_mac_errors", "the card failed inside while sending")),
    within(&["tx_errors"], tx("tx_excessive_collisions", COLLISIONS)),
    within(&["tx_errors"], tx("tx_late_collisions", LATE)),
    within(&["tx_errors"], tx("tx_carrier_sense_errors", CARRIER)),
];

/// A virtual machine's card.
const VIRTIO: &[LossName] = &[
    rx("rx_drops", "the driver could not make a packet of it: no memory, or a bad frame"),
    rx("rx_hw_drops", "the host had no buffer of the guest's, or could not give it"),
    within(&["rx_hw_drops"], rx("rx_hw_drop_overruns", "no buffer of the guest's was free")),
    tx("tx_hw_drops", "dropped by the host"),
    within(&["tx_hw_drops"], tx("tx_hw_drop_malformed", "the host found it malformed")),
    tx_perhaps("tx_timeouts", "a send queue stood still for seconds"),
];

/// A pair of virtual interfaces.
const VETH: &[LossName] = &[rx("rx_drops", "no memory, or the receiving queue was full")];

const VETH_LINK: &[LossName] = &[tx("tx_dropped", "the other end was down, or its queue was full")];

/// Amazon's. The device's own drops come by its keep-alive into the kernel's counters.
const ENA: &[LossName] = &[
    rx("rx_bad_desc_num", "more pieces than the device may send"),
    rx("rx_skb_alloc_fail", "no memory to take the frame out of the ring"),
    rx("rx_bad_req_id", "an answer without a request"),
    rx_perhaps("rx_page_alloc_fail", NO_MEMORY),
    rx_perhaps("rx_refil_partial", "the ring could not be filled up"),
    rx_perhaps("rx_empty_rx_ring", "the ring stood empty"),
    rx_perhaps("bw_in_allowance_exceeded", "held or dropped: bandwidth of the instance type"),
    rx("conntrack_allowance_exceeded", "dropped: connections that the instance type may track"),
    rx("linklocal_allowance_exceeded", "dropped: packets a second to the local services"),
    tx_perhaps("bw_out_allowance_exceeded", "held or dropped: bandwidth of the instance type"),
    tx_perhaps("pps_allowance_exceeded", "held or dropped: packets a second, either way"),
    tx("tx_dma_mapping_err", "could not be mapped for the device"),
    tx("tx_linearize_failed", "no memory to make one piece of it"),
    tx_perhaps("tx_missed_tx", "the device did not say that it was sent"),
];

const ENA_LINK: &[LossName] = &[
    rx("rx_dropped", "dropped by the device: no receive descriptor free"),
    tx("tx_dropped", "dropped by the device"),
];

/// VMware's.
const VMXNET3: &[LossName] = &[
    rx("pkts rx OOB", NO_DESCRIPTOR),
    rx("pkts rx out of buf", NO_DESCRIPTOR),
    rx("pkts rx err", "frame in error at the device"),
    rx("drv dropped rx total", "dropped by the driver"),
    within(&["drv dropped rx total"], rx("err", "frame in error at the driver")),
    within(&["drv dropped rx total"], rx("fcs", CRC)),
    rx_perhaps("rx buf alloc fail", NO_MEMORY),
    tx("pkts tx err", "not sent by the device"),
    tx("pkts tx discard", "discarded by the device"),
    tx("drv dropped tx total", "dropped by the driver"),
    within(&["drv dropped tx total"], tx("too many frags", "more pieces than allowed")),
    within(&["drv dropped tx total"], tx("hdr err", "headers that the device cannot take")),
    tx_perhaps("ring full", "the send queue was stopped"),
];

/// Names that mean a loss with most drivers. With one that the table does not know it is not
/// certain which of them include which: they are shown, and the kernel's own counters counted.
const ANY: &[LossName] = &[
    rx_perhaps("rx_fw_discards", "discarded by the card's firmware"),
    rx_perhaps("rx_missed_errors", MISSED),
    rx_perhaps("rx_missed", MISSED),
    rx_perhaps("rx_discards", "discarded by the card"),
    rx_perhaps("rx_discards_phy", MISSED),
    rx_perhaps("rx_drops", "dropped by the driver"),
    rx_perhaps("rx_dropped", "dropped by the driver"),
    rx_perhaps("rx_drop", "dropped by the driver"),
    rx_perhaps("rx_no_buffer_count", NO_BUFFER),
    rx_perhaps("rx_no_dma_resources", NO_DESCRIPTOR),
    rx_perhaps("rx_no_bufs", NO_DESCRIPTOR),
    rx_perhaps("rx_out_of_buffer", NO_DESCRIPTOR),
    rx_perhaps("rx_over_errors", NO_DESCRIPTOR),
    rx_perhaps("rx_fifo_errors", NO_DESCRIPTOR),
    rx_perhaps("rx_crc_errors", CRC),
    rx_perhaps("rx_fcs_errors", CRC),
    tx_perhaps("tx_discards", "discarded by the card"),
    tx_perhaps("tx_drops", "dropped by the driver"),
    tx_perhaps("tx_dropped", "dropped by the driver"),
    tx_perhaps("tx_errors", "not sent by the card"),
    tx_perhaps("tx_fifo_errors", UNDERRUN),
];

/// The family of a driver.
pub(crate) fn family(driver: &str) -> &'static Family {
    let any = &FAMILIES[FAMILIES.len() - 1];
    FAMILIES.iter().find(|family| family.drivers.contains(&driver)).unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inclusion_names_a_counter_of_its_own_family_and_direction() {
        let lists = FAMILIES.iter().flat_map(|family| [family.names, family.link]).chain([LINK]);
        for list in lists {
            for (place, row) in list.iter().enumerate() {
                assert!(!list[..place].iter().any(|other| other.name == row.name), "{row:?} twice");
                for whole in row.part_of {
                    let whole = list.iter().find(|other| other.name == *whole).expect(row.name);
                    assert_eq!(whole.direction, row.direction, "{row:?}");
                    assert_eq!((whole.weight, row.weight), (Weight::Lost, Weight::Lost), "{row:?}");
                }
            }
        }
    }

    #[test]
    fn every_driver_has_one_family() {
        for family in FAMILIES {
            for driver in family.drivers {
                let having = FAMILIES.iter().filter(|other| other.drivers.contains(driver));
                assert_eq!(having.count(), 1, "{driver}");
            }
        }
        assert!(family("a driver of tomorrow").drivers.is_empty());
        assert_eq!(family("bnx2").names[0].name, "rx_fw_discards");
    }
}
