//! Lines appended to a file that may have no room: they wait in memory, and are written when there
//! is some. Must not know: what the lines say.

use std::io::{self, Write};

/// So much waits before it is handed to the system, in bytes.
const CHUNK: usize = 64 << 10;

/// So much waits at most when there is no room, in bytes: at 50 KiB a second, what a fleet of 18
/// hosts says, five minutes.
const MOST: usize = 16 << 20;

/// A file that lines are appended to. What waits is not written when this is dropped.
#[derive(Debug)]
pub struct Appender<W> {
    /// How people know the file.
    name: String,
    out: W,
    waiting: Vec<u8>,
    most: usize,
    /// Why nothing can be written, while that is so.
    trouble: Option<String>,
    /// Lines that had no room anywhere.
    lost: u64,
    /// What a person should know and was not told.
    news: Vec<String>,
}

impl<W: Write> Appender<W> {
    /// Appends to a file that people know by this name.
    pub fn new(name: String, out: W) -> Self {
        let (waiting, news) = (Vec::new(), Vec::new());
        Self { name, out, waiting, most: MOST, trouble: None, lost: 0, news }
    }

    /// The file, without what waits.
    pub(crate) fn get_ref(&self) -> &W {
        &self.out
    }

    /// Appends whole lines.
    pub fn append(&mut self, lines: &[u8]) {
        if self.waiting.len() + lines.len() > self.most {
            if self.trouble.is_none() {
                self.flush();
            }
            if self.waiting.len() + lines.len() > self.most {
                if self.lost == 0 {
                    let (name, most) = (&self.name, self.most >> 20);
                    let what = format!("{name}: {most} MiB wait in memory; what comes now is lost");
                    self.news.push(what);
                }
                self.lost += 1;
                return;
            }
        }
        self.waiting.extend_from_slice(lines);
        if self.waiting.len() >= CHUNK && self.trouble.is_none() {
            self.flush();
        }
    }

    /// Hands what waits to the system, as far as there is room. Returns whether nothing waits.
    pub fn flush(&mut self) -> bool {
        match self.write_waiting() {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    let lost = match std::mem::take(&mut self.lost) {
                        0 => String::new(),
                        lost => format!("; {lost} lines had no room in memory and are lost"),
                    };
                    self.news.push(format!("{}: it can be written again{lost}", self.name));
                }
                true
            }
            Err(error) => {
                if self.trouble.is_none() {
                    let (name, most) = (&self.name, self.most >> 20);
                    self.news.push(format!(
                        "{name}: {error}; what comes waits in memory, up to {most} MiB, and the \
                         run goes on"
                    ));
                }
                self.trouble = Some(error.to_string());
                false
            }
        }
    }

    /// A write that was cut short is gone on with where it ended: no byte is there twice.
    fn write_waiting(&mut self) -> io::Result<()> {
        let mut done = 0;
        let mut outcome = Ok(());
        while done < self.waiting.len() && outcome.is_ok() {
            match self.out.write(&self.waiting[done..]) {
                Ok(0) => outcome = Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => outcome = Err(error),
            }
        }
        self.waiting.drain(..done);
        outcome
    }

    /// What a person should know since this was asked last.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// How many bytes wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Why what waits cannot be written, if something does.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().filter(|_| !self.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.room);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= fits;
            self.written.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn appender(room: usize) -> Appender<Disk> {
        Appender::new("x.jsonl on h".to_owned(), Disk { written: Vec::new(), room })
    }

    #[test]
    fn without_room_lines_wait_and_are_there_once_when_there_is_some() {
        let mut file = appender(10);
        file.append(b"one\n");
        assert!(file.flush() && file.take_news().is_empty());
        file.append(b"two two\n");
        assert!(!file.flush() && !file.flush());
        let news = file.take_news();
        assert_eq!(news.len(), 1, "said once: {news:?}");
        assert!(
            news[0].starts_with("x.jsonl on h: no storage space; what comes waits"),
            "{news:?}"
        );
        assert_eq!(file.out.written, b"one\ntwo tw", "cut short");
        file.append(b"three\n");
        assert!(!file.flush() && file.trouble().is_some());
        file.out.room = 100;
        assert!(file.flush() && file.trouble().is_none());
        assert_eq!(file.out.written, b"one\ntwo two\nthree\n");
        assert_eq!(file.take_news(), ["x.jsonl on h: it can be written again"]);
    }

    #[test]
    fn what_waits_has_a_bound_and_what_is_beyond_it_is_counted() {
        let mut file = appender(0);
        file.most = 10;
        for line in ["12345\n", "123\n", "1\n", "2\n"] {
            file.append(line.as_bytes());
        }
        assert!(!file.flush());
        let news = file.take_news();
        assert!(news.iter().any(|it| it.contains("what comes now is lost")), "{news:?}");
        file.out.room = 100;
        assert!(file.flush());
        assert_eq!(file.out.written, b"12345\n123\n", "whole lines");
        let news = file.take_news();
        assert_eq!(news.len(), 1);
        assert!(news[0].contains("again; 2 lines had no room"), "{news:?}");
    }
}
