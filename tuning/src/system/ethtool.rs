//! Features, rings and coalescing of an interface, by ioctl, as `ethtool` has them.

use std::ffi::c_void;
use std::io;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

const SIOCETHTOOL: libc::c_ulong = 0x8946;

const GCOALESCE: u32 = 0x0e;
const SCOALESCE: u32 = 0x0f;
const GRINGPARAM: u32 = 0x10;
const SRINGPARAM: u32 = 0x11;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;

/// The string set of the features.
const SET_FEATURES: u32 = 4;

/// Bytes of one string.
const STRING: usize = 32;

/// More features than any kernel has: 64 in 6.x.
const MOST_FEATURES: usize = 512;

/// Names of coalescing, each at its word of the structure, from word 1 on.
pub(super) const COALESCE: [&str; 22] = [
    "rx-usecs",
    "rx-frames",
    "rx-usecs-irq",
    "rx-frames-irq",
    "tx-usecs",
    "tx-frames",
    "tx-usecs-irq",
    "tx-frames-irq",
    "stats-block-usecs",
    "adaptive-rx",
    "adaptive-tx",
    "pkt-rate-low",
    "rx-usecs-low",
    "rx-frames-low",
    "tx-usecs-low",
    "tx-frames-low",
    "pkt-rate-high",
    "rx-usecs-high",
    "rx-frames-high",
    "tx-usecs-high",
    "tx-frames-high",
    "sample-interval",
];

/// ethtool's short names of features, and the kernel's.
const SHORT: [(&str, &str); 7] = [
    ("gro", "rx-gro"),
    ("gso", "tx-generic-segmentation"),
    ("tso", "tx-tcp-segmentation"),
    ("lro", "rx-lro"),
    ("rx", "rx-checksum"),
    ("rxhash", "rx-hashing"),
    ("sg", "tx-scatter-gather"),
];

/// `struct ifreq` with a pointer in it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    data: *mut c_void,
    unused: [u8; 16],
}

const _: () = assert!(size_of::<Request>() == 40);

/// A socket to ask by, of the network namespace it was made in.
#[derive(Debug)]
pub(super) struct Ethtool(OwnedFd);

/// A feature of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    place: usize,
    available: bool,
    requested: bool,
    active: bool,
}

/// The entries of a ring: how many there are, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) now: u32,
    pub(super) most: u32,
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}

/// The kernel's name of a feature.
pub(crate) fn long_name(name: &str) -> &str {
    SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long)
}

impl Ethtool {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let family = AddressFamily::INET;
        Ok(Self(rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?))
    }

    /// A command: its structure as words of four bytes, the number of the command first.
    fn command(&self, nic: &str, words: &mut [u32]) -> io::Result<()> {
        let mut request =
            Request { name: [0; 16], data: words.as_mut_ptr().cast(), unused: [0; 16] };
        // Interface names have at most 15 bytes.
        if nic.len() >= request.name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        request.name[..nic.len()].copy_from_slice(nic.as_bytes());
        // SAFETY: the request outlives the call, and so do the words it points to, which are at
        // least as many as the structure of the command in the first one has: the callers below
        // make them so.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn ring(&self, nic: &str, receive: bool) -> io::Result<Entries> {
        let mut words = [0; 9];
        self.rings(nic, &mut words)?;
        let (most, now) = if receive { (1, 5) } else { (4, 8) };
        Ok(Entries { now: words[now], most: words[most] })
    }

    fn rings(&self, nic: &str, words: &mut [u32; 9]) -> io::Result<()> {
        words[0] = GRINGPARAM;
        self.command(nic, words).map_err(|error| no_driver(error, "has no rings to set"))
    }

    pub(super) fn set_ring(&self, nic: &str, receive: bool, entries: u32) -> io::Result<()> {
        let mut words = [0; 9];
        self.rings(nic, &mut words)?;
        words[0] = SRINGPARAM;
        words[if receive { 5 } else { 8 }] = entries;
        self.command(nic, &mut words)
    }

    fn coalescing(&self, nic: &str, words: &mut [u32; 23]) -> io::Result<()> {
        words[0] = GCOALESCE;
        self.command(nic, words).map_err(|error| no_driver(error, "has no coalescing to set"))
    }

    pub(super) fn coalesce(&self, nic: &str, field: &str) -> io::Result<u32> {
        let word = coalesce_word(field)?;
        let mut words = [0; 23];
        self.coalescing(nic, &mut words)?;
        Ok(words[word])
    }

    pub(super) fn set_coalesce(&self, nic: &str, field: &str, value: u32) -> io::Result<()> {
        let word = coalesce_word(field)?;
        let mut words = [0; 23];
        self.coalescing(nic, &mut words)?;
        words[0] = SCOALESCE;
        words[word] = value;
        self.command(nic, &mut words)
    }

    fn feature_names(&self, nic: &str) -> io::Result<Vec<String>> {
        let mut words = [GSSET_INFO, 0, 1 << SET_FEATURES, 0, 0];
        self.command(nic, &mut words)?;
        let count = words[4] as usize;
        if words[2] == 0 || count > MOST_FEATURES {
            return Err(io::Error::other(format!("the kernel claims to have {count} features")));
        }
        // Head of three words, and room for more than were announced.
        let mut words = vec![0; 3 + MOST_FEATURES * STRING / 4];
        (words[0], words[1], words[2]) = (GSTRINGS, SET_FEATURES, count as u32);
        self.command(nic, &mut words)?;
        let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        Ok(bytes.chunks_exact(STRING).take(count).map(name).collect())
    }

    /// A feature. One that the kernel does not know is not found.
    pub(super) fn feature(&self, nic: &str, name: &str) -> io::Result<Feature> {
        let names = self.feature_names(nic)?;
        let long = long_name(name);
        let place = names.iter().position(|it| it == long);
        let place = place.ok_or_else(|| unsupported("this kernel knows no such feature"))?;
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + 4 * blocks];
        (words[0], words[1]) = (GFEATURES, blocks as u32);
        self.command(nic, &mut words)?;
        let block = &words[2 + 4 * (place / 32)..][..4];
        let bit = |word: u32| word >> (place % 32) & 1 == 1;
        Ok(Feature {
            place,
            available: bit(block[0]),
            requested: bit(block[1]),
            active: bit(block[2]),
        })
    }

    pub(super) fn set_feature(&self, nic: &str, feature: Feature, on: bool) -> io::Result<()> {
        let blocks = feature.place / 32 + 1;
        // The kernel wants all blocks of its features.
        let all = self.feature_names(nic)?.len().div_ceil(32).max(blocks);
        let mut words = vec![0; 2 + 2 * all];
        (words[0], words[1]) = (SFEATURES, all as u32);
        let bit = 1 << (feature.place % 32);
        words[2 + 2 * (feature.place / 32)] = bit;
        words[3 + 2 * (feature.place / 32)] = if on { bit } else { 0 };
        self.command(nic, &mut words)
    }
}

impl Feature {
    /// `on`, `off`, or either with what was asked for and did not come about.
    pub(super) fn value(self) -> String {
        let word = |on: bool| if on { "on" } else { "off" };
        if !self.available || self.active == self.requested {
            word(self.active).to_owned()
        } else {
            format!("{} asked:{}", word(self.active), word(self.requested))
        }
    }

    /// What must be asked for so that it has this value.
    pub(super) fn asked(value: &str) -> bool {
        value.rsplit_once(':').map_or(value, |(_, asked)| asked) == "on"
    }
}

fn no_driver(error: io::Error, what: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => unsupported(&format!("the driver {what}")),
        _ => error,
    }
}

fn coalesce_word(field: &str) -> io::Result<usize> {
    let place = COALESCE.iter().position(|name| *name == field);
    place.map(|place| place + 1).ok_or_else(|| {
        unsupported(&format!("there is no such field, only: {}", COALESCE.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_features() {
        let feature = |available, requested, active| {
            Feature { place: 0, available, requested, active }.value()
        };
        assert_eq!(feature(true, true, true), "on");
        assert_eq!(feature(true, true, false), "off asked:on");
        assert_eq!(feature(false, false, true), "on", "fixed");
        assert!(Feature::asked("off asked:on") && Feature::asked("on"));
        assert!(!Feature::asked("on asked:off") && !Feature::asked("off"));
        assert_eq!(long_name("gro"), "rx-gro");
        assert_eq!(long_name("rx-gro"), "rx-gro");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let ethtool = Ethtool::new().expect("a socket");
        let error = ethtool.ring("lo", true).expect_err("loopback has no rings");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = ethtool.coalesce("lo", "rx-usec").expect_err("no such field");
        assert!(error.to_string().contains("only: rx-usecs"), "{error}");
        let error = ethtool.feature("lo", "rx-grow").expect_err("no such feature");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(ethtool.feature("lo", "gro").is_ok());
        let error = ethtool.ring("nosuchif0", true).expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
