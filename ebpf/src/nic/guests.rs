//! The same of cards that a hypervisor or the kernel makes up.
//!
//! Tables and nothing else. What the host drops before the guest's card is seen only where the
//! host tells the driver.

use super::loss_name::*;

/// A virtual machine's card.
pub(crate) const VIRTIO: &[LossName] = &[
    rx("rx_drops", "the driver could not make a packet of it: no memory, or a bad frame"),
    rx("rx_hw_drops", "the host had no buffer of the guest's, or could not give it"),
    within(&["rx_hw_drops"], rx("rx_hw_drop_overruns", "no buffer of the guest's was free")),
    tx("tx_hw_drops", "dropped by the host"),
    within(&["tx_hw_drops"], tx("tx_hw_drop_malformed", "the host found it malformed")),
    within(&["tx_hw_drops"], tx("tx_hw_drop_errors", "the host found it in error")),
    tx_perhaps("tx_timeouts", "a send queue stood still for seconds"),
];

/// A pair of virtual interfaces.
pub(crate) const VETH: &[LossName] =
    &[rx("rx_drops", "no memory, or the receiving queue was full")];

pub(crate) const VETH_LINK: &[LossName] =
    &[tx("tx_dropped", "the other end was down, or its queue was full")];

/// Amazon's. The device's own drops come by its keep-alive into the kernel's counters.
pub(crate) const ENA: &[LossName] = &[
    rx("rx_bad_desc_num", "more pieces than the device may send"),
    rx("rx_skb_alloc_fail", "no memory to take the frame out of the ring"),
    rx("rx_bad_req_id", "an answer without a request"),
    rx_perhaps("rx_page_alloc_fail", NO_MEMORY),
    rx_perhaps("rx_dma_mapping_err", "a receive buffer could not be mapped"),
    rx_perhaps("rx_refil_partial", "the ring could not be filled up"),
    rx_perhaps("rx_empty_rx_ring", "the ring stood empty"),
    rx_perhaps("bw_in_allowance_exceeded", "held or dropped: bandwidth of the instance type"),
    rx("conntrack_allowance_exceeded", "dropped: connections that the instance type may track"),
    rx("linklocal_allowance_exceeded", "dropped: packets a second to the local services"),
    tx_perhaps("bw_out_allowance_exceeded", "held or dropped: bandwidth of the instance type"),
    tx_perhaps("pps_allowance_exceeded", "held or dropped: packets a second, either way"),
    tx("tx_dma_mapping_err", "could not be mapped for the device"),
    tx("tx_linearize_failed", "no memory to make one piece of it"),
    tx("tx_prepare_ctx_err", "could not be described to the device"),
    tx_perhaps("tx_bad_req_id", "an answer without a request"),
    tx_perhaps("tx_missed_tx", "the device did not say that it was sent"),
];

pub(crate) const ENA_LINK: &[LossName] = &[
    rx("rx_dropped", "dropped by the device: no receive descriptor free"),
    tx("tx_dropped", "dropped by the device"),
];

/// VMware's.
pub(crate) const VMXNET3: &[LossName] = &[
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
    within(&["drv dropped tx total"], tx("giant hdr", "headers longer than the device takes")),
    within(&["drv dropped tx total"], tx("tso", "could not be cut into segments")),
    tx_perhaps("ring full", "the send queue was stopped"),
];

/// Hyper-V's and Azure's (`hyperv/netvsc_drv.c`): each is followed by a drop there. What the host
/// itself drops, nobody in the guest counts.
pub(crate) const NETVSC: &[LossName] = &[
    rx("rx_no_memory", "no memory for the frame that the host gave"),
    rx_perhaps("rx_comp_busy", "no place for the answer to the host"),
    tx("tx_no_memory", "no memory to describe it"),
    tx("tx_no_space", "no place in the ring to the host"),
    tx("tx_too_big", "more pieces than the host takes"),
    tx("vlan_error", "its tag could not be taken off"),
    tx("vf_tx_dropped", "dropped by the card behind it"),
    tx_perhaps("tx_busy", "the ring to the host was full; kept and tried again"),
];

/// Google's (`google/gve/gve_ethtool.c`): the driver's sum and its parts, then the device's.
pub(crate) const GVE: &[LossName] = &[
    rx("rx_dropped", "dropped by the driver"),
    within(&["rx_dropped"], rx("rx_skb_alloc_fail", "no memory to take it out of the ring")),
    within(&["rx_dropped"], rx("rx_buf_alloc_fail", NO_MEMORY)),
    within(&["rx_dropped"], rx("rx_desc_err_dropped_pkt", "receive descriptor in error")),
    within(&["rx_dropped"], rx("rx_dropped_pkt", "dropped by the driver")),
    rx("rx_queue_drop_cnt", "dropped by the device"),
    within(&["rx_queue_drop_cnt"], rx("rx_no_buffers_posted", NO_DESCRIPTOR)),
    within(&["rx_queue_drop_cnt"], rx("rx_drops_packet_over_mru", LONG)),
    within(&["rx_queue_drop_cnt"], rx("rx_drops_invalid_checksum", "checksum wrong inside")),
    tx("tx_dropped", "dropped by the driver"),
    tx_perhaps("tx_dma_mapping_error", "could not be mapped for the device"),
    tx_perhaps("tx_timeouts", "a send queue stood still for seconds"),
];

/// Intel's infrastructure cards (`intel/idpf`). The device's drops come into the kernel's counters.
pub(crate) const IDPF: &[LossName] = &[
    rx("rx-bad_descs", "receive descriptor in error"),
    tx("tx-skb_drops", "dropped by the driver"),
    tx_perhaps("tx-dma_map_errs", "could not be mapped for the device"),
];

pub(crate) const IDPF_LINK: &[LossName] =
    &[rx("rx_dropped", "dropped by the device: no receive descriptor free")];

/// A program's interface: the driver has no counters of its own.
pub(crate) const TUN_LINK: &[LossName] =
    &[tx("tx_dropped", "the program behind the interface did not read in time")];
