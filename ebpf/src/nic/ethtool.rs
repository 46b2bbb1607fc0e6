//! The driver's counters of an interface, as `ethtool -S` has them, by ioctl.
//!
//! Owns: the four commands and their buffers. Must not know: what the names mean.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketType};

const SIOCETHTOOL: libc::c_ulong = 0x8946;

const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GSSET_INFO: u32 = 0x37;

/// The string set of the counters.
const SET_STATS: u32 = 1;

/// Bytes of one string.
const STRING: usize = 32;

/// Room for counters, however many are announced: the kernel writes as many as the driver has at
/// that moment, whatever room it was told of, and queues may be added between two commands. The
/// largest cards have about 20,000. Pages that are never written cost nothing, and the buffer is
/// made once: clearing it would take longer than all commands together.
const ROOM: usize = 128 << 10;

/// `struct ifreq` with a pointer in it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    data: *mut c_void,
    unused: [u8; 16],
}

const _: () = assert!(size_of::<Request>() == 40);

/// Who drives an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
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

/// A socket to ask by, of the network namespace it was made in.
pub(crate) struct Ethtool {
    socket: OwnedFd,
    buffer: Vec<u64>,
}

/// The first word of a command, in a buffer of words of eight bytes.
fn head(buffer: &mut [u64], words: &[u32]) {
    for (place, pair) in words.chunks(2).enumerate() {
        let mut bytes = [0; 8];
        for (half, word) in pair.iter().enumerate() {
            bytes[4 * half..][..4].copy_from_slice(&word.to_ne_bytes());
        }
        buffer[place] = u64::from_ne_bytes(bytes);
    }
}

fn bytes_of(buffer: &[u64]) -> Vec<u8> {
    buffer.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn word(bytes: &[u8], place: usize) -> u32 {
    let four = bytes.get(4 * place..).and_then(<[u8]>::first_chunk::<4>);
    four.map_or(0, |four| u32::from_ne_bytes(*four))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

impl Ethtool {
    /// A socket in the calling thread's network namespace.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            socket: rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?,
            // The largest command: three words of four bytes, and the strings.
            buffer: vec![0; 2 + ROOM * STRING / 8],
        })
    }

    /// The number of the interface with this name.
    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.socket, name)?)
    }

    /// Who drives an interface.
    pub(crate) fn driver(&self, name: &str) -> io::Result<Driver> {
        let mut buffer = [0; 25];
        head(&mut buffer, &[GDRVINFO]);
        command(&self.socket, name, &mut buffer)?;
        let bytes = bytes_of(&buffer);
        let field = |start: usize| text(&bytes[start..start + 32]);
        Ok(Driver { driver: field(4), version: field(36), firmware: field(68), bus: field(100) })
    }

    /// All counters of the driver, in its order; EOPNOTSUPP when it has none.
    pub(crate) fn counters(&mut self, name: &str) -> io::Result<Vec<(String, u64)>> {
        // Queues may come and go between the commands: names and values must be of one moment.
        for _ in 0..3 {
            let count = self.count(name)?;
            let names = self.names(name, count)?;
            let values = self.values(name, count)?;
            if names.len() == values.len() && values.len() == self.count(name)? {
                return Ok(names.into_iter().zip(values).collect());
            }
        }
        Err(io::Error::other("the driver's counters changed while they were read"))
    }

    fn count(&self, name: &str) -> io::Result<usize> {
        let mut buffer = [0; 3];
        head(&mut buffer, &[GSSET_INFO, 0, 1 << SET_STATS]);
        command(&self.socket, name, &mut buffer)?;
        let bytes = bytes_of(&buffer);
        let count = word(&bytes, 4) as usize;
        // The kernel clears the bit of a set that the driver does not have.
        if word(&bytes, 2) == 0 || count == 0 {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        // Half of the room is for what is added meanwhile.
        if count > ROOM / 2 {
            return Err(io::Error::other(format!("the driver claims to have {count} counters")));
        }
        Ok(count)
    }

    fn names(&mut self, name: &str, count: usize) -> io::Result<Vec<String>> {
        head(&mut self.buffer, &[GSTRINGS, SET_STATS, count as u32]);
        command(&self.socket, name, &mut self.buffer)?;
        let found = word(&self.buffer[1].to_ne_bytes(), 0) as usize;
        let words = (12 + found * STRING).div_ceil(8).min(self.buffer.len());
        let bytes = bytes_of(&self.buffer[..words]);
        Ok(bytes[12..].chunks_exact(STRING).take(found).map(text).collect())
    }

    fn values(&mut self, name: &str, count: usize) -> io::Result<Vec<u64>> {
        head(&mut self.buffer, &[GSTATS, count as u32]);
        command(&self.socket, name, &mut self.buffer)?;
        let found = word(&self.buffer[0].to_ne_bytes(), 1) as usize;
        Ok(self.buffer[1..].iter().copied().take(found).collect())
    }
}

/// A command about an interface.
fn command(socket: &OwnedFd, name: &str, buffer: &mut [u64]) -> io::Result<()> {
    let mut request = Request { name: [0; 16], data: buffer.as_mut_ptr().cast(), unused: [0; 16] };
    // Interface names have at most 15 bytes.
    if name.len() >= request.name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the request outlives the call, and so does the buffer it points to, which is larger
    // than what the command in its head makes the kernel write: a fixed structure (driver, count),
    // or as many counters as the driver has, for which there is ROOM.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_laid_out_as_the_kernel_reads_them() {
        let mut buffer = [0; 3];
        head(&mut buffer, &[GSSET_INFO, 0, 2]);
        let bytes = bytes_of(&buffer);
        assert_eq!((word(&bytes, 0), word(&bytes, 1), word(&bytes, 2)), (GSSET_INFO, 0, 2));
        assert_eq!(word(&bytes, 99), 0);
        assert_eq!(text(b"rx_packets\0\0\0"), "rx_packets");
        assert_eq!(text(b"no end"), "no end");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut ethtool = Ethtool::new().expect("a socket");
        for name in ["nosuchif0", "a-name-that-no-interface-can-have", ""] {
            let error = ethtool.driver(name).expect_err(name);
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}");
        }
        let error = ethtool.counters("lo").expect_err("loopback has no driver");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
