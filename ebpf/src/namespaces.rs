//! Whether this process numbers processes and counts time as the kernel does. Probes report the
//! kernel's numbers and its clock: within a PID namespace no thread would be found by its number,
//! and within a time namespace with an offset no instant would fit another.
//!
//! Owns: how that is told. Must not know: what numbers and clocks are used for.

use std::fs;

/// The inode of the first PID namespace, the same on every kernel since Linux 3.8.
const FIRST_PID_NAMESPACE: u32 = 0xefff_fffc;

/// Why the kernel's numbers and instants are not those of this process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Processes have other numbers here.
    #[error(
        "this process is in a PID namespace of its own, and the kernel numbers processes from \
         outside of it: the probes would find no thread of the run; run the lab outside, or in a \
         container with the host's PID namespace, or without probes (probes: Off)"
    )]
    Processes,
    /// The monotonic clock is another one here.
    #[error(
        "this process is in a time namespace whose monotonic clock is {ahead_s} s ahead of the \
         kernel's, by which the probes stamp requests: run the lab outside, or without probes \
         (probes: Off)"
    )]
    Time {
        /// By how much, in whole seconds; negative when it is behind.
        ahead_s: i64,
    },
}

/// Whether the kernel's numbers and instants are those of this process and of what it starts.
///
/// # Errors
/// [`NamespaceError`]. What `/proc` does not tell is taken to be as usual.
pub(crate) fn check() -> Result<(), NamespaceError> {
    check_numbers()?;
    clock(fs::read_to_string("/proc/self/timens_offsets").ok().as_deref())
}

/// Whether the kernel's numbers are: enough for those who have no clock in common with it.
///
/// # Errors
/// [`NamespaceError::Processes`].
pub(crate) fn check_numbers() -> Result<(), NamespaceError> {
    let own = fs::read_link("/proc/self/ns/pid").ok();
    numbers(own.as_deref().and_then(|link| link.to_str()))
}

/// `namespace` is what the link says.
fn numbers(namespace: Option<&str>) -> Result<(), NamespaceError> {
    let inode = |link: &str| link.strip_prefix("pid:[")?.strip_suffix(']')?.parse::<u32>().ok();
    match namespace.and_then(inode) {
        None | Some(FIRST_PID_NAMESPACE) => Ok(()),
        Some(_) => Err(NamespaceError::Processes),
    }
}

/// `offsets` is what the file says.
fn clock(offsets: Option<&str>) -> Result<(), NamespaceError> {
    match offsets.and_then(monotonic_offset) {
        None | Some((0, 0)) => Ok(()),
        Some((ahead_s, _)) => Err(NamespaceError::Time { ahead_s }),
    }
}

/// Seconds and nanoseconds that the monotonic clock is ahead. Older kernels name the clock `1`.
fn monotonic_offset(text: &str) -> Option<(i64, i64)> {
    let line = |line: &str| {
        let mut parts = line.split_whitespace();
        let is_monotonic = matches!(parts.next()?, "monotonic" | "1");
        let both = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        is_monotonic.then_some(both)
    };
    text.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_numbers_and_another_clock_are_told() {
        let first = Some("pid:[4026531836]");
        let none = "monotonic           0         0\nboottime            0         0\n";
        let day = "monotonic       86400         0\nboottime            0         0\n";
        let behind = "1          -1  999999999\n7           0         0\n";
        for (namespace, offsets, expected) in [
            (first, Some(none), Ok(())),
            (None, None, Ok(())),
            (Some("something else"), Some("nothing known\n"), Ok(())),
            (Some("pid:[4026532201]"), Some(none), Err(NamespaceError::Processes)),
            (first, Some(day), Err(NamespaceError::Time { ahead_s: 86_400 })),
            (first, Some(behind), Err(NamespaceError::Time { ahead_s: -1 })),
        ] {
            let found = numbers(namespace).and_then(|()| clock(offsets));
            assert_eq!(found, expected, "{namespace:?} {offsets:?}");
        }
    }
}
