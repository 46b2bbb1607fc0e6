//! Network cards, and what holds packets back.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
};

use super::{Doctor, Finding};

/// What delays packets on purpose: the kernel's name, and a function that is there when it is.
const QDISCS: [(&str, &str); 2] = [("netem", "netem_enqueue"), ("tbf", "tbf_enqueue")];

impl Doctor {
    pub(super) fn cards(&self) -> Vec<Finding> {
        if self.live.cards.is_empty() {
            let found = "nothing but loopback in this network namespace";
            return vec![
                Finding::ok("network card", found).with_consequence("no frame can be lost at one"),
            ];
        }
        let check = |card: &super::Card| {
            let name = format!("network card {}", card.name);
            let driver = if card.driver.is_empty() { "no driver" } else { &card.driver };
            match &card.counters {
                Ok(count) if card.known => {
                    Finding::ok(name, format!("{driver}, {count} counters of its own"))
                }
                Ok(count) => Finding::less(
                    name,
                    format!("{driver}, {count} counters of its own, none known to mean a loss"),
                    "losses at the card are counted by rx_missed_errors and the like only",
                    "say which of `ethtool -S` mean a loss, for the table in ebpf/src/nic",
                ),
                Err(reason) => Finding::less(
                    name,
                    format!("{driver}: {reason}"),
                    "losses at the card are counted by rx_missed_errors and the like only",
                    "none: the driver does not have them",
                ),
            }
        };
        self.live.cards.iter().map(check).collect()
    }

    pub(super) fn qdiscs(&self) -> Vec<Finding> {
        let there = self.functions(&QDISCS.map(|(_, function)| function));
        let modules = self
            .of_proc("sys/kernel/osrelease")
            .and_then(|release| super::text(&self.modules().join(release).join("modules.dep")))
            .unwrap_or_default();
        let check = |((name, _), there): ((&'static str, _), bool)| {
            if there {
                return Finding::ok(name, "in the kernel");
            }
            if modules.contains(&format!("/sch_{name}.ko")) {
                return Finding::ok(name, "as a module, loaded when asked for");
            }
            let other = if name == "netem" {
                "delays are made by tbf and by a forwarder instead"
            } else {
                "delays are made by netem or by a forwarder instead"
            };
            let way_out = format!("boot a kernel with CONFIG_NET_SCH_{}", name.to_uppercase());
            Finding::less(name, "not in the kernel", other, way_out)
        };
        QDISCS.into_iter().zip(there).map(check).collect()
    }

    /// `/lib/modules`, which lies beside `/proc`.
    fn modules(&self) -> std::path::PathBuf {
        self.proc.parent().unwrap_or(&self.proc).join("lib/modules")
    }

    /// Whether the kernel has functions of these names, loaded modules included.
    fn functions<const N: usize>(&self, names: &[&str; N]) -> [bool; N] {
        let mut there = [false; N];
        let Ok(file) = File::open(self.proc.join("kallsyms")) else { return there };
        // 200,000 lines or so: one buffer for all.
        let (mut reader, mut line) = (BufReader::with_capacity(1 << 16, file), String::new());
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            let function = line.split_whitespace().nth(2);
            if let Some(place) = names.iter().position(|name| Some(*name) == function) {
                there[place] = true;
            }
            line.clear();
        }
        there
    }
}
