//! The interfaces of a network namespace, watched second by second: those that come, go, and are
//! renamed meanwhile.
//!
//! Owns: which interfaces are watched, and what changed about them. An interface is one by its
//! number, whatever its name; another one of the same name is another. Must not know: how it is
//! shown.

use std::collections::BTreeMap;
use std::io;

use ethtool::Ethtool;
use serde::Serialize;

use super::{JumpedBack, Nic, NicError, NicReading, NicRow, interfaces};

/// Interfaces watched at most. Each has two sockets, and is read every second in some 50 µs to
/// several milliseconds, by its driver.
const MOST: usize = 64;

/// Interfaces, watched.
pub struct NicWatch {
    /// Names; none: all that there are.
    wanted: Vec<String>,
    ethtool: Ethtool,
    /// By number.
    watched: BTreeMap<u32, Watched>,
}

struct Watched {
    nic: Nic,
    /// Its name at the last look.
    name: String,
    before: NicReading,
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum NicChange {
    /// It is here since the second before: made, or moved from another namespace. It counts from
    /// its first reading on.
    Came {
        /// The interface.
        nic: String,
        /// Its number.
        ifindex: u32,
    },
    /// It is no longer here: removed, or moved to another namespace.
    Gone {
        /// The interface.
        nic: String,
        /// Its number.
        ifindex: u32,
    },
    /// It has another name.
    Renamed {
        /// The name it has.
        nic: String,
        /// Its number.
        ifindex: u32,
        /// The name it had.
        from: String,
    },
    /// It is there, and could not be read.
    Unread {
        /// The interface.
        nic: String,
        /// Its number.
        ifindex: u32,
        /// Why.
        reason: String,
    },
}

/// An interface's second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CardSecond {
    /// Its name.
    pub nic: String,
    /// Its number.
    pub ifindex: u32,
    /// Its driver; `None` without one.
    pub driver: Option<String>,
    /// The time between the two readings.
    pub over_ns: u64,
    /// What it counted.
    #[serde(flatten)]
    pub row: NicRow,
    /// Counters that went back, as those of a card that was reset do.
    pub jumped_back: Vec<JumpedBack>,
}

/// A second of all interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicSecond {
    /// Those that have been watched for a second, by number.
    pub cards: Vec<CardSecond>,
    /// What happened to them, in the order seen.
    pub changes: Vec<NicChange>,
    /// Interfaces beyond those that are watched.
    pub left_out: usize,
}

impl NicWatch {
    /// Watches interfaces of the calling thread's network namespace: those of these names, or all
    /// without any. A name counts whenever an interface has it.
    ///
    /// # Errors
    /// When there is none of one of the names, or nothing can be read.
    pub fn open(wanted: Vec<String>) -> Result<Self, NicError> {
        let ethtool = Ethtool::new().map_err(NicError::Unlisted)?;
        let mut watch = Self { wanted, ethtool, watched: BTreeMap::new() };
        let there = watch.there().map_err(NicError::Unlisted)?;
        let missing = |name: &&String| !there.values().any(|it| it == *name);
        if let Some(missing) = watch.wanted.iter().find(missing) {
            return Err(NicError::Missing(missing.clone()));
        }
        watch.add(&there, &mut NicSecond::default());
        Ok(watch)
    }

    /// Names of those watched now, by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.watched.values().map(|it| it.name.as_str())
    }

    /// What happened since the last call, or since it was opened.
    ///
    /// # Errors
    /// When the interfaces cannot be listed.
    pub fn second(&mut self) -> io::Result<NicSecond> {
        let there = self.there()?;
        let mut second = NicSecond::default();
        let mut gone = Vec::new();
        for (ifindex, watched) in &mut self.watched {
            if !there.contains_key(ifindex) || !watched.second(*ifindex, &mut second) {
                gone.push(*ifindex);
            }
        }
        for ifindex in gone {
            if let Some(Watched { name: nic, .. }) = self.watched.remove(&ifindex) {
                second.changes.push(NicChange::Gone { nic, ifindex });
            }
        }
        self.add(&there, &mut second);
        Ok(second)
    }

    /// All interfaces that there are: number and name.
    fn there(&self) -> io::Result<BTreeMap<u32, String>> {
        let mut there = BTreeMap::new();
        for name in interfaces()? {
            match self.ethtool.index(&name) {
                Ok(ifindex) => _ = there.insert(ifindex, name),
                // It has gone, or has another name, since the list was made.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(there)
    }

    /// Watches what is new.
    fn add(&mut self, there: &BTreeMap<u32, String>, second: &mut NicSecond) {
        for (ifindex, name) in there {
            let wanted = self.wanted.is_empty() || self.wanted.contains(name);
            if !wanted || self.watched.contains_key(ifindex) {
                continue;
            }
            if self.watched.len() >= MOST {
                second.left_out += 1;
                continue;
            }
            let (nic, ifindex) = (name.clone(), *ifindex);
            let opened = Nic::open(name).and_then(|mut nic| Ok((nic.read()?, nic)));
            match opened {
                // Another one may have the name since: its turn is the next second's.
                Ok((before, opened)) if before.ifindex == ifindex => {
                    let name = before.name.clone();
                    self.watched.insert(ifindex, Watched { nic: opened, name, before });
                    second.changes.push(NicChange::Came { nic, ifindex });
                }
                Ok(_) | Err(NicError::Gone(_) | NicError::Missing(_)) => {}
                Err(error) => {
                    let reason = error.to_string();
                    second.changes.push(NicChange::Unread { nic, ifindex, reason });
                }
            }
        }
    }
}

impl Watched {
    /// Reads it; false when it is gone.
    fn second(&mut self, ifindex: u32, second: &mut NicSecond) -> bool {
        // One that is renamed between two of its commands is read again at once.
        let read = self.nic.read().or_else(|error| match error {
            NicError::Gone(_) => Err(error),
            _ => self.nic.read(),
        });
        let now = match read {
            Ok(now) => now,
            Err(NicError::Gone(_)) => return false,
            Err(error) => {
                let (nic, reason) = (self.name.clone(), error.to_string());
                second.changes.push(NicChange::Unread { nic, ifindex, reason });
                return true;
            }
        };
        if now.name != self.name {
            let from = std::mem::replace(&mut self.name, now.name.clone());
            second.changes.push(NicChange::Renamed { nic: now.name.clone(), ifindex, from });
        }
        second.cards.push(CardSecond {
            nic: now.name.clone(),
            ifindex,
            driver: now.driver.as_ref().map(|driver| driver.driver.clone()),
            over_ns: now.at_ns.saturating_sub(self.before.at_ns),
            row: NicRow::from(&now.since(&self.before)),
            jumped_back: now.jumped_back(&self.before),
        });
        self.before = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_watched_and_a_name_without_an_interface_is_not() {
        let mut watch = NicWatch::open(vec!["lo".to_owned()]).expect("loopback");
        assert_eq!(watch.names().collect::<Vec<_>>(), ["lo"]);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(b"one", socket.local_addr().expect("its address")).expect("a datagram");
        let second = watch.second().expect("its second");
        let [card] = &second.cards[..] else { panic!("{second:?}") };
        assert!(card.nic == "lo" && card.row.link["rx_packets"] >= Some(1), "{card:?}");
        assert_eq!((card.row.queues.as_ref(), &second.changes[..]), (None, &[][..]));
        let refused = NicWatch::open(vec!["lo".to_owned(), "nosuchif0".to_owned()]);
        let Err(NicError::Missing(name)) = refused else { panic!("there is such an interface") };
        assert_eq!(name, "nosuchif0");
    }
}
