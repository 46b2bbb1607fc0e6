//! What must be tried, because no file says it.

use std::io;

use io_uring::IoUring;

use crate::{
    nic::{self, Nic},
    perf::{self, CounterError},
};

/// The wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Disciplined by NTP or the like.
    pub(crate) synchronised: bool,
    /// The error that the kernel estimates, in microseconds.
    pub(crate) estimated_error_us: i64,
}

/// Why no ring of io_uring can be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    /// The kernel was built without io_uring.
    #[error("this kernel has none")]
    NotThere,
    /// The kernel's io_uring cannot have a single submitter.
    #[error("this kernel's is too old")]
    TooOld,
    /// A sysctl or a seccomp profile forbids it.
    #[error("not permitted")]
    NotPermitted,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    /// Its interface.
    pub(crate) name: String,
    /// Its driver; empty when it has none.
    pub(crate) driver: String,
    /// Counters that the driver has, those of queues included; or why it has none.
    pub(crate) counters: Result<usize, String>,
    /// Whether the table of losses knows the driver.
    pub(crate) known: bool,
}

/// The results of what was tried.
#[derive(Clone, Debug)]
pub(crate) struct LiveChecks {
    /// Setting up a ring with one submitter.
    pub(crate) io_uring: Result<(), RingError>,
    /// Opening a software counter.
    pub(crate) perf_software: Result<(), CounterError>,
    /// Opening a hardware counter.
    pub(crate) perf_hardware: Result<(), CounterError>,
    /// Asking for the state of the clock.
    pub(crate) clock: Result<Clock, String>,
    /// The cards of this network namespace: what has been used, or sits on a bus.
    pub(crate) cards: Vec<Card>,
}

impl LiveChecks {
    /// Tries all of it. Nothing of it lasts.
    pub(crate) fn of_this_machine() -> Self {
        Self {
            io_uring: ring(),
            perf_software: perf::software(),
            perf_hardware: perf::hardware(),
            clock: clock(),
            cards: cards(),
        }
    }
}

fn ring() -> Result<(), RingError> {
    let ring: io::Result<IoUring> = IoUring::builder().setup_single_issuer().build(8);
    ring.map(drop).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => RingError::NotThere,
        Some(libc::EINVAL) => RingError::TooOld,
        Some(libc::EPERM) => RingError::NotPermitted,
        _ => RingError::Other(error.to_string()),
    })
}

fn clock() -> Result<Clock, String> {
    // SAFETY: a zeroed timex asks for the state and changes nothing; the kernel writes within it.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    if state < 0 {
        return Err(io::Error::last_os_error().to_string());
    }
    Ok(Clock {
        synchronised: timex.status & libc::STA_UNSYNC == 0,
        estimated_error_us: timex.esterror,
    })
}

fn cards() -> Vec<Card> {
    let names = nic::interfaces().unwrap_or_default();
    names.iter().filter(|name| *name != "lo").filter_map(|name| card(name)).collect()
}

fn card(name: &str) -> Option<Card> {
    let reading = Nic::open(name).ok()?.read().ok()?;
    let on_bus = reading.driver.as_ref().is_some_and(|driver| !driver.bus.is_empty());
    let used = ["rx_packets", "tx_packets"].into_iter().any(|name| reading.link[name] > Some(0));
    if !on_bus && !used {
        return None;
    }
    let of_queues: usize =
        reading.queues.iter().flatten().map(|(_, counters)| counters.len()).sum();
    let counters = match &reading.driver_counters {
        Some(whole) => Ok(whole.len() + of_queues),
        None => Err(reading.missing.get("driver_counters").cloned().unwrap_or_default()),
    };
    Some(Card {
        name: name.to_owned(),
        known: reading.has_known_driver(),
        driver: reading.driver.map(|driver| driver.driver).unwrap_or_default(),
        counters,
    })
}
