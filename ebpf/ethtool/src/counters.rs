//! The driver's counters of an interface, as `ethtool -S` has them.

use std::io;

use crate::socket::Ethtool;
use crate::strings::{COUNTERS, HEAD, STRING};

const GSTATS: u32 = 0x1d;

/// Room for counters, however many are announced: the kernel writes as many as the driver has at
/// that moment, whatever room it was told of, and queues may be added between two commands. The
/// largest cards have about 20,000.
const ROOM: usize = 128 << 10;

/// Room for the names and values of an interface's counters. It is made once: pages that are never
/// written cost nothing, while clearing it would take longer than all commands together.
pub struct CounterBuffer(Vec<u32>);

impl Default for CounterBuffer {
    fn default() -> Self {
        // The largest command: three words and the strings.
        Self(vec![0; HEAD + ROOM * STRING])
    }
}

impl Ethtool {
    /// All counters of the driver, in its order.
    ///
    /// # Errors
    /// EOPNOTSUPP when the driver has none; also when they changed at each of three attempts.
    pub fn counters(
        &self,
        nic: &str,
        buffer: &mut CounterBuffer,
    ) -> io::Result<Vec<(String, u64)>> {
        // Queues may come and go between the commands: names and values must be of one moment.
        for _ in 0..3 {
            let count = self.counter_count(nic)?;
            let names = self.strings(nic, COUNTERS, count, &mut buffer.0)?;
            let values = self.values(nic, count, &mut buffer.0)?;
            if names.len() == values.len() && values.len() == self.counter_count(nic)? {
                return Ok(names.into_iter().zip(values).collect());
            }
        }
        Err(io::Error::other("the driver's counters changed while they were read"))
    }

    fn counter_count(&self, nic: &str) -> io::Result<usize> {
        match self.string_count(nic, COUNTERS)? {
            None | Some(0) => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            // Half of the room is for what is added meanwhile.
            Some(count) if count > ROOM / 2 => {
                Err(io::Error::other(format!("the driver claims to have {count} counters")))
            }
            Some(count) => Ok(count),
        }
    }

    fn values(&self, nic: &str, count: usize, words: &mut [u32]) -> io::Result<Vec<u64>> {
        words[..2].copy_from_slice(&[GSTATS, count as u32]);
        self.command(nic, words)?;
        let found = words[1] as usize;
        Ok(words[2..].as_chunks().0.iter().take(found).map(value).collect())
    }
}

/// A value of eight bytes.
fn value(halves: &[u32; 2]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&halves[0].to_ne_bytes());
    bytes[4..].copy_from_slice(&halves[1].to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_eight_bytes() {
        let number = 0x0123_4567_89ab_cdef_u64;
        let bytes = number.to_ne_bytes();
        let halves = [0, 4].map(|place| {
            let half = bytes[place..].first_chunk().expect("four bytes");
            u32::from_ne_bytes(*half)
        });
        assert_eq!(value(&halves), number);
    }

    #[test]
    fn an_interface_without_counters_is_an_error() {
        let ethtool = Ethtool::new().expect("a socket");
        let counters = ethtool.counters("lo", &mut CounterBuffer::default());
        let error = counters.expect_err("loopback has no driver");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
