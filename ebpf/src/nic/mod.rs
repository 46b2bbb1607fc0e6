//! Statistics of a network interface: the kernel's counters, and every one that its driver has.
//!
//! Owns: reading them, telling queues from names, and which of them mean that a frame was lost at
//! the card ([`NicReading::losses`]). Must not know: causes and verdicts.
//!
//! A [`Nic`] looks into the network namespace of the thread that opened it, for as long as it
//! lives and from whatever thread it is read. An interface that goes away is an error that says
//! so, also when another one of the same name takes its place.

use std::{collections::BTreeMap, io};

use ethtool::{CounterBuffer, Ethtool};
use serde::Serialize;

mod cards;
#[cfg(test)]
mod fixtures;
mod growth;
mod guests;
mod link;
mod loss_name;
mod losses;
mod names;
mod row;
mod suspects;
mod table;
mod watch;

pub use ethtool::Driver;
pub use growth::JumpedBack;
pub use loss_name::{Direction, Weight};
pub use losses::{CountedBy, NicLoss, NicLosses};
pub use row::{NicRow, QueueRow};
pub use watch::{CardSecond, NicChange, NicSecond, NicWatch};

use crate::kernel::monotonic_ns;

/// Why an interface was not read.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// There is none of that name.
    #[error(
        "no interface {0} in this network namespace; `ip -brief link` lists those that are there"
    )]
    Missing(String),
    /// There was one when it was opened.
    #[error("interface {0} is gone: removed, or moved to another network namespace")]
    Gone(String),
    /// Which there are is not known.
    #[error("the interfaces of this network namespace cannot be listed: {0}")]
    Unlisted(io::Error),
    /// The kernel would not say.
    #[error("cannot read the counters of interface {name}: {source}")]
    Unreadable {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// An interface of the network namespace that the opening thread was in.
pub struct Nic {
    name: String,
    ifindex: u32,
    links: link::LinkSocket,
    ethtool: Ethtool,
    buffer: CounterBuffer,
}

/// Counters by name; `None` for one that this kernel does not have or, in a difference, that went
/// backwards because the card was reset.
pub type NicCounters = BTreeMap<String, Option<u64>>;

/// What an interface has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicReading {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The interface's name at that moment.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// The kernel's 64-bit counters, as `ip -s -s link` has them.
    pub link: BTreeMap<&'static str, Option<u64>>,
    /// Its driver; `None` for an interface without one, such as loopback.
    pub driver: Option<Driver>,
    /// The driver's counters of the whole interface.
    pub driver_counters: Option<NicCounters>,
    /// The driver's counters of each queue, by its number.
    pub queues: Option<BTreeMap<u32, NicCounters>>,
    /// Why something above is absent.
    pub missing: BTreeMap<&'static str, String>,
}

/// The interfaces of the calling thread's network namespace, by name.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn interfaces() -> io::Result<Vec<String>> {
    // Two lines of titles, then `  eth0: 1 2 3`.
    let links = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
    Ok(links.lines().filter_map(name).collect())
}

impl Nic {
    /// Opens an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// When there is none of that name, or sockets cannot be had.
    pub fn open(name: &str) -> Result<Self, NicError> {
        let unreadable = |source| NicError::Unreadable { name: name.to_owned(), source };
        let ethtool = Ethtool::new().map_err(unreadable)?;
        let ifindex = ethtool.index(name).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => NicError::Missing(name.to_owned()),
            _ => unreadable(error),
        })?;
        let links = link::LinkSocket::new().map_err(unreadable)?;
        Ok(Self {
            name: name.to_owned(),
            ifindex,
            links,
            ethtool,
            buffer: CounterBuffer::default(),
        })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has counted so far.
    ///
    /// # Errors
    /// When it is gone. A driver without counters is no error: what it would have counted is
    /// `None`, and `missing` says why.
    pub fn read(&mut self) -> Result<NicReading, NicError> {
        let ifindex = self.ifindex;
        let link = self.links.link(ifindex).map_err(|error| self.error(error))?;
        let mut reading = NicReading {
            at_ns: monotonic_ns(),
            ifindex,
            link: link.counters,
            ..NicReading::default()
        };
        for (name, value) in &reading.link {
            if value.is_none() {
                reading.missing.insert(name, "this kernel does not count it".to_owned());
            }
        }
        match self.ethtool.driver(&link.name) {
            Ok(driver) => reading.driver = Some(driver),
            Err(error) => {
                let reason = self.reason(error, "the interface has no driver")?;
                reading.missing.insert("driver", reason);
            }
        }
        match self.ethtool.counters(&link.name, &mut self.buffer) {
            Ok(raw) => {
                let (whole, queues) = assign(names::sort(raw));
                reading.driver_counters = Some(whole);
                reading.queues = Some(queues);
            }
            Err(error) => {
                let reason = self.reason(error, "the driver has no counters of its own")?;
                reading.missing.insert("driver_counters", reason.clone());
                reading.missing.insert("queues", reason);
            }
        }
        // The commands above go by name: it must have been this interface's all the time.
        let after = self.links.link(ifindex).map_err(|error| self.error(error))?;
        if after.name != link.name {
            let source = io::Error::other("it was renamed meanwhile; read it again");
            return Err(NicError::Unreadable { name: self.name.clone(), source });
        }
        reading.name = link.name;
        Ok(reading)
    }

    fn error(&self, source: io::Error) -> NicError {
        match source.raw_os_error() {
            Some(libc::ENODEV) => NicError::Gone(self.name.clone()),
            _ => NicError::Unreadable { name: self.name.clone(), source },
        }
    }

    /// Why something is absent; an error when the interface itself is.
    fn reason(&self, error: io::Error, not_supported: &str) -> Result<String, NicError> {
        match error.raw_os_error() {
            Some(libc::ENODEV) => Err(self.error(error)),
            Some(libc::EOPNOTSUPP) => Ok(not_supported.to_owned()),
            _ => Ok(error.to_string()),
        }
    }
}

/// Counters of the whole interface, and those of queues.
fn assign(sorted: Vec<names::Counter>) -> (NicCounters, BTreeMap<u32, NicCounters>) {
    let mut whole = NicCounters::new();
    let mut queues = BTreeMap::<u32, NicCounters>::new();
    for counter in sorted {
        let counters = match counter.queue {
            Some(queue) => queues.entry(queue).or_default(),
            None => &mut whole,
        };
        let mut name = counter.name.clone();
        // Drivers use a name twice (vmxnet3: "giant hdr").
        for number in 2.. {
            if !counters.contains_key(&name) {
                break;
            }
            name = format!("{} {number}", counter.name);
        }
        counters.insert(name, Some(counter.value));
    }
    (whole, queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_used_twice_is_kept_twice() {
        let counter = |value| names::Counter { queue: Some(1), name: "giant hdr".into(), value };
        let (whole, queues) = assign(vec![counter(4), counter(5), counter(6)]);
        assert!(whole.is_empty());
        let of_queue: Vec<_> =
            queues[&1].iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(
            of_queue,
            [("giant hdr", Some(4)), ("giant hdr 2", Some(5)), ("giant hdr 3", Some(6))]
        );
    }

    #[test]
    fn loopback_has_counters_of_the_kernels_only() {
        assert!(interfaces().expect("interfaces").contains(&"lo".to_owned()));
        let mut nic = Nic::open("lo").expect("loopback");
        let before = nic.read().expect("its counters");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(b"one", socket.local_addr().expect("its address")).expect("a datagram");
        let grown = nic.read().expect("its counters").since(&before);
        assert!(grown.link["rx_packets"] >= Some(1), "{grown:?}");
        assert_eq!(grown.driver_counters, None);
        assert!(grown.missing.contains_key("driver_counters"), "{grown:?}");
    }

    #[test]
    fn no_such_interface_is_an_error_with_a_way_out() {
        let Err(error) = Nic::open("nosuchif0") else { panic!("there is such an interface") };
        let message = error.to_string();
        assert!(message.contains("nosuchif0") && message.contains("ip -brief link"), "{message}");
    }
}
