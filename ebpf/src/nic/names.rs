//! Which queue a driver's counter is of: each driver has its own way to say so.
//!
//! A pure function of the list of names and values; knows no driver by name.

/// Queues of one card at most; a larger number in a name is something else.
const QUEUES: u32 = 4096;

/// What a name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    /// The queue; `None` for a counter of the whole interface.
    pub(crate) queue: Option<u32>,
    /// The name without its queue, its direction kept: `rx_packets`.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: u64,
}

/// What may stand before a queue's number, and the direction it stands for. Longer ones first.
const BEFORE: [(&str, &str); 15] = [
    ("rx_queue_", "rx_"),
    ("tx_queue_", "tx_"),
    ("rx-queue-", "rx_"),
    ("tx-queue-", "tx_"),
    ("queue_", ""),
    ("rvec_", ""),
    ("rxq_", "rx_"),
    ("txq_", "tx_"),
    ("rxq", "rx_"),
    ("txq", "tx_"),
    ("rx-", "rx_"),
    ("tx-", "tx_"),
    ("rx", "rx_"),
    ("tx", "tx_"),
    ("q", ""),
];

/// Sorts a driver's counters, in its order, into those of queues and those of the whole.
///
/// | written | by | queue, name |
/// | --- | --- | --- |
/// | `rx_queue_3_packets` | igb, ixgbe, ice, veth | 3, `rx_packets` |
/// | `rx3_packets` | mlx5, mlx4, virtio_net | 3, `rx_packets` |
/// | `rx-3.packets`, `rx-3.rx_packets` | i40e, sfc | 3, `rx_packets` |
/// | `queue_3_rx_cnt` | ena | 3, `rx_cnt` |
/// | `[3]: rx_discards`, `3: rx_discards` | bnxt, bnx2x, qede | 3, `rx_discards` |
/// | `rxq3: rx_drops` | be2net | 3, `rx_drops` |
/// | `rx_packets[3]` | gve | 3, `rx_packets` |
/// | `rx_3_packets`, when there is `rx_0_` | mana, ionic | 3, `rx_packets` |
/// | `Queue[3] InErrors` | atlantic | 3, `InErrors` |
/// | `Rx Queue#` = 3, then names set in | vmxnet3 | 3, as it stands |
pub(crate) fn sort(raw: Vec<(String, u64)>) -> Vec<Counter> {
    // `rx_64_bytes_phy` is a size: only a card that has a queue 0 so written counts queues so.
    let bare = raw.iter().any(|(name, _)| is_queue_zero(name.trim()));
    let mut section = None;
    raw.into_iter()
        .map(|(raw, value)| {
            let name = raw.trim();
            if let Some(title) = name.strip_suffix('#') {
                section = u32::try_from(value).ok().filter(|queue| *queue < QUEUES);
                return Counter { queue: section, name: title.trim().to_owned(), value };
            }
            if !raw.starts_with(' ') {
                section = None;
            }
            if section.is_some() {
                return Counter { queue: section, name: name.to_owned(), value };
            }
            match of_queue(name).or_else(|| if bare { of_bare_number(name) } else { None }) {
                Some((queue, name)) => Counter { queue: Some(queue), name, value },
                None => Counter { queue: None, name: name.to_owned(), value },
            }
        })
        .collect()
}

/// A name's queue and the rest of it.
fn of_queue(name: &str) -> Option<(u32, String)> {
    if let Some(rest) = name.strip_prefix('[') {
        let (queue, rest) = number(rest)?;
        return Some((queue, rest.strip_prefix("]:")?.trim().to_owned()));
    }
    if let Some((_, rest)) = name.split_once("Queue[") {
        let (queue, rest) = number(rest)?;
        return Some((queue, rest.strip_prefix(']')?.trim_start().to_owned()));
    }
    if let Some((rest, queue)) = name.strip_suffix(']').and_then(|name| name.rsplit_once('[')) {
        let (queue, nothing) = number(queue)?;
        return nothing.is_empty().then(|| (queue, rest.to_owned()));
    }
    if let Some((queue, rest)) = number(name) {
        return Some((queue, rest.strip_prefix(':')?.trim().to_owned()));
    }
    BEFORE.iter().find_map(|(before, direction)| {
        let (queue, rest) = number(name.strip_prefix(before)?)?;
        let rest = rest.strip_prefix(['_', '.', '-', ':'])?.trim_start();
        // `rx-3.rx_packets` says it twice.
        let has_direction = rest.starts_with("rx_") || rest.starts_with("tx_");
        let direction = if has_direction { "" } else { direction };
        (!rest.is_empty()).then(|| (queue, format!("{direction}{rest}")))
    })
}

/// Whether a name is of queue 0 as in `rx_0_packets`; `rx_0_to_64_bytes` is a size.
fn is_queue_zero(name: &str) -> bool {
    ["rx_0_", "tx_0_"].into_iter().any(|zero| {
        name.strip_prefix(zero).is_some_and(|rest| !rest.starts_with("to_") && rest != "bytes_phy")
    })
}

/// `rx_3_packets`.
fn of_bare_number(name: &str) -> Option<(u32, String)> {
    ["rx_", "tx_"].into_iter().find_map(|way| {
        let (queue, rest) = number(name.strip_prefix(way)?)?;
        let rest = rest.strip_prefix('_')?;
        (!rest.is_empty()).then(|| (queue, format!("{way}{rest}")))
    })
}

/// The number that a text begins with, and what follows.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let queue = text[..end].parse().ok().filter(|queue| *queue < QUEUES)?;
    Some((queue, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_told_from_names() {
        let check = |written: &str, queue: u32, name: &str| {
            assert_eq!(of_queue(written), Some((queue, name.to_owned())), "{written}");
        };
        check("rx_queue_0_packets", 0, "rx_packets");
        check("tx_queue_12_xdp_xmit", 12, "tx_xdp_xmit");
        check("rx0_packets", 0, "rx_packets");
        check("tx31_tx_timeouts", 31, "tx_timeouts");
        check("rx-7.packets", 7, "rx_packets");
        check("tx-7.tx_packets", 7, "tx_packets");
        check("queue_3_rx_cnt", 3, "rx_cnt");
        check("queue_3_xdp_tx_cnt", 3, "xdp_tx_cnt");
        check("[5]: rx_discards", 5, "rx_discards");
        check("5: rx_discards", 5, "rx_discards");
        check("rxq2: rx_drops", 2, "rx_drops");
        check("txq2: be_tx_rate", 2, "tx_be_tx_rate");
        check("rx_posted_desc[4]", 4, "rx_posted_desc");
        check("rvec_9_rx_pkts", 9, "rx_pkts");
        check("q1_rx_pkt_n", 1, "rx_pkt_n");
    }

    #[test]
    fn names_of_the_whole_interface_stay_whole() {
        for name in [
            "rx_packets",
            "rx_64_byte_packets",
            "rx_prio0_discards",
            "tx_prio7_pause",
            "rx_size_1522.nic",
            "port.rx_dropped",
            "rx_64b_frames",
            "rx_pfc_ena_frames_pri0",
            "veb.tc_0_tx_packets",
            "rx_out_of_buffer",
            "tx_queue_dropped",
            "rx_queue_",
            "rx0",
            "rx99999_packets",
            "[3] rx_discards",
            "rx_long_byte_count",
            "64_octets",
            "",
        ] {
            assert_eq!(of_queue(name), None, "{name}");
        }
    }

    #[test]
    fn sections_give_their_queue_to_what_is_set_in() {
        let raw = [
            ("Tx Queue#", 0),
            ("  pkts tx err", 1),
            ("Rx Queue#", 1),
            ("  pkts rx OOB", 2),
            ("  drv dropped rx total", 3),
            ("     err", 4),
            ("tx timeout count", 5),
        ];
        let sorted = sort(raw.map(|(name, value)| (name.to_owned(), value)).to_vec());
        let seen: Vec<_> = sorted.iter().map(|it| (it.queue, it.name.as_str(), it.value)).collect();
        assert_eq!(
            seen,
            [
                (Some(0), "Tx Queue", 0),
                (Some(0), "pkts tx err", 1),
                (Some(1), "Rx Queue", 1),
                (Some(1), "pkts rx OOB", 2),
                (Some(1), "drv dropped rx total", 3),
                (Some(1), "err", 4),
                (None, "tx timeout count", 5),
            ]
        );
    }
}
