//! Lines of a file that may still grow, whole ones only.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

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
        let reader = BufReader::new(File::open(path)?);
        Ok(Self { reader, line: Vec::new(), whole: false, number: 0 })
    }

    /// The next whole line with its number, if there is one by now.
    ///
    /// # Errors
    /// What the system says.
    pub fn next_line(&mut self) -> io::Result<Option<(usize, &[u8])>> {
        if self.whole {
            self.line.clear();
        }
        self.reader.read_until(b'\n', &mut self.line)?;
        self.whole = self.line.last() == Some(&b'\n');
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
