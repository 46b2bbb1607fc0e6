//! Which connections are stamped when there are more requests than it is worth.
//!
//! Stamping and explaining a request takes about a microsecond, at both ends together. Beyond a
//! rate, only the connections whose hash has certain bits clear are stamped: a sample that does not
//! depend on how long anything takes, so that shares and percentiles of it are those of all.
//!
//! Owns: the mask in the kernel's array, and when it changes. Must not know: what is done with the
//! sampled requests.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use events::{CpuEntry, Sampling, in_sample};

use crate::{kernel::monotonic_ns, mapping::SharedArray};

/// How often the rate is looked at.
const WINDOW: Duration = Duration::from_millis(100);

/// Windows in a row that must be beyond the rate, or well below it: what a stall of less than a
/// second held up is explained to the last request.
const PATIENCE: u32 = 10;

/// How much of the rate is stamped once it is exceeded: a quarter at most.
const SHARE: f64 = 0.25;

/// Below this part of the rate all are stamped again.
const RELAXED: f64 = 0.8;

/// The strictest mask: one connection in 4096.
const MOST_BITS: u32 = 12;

/// The sampling in force, mapped.
pub struct SampleTable {
    entry: SharedArray<Sampling>,
}

impl SampleTable {
    /// Maps the array of a descriptor, which may be closed afterwards.
    ///
    /// # Errors
    /// When it is no such array.
    pub fn map(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self { entry: SharedArray::map(fd.as_fd(), 1, false)? })
    }

    /// Whether a request of a client's connection that was due at an instant (CLOCK_MONOTONIC) was
    /// to be stamped from its beginning on.
    pub fn contains(&self, client: SocketAddrV4, due_ns: u64) -> bool {
        let Some(now) = self.entry.read(0) else { return true };
        let strict = if due_ns < now.strict_until_ns { now.strict_mask } else { 0 };
        // Masks are nested: what passes the stricter passes both.
        in_sample(u32::from(*client.ip()), client.port(), now.mask | strict)
    }
}

/// Keeps the sampling in step with the rate, in a thread of its own, until it is dropped.
pub(crate) struct Regulator {
    stop: Arc<(Mutex<bool>, Condvar)>,
    mask: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Regulator {
    /// Samples beyond so many requests a second.
    pub(crate) fn start(
        cpus: SharedArray<CpuEntry>,
        entry: SharedArray<Sampling>,
        beyond: u32,
    ) -> io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let mask = Arc::new(AtomicU32::new(0));
        let (stopped, published) = (Arc::clone(&stop), Arc::clone(&mask));
        let thread =
            std::thread::Builder::new().name("lab-sampling".to_owned()).spawn(move || {
                regulate(&cpus, &entry, f64::from(beyond), &stopped, &published);
            })?;
        Ok(Self { stop, mask, thread: Some(thread) })
    }

    /// Of how many connections one is stamped at present.
    pub(crate) fn one_in(&self) -> u32 {
        self.mask.load(Ordering::Relaxed) + 1
    }
}

impl Drop for Regulator {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

fn regulate(
    cpus: &SharedArray<CpuEntry>,
    entry: &SharedArray<Sampling>,
    beyond: f64,
    stop: &(Mutex<bool>, Condvar),
    published: &AtomicU32,
) {
    let requests = || {
        let all = (0..cpus.len()).filter_map(|cpu| cpus.read(cpu));
        all.map(|cpu| cpu.requests).fold(0, u64::wrapping_add)
    };
    let mut state = Windows { beyond, mask: 0, for_windows: 0 };
    let (mut seen, mut at) = (requests(), Instant::now());
    loop {
        let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = stop
            .1
            .wait_timeout_while(stopped, WINDOW, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if *stopped {
            return;
        }
        drop(stopped);
        let (now, instant) = (requests(), Instant::now());
        let rate = now.wrapping_sub(seen) as f64 / (instant - at).as_secs_f64();
        (seen, at) = (now, instant);
        if let Some(mask) = state.window(rate) {
            let before = entry.read(0).unwrap_or_default();
            entry.write(0, changed(before, mask, monotonic_ns()));
            published.store(mask, Ordering::Relaxed);
        }
    }
}

/// The entry after a change of the mask at `now_ns`.
fn changed(before: Sampling, mask: u32, now_ns: u64) -> Sampling {
    // A request may be under way for seconds: what was strict lately still counts.
    const LATELY_NS: u64 = 60_000_000_000;
    let lately = now_ns.saturating_sub(before.strict_until_ns) < LATELY_NS;
    let strict = before.mask | if lately { before.strict_mask } else { 0 };
    Sampling { mask, strict_mask: strict, strict_until_ns: now_ns }
}

/// The mask, decided anew after each window.
struct Windows {
    beyond: f64,
    mask: u32,
    /// Windows in a row in which another mask would have been better.
    for_windows: u32,
}

impl Windows {
    /// A window with this many requests a second: the new mask if it changes.
    fn window(&mut self, rate: f64) -> Option<u32> {
        let wanted = self.wanted(rate);
        if wanted == self.mask {
            self.for_windows = 0;
            return None;
        }
        self.for_windows += 1;
        if self.for_windows < PATIENCE {
            return None;
        }
        self.for_windows = 0;
        self.mask = wanted;
        Some(wanted)
    }

    fn wanted(&self, rate: f64) -> u32 {
        if self.mask == 0 && rate <= self.beyond || rate <= self.beyond * RELAXED {
            return 0;
        }
        let stamped = rate / f64::from(self.mask + 1);
        let most = self.beyond * SHARE;
        // As it is, if that is within the share and no less than a fourth of it.
        if self.mask != 0 && stamped <= most && stamped >= most / 4.0 {
            return self.mask;
        }
        let bits = (rate / most).log2().ceil().clamp(0.0, f64::from(MOST_BITS));
        (1 << bits as u32) - 1
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn masks(rates: &[f64]) -> Vec<u32> {
        let mut state = Windows { beyond: 80_000.0, mask: 0, for_windows: 0 };
        let each = rates.iter().map(|rate| {
            state.window(*rate);
            state.mask
        });
        each.collect()
    }

    #[test]
    fn what_a_stall_held_up_is_stamped_and_what_lasts_is_sampled() {
        let mut rates = vec![60_000.0; 20];
        rates.extend([0.0; 5]);
        rates.extend([200_000.0; 4]);
        rates.extend([60_000.0; 20]);
        assert_eq!(masks(&rates), vec![0; rates.len()]);
        let mut rates = vec![110_000.0; 12];
        rates.extend([70_000.0; 12]);
        rates.extend([60_000.0; 12]);
        let masks = masks(&rates);
        // 110,000 / 8 is within 20,000; so is 70,000 / 8; at 60,000 all again.
        assert_eq!((masks[8], masks[9], masks[23]), (0, 7, 7));
        assert_eq!(masks[35], 0);
        let mut state = Windows { beyond: 80_000.0, mask: 0, for_windows: PATIENCE };
        assert_eq!(state.window(1e12), Some(4095));
    }

    #[test]
    fn a_sample_is_that_part_and_nested() {
        let clients: Vec<SocketAddrV4> = (1..=16)
            .flat_map(|host| (10_000..12_000).map(move |port| (host, port)))
            .map(|(host, port)| SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, host), port))
            .collect();
        let within = |mask| {
            let of = |it: &&SocketAddrV4| in_sample(u32::from(*it.ip()), it.port(), mask);
            clients.iter().filter(of).copied().collect::<Vec<_>>()
        };
        assert_eq!(within(0).len(), clients.len());
        for bits in 1..=6 {
            let (mask, expected) = ((1 << bits) - 1, clients.len() as f64 / f64::from(1 << bits));
            let found = within(mask);
            let off = (found.len() as f64 - expected).abs() / expected;
            assert!(off < 0.1, "{} of {expected} with {bits} bits", found.len());
            let wider = within(mask >> 1);
            assert!(found.iter().all(|it| wider.contains(it)));
        }
    }

    #[test]
    fn a_request_under_way_at_a_change_must_pass_both_masks() {
        let first = changed(Sampling::default(), 7, 1_000);
        assert_eq!((first.mask, first.strict_mask, first.strict_until_ns), (7, 0, 1_000));
        let relaxed = changed(first, 0, 2_000);
        assert_eq!((relaxed.mask, relaxed.strict_mask, relaxed.strict_until_ns), (0, 7, 2_000));
        let later = changed(relaxed, 3, 2_000 + 61_000_000_000);
        assert_eq!((later.mask, later.strict_mask), (3, 0));
    }
}
