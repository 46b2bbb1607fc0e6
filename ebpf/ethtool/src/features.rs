//! Features of an interface, as `ethtool -k` and `-K` have them.

use std::io;

use crate::socket::{Ethtool, unsupported};
use crate::strings::{FEATURES, HEAD, STRING};

const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;

/// More features than any kernel has: 64 in 6.x.
const MOST: usize = 512;

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

/// A feature of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    place: usize,
    available: bool,
    requested: bool,
    active: bool,
}

/// The kernel's name of a feature.
pub fn long_name(name: &str) -> &str {
    SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long)
}

impl Feature {
    /// `on`, `off`, or either with the other one that was requested and is not active.
    pub fn value(self) -> String {
        let word = |on: bool| if on { "on" } else { "off" };
        if !self.available || self.active == self.requested {
            word(self.active).to_owned()
        } else {
            format!("{} asked:{}", word(self.active), word(self.requested))
        }
    }

    /// What must be requested so that a feature has this value.
    pub fn requested_by(value: &str) -> bool {
        value.rsplit_once(':').map_or(value, |(_, requested)| requested) == "on"
    }
}

impl Ethtool {
    fn feature_names(&self, nic: &str) -> io::Result<Vec<String>> {
        let count = self.string_count(nic, FEATURES)?.unwrap_or(0);
        if count == 0 || count > MOST {
            return Err(io::Error::other(format!("the kernel claims to have {count} features")));
        }
        self.strings(nic, FEATURES, count, &mut vec![0; HEAD + MOST * STRING])
    }

    /// A feature, by its short or its long name.
    ///
    /// # Errors
    /// `NotFound` for one that the kernel does not know.
    pub fn feature(&self, nic: &str, name: &str) -> io::Result<Feature> {
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

    /// Requests a feature, or requests that it is off.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_feature(&self, nic: &str, feature: Feature, on: bool) -> io::Result<()> {
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
        assert!(Feature::requested_by("off asked:on") && Feature::requested_by("on"));
        assert!(!Feature::requested_by("on asked:off") && !Feature::requested_by("off"));
        assert_eq!(long_name("gro"), "rx-gro");
        assert_eq!(long_name("rx-gro"), "rx-gro");
    }

    #[test]
    fn a_feature_that_the_kernel_does_not_know_is_not_found() {
        let ethtool = Ethtool::new().expect("a socket");
        let error = ethtool.feature("lo", "rx-grow").expect_err("no such feature");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(ethtool.feature("lo", "gro").is_ok());
    }
}
