//! Reading files that somebody else may have put there: at most so many bytes, and nothing that
//! has no end. Must not know: what is in them.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Opens a file, and nothing else: what is no file may have no end, or wait for ever.
///
/// # Errors
/// What the system says, or what it is instead.
pub fn open_file(path: &Path) -> io::Result<File> {
    match open(path)? {
        (file, false) => Ok(file),
        (_, true) => Err(strange("it is a pipe, and a file is expected")),
    }
}

/// Reads a file of at most so many bytes, or what comes through a pipe until its writer ends.
///
/// # Errors
/// What the system says, or why it is not read.
pub fn read_within(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, is_pipe) = open(path)?;
    let len = if is_pipe { 0 } else { file.metadata()?.len() };
    let mut bytes = Vec::new();
    if len <= most {
        bytes.reserve(usize::try_from(len).unwrap_or(0));
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if len > most || bytes.len() as u64 > most {
        return Err(strange(&format!("it has more than {most} bytes, and no such file has")));
    }
    Ok(bytes)
}

/// The same of a file that is text.
///
/// # Errors
/// As [`read_within`], or that it is no text.
pub fn read_text_within(path: &Path, most: u64) -> io::Result<String> {
    let no_text = |_| io::Error::new(ErrorKind::InvalidData, "it is no text (UTF-8)");
    String::from_utf8(read_within(path, most)?).map_err(no_text)
}

fn strange(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}

/// Opens a file or a pipe; whether it is a pipe.
fn open(path: &Path) -> io::Result<(File, bool)> {
    // Of a pipe, this does not wait for somebody to write.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok((file, false));
    }
    if kind.is_fifo() {
        // But what a writer has not written yet is waited for.
        fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
        return Ok((file, true));
    }
    Err(strange(if kind.is_dir() {
        "it is a directory, and a file is expected"
    } else {
        "it is a device, and a file is expected"
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn why<T: std::fmt::Debug>(read: io::Result<T>) -> String {
        read.expect_err("refused").to_string()
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(why(read_within(directory.path(), 10)).contains("it is a directory"));
        assert!(why(open_file(Path::new("/dev/zero"))).contains("it is a device"));
        assert!(why(read_within(Path::new("/dev/zero"), 10)).contains("it is a device"));
        let path = directory.path().join("x");
        let file = File::create(&path).expect("made");
        file.set_len(1 << 40).expect("sparse");
        let said = "it has more than 10 bytes, and no such file has";
        assert_eq!(why(read_within(&path, 10)), said);
        file.set_len(10).expect("cut");
        assert_eq!(read_within(&path, 10).expect("read"), [0; 10]);
        std::fs::write(&path, [0xff]).expect("written");
        assert_eq!(why(read_text_within(&path, 10)), "it is no text (UTF-8)");
    }

    #[test]
    fn what_is_piped_is_read_within_the_bound() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        assert!(why(open_file(&pipe)).contains("it is a pipe"));
        assert_eq!(read_within(&pipe, 10).expect("nobody writes"), b"");
        for (len, reads) in [(10, true), (11, false)] {
            let (reader, mut writer) = io::pipe().expect("a pipe");
            let there = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
            writer.write_all(&vec![7; len]).expect("room");
            drop(writer);
            let read = read_within(Path::new(&there), 10);
            assert_eq!(read.is_ok(), reads, "{len}: {read:?}");
        }
    }
}
