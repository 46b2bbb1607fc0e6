//! What agents say, merged once and in order, and only of their own programs.
//!
//! Owns: numbers of batches. Must not know: what lines and reports mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::news::{FromFleet, HostNews, Listener};
use crate::protocol::{Batch, HostReport, Said};
use host::Room;
use host::program::Who;

/// A line that comes in pieces may be this long, in bytes: a second of a shard's figures and slow
/// requests is 1 MiB at most.
const LONGEST: usize = 64 << 20;

/// What is merged of a host.
#[derive(Debug, Default)]
pub(crate) struct MergedHost {
    /// The number of its last batch.
    pub(crate) last: u64,
    /// The programs that it may speak for.
    pub(crate) programs: BTreeSet<Who>,
    /// Lines of which pieces are there.
    pieces: BTreeMap<Who, Pieces>,
    /// Whether it was told of that the host speaks for others.
    is_told_of: bool,
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Pieces {
    text: String,
    /// The place of the piece that comes next.
    next: u32,
}

impl MergedHost {
    /// So much is merged of a host with these programs.
    pub(crate) fn new(last: u64, programs: BTreeSet<Who>) -> Self {
        Self { last, programs, ..Self::default() }
    }

    /// Tells what an item says, unless more of it is to come, or it is not for this host to say.
    fn heard(&mut self, host: &str, said: Said, tell: &dyn Fn(FromFleet)) {
        let who = match &said {
            Said::Line { who, .. } | Said::Piece { who, .. } | Said::Silence { who } => Some(*who),
            Said::Host(_) => None,
        };
        if let Some(who) = who.filter(|who| !self.programs.contains(who)) {
            let news = !std::mem::replace(&mut self.is_told_of, true);
            if news {
                tell(warning(host, format!("it speaks for {who}, which is not its own")));
            }
            return;
        }
        match said {
            Said::Line { who, line } => {
                self.give_up(host, who, tell);
                tell(FromFleet::Line(who, line));
            }
            Said::Silence { who } => {
                self.give_up(host, who, tell);
                tell(FromFleet::Silence(who));
            }
            Said::Piece { who, piece, place, last } => {
                if place == 0 {
                    self.give_up(host, who, tell);
                }
                match self.add_piece(who, &piece, place) {
                    Ok(()) if last => {
                        // None when it was given up.
                        if let Some(whole) = self.pieces.remove(&who) {
                            tell(FromFleet::Line(who, whole.text));
                        }
                    }
                    Ok(()) => {}
                    Err(why) => {
                        self.pieces.remove(&who);
                        tell(warning(host, why));
                    }
                }
            }
            Said::Host(report) => {
                if report == (HostReport::Over {}) {
                    let open: Vec<Who> = self.pieces.keys().copied().collect();
                    open.into_iter().for_each(|who| self.give_up(host, who, tell));
                }
                tell(FromFleet::Host(HostNews::Reported(host.to_owned(), report)));
            }
        }
    }

    /// # Errors
    /// Why the line is given up, once.
    fn add_piece(&mut self, who: Who, piece: &str, place: u32) -> Result<(), String> {
        if place > 0 && !self.pieces.contains_key(&who) {
            // Given up before, or begun for another coordinator.
            return Ok(());
        }
        let open = self.pieces.entry(who).or_default();
        if open.next != place {
            return Err(format!("a part of a line of {who} is missing, and the line is left out"));
        }
        if open.text.len() + piece.len() > LONGEST {
            return Err(format!("a line of {who} is too long"));
        }
        open.text.push_str(piece);
        open.next += 1;
        Ok(())
    }

    /// The end of a line that was begun does not come any more: the host had no room for it.
    fn give_up(&mut self, host: &str, who: Who, tell: &dyn Fn(FromFleet)) {
        if self.pieces.remove(&who).is_some() {
            let what = format!("the end of a line of {who} is missing, and the line is left out");
            tell(warning(host, what));
        }
    }
}

fn warning(host: &str, what: String) -> FromFleet {
    FromFleet::Host(HostNews::Reported(host.to_owned(), HostReport::Warning { what }))
}

/// Merges batches in order and once.
pub(crate) struct Merger {
    hosts: BTreeMap<String, MergedHost>,
    heard: Listener,
}

impl Merger {
    /// Merges what comes after what is merged of each host.
    pub(crate) fn new(hosts: BTreeMap<String, MergedHost>, heard: Listener) -> Self {
        Self { hosts, heard }
    }

    /// Merges a batch at a place of the stream. One that was merged is left out, and so is one that
    /// comes before its predecessor: the agent sends both again.
    pub(crate) fn merge(&mut self, host: &str, batch: Batch, place: u64, room: Option<Room>) {
        let Some(known) = self.hosts.get_mut(host) else { return };
        if known.last.checked_add(1) != Some(batch.number) {
            return;
        }
        known.last = batch.number;
        (self.heard)(FromFleet::Host(HostNews::Batch));
        for said in batch.said {
            known.heard(host, said, &*self.heard);
        }
        let open = !known.pieces.is_empty();
        let (host, number) = (host.to_owned(), batch.number);
        (self.heard)(FromFleet::Host(HostNews::Merged { host, number, place, open, room }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;

    fn batch(number: u64, said: Vec<Said>) -> Batch {
        Batch { number, said }
    }

    fn merger(hosts: &[(&str, &[Who])]) -> (Merger, UnboundedReceiver<FromFleet>) {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let heard: Listener = Arc::new(move |news| drop(tell.send(news)));
        let host = |(name, programs): &(&str, &[Who])| {
            ((*name).to_owned(), MergedHost::new(0, programs.iter().copied().collect()))
        };
        (Merger::new(hosts.iter().map(host).collect(), heard), told)
    }

    fn piece(who: Who, text: &str, place: u32, last: bool) -> Said {
        Said::Piece { who, piece: text.to_owned(), place, last }
    }

    fn seen(told: &mut UnboundedReceiver<FromFleet>) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(heard) = told.try_recv() {
            seen.push(match heard {
                FromFleet::Host(HostNews::Batch) => continue,
                FromFleet::Host(HostNews::Reported(_, HostReport::Warning { what })) => what,
                FromFleet::Host(HostNews::Merged { number, place, open, .. }) => {
                    format!("{number} at {place}{}", if open { ", open" } else { "" })
                }
                FromFleet::Host(HostNews::Reported(..)) => "a report".to_owned(),
                FromFleet::Line(who, line) => format!("{who}: {line}"),
                FromFleet::Silence(who) => format!("{who} is silent"),
                other => panic!("{other:?}"),
            });
        }
        seen
    }

    #[test]
    fn batches_are_merged_once_and_in_order() {
        let who = Who::Client(0);
        let (mut merger, mut told) = merger(&[("a", &[who])]);
        let warning = |what: &str| vec![Said::Host(HostReport::Warning { what: what.to_owned() })];
        merger.merge("a", batch(1, warning("1")), 1, None);
        merger.merge("a", batch(1, warning("1 again")), 2, None);
        merger.merge("a", batch(3, warning("3 too early")), 3, None);
        merger.merge("stranger", batch(1, warning("of another run")), 4, None);
        merger.merge("a", batch(2, warning("2")), 5, None);
        merger.merge("a", batch(3, warning("3")), 6, None);
        merger.merge("a", batch(4, vec![piece(who, "not ", 0, false)]), 7, None);
        merger.merge("a", batch(5, vec![piece(who, "JSON", 1, true)]), 8, None);
        let expected = [
            "1",
            "1 at 1",
            "2",
            "2 at 5",
            "3",
            "3 at 6",
            "4 at 7, open",
            "client 0: not JSON",
            "5 at 8",
        ];
        assert_eq!(seen(&mut told), expected);
    }

    #[test]
    fn a_host_speaks_for_its_own_programs_alone() {
        let (mut merger, mut told) = merger(&[("a", &[Who::Client(0)]), ("s", &[Who::Server])]);
        let line = |who| Said::Line { who, line: "x".to_owned() };
        let others = vec![
            line(Who::Server),
            line(Who::Client(1)),
            Said::Silence { who: Who::Server },
            piece(Who::Server, "x", 0, false),
            line(Who::Client(0)),
        ];
        merger.merge("a", batch(1, others), 1, None);
        let expected = ["it speaks for server, which is not its own", "client 0: x", "1 at 1"];
        assert_eq!(seen(&mut told), expected);
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let who = Who::Client(0);
        let (mut merger, mut told) = merger(&[("a", &[who])]);
        let half = "x".repeat(LONGEST / 2 + 1);
        let said = (0..4).map(|place| piece(who, &half, place, place == 3)).collect();
        merger.merge("a", batch(1, said), 1, None);
        assert_eq!(seen(&mut told), ["a line of client 0 is too long", "1 at 1"]);
    }

    #[test]
    fn a_line_of_which_a_piece_is_lost_is_left_out_and_holds_up_nothing() {
        let (who, other) = (Who::Client(0), Who::Client(1));
        let (mut merger, mut told) = merger(&[("a", &[who, other])]);
        let line = |text: &str| Said::Line { who, line: text.to_owned() };
        let mut number = 0;
        let mut after = |said: Vec<Said>| {
            number += 1;
            merger.merge("a", batch(number, said), number, None);
            seen(&mut told)
        };
        let open = |number: u64| format!("{number} at {number}, open");
        let left_out = "the end of a line of client 0 is missing, and the line is left out";
        // The last one had no room: the next line of the same program says so.
        assert_eq!(after(vec![piece(who, "a", 0, false)]), [open(1)]);
        assert_eq!(after(vec![line("x")]), [left_out, "client 0: x", "2 at 2"]);
        assert_eq!(after(vec![piece(who, "a", 0, false)]), [open(3)]);
        let next = vec![piece(who, "b", 0, false), piece(who, "c", 1, true)];
        assert_eq!(after(next), [left_out, "client 0: bc", "4 at 4"]);
        // One in the middle.
        let said = vec![piece(who, "a", 0, false), piece(who, "c", 2, false)];
        let missing = "a part of a line of client 0 is missing, and the line is left out";
        assert_eq!(after(said), [missing, "5 at 5"]);
        assert_eq!(after(vec![piece(who, "d", 3, true)]), ["6 at 6"]);
        // The program ends, or the host has said all that it has to say.
        assert_eq!(after(vec![piece(who, "a", 0, false)]), [open(7)]);
        let ended = after(vec![Said::Silence { who }]);
        assert_eq!(ended, [left_out, "client 0 is silent", "8 at 8"]);
        assert_eq!(after(vec![piece(other, "a", 0, false)]), [open(9)]);
        let over = after(vec![Said::Host(HostReport::Over {})]);
        assert_eq!(over[0], left_out.replace("client 0", "client 1"));
        assert_eq!(over.last().map(String::as_str), Some("10 at 10"));
    }
}
