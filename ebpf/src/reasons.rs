//! Why packets are dropped, in the words of the running kernel: the numbers differ from kernel to
//! kernel.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{btf::Btf, symbols::Symbols};

/// Where tracefs is looked for. It is not mounted for this: BTF has the names too.
const TRACEFS: &[&str] = &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

const PREFIX: &str = "SKB_DROP_REASON_";

/// Reasons that lose nothing: the data had been received before, the connection was over, or the
/// server's accept queue was full, which is the server's doing and counted apart.
const HARMLESS: &[&str] = &[
    "TCP_OLD_DATA",
    "TCP_OLD_SEQUENCE",
    "TCP_OFOMERGE",
    "TCP_OLD_ACK",
    "TCP_TOO_OLD_ACK",
    "TCP_RESET",
    "SOCKET_CLOSE",
    "TCP_CLOSE",
    "TCP_ABORT_ON_DATA",
    "QUEUE_PURGE",
    "TCP_LISTEN_OVERFLOW",
];

/// The function that lets go of an acknowledgement when it has been taken.
const TAKES: &str = "tcp_rcv_state_process";

/// Functions that turn away a connection by a SYN cookie that finds the accept queue full.
const TURNS_AWAY: [&str; 2] = ["cookie_v4_check", "cookie_v6_check"];

/// Reasons of queue disciplines.
const QDISC: &[&str] = &["QDISC_", "FQ_", "CAKE_", "DUALPI2_"];

/// The reasons of the running kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct DropReasons {
    names: BTreeMap<u32, String>,
}

impl DropReasons {
    /// From the kernel's BTF, else from tracefs where that is mounted; empty when neither has them
    /// (before Linux 5.17).
    pub(crate) fn of_kernel(btf: &Btf) -> Self {
        let names = btf.enumerators("skb_drop_reason").or_else(|| {
            TRACEFS.iter().find_map(|root| {
                let format = Path::new(root).join("events/skb/kfree_skb/format");
                fs::read_to_string(format).ok().map(|text| from_format(&text))
            })
        });
        let short =
            |name: String| name.strip_prefix(PREFIX).map_or_else(|| name.clone(), str::to_owned);
        let names = names.unwrap_or_default();
        Self { names: names.into_iter().map(|(number, name)| (number, short(name))).collect() }
    }

    /// The name of a reason; its number where the kernel has no name for it.
    pub(crate) fn name(&self, number: u32) -> String {
        self.names.get(&number).cloned().unwrap_or_else(|| {
            // The upper half names a subsystem with reasons of its own.
            match (number >> 16, number & 0xffff) {
                (0, reason) => format!("reason_{reason}"),
                (subsystem, reason) => format!("subsystem_{subsystem}_reason_{reason}"),
            }
        })
    }

    /// The number of a reason.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.names.iter().find(|(_, own)| *own == name).map(|(number, _)| *number)
    }

    /// One bit for each reason that loses nothing.
    pub(crate) fn harmless(&self) -> [u32; 8] {
        let mut bits = [0; 8];
        for number in HARMLESS.iter().filter_map(|name| self.number(name)) {
            if let Some(word) = bits.get_mut(number as usize / 32) {
                *word |= 1 << (number % 32);
            }
        }
        bits
    }

    /// Where packets are let go without a loss ([`events::Config::takes`] and `turns_away`).
    pub(crate) fn places(symbols: &Symbols) -> ([u64; 2], [[u64; 2]; 2]) {
        let range = |name| symbols.range(name).unwrap_or_default();
        (range(TAKES), TURNS_AWAY.map(range))
    }

    /// Whether a reason is a queue discipline's.
    pub(crate) fn is_qdisc(name: &str) -> bool {
        QDISC.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// The pairs `{ 2, "NOT_SPECIFIED" }` of a tracepoint's format.
fn from_format(text: &str) -> BTreeMap<u32, String> {
    text.split('{')
        .skip(1)
        .filter_map(|pair| {
            let (number, rest) = pair.split_once(',')?;
            let name = rest.split('"').nth(1)?;
            Some((number.trim().parse().ok()?, name.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_a_format() {
        let text = r#"print fmt: "reason: %s", __print_symbolic(REC->reason,
            { 2, "NOT_SPECIFIED" }, { 33, "TCP_OLD_DATA" }, { 64, "QDISC_DROP" })"#;
        let reasons = DropReasons { names: from_format(text) };
        assert_eq!(reasons.name(2), "NOT_SPECIFIED");
        assert_eq!(reasons.name(5), "reason_5");
        assert_eq!(reasons.name(0x3_0002), "subsystem_3_reason_2");
        assert_eq!(reasons.harmless(), [0, 2, 0, 0, 0, 0, 0, 0]);
        assert!(DropReasons::is_qdisc("QDISC_DROP") && !DropReasons::is_qdisc("NETFILTER_DROP"));
    }
}
