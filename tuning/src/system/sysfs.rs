//! The interfaces, queues, interrupts and idle states in `/sys`.

use std::io;

use rustix::fs::readlinkat;

use crate::system::System;
use crate::system::files::read_at;
use crate::system::mount::entries;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    pub(crate) name: String,
    /// Whether it is one of a card.
    pub(crate) device: bool,
    up: bool,
    loopback: bool,
}

impl System {
    /// The interfaces that settings of all network cards are for: those of a card
    /// and, in a namespace without any, all that are up, but never loopback.
    pub(crate) fn cards(&self) -> io::Result<Vec<Nic>> {
        let mut nics = Vec::new();
        for name in entries(self.sys()?, "class/net")? {
            nics.extend(self.nic(&name)?);
        }
        nics.retain(|nic| !nic.loopback);
        let any_device = nics.iter().any(|nic| nic.device);
        nics.retain(|nic| if any_device { nic.device } else { nic.up });
        Ok(nics)
    }

    /// The interface of a name, if there is one.
    pub(crate) fn nic(&self, name: &str) -> io::Result<Option<Nic>> {
        const UP: u32 = 1;
        const LOOPBACK: u32 = 8;
        let sys = self.sys()?;
        let flags = match read_at(sys, &format!("class/net/{name}/flags")) {
            Ok(flags) => flags,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A file that is no interface, such as bonding_masters.
            Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(None),
            Err(error) => return Err(error),
        };
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        let device = readlinkat(sys, format!("class/net/{name}/device"), Vec::new()).is_ok();
        let (up, loopback) = (flags & UP != 0, flags & LOOPBACK != 0);
        Ok(Some(Nic { name: name.to_owned(), device, up, loopback }))
    }

    /// The queues of an interface, `rx` or `tx`, by their numbers.
    pub(crate) fn queues(&self, nic: &str, way: &str) -> io::Result<Vec<usize>> {
        let names = entries(self.sys()?, &format!("class/net/{nic}/queues"))?;
        let number = |name: &String| name.strip_prefix(way)?.strip_prefix('-')?.parse().ok();
        Ok(names.iter().filter_map(number).collect())
    }

    /// The interrupts of the card of an interface; none where there is no card.
    pub(crate) fn interrupts(&self, nic: &str) -> io::Result<Vec<u32>> {
        // A virtio device has its interrupts at the PCI device above it.
        for place in ["device/msi_irqs", "device/../msi_irqs"] {
            match entries(self.sys()?, &format!("class/net/{nic}/{place}")) {
                Ok(names) => return Ok(names.iter().filter_map(|it| it.parse().ok()).collect()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    /// The idle states of a CPU: number and exit latency in microseconds.
    pub(crate) fn idle_states(&self, cpu: usize) -> io::Result<Vec<(usize, u64)>> {
        let cpuidle = format!("devices/system/cpu/cpu{cpu}/cpuidle");
        let mut states = Vec::new();
        for name in entries(self.sys()?, &cpuidle)? {
            let Some(number) = name.strip_prefix("state").and_then(|it| it.parse().ok()) else {
                continue;
            };
            let latency = read_at(self.sys()?, &format!("{cpuidle}/{name}/latency"))?;
            let latency = latency.trim().parse();
            states.push((number, latency.map_err(|_| io::Error::other("no latency"))?));
        }
        Ok(states)
    }

    /// The names in the directory of a sysctl, for a hint when one is misspelt.
    pub(crate) fn sysctls_beside(&self, path: &str) -> Vec<String> {
        let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory);
        self.proc().and_then(|proc| entries(proc, directory)).unwrap_or_default()
    }
}
