//! Lines of a file that may still grow, whole ones only.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// The longest line, in bytes: the addresses of a million connections from 20,000 hosts take less.
/// What is longer is none that a run has written, and nothing after it is read.
const LONGEST: usize = 1 << 20;

/// Reads a file line by line. At its end more may come: what has no end of line yet is kept.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    whole: bool,
    number: usize,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let reader = BufReader::new(platform::open_file(path)?);
        Ok(Self { reader, line: Vec::new(), whole: false, number: 0 })
    }

    /// The next whole line with its number, if there is one by now.
    ///
    /// # Errors
    /// What the system says, or that the line is too long: then the rest is not read.
    pub fn next_line(&mut self) -> io::Result<Option<(usize, &[u8])>> {
        if self.whole {
            self.line.clear();
        }
        let room = (LONGEST + 1 - self.line.len()) as u64;
        self.reader.by_ref().take(room).read_until(b'\n', &mut self.line)?;
        self.whole = self.line.last() == Some(&b'\n');
        if !self.whole && self.line.len() > LONGEST {
            let what = format!("line {} is longer than {LONGEST} bytes", self.number + 1);
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        if !self.whole {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some((self.number, &self.line[..self.line.len() - 1])))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_without_an_end_is_not_gathered() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let longest = [vec![b'x'; LONGEST], vec![b'\n']].concat();
        file.write_all(&longest).expect("writes");
        file.as_file().set_len(1 << 40).expect("sparse");
        let mut lines = Lines::open(file.path()).expect("opens");
        let (number, line) = lines.next_line().expect("reads").expect("a line");
        assert_eq!((number, line.len()), (1, LONGEST));
        for _ in 0..2 {
            let why = lines.next_line().expect_err("no line").to_string();
            assert_eq!(why, format!("line 2 is longer than {LONGEST} bytes"));
            assert!(lines.line.capacity() <= 4 * LONGEST);
        }
    }

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut lines = Lines::open(file.path()).expect("opens");
        let mut next = || {
            let next = lines.next_line().expect("reads");
            next.map(|(number, line)| (number, String::from_utf8_lossy(line).into_owned()))
        };
        assert_eq!(next(), None);
        file.write_all(b"one\ntw").expect("writes");
        assert_eq!(next(), Some((1, "one".to_owned())));
        assert_eq!(next(), None);
        file.write_all(b"o\n\n").expect("writes");
        assert_eq!(next(), Some((2, "two".to_owned())));
        assert_eq!(next(), Some((3, String::new())));
        assert_eq!(next(), None);
    }
}
