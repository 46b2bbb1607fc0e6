//! What the starter of this process wants of signals.

/// Whether this process was started with a signal ignored, as `nohup` does with SIGHUP. Also true
/// for one that it ignores by itself.
pub fn is_signal_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_ignored(&status, signal)
}

/// The same by a `/proc/PID/status`.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANGUP: i32 = 1;
    const PIPE: i32 = 13;
    const TERMINATE: i32 = 15;

    #[test]
    fn what_is_ignored_is_read_from_its_bit() {
        for (status, ignored) in [
            ("Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", false),
            ("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n", true),
            ("", false),
        ] {
            assert_eq!(is_ignored(status, HANGUP), ignored, "{status}");
        }
    }

    #[test]
    fn ignored_signals_of_this_process_are_seen() {
        assert!(is_signal_ignored(PIPE), "Rust's own start ignores it");
        assert!(!is_signal_ignored(TERMINATE));
    }
}
