//! What agents say, merged once and in order, and only of their own programs.
//!
//! Owns: numbers of batches. Must not know: what lines and reports mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::news::{FromFleet, HostNews, Listener};
use crate::protocol::{Batch, HostReport, Said};
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
    pieces: BTreeMap<Who, String>,
    /// Whether it was told of that the host speaks for others.
    is_told_of: bool,
}

impl MergedHost {
    /// So much is merged of a host with these programs.
    pub(crate) fn new(last: u64, programs: BTreeSet<Who>) -> Self {
        Self { last, programs, ..Self::default() }
    }

    /// What an item says; `None` when more of it is to come, or it is not for this host to say.
    fn heard(&mut self, host: &str, said: Said) -> Option<FromFleet> {
        let who = match &said {
            Said::Line { who, .. } | Said::Piece { who, .. } | Said::Silence { who } => Some(*who),
            Said::Host(_) => None,
        };
        if let Some(who) = who.filter(|who| !self.programs.contains(who)) {
            let news = !std::mem::replace(&mut self.is_told_of, true);
            return news
                .then(|| warning(host, format!("it speaks for {who}, which is not its own")));
        }
        Some(match said {
            Said::Line { who, line } => FromFleet::Line(who, line),
            Said::Silence { who } => FromFleet::Silence(who),
            Said::Piece { who, piece, last } => {
                let open = self.pieces.entry(who).or_default();
                if open.len() + piece.len() > LONGEST {
                    self.pieces.remove(&who);
                    return Some(warning(host, format!("a line of {who} is too long")));
                }
                open.push_str(&piece);
                if !last {
                    return None;
                }
                FromFleet::Line(who, self.pieces.remove(&who).unwrap_or_default())
            }
            Said::Host(report) => FromFleet::Host(HostNews::Reported(host.to_owned(), report)),
        })
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
    pub(crate) fn merge(&mut self, host: &str, batch: Batch, place: u64) {
        let Some(known) = self.hosts.get_mut(host) else { return };
        if known.last.checked_add(1) != Some(batch.number) {
            return;
        }
        known.last = batch.number;
        (self.heard)(FromFleet::Host(HostNews::Batch));
        for said in batch.said {
            if let Some(heard) = known.heard(host, said) {
                (self.heard)(heard);
            }
        }
        let whole = self.hosts.values().all(|host| host.pieces.is_empty());
        let (host, number) = (host.to_owned(), batch.number);
        (self.heard)(FromFleet::Host(HostNews::Merged { host, number, place, whole }));
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

    fn seen(told: &mut UnboundedReceiver<FromFleet>) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(heard) = told.try_recv() {
            seen.push(match heard {
                FromFleet::Host(HostNews::Batch) => continue,
                FromFleet::Host(HostNews::Reported(_, HostReport::Warning { what })) => what,
                FromFleet::Host(HostNews::Merged { number, place, whole, .. }) => {
                    format!("{number} at {place} {whole}")
                }
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
        merger.merge("a", batch(1, warning("1")), 1);
        merger.merge("a", batch(1, warning("1 again")), 2);
        merger.merge("a", batch(3, warning("3 too early")), 3);
        merger.merge("stranger", batch(1, warning("of another run")), 4);
        merger.merge("a", batch(2, warning("2")), 5);
        merger.merge("a", batch(3, warning("3")), 6);
        let piece = |text: &str, last| vec![Said::Piece { who, piece: text.to_owned(), last }];
        merger.merge("a", batch(4, piece("not ", false)), 7);
        merger.merge("a", batch(5, piece("JSON", true)), 8);
        let expected = [
            "1",
            "1 at 1 true",
            "2",
            "2 at 5 true",
            "3",
            "3 at 6 true",
            "4 at 7 false",
            "client 0: not JSON",
            "5 at 8 true",
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
            Said::Piece { who: Who::Server, piece: "x".to_owned(), last: false },
            line(Who::Client(0)),
        ];
        merger.merge("a", batch(1, others), 1);
        let expected = ["it speaks for server, which is not its own", "client 0: x", "1 at 1 true"];
        assert_eq!(seen(&mut told), expected);
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let who = Who::Client(0);
        let (mut merger, mut told) = merger(&[("a", &[who])]);
        let piece = "x".repeat(LONGEST / 2 + 1);
        let said = || Said::Piece { who, piece: piece.clone(), last: false };
        merger.merge("a", batch(1, vec![said(), said()]), 1);
        assert_eq!(seen(&mut told), ["a line of client 0 is too long", "1 at 1 true"]);
    }
}
