//! Connections that found the server's accept queue full.
//!
//! No tracepoint shows them: a SYN that finds the queue full is freed as if it had been used. The
//! kernel counts it all the same, per network namespace, so this reads the counters of the
//! server's.

use std::{fs, sync::OnceLock};

/// The kernel's count for a namespace, from the first reading on.
#[derive(Default)]
pub(crate) struct ListenQueue {
    first: OnceLock<u64>,
}

impl ListenQueue {
    /// Overflows in the namespace of a process since the first call.
    pub(crate) fn overflows(&self, pid: u32) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/net/netstat")).ok()?;
        let now = find(&text, "TcpExt:", "ListenOverflows")?;
        Some(now.saturating_sub(*self.first.get_or_init(|| now)))
    }
}

/// A figure of netstat's pairs of lines, names above values.
fn find(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let names = lines.next()?.split_ascii_whitespace();
    let mut pairs = names.zip(lines.next()?.split_ascii_whitespace());
    pairs.find(|(own, _)| *own == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_name() {
        let text = "TcpExt: A ListenOverflows B\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 7\n";
        assert_eq!(find(text, "TcpExt:", "ListenOverflows"), Some(22));
        assert_eq!(find(text, "IpExt:", "A"), Some(7));
        assert_eq!(find(text, "IpExt:", "ListenOverflows"), None);
    }
}
