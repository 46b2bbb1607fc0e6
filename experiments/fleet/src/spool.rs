//! What an agent has said of a run, on disk until the coordinator has merged it. A killed process
//! loses nothing that was handed to the system; a last line that was cut off is no batch yet.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::protocol::{Batch, Said};

/// The ending of a spool's file.
const ENDING: &str = "spool";

/// The batches of a run that may have to be sent (again).
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    file: File,
    /// Where batches begin in the file, and their length without the end of line.
    at: VecDeque<(u64, usize)>,
    /// The number of the first of them.
    first: u64,
    end: u64,
}

fn path(directory: &Path, run: &str) -> PathBuf {
    directory.join(format!("{run}.{ENDING}"))
}

impl Spool {
    /// An empty one for a run.
    ///
    /// # Errors
    /// What the system says, or that there is one already.
    pub(crate) fn create(directory: &Path, run: &str) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = path(directory, run);
        let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
        Ok(Self { path, file, at: VecDeque::new(), first: 1, end: 0 })
    }

    /// What is there of a run.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(directory: &Path, run: &str) -> io::Result<Self> {
        let path = path(directory, run);
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        let mut spool = Self { path, file, at: VecDeque::new(), first: 1, end: 0 };
        let mut lines = BufReader::new(spool.file.try_clone()?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            spool.at.push_back((spool.end, length - 1));
            spool.end += length as u64;
        }
        spool.file.set_len(spool.end)?;
        Ok(spool)
    }

    /// The runs of which something is kept.
    pub(crate) fn kept(directory: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        let mut runs: Vec<String> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        runs.sort();
        runs
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn push(&mut self, said: Vec<Said>) -> io::Result<()> {
        let number = self.written() + 1;
        let mut line = serde_json::to_vec(&Batch { number, said })?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.at.push_back((self.end, line.len() - 1));
        self.end += line.len() as u64;
        Ok(())
    }

    /// The number of the last batch.
    pub(crate) fn written(&self) -> u64 {
        self.first + self.at.len() as u64 - 1
    }

    /// A batch as it is sent; `None` when it is not there, yet or any more.
    pub(crate) fn read(&self, number: u64) -> Option<Vec<u8>> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let (at, length) = *self.at.get(place)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    /// Batches up to this one are not needed any more.
    pub(crate) fn merged(&mut self, number: u64) {
        while self.first <= number && self.at.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Whether all is merged.
    pub(crate) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// The number of the first batch that is not merged, which may not be there yet.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Takes it off the disk.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::program::Who;

    fn line(text: &str) -> Vec<Said> {
        vec![Said::Line { who: Who::Server, line: text.to_owned() }]
    }

    fn text(spool: &Spool, number: u64) -> Option<String> {
        let batch: Batch = serde_json::from_slice(&spool.read(number)?).expect("a batch");
        assert_eq!(batch.number, number);
        match batch.said.into_iter().next() {
            Some(Said::Line { line, .. }) => Some(line),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn batches_are_kept_until_they_are_merged_and_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::create(directory.path(), "run").expect("new");
        assert_eq!((spool.written(), spool.read(1)), (0, None));
        for text in ["a", "b\n", "c"] {
            spool.push(line(text)).expect("written");
        }
        assert_eq!(text(&spool, 2).as_deref(), Some("b\n"));
        spool.merged(2);
        assert_eq!((text(&spool, 2), text(&spool, 3).as_deref()), (None, Some("c")));
        spool.merged(3);
        assert!(spool.is_empty());
        spool.push(line("d")).expect("written");
        assert_eq!(spool.written(), 4);
        assert!(Spool::create(directory.path(), "run").is_err());
        drop(spool);

        // Killed in the middle of a line.
        let path = path(directory.path(), "run");
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(b"{\"number\":5,\"sa").expect("written");
        assert_eq!(Spool::kept(directory.path()), ["run"]);
        let mut opened = Spool::open(directory.path(), "run").expect("there");
        assert_eq!((opened.written(), text(&opened, 1).as_deref()), (4, Some("a")));
        opened.push(line("e")).expect("written");
        assert_eq!(text(&opened, 5).as_deref(), Some("e"));
        opened.remove().expect("removed");
        assert!(Spool::kept(directory.path()).is_empty());
    }
}
