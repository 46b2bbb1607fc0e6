//! Reading and writing the file of one setting.

use std::io;

use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags, openat};

/// The text of a file.
pub(super) fn read_at(directory: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let file = openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    // One read gives all of a setting; a second one its end.
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(&file, &mut buffer)? {
            0 => break,
            some => text.extend_from_slice(&buffer[..some]),
        }
    }
    String::from_utf8(text).map_err(|_| io::Error::other("it is not text"))
}

/// Writes a file that exists, in one call.
pub(super) fn write_at(directory: BorrowedFd<'_>, path: &str, text: &str) -> io::Result<()> {
    let file = openat(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let line = format!("{text}\n");
    let written = rustix::io::write(&file, line.as_bytes())?;
    if written < text.len() {
        let part = "it takes a part of it only";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, part));
    }
    Ok(())
}
