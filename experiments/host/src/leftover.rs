//! What ended programs have left to the kernel: sockets that it is still closing.
//!
//! When a program of a million sockets ends, the kernel closes them one by one in a thread of its
//! own. That takes a CPU and the sockets' memory for most of a minute, from what is started next.

use std::time::{Duration, Instant};

/// Fewer sockets than this are closed in no time.
const MANY: u64 = 20_000;

/// How long is waited at most.
const LONGEST: Duration = Duration::from_secs(180);

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(250);

/// This many fewer sockets after a pause mean that the kernel is closing them.
const CLOSING: u64 = 500;

/// TCP sockets on the machine, in whatever state, of all network namespaces.
fn sockets(sockstat: &str) -> Option<u64> {
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = tcp.split_whitespace();
    words.find(|word| *word == "alloc")?;
    words.next()?.parse().ok()
}

fn now() -> Option<u64> {
    sockets(&std::fs::read_to_string("/proc/net/sockstat").ok()?)
}

/// Waits while the machine has many sockets and they become fewer by the moment; says so.
pub fn wait() {
    let began = Instant::now();
    let mut told = false;
    let mut before = now().unwrap_or(0);
    while before >= MANY && began.elapsed() < LONGEST {
        std::thread::sleep(PAUSE);
        let after = now().unwrap_or(0);
        if after + CLOSING > before {
            break;
        }
        if !told {
            text::say!("waiting for the kernel: it is closing {after} sockets of an earlier run");
            told = true;
        }
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_all_namespaces_are_counted() {
        let text = "sockets: used 147\nTCP: inuse 6 orphan 1 tw 0 alloc 380448 mem 260772\n\
                    UDP: inuse 0 mem 0\n";
        assert_eq!(sockets(text), Some(380_448));
        assert_eq!(sockets("TCP: inuse 6\n"), None);
        assert!(now().is_some());
    }
}
