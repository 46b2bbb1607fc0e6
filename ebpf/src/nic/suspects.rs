//! Counters of a driver that the tables do not know, whose names speak of a loss.
//!
//! A pure function of a name. It finds what a reader should look at; it never makes a sum: the
//! same word is a frame lost with one driver and a harmless event with the next.

use super::loss_name::Direction;

/// Parts of names that speak of frames lost.
const WORDS: [&str; 29] = [
    "drop",
    "discard",
    "miss",
    "lost",
    "loss",
    "err",
    "fail",
    "overrun",
    "overflow",
    "underrun",
    "fifo",
    "no_buf",
    "nobuf",
    "no_pbuf",
    "no_desc",
    "nodesc",
    "no_mem",
    "nomem",
    "oob",
    "out_of_buf",
    "trunc",
    "crc",
    "fcs",
    "abort",
    "jabber",
    "runt",
    "size_pkts",
    "exceeded",
    "reject",
];

/// Parts of names that speak of something else: a checksum inside that the stack looks at again,
/// frames that an XDP program or a filter did not want, caches, commands to the card.
const HARMLESS: [&str; 10] = [
    "csum", "chksum", "checksum", "xdp_drop", "filter", "cache", "fdir", "arfs", "adminq",
    "admin_q",
];

/// Whether a name speaks of frames lost.
pub(crate) fn speaks_of_loss(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    has(&WORDS) && !has(&HARMLESS)
}

/// Which way the frames of a suspicious counter went: received, unless its name says otherwise.
pub(crate) fn direction(name: &str) -> Direction {
    let name = name.to_ascii_lowercase();
    let sent = name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "tx")
        || name.starts_with("tx")
        || name.starts_with("out");
    if sent { Direction::Sent } else { Direction::Received }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_speak_of_loss_are_told_from_others() {
        // Names of drivers that the tables do not have (Linux, drivers/net): stmmac, mvneta,
        // octeontx2, hns3, fec, liquidio, bna, netxen, macb.
        for name in [
            "mmc_rx_fifo_overflow",
            "rx_discard",
            "rx_over_errors",
            "cgx_rx_errors",
            "rx_drop_re",
            "rx_missed_cntr",
            "mac_rx_fcs_err_pkt_num",
            "ssu_full_drop_num",
            "IEEE_rx_drop",
            "rx_total_rcvd_dropped",
            "rxf0_frame_drops",
            "tx_underrun",
            "RxOverrunErrors",
        ] {
            assert!(speaks_of_loss(name), "{name}");
        }
        for name in [
            "rx_packets",
            "rx_csum_err",
            "rx0_xdp_drop",
            "tx_pause",
            "rx_address_filtered",
            "adminq_cmd_fail",
            "rx_cache_full",
            "interface_up",
        ] {
            assert!(!speaks_of_loss(name), "{name}");
        }
    }

    #[test]
    fn the_way_is_in_the_name() {
        for name in ["tx_underrun", "mac_tx_err", "OutDropped", "tx0_drops"] {
            assert_eq!(direction(name), Direction::Sent, "{name}");
        }
        for name in ["rx_drops", "fcs_errors", "ctx_miss"] {
            assert_eq!(direction(name), Direction::Received, "{name}");
        }
    }
}
