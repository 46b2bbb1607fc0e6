//! Sums of losses, over the counters of every driver there is a file of.

use super::*;
use crate::nic::fixtures::{card, of_file};

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
    // A pair of virtual interfaces drops on sending, and only the kernel's counter has it.
    let own = [("peer_ifindex", 3), ("rx_queue_0_drops", 2)];
    check(&card("veth", &own, &[("tx_dropped", 9)]), 2, 9, 2);
}

#[test]
fn a_driver_that_nobody_knows_has_suspicious_names_and_no_sum() {
    let own = [("rx_discards", 10), ("rx_queue_1_ring_full_drops", 3), ("tx_aborts", 0)];
    let losses = card("newnic", &own, &[("rx_missed_errors", 5)]).losses();
    assert_eq!((losses.received, losses.sent, losses.frames()), (None, None, None));
    let seen: Vec<_> =
        losses.by_name.iter().map(|row| (row.name.as_str(), row.queue, row.frames)).collect();
    let wanted = [
        ("rx_discards", None, Some(10)),
        ("rx_ring_full_drops", Some(1), Some(3)),
        ("rx_missed_errors", None, Some(5)),
    ];
    assert_eq!(seen, wanted);
    // Nothing counted yet is not known to be nothing lost.
    let quiet = card("newnic", &[("rx_discards", 0)], &[]).losses();
    assert_eq!((quiet.received, quiet.sent), (None, None));
    // Without counters of its own the kernel's are all there is.
    let mut reading = card("newnic", &[], &[("rx_missed_errors", 5), ("rx_dropped", 70)]);
    (reading.driver_counters, reading.queues) = (None, None);
    check(&reading, 5, 0, 1);
}

#[test]
fn every_drivers_losses_are_summed_as_its_names_mean_them() {
    let check = |file: &str, driver: &str, received: &[u64], sent: &[u64]| {
        let losses = of_file(driver, file).losses();
        let wanted = (Some(received.iter().sum()), Some(sent.iter().sum()));
        assert_eq!((losses.received, losses.sent), wanted, "{file}: {losses:#?}");
    };
    check("iavf", "iavf", &[6], &[12, 13]);
    check("i40e", "i40e", &[7, 120, 122, 128, 147, 148, 149, 150], &[8, 119, 121]);
    let received = [8, 334, 336, 342, 361, 362, 363, 364];
    check("i40e-v2.3.2k", "i40e", &received, &[9, 333, 335]);
    let received = [10, 565, 559, 560, 561, 562, 564, 566];
    check("ice", "ice", &received, &[538, 558]);
    check("ixgbe", "ixgbe", &[16, 38, 13, 31, 32, 45], &[17, 18, 19]);
    check("bnx2", "bnx2", &[45, 46, 47, 13, 14, 23, 24], &[11, 12, 18, 19]);
    let received = [148, 153, 158, 159, 142, 143, 144, 145];
    check("bnx2x", "bnx2x", &received, &[167, 168, 172, 173]);
    check("tg3", "tg3", &[61, 62], &[56, 57]);
    check("r8169", "r8169", &[5, 6], &[4]);
    check("sfc", "sfc", &[2, 3, 24, 38, 40, 41, 90, 94], &[69, 71]);
    check("enic", "enic", &[7, 8, 9], &[3, 4]);
    check("hv_netvsc", "hv_netvsc", &[9], &[3, 4, 5, 12, 17]);
    check("virtio_net", "virtio_net", &[], &[]);
    check("virtio_net-6.9plus", "virtio_net", &[4, 10], &[16]);
    check("vmxnet3", "vmxnet3", &[51, 52, 53, 66, 67, 68], &[11, 12, 13, 31, 32, 33]);
    // What the device drops comes by the kernel's counter with this driver.
    check("ena-new", "ena", &[11, 13, 1_000_000], &[16]);
    let each = |lines: [u64; 3]| (0..4).flat_map(move |ring| lines.map(|line| line + 23 * ring));
    let received: Vec<u64> = each([25, 27, 29]).chain([1_000_000]).collect();
    let sent: Vec<u64> = each([12, 14, 18]).collect();
    check("ena", "ena", &received, &sent);
    let whole = [1, 2, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 23, 25, 26, 27, 28, 30, 32];
    let of_rings = (0..9).flat_map(|ring| [45 + 9 * ring, 46 + 9 * ring]);
    let received: Vec<u64> = whole.into_iter().chain(of_rings).collect();
    let first = [120, 121, 122, 123, 124, 125, 131];
    let sent: Vec<u64> = (0..8).flat_map(|ring| first.map(|line| line + 13 * ring)).collect();
    check("be2net", "be2net", &received, &sent);
    let received = [27, 39, 62, 69, 70, 71, 72, 78, 81, 82, 83];
    check("mlx5_core", "mlx5_core", &received, &[25, 79, 80]);
}

#[test]
fn every_file_of_counters_has_its_queues_told_apart() {
    let check = |file: &str, driver: &str, queues: usize| {
        let reading = of_file(driver, file);
        assert_eq!(reading.queues.map(|queues| queues.len()), Some(queues), "{file}");
    };
    check("iavf", "iavf", 16);
    check("i40e", "i40e", 12);
    check("i40e-v2.3.2k", "i40e", 64);
    check("ice", "ice", 128);
    check("bnx2", "bnx2", 0);
    check("bnx2x", "bnx2x", 8);
    check("sfc", "sfc", 18);
    check("be2net", "be2net", 9);
    check("virtio_net", "virtio_net", 2);
    check("virtio_net-6.9plus", "virtio_net", 1);
    check("vmxnet3", "vmxnet3", 2);
    check("ena", "ena", 4);
    check("mlx5_core", "mlx5_core", 16);
    check("hv_netvsc", "hv_netvsc", 1);
}

#[test]
fn drivers_beside_the_files_are_summed_as_their_sources_say() {
    // Names from Linux, drivers/net/ethernet; the values count up.
    let check = |driver: &str, names: &[&str], received: u64, sent: u64| {
        let own: Vec<_> = names.iter().copied().zip(1..).collect();
        let losses = card(driver, &own, &[]).losses();
        let found = (losses.received, losses.sent);
        assert_eq!(found, (Some(received), Some(sent)), "{driver}: {losses:#?}");
    };
    let own = [
        "rx_dropped",
        "tx_dropped",
        "rx_skb_alloc_fail",
        "rx_dropped_pkt[0]",
        "rx_queue_drop_cnt[0]",
        "rx_no_buffers_posted[0]",
        "tx_timeouts",
    ];
    check("gve", &own, 1 + 5, 2);
    let own = [
        "rx_errors",
        "tx_errors",
        "rx_dropped",
        "tx_dropped",
        "rx_crc_errors",
        "rx_fifo_errors",
        "rx_missed_errors",
        "rx0_packets",
    ];
    check("mlx4_en", &own, 1 + 3 + 7, 2 + 4);
    let own = [
        "brb_truncates",
        "brb_discards",
        "no_buff_discards",
        "mac_filter_discards",
        "tx_err_drop_pkts",
        "rx_hw_errors",
    ];
    check("qede", &own, 2 + 3 + 6, 5);
    let own = [
        "tx_error_frames        ",
        "tx_frames_dropped      ",
        "rx_fcs_errors          ",
        "rx_bg0_frames_dropped  ",
        "rx_bg1_frames_dropped  ",
        "bg0_frames_dropped     ",
    ];
    check("cxgb4", &own, 3 + 4 + 5, 1 + 2);
    let own = [
        "hw_tx_dropped",
        "hw_rx_dropped",
        "hw_rx_over_errors",
        "frames_rx_64b",
        "rx_0_pkts",
        "rx_0_dropped",
        "rx_1_dropped",
        "tx_0_pkts",
    ];
    check("ionic", &own, 2 + 3 + 6 + 7, 1);
    let own = ["InErrors", "InDroppedDma", "Queue[0] InErrors", "Queue[1] InErrors"];
    let losses = card("atlantic", &own.map(|name| (name, 2)), &[]).losses();
    assert_eq!((losses.received, losses.by_name.len()), (Some(4), 4), "{losses:#?}");
    let own = ["rx_drops", "rx_drop_red", "rx_drop_overrun", "rx_fcs_errors", "tx_drops"];
    check("nicvf", &own, 1 + 4, 5);
    check("idpf", &["rx-csum_errors", "rx-bad_descs", "tx-skb_drops"], 2, 3);
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
