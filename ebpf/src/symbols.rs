//! Names of places in the kernel's code.

use std::{fs, sync::OnceLock};

/// The kernel's symbols, read at the latest when the first one is asked for.
#[derive(Default)]
pub struct Symbols {
    sorted: OnceLock<Vec<(u64, String)>>,
}

impl Symbols {
    /// Reads them now, which takes a tenth of a second: not while something is measured.
    pub(crate) fn read() -> Self {
        Self { sorted: OnceLock::from(read()) }
    }

    /// The function at an address; the address itself where the kernel hides addresses.
    pub fn name(&self, address: u64) -> String {
        self.find(address).map_or_else(|| format!("{address:#x}"), str::to_owned)
    }

    /// The function at an address.
    pub fn find(&self, address: u64) -> Option<&str> {
        let sorted = self.sorted.get_or_init(read);
        let after = sorted.partition_point(|(start, _)| *start <= address);
        after.checked_sub(1).and_then(|index| sorted.get(index)).map(|(_, name)| name.as_str())
    }

    /// The first address of a function, and the one behind its last.
    pub(crate) fn range(&self, name: &str) -> Option<[u64; 2]> {
        let sorted = self.sorted.get_or_init(read);
        let place = sorted.iter().position(|(_, own)| own == name)?;
        let start = sorted[place].0;
        let end = sorted[place..].iter().map(|(address, _)| *address).find(|it| *it > start)?;
        Some([start, end])
    }

    /// Whether the kernel hides its addresses: without CAP_SYSLOG, or with
    /// `kernel.kptr_restrict` 2.
    pub fn are_hidden(&self) -> bool {
        self.sorted.get_or_init(read).is_empty()
    }
}

/// Functions by address. Without permission all addresses read 0.
fn read() -> Vec<(u64, String)> {
    let text = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let mut sorted: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            let name = words.next()?;
            (address != 0 && matches!(kind, "t" | "T" | "w" | "W"))
                .then(|| (address, name.to_owned()))
        })
        .collect();
    sorted.sort_by_key(|(address, _)| *address);
    sorted
}
