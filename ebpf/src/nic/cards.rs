//! Which counters of a physical card's driver say that a frame was lost, driver by driver.
//!
//! Tables and nothing else. The names are the drivers' own; what they mean is from the drivers'
//! sources (Linux, `drivers/net/ethernet`) and the cards' manuals.

use super::loss_name::*;

/// Broadcom NetXtreme II: the card of a Dell R2950.
pub(crate) const BNX2: &[LossName] = &[
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
pub(crate) const BNX2X: &[LossName] = &[
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
pub(crate) const E1000: &[LossName] = &[
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
pub(crate) const IXGBE: &[LossName] = &[
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
pub(crate) const I40E: &[LossName] = &[
    rx("rx_dropped", NO_DESCRIPTOR),
    rx("port.rx_dropped", MISSED),
    // Since Linux 6.10: what `rx_dropped` counted before, which has the rest since.
    rx("rx_missed_errors", NO_DESCRIPTOR),
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
    rx_perhaps("rx_pg_alloc_fail", NO_MEMORY),
    rx_perhaps("port.illegal_bytes", "bytes that are none"),
    tx("tx_dropped", "discarded by the card"),
    tx("port.tx_errors", "not sent by the card"),
    within(&["port.tx_errors"], tx("tx_errors", "not sent by the card")),
    tx("port.tx_dropped_link_down", LINK_DOWN),
    tx_perhaps("veb.tx_discards", "discarded by the switch inside the card"),
];

/// A virtual function of Intel's: what the card tells it over its channel.
pub(crate) const IAVF: &[LossName] = &[
    rx("rx_discards", NO_DESCRIPTOR),
    tx("tx_discards", "discarded by the card"),
    tx("tx_errors", "not sent by the card"),
];

/// Intel's 800 series.
pub(crate) const ICE: &[LossName] = &[
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
pub(crate) const MLX5: &[LossName] = &[
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
pub(crate) const BNXT: &[LossName] = &[
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
pub(crate) const TG3: &[LossName] = &[
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

/// Realtek's (`realtek/r8169_main.c`): the chip's own tally.
pub(crate) const R8169: &[LossName] = &[
    rx("rx_missed", MISSED),
    rx("rx_errors", "frame damaged or refused by the card"),
    within(&["rx_errors"], rx("align_errors", ALIGNED)),
    tx("tx_errors", "not sent by the card"),
    within(&["tx_errors"], tx("tx_aborted", COLLISIONS)),
    within(&["tx_errors"], tx("tx_underrun", UNDERRUN)),
];

/// Solarflare's (`sfc/ef10.c`, `sfc/ef100_nic.c`): the port's, and of it this function's.
pub(crate) const SFC: &[LossName] = &[
    rx("port_rx_nodesc_drops", NO_DESCRIPTOR),
    rx("rx_nodesc_drop_cnt", NO_DESCRIPTOR),
    rx("rx_nodesc_trunc", "cut off: no further receive descriptor was free"),
    rx("rx_noskb_drops", "no memory to take the frame out of the ring"),
    rx("port_rx_overflow", MISSED),
    within(&["port_rx_overflow"], rx("rx_overflow", MISSED)),
    within(&["port_rx_overflow"], rx("port_rx_pm_discard_bb_overflow", MISSED)),
    within(&["port_rx_overflow"], rx("port_rx_pm_discard_vfifo_full", MISSED)),
    within(&["port_rx_overflow"], rx("port_rx_pm_discard_qbb", MISSED)),
    within(&["port_rx_overflow"], rx("port_rx_pm_discard_mapping", MISSED)),
    rx("port_rx_bad", CRC),
    within(&["port_rx_bad"], rx("rx_bad", CRC)),
    within(&["port_rx_bad"], rx("port_rx_bad_gtjumbo", "frame too long and damaged")),
    within(&["port_rx_bad", "rx_bad"], rx("rx_eth_crc_err", CRC)),
    rx("port_rx_gtjumbo", LONG),
    rx("port_rx_align_error", ALIGNED),
    rx("port_rx_length_error", "length wrong"),
    rx("rx_frm_trunc", "cut off: it did not fit into its buffers"),
    rx("rx_xdp_bad_drops", "could not be given to the XDP program"),
    rx_perhaps("port_rx_pm_trunc_bb_overflow", "cut off in the card's buffer"),
    rx_perhaps("port_rx_pm_trunc_vfifo_full", "cut off in the card's buffer"),
    rx_perhaps("port_rx_pm_trunc_qbb", "cut off in the card's buffer"),
    rx_perhaps("port_rx_dp_q_disabled_packets", "its queue was switched off"),
    rx_perhaps("port_rx_dp_di_dropped_packets", "dropped, also because nobody wanted it"),
    rx_perhaps("rx_tobe_disc", "marked for discarding"),
    tx("tx_bad", "not sent by the card"),
    tx("tx_overflow", "the card's send buffer was full"),
];

/// Emulex OneConnect (`emulex/benet/be_ethtool.c`, whose comments say which are drops). What does
/// not pass the address filter is no loss; frames with a wrong checksum inside are handed on.
pub(crate) const BE2NET: &[LossName] = &[
    rx("rx_drops_no_pbuf", MISSED),
    rx("rx_drops_no_erx_descr", "the card's queue of receive descriptors was full"),
    rx("rx_drops_no_tpre_descr", "the card's queue for storage frames was full"),
    rx("rx_drops_no_frags", NO_DESCRIPTOR),
    rx("rx_drops_no_skbs", "no memory to take the frame out of the ring"),
    rx("rx_drops_too_many_frags", "more pieces than allowed"),
    rx("rx_drops_mtu", LONG),
    rx("rxpp_fifo_overflow_drop", MISSED),
    rx("rx_input_fifo_overflow_drop", MISSED),
    rx("pmem_fifo_overflow_drop", MISSED),
    rx("eth_red_drops", "dropped early, before the card's buffer was full"),
    rx("rx_crc_errors", CRC),
    rx("rx_alignment_symbol_errors", ALIGNED),
    rx("rx_in_range_errors", "length wrong"),
    rx("rx_out_range_errors", "length wrong"),
    rx("rx_frame_too_long", LONG),
    rx("rx_dropped_too_small", "length wrong inside"),
    rx("rx_dropped_too_short", "length wrong inside"),
    rx("rx_dropped_header_too_small", "length wrong inside"),
    rx("rx_dropped_tcp_length", "length wrong inside"),
    rx("rx_dropped_runt", SHORT),
    rx_perhaps("rx_compl_err", "receive descriptor in error"),
    rx_perhaps("rx_post_fail", NO_MEMORY),
    rx_perhaps("jabber_events", "frame too long and damaged"),
    tx("tx_drv_drops", "dropped by the driver"),
    tx("tx_hdr_parse_err", "headers that the card cannot take"),
    tx("tx_dma_err", "could not be read from memory"),
    tx("tx_spoof_check_err", "sender's address not allowed to this function"),
    tx("tx_tso_err", "could not be cut into segments"),
    tx("tx_qinq_err", "tagged twice, which the card does not take"),
    tx("tx_internal_parity_err", "damaged inside the card"),
    tx_perhaps("dma_map_errors", "could not be mapped for the card"),
];

/// Cisco's (`cisco/enic`): its driver adds the first two up as the kernel's `rx_dropped`.
pub(crate) const ENIC: &[LossName] = &[
    rx("rx_no_bufs", NO_DESCRIPTOR),
    rx("rx_drop", "dropped by the card"),
    rx("rx_errors", "frame damaged or refused by the card"),
    within(&["rx_errors"], rx("rx_crc_errors", CRC)),
    tx("tx_drops", "dropped by the card"),
    tx("tx_errors", "not sent by the card"),
    tx_perhaps("dma_map_error", "could not be mapped for the card"),
];

/// NVIDIA ConnectX-3 (`mellanox/mlx4/en_ethtool.c`). Two of its names are one register.
pub(crate) const MLX4: &[LossName] = &[
    rx("rx_missed_errors", MISSED),
    within(&["rx_missed_errors"], rx("rx_fifo_errors", MISSED)),
    within(&["rx_missed_errors"], rx("rx_over_errors", MISSED)),
    rx("rx_dropped", NO_DESCRIPTOR),
    rx("rx_errors", "frame damaged or refused by the card"),
    within(&["rx_errors"], rx("rx_crc_errors", CRC)),
    within(&["rx_errors"], rx("rx_length_errors", "length wrong")),
    rx_perhaps("rx_alloc_failed", NO_MEMORY),
    tx("tx_dropped", "dropped by the driver"),
    tx("tx_errors", "not sent by the card"),
    tx_perhaps("tx_timeout", "a send queue stood still for seconds"),
];

/// QLogic FastLinQ (`qlogic/qede/qede_ethtool.c`). What a filter discards is no loss.
pub(crate) const QEDE: &[LossName] = &[
    rx("no_buff_discards", NO_DESCRIPTOR),
    rx("brb_discards", MISSED),
    rx_perhaps("brb_truncates", "cut off in the card's buffer"),
    rx("rx_hw_errors", "receive descriptor in error"),
    rx("rx_alloc_errors", "no memory to take the frame out of the ring"),
    rx("rx_crc_errors", CRC),
    rx("rx_align_errors", ALIGNED),
    rx("rx_oversize_packets", LONG),
    rx("rx_undersize_packets", SHORT),
    rx_perhaps("rx_jabbers", "frame too long and damaged"),
    rx_perhaps("rx_fragments", "piece of a frame"),
    tx("tx_err_drop_pkts", "dropped by the card"),
];

/// Chelsio T4 to T6 (`chelsio/cxgb4/cxgb4_ethtool.c`): four groups of buffers.
pub(crate) const CXGB4: &[LossName] = &[
    rx("rx_bg0_frames_dropped", MISSED),
    rx("rx_bg1_frames_dropped", MISSED),
    rx("rx_bg2_frames_dropped", MISSED),
    rx("rx_bg3_frames_dropped", MISSED),
    rx_perhaps("rx_bg0_frames_trunc", "cut off in the card's buffer"),
    rx_perhaps("rx_bg1_frames_trunc", "cut off in the card's buffer"),
    rx_perhaps("rx_bg2_frames_trunc", "cut off in the card's buffer"),
    rx_perhaps("rx_bg3_frames_trunc", "cut off in the card's buffer"),
    rx("rx_frames_too_long", LONG),
    rx("rx_jabber_errors", "frame too long and damaged"),
    rx("rx_fcs_errors", CRC),
    rx("rx_length_errors", "length wrong"),
    rx("rx_runt_frames", SHORT),
    rx_perhaps("rx_symbol_errors", "damaged on the wire: cable or transceiver"),
    tx("tx_frames_dropped", "dropped by the card"),
    tx("tx_error_frames", "not sent by the card"),
];

/// AMD Pensando (`pensando/ionic/ionic_stats.c`): the first ones are the kernel's, as the card has
/// them.
pub(crate) const IONIC: &[LossName] = &[
    rx("hw_rx_dropped", "dropped by the card"),
    rx("hw_rx_over_errors", NO_DESCRIPTOR),
    rx("hw_rx_missed_errors", MISSED),
    rx("rx_dropped", "dropped by the driver"),
    rx("frames_rx_bad_fcs", CRC),
    rx_perhaps("frames_rx_dropped", "dropped at the port"),
    rx_perhaps("frames_rx_bad_length", "length wrong"),
    rx_perhaps("rx_alloc_err", NO_MEMORY),
    tx("hw_tx_dropped", "dropped by the card"),
    tx("hw_tx_aborted_errors", "not sent by the card"),
    tx_perhaps("tx_dma_map_err", "could not be mapped for the card"),
];

/// Aquantia's (`aquantia/atlantic/aq_ethtool.c`).
pub(crate) const ATLANTIC: &[LossName] = &[
    rx("InDroppedDma", NO_DESCRIPTOR),
    rx("InErrors", "frame damaged or refused by the card"),
    rx_perhaps("SkbAllocFails", "no memory to take the frame out of the ring"),
    rx_perhaps("AllocFails", NO_MEMORY),
];

/// Cavium ThunderX (`cavium/thunder/nicvf_ethtool.c`).
pub(crate) const NICVF: &[LossName] = &[
    rx("rx_drops", "dropped by the card"),
    within(&["rx_drops"], rx("rx_drop_red", "dropped early: its queue was nearly full")),
    within(&["rx_drops"], rx("rx_drop_overrun", NO_DESCRIPTOR)),
    rx("rx_fcs_errors", CRC),
    rx("rx_l2_errors", "frame damaged or refused by the card"),
    tx("tx_drops", "dropped by the card"),
];
