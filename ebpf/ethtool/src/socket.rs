//! One command about one interface: `struct ifreq` with the command's structure behind it.

use std::ffi::c_void;
use std::io;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

const SIOCETHTOOL: libc::c_ulong = 0x8946;

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
pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn new() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
        Ok(Self(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?))
    }

    /// The number of the interface with this name.
    ///
    /// # Errors
    /// ENODEV when there is none.
    pub fn index(&self, nic: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.0, nic)?)
    }

    /// A command: its structure as words of four bytes, the number of the command first. The words
    /// must have room for all that the kernel writes.
    pub(crate) fn command(&self, nic: &str, words: &mut [u32]) -> io::Result<()> {
        let mut request =
            Request { name: [0; 16], data: words.as_mut_ptr().cast(), unused: [0; 16] };
        // Interface names have at most 15 bytes.
        if nic.len() >= request.name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        request.name[..nic.len()].copy_from_slice(nic.as_bytes());
        // SAFETY: the request outlives the call, and so do the words it points to. They have room
        // for the structure of the command in the first one: the callers, all in this crate, give
        // fixed structures in full, and for lists the bound that stands beside their buffer.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The error for what neither the kernel nor the driver has.
pub(crate) fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}

/// That error in place of "operation not supported".
pub(crate) fn driver_lacks(error: io::Error, what: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => unsupported(&format!("the driver {what}")),
        _ => error,
    }
}
