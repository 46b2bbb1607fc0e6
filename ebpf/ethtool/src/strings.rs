//! Sets of names: those of counters and those of features.

use std::io;

use crate::socket::Ethtool;

const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;

/// The string set of the counters.
pub(crate) const COUNTERS: u32 = 1;

/// The string set of the features.
pub(crate) const FEATURES: u32 = 4;

/// Words of `struct ethtool_gstrings` before its strings.
pub(crate) const HEAD: usize = 3;

/// Words of one string.
pub(crate) const STRING: usize = 8;

impl Ethtool {
    /// How many strings a set has; `None` when the interface does not have the set.
    pub(crate) fn string_count(&self, nic: &str, set: u32) -> io::Result<Option<usize>> {
        let mut words = [GSSET_INFO, 0, 1 << set, 0, 0];
        self.command(nic, &mut words)?;
        // The kernel clears the bit of a set that the driver does not have.
        Ok((words[2] != 0).then_some(words[4] as usize))
    }

    /// The strings of a set. The words need room for more than `count`: the kernel writes as many
    /// as there are at that moment.
    pub(crate) fn strings(
        &self,
        nic: &str,
        set: u32,
        count: usize,
        words: &mut [u32],
    ) -> io::Result<Vec<String>> {
        words[..HEAD].copy_from_slice(&[GSTRINGS, set, count as u32]);
        self.command(nic, words)?;
        let found = words[2] as usize;
        let strings = words[HEAD..].chunks_exact(STRING).take(found);
        Ok(strings.map(|string| text(&bytes_of(string))).collect())
    }
}

/// Words as the kernel wrote them.
pub(crate) fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A text that ends with a zero, or with the bytes.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_with_a_zero_or_with_the_bytes() {
        assert_eq!(text(b"rx_packets\0\0\0"), "rx_packets");
        assert_eq!(text(b"no end"), "no end");
        assert_eq!(text(&bytes_of(&[u32::from_ne_bytes(*b"lo\0x"), 0])), "lo");
    }
}
