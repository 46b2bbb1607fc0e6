//! Lines of programs that cannot be read: the first of each program are shown, the others counted,
//! so that a program that says nothing else fills no record.

use std::collections::BTreeMap;

use host::program::Who;

/// So much is shown of a line, in characters.
const SHOWN: usize = 500;

/// So many lines of a program are shown.
const LINES: u64 = 20;

/// How many lines of each program could not be read.
#[derive(Debug, Default)]
pub(crate) struct Unreadable(BTreeMap<Who, u64>);

impl Unreadable {
    /// A program has said such a line. Returns the warning for it, if it is one of the first.
    pub(crate) fn said(&mut self, who: Who, line: &str) -> Option<String> {
        let count = self.0.entry(who).or_default();
        *count += 1;
        let line: String = line.chars().take(SHOWN).collect();
        let last = if *count == LINES { "; more of them are counted" } else { "" };
        (*count <= LINES).then(|| format!("said what cannot be read: {line}{last}"))
    }

    /// The warnings for the others, once.
    pub(crate) fn rest(&mut self) -> Vec<(Who, String)> {
        let all = std::mem::take(&mut self.0).into_iter();
        let beyond = all.filter_map(|(who, count)| Some((who, count.checked_sub(LINES)?)));
        let beyond = beyond.filter(|(_, rest)| *rest > 0);
        beyond
            .map(|(who, rest)| (who, format!("said {rest} more lines that cannot be read")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_that_cannot_be_read_is_shown_in_part_and_counted() {
        let mut unreadable = Unreadable::default();
        let line = "ü".repeat(2 * SHOWN);
        let said: Vec<String> =
            (0..10_000).filter_map(|_| unreadable.said(Who::Client(3), &line)).collect();
        assert_eq!(said.len(), 20);
        assert!(said.iter().all(|it| it.chars().count() < SHOWN + 100), "{}", said[0]);
        assert!(unreadable.said(Who::Server, "x").is_some());
        let rest = unreadable.rest();
        assert_eq!(rest.len(), 1, "all of the server was shown: {rest:?}");
        assert_eq!(rest[0].0, Who::Client(3));
        assert_eq!(rest[0].1, "said 9980 more lines that cannot be read");
        assert!(unreadable.rest().is_empty(), "said once");
    }
}
