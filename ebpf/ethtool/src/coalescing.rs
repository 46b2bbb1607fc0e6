//! Coalescing of an interface's interrupts, as `ethtool -c` and `-C` have it.

use std::io;

use crate::socket::{Ethtool, driver_lacks, unsupported};

const GCOALESCE: u32 = 0x0e;
const SCOALESCE: u32 = 0x0f;

/// Words of `struct ethtool_coalesce`: the command, and one word for each name.
const WORDS: usize = 1 + COALESCING.len();

/// The names of the fields, each at its word of the structure, from word 1 on.
pub const COALESCING: [&str; 22] = [
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

impl Ethtool {
    /// A field, by its name.
    ///
    /// # Errors
    /// `NotFound` when there is no such field, or the driver has no coalescing to set.
    pub fn coalesce(&self, nic: &str, field: &str) -> io::Result<u32> {
        let word = word_of(field)?;
        Ok(self.coalescing(nic)?[word])
    }

    fn coalescing(&self, nic: &str) -> io::Result<[u32; WORDS]> {
        let mut words = [0; WORDS];
        words[0] = GCOALESCE;
        self.command(nic, &mut words)
            .map_err(|error| driver_lacks(error, "has no coalescing to set"))?;
        Ok(words)
    }

    /// Sets a field.
    ///
    /// # Errors
    /// What the driver says.
    pub fn set_coalesce(&self, nic: &str, field: &str, value: u32) -> io::Result<()> {
        let word = word_of(field)?;
        let mut words = self.coalescing(nic)?;
        words[0] = SCOALESCE;
        words[word] = value;
        self.command(nic, &mut words)
    }
}

fn word_of(field: &str) -> io::Result<usize> {
    let place = COALESCING.iter().position(|name| *name == field);
    place.map(|place| place + 1).ok_or_else(|| {
        unsupported(&format!("there is no such field, only: {}", COALESCING.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_there_is_named_with_those_that_are() {
        let ethtool = Ethtool::new().expect("a socket");
        let error = ethtool.coalesce("lo", "rx-usec").expect_err("no such field");
        assert!(error.to_string().contains("only: rx-usecs"), "{error}");
    }
}
