//! What a host has to tell, gathered into batches: lines that come soon after one another travel
//! together, and one that is too long for a message travels in pieces.

use std::time::Duration;

use tokio::time::Instant;

use super::sender::Sending;
use crate::protocol::{HostReport, Said};
use host::program::Who;

/// What is to be told waits so long for more, so that a message has many lines.
const GATHER: Duration = Duration::from_millis(40);

/// A batch is closed when it is this long, in bytes: NATS takes messages of 1 MiB, and escaping
/// makes six bytes of one at most.
const BATCH: usize = 160 << 10;

/// A line that is longer travels in pieces.
const PIECE: usize = 128 << 10;

/// What is to be told and not yet in a batch.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Vec<Said>,
    /// Their length as far as it matters here, in bytes.
    bytes: usize,
    flush_at: Option<Instant>,
}

/// The length of an item within a batch, roughly.
fn length(said: &Said) -> usize {
    match said {
        Said::Line { line, .. } => line.len(),
        Said::Piece { piece, .. } => piece.len(),
        Said::Host(HostReport::Looked { sides, .. }) => 300 * sides.len(),
        _ => 2_000,
    }
}

impl Outbox {
    /// Adds an item, to be sent within [`GATHER`].
    pub(super) fn push(&mut self, said: impl Into<Said>) {
        let said = said.into();
        self.bytes += length(&said);
        self.waiting.push(said);
        let now = Instant::now();
        let at = *self.flush_at.get_or_insert(now + GATHER);
        self.flush_at = Some(if self.bytes > BATCH { now } else { at });
    }

    /// Adds a line of a program.
    pub(super) fn line(&mut self, who: Who, line: String) {
        if line.len() <= PIECE {
            return self.push(Said::Line { who, line });
        }
        let mut rest = line.as_str();
        let mut place = 0;
        while !rest.is_empty() {
            let mut at = PIECE.min(rest.len());
            while !rest.is_char_boundary(at) {
                at -= 1;
            }
            let (piece, after) = rest.split_at(at);
            rest = after;
            self.push(Said::Piece { who, piece: piece.to_owned(), place, last: rest.is_empty() });
            place += 1;
        }
    }

    /// Adds something that a person should know.
    pub(super) fn warn(&mut self, what: impl Into<String>) {
        self.push(HostReport::Warning { what: what.into() });
    }

    /// When the items are to be sent, if there are any.
    pub(super) fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    /// Whether a batch is full.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > BATCH
    }

    /// Nothing comes any more that is worth waiting for.
    pub(super) fn flush_now(&mut self) {
        self.flush_at = Some(Instant::now());
    }

    /// Hands the items over in batches. What becomes of the room for them is told, too.
    pub(super) fn flush(&mut self, sending: Option<&Sending>) {
        self.flush_at = None;
        let Some(sending) = sending else { return };
        let mut news = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for said in std::mem::take(&mut self.waiting) {
            let length = length(&said);
            if bytes + length > BATCH && !batch.is_empty() {
                news.extend(sending.push(std::mem::take(&mut batch)));
                bytes = 0;
            }
            bytes += length;
            batch.push(said);
        }
        self.bytes = 0;
        if !batch.is_empty() {
            news.extend(sending.push(batch));
        }
        news.into_iter().for_each(|news| self.tell(news));
    }

    /// Tells what a person should know of this host, here and at the coordinator.
    pub(super) fn tell(&mut self, what: String) {
        text::say!("{what}");
        self.warn(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_travels_in_pieces_between_letters() {
        let who = Who::Client(3);
        let line = "ü".repeat(PIECE);
        let mut outbox = Outbox::default();
        outbox.line(who, "short".to_owned());
        outbox.line(who, line.clone());
        let mut joined = String::new();
        let mut lasts = Vec::new();
        for said in &outbox.waiting[1..] {
            let Said::Piece { piece, place, last, .. } = said else { panic!("{said:?}") };
            assert!(piece.len() <= PIECE);
            assert_eq!(*place as usize, lasts.len());
            joined += piece;
            lasts.push(*last);
        }
        assert_eq!(joined, line);
        assert_eq!(lasts, [false, true]);
        assert!(matches!(&outbox.waiting[0], Said::Line { line, .. } if line == "short"));
        assert!(outbox.flush_at().is_some_and(|at| at <= Instant::now()));
    }
}
