//! The driver of an interface.

use std::io;

use serde::Serialize;

use crate::socket::Ethtool;
use crate::strings::{bytes_of, text};

const GDRVINFO: u32 = 0x03;

/// Words of `struct ethtool_drvinfo`, which has 196 bytes.
const WORDS: usize = 49;

/// The driver of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// The driver.
    pub driver: String,
    /// Its version; most say the kernel's.
    pub version: String,
    /// The card's firmware; empty where there is none.
    pub firmware: String,
    /// Where the card sits, such as `0000:03:00.0` or `virtio2`; empty where there is none.
    pub bus: String,
}

impl Ethtool {
    /// The driver of an interface.
    ///
    /// # Errors
    /// EOPNOTSUPP when the interface has none, ENODEV when there is no such interface.
    pub fn driver(&self, nic: &str) -> io::Result<Driver> {
        let mut words = [0; WORDS];
        words[0] = GDRVINFO;
        self.command(nic, &mut words)?;
        let bytes = bytes_of(&words);
        let field = |start: usize| text(&bytes[start..start + 32]);
        Ok(Driver { driver: field(4), version: field(36), firmware: field(68), bus: field(100) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let ethtool = Ethtool::new().expect("a socket");
        for name in ["nosuchif0", "a-name-that-no-interface-can-have", ""] {
            let error = ethtool.driver(name).expect_err(name);
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}");
        }
    }
}
