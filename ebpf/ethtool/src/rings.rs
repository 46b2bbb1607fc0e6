//! Rings of an interface, as `ethtool -g` and `-G` have them.

use std::io;

use crate::socket::{Ethtool, driver_lacks};

const GRINGPARAM: u32 = 0x10;
const SRINGPARAM: u32 = 0x11;

/// Words of `struct ethtool_ringparam`: four maxima and four present numbers after the command.
const WORDS: usize = 9;

/// The entries of a ring: how many there are, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// How many there are.
    pub now: u32,
    /// How many there may be.
    pub most: u32,
}

impl Ethtool {
    /// The ring for receiving, or the one for sending.
    ///
    /// # Errors
    /// `NotFound` when the driver has no rings to set.
    pub fn ring(&self, nic: &str, receive: bool) -> io::Result<Entries> {
        let words = self.rings(nic)?;
        let (most, now) = if receive { (1, 5) } else { (4, 8) };
        Ok(Entries { now: words[now], most: words[most] })
    }

    fn rings(&self, nic: &str) -> io::Result<[u32; WORDS]> {
        let mut words = [0; WORDS];
        words[0] = GRINGPARAM;
        self.command(nic, &mut words)
            .map_err(|error| driver_lacks(error, "has no rings to set"))?;
        Ok(words)
    }

    /// Sets the number of entries of a ring.
    ///
    /// # Errors
    /// What the driver says.
    pub fn set_ring(&self, nic: &str, receive: bool, entries: u32) -> io::Result<()> {
        let mut words = self.rings(nic)?;
        words[0] = SRINGPARAM;
        words[if receive { 5 } else { 8 }] = entries;
        self.command(nic, &mut words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_rings_is_an_error() {
        let ethtool = Ethtool::new().expect("a socket");
        let error = ethtool.ring("lo", true).expect_err("loopback has no rings");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = ethtool.ring("nosuchif0", true).expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
