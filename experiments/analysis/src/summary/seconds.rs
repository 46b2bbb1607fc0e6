//! The seconds of a phase by the clock: a second in which a shard stood still and wrote no line is
//! one like any other, in which nothing was answered. Must not know: what is worked out of them.

use std::collections::{BTreeMap, HashMap};

use record::{ClientRow, Raw};
use spec::Shake;

/// No phase is longer, in seconds: the file that says so is damaged, and only what is written
/// counts.
const LONGEST_S: u64 = 7 * 86_400;

/// A client, and which of its shards.
type ShardOfClient = (u32, usize);

/// A second of a phase over all client shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SecondTotals {
    /// The Unix second.
    pub(super) t: u64,
    /// Users logged in at its end: those of a shard that says nothing are those it had before.
    pub(super) online: u64,
    /// Shakes due.
    pub(super) due: u64,
    /// Answers.
    pub(super) answered: u64,
}

/// The answers of each second, from `start` to `end`.
pub(crate) fn answered_by_clock(raw: &Raw, start: u64, end: u64) -> Vec<(u64, u64)> {
    let seconds = by_clock(&raw.clients, None, (start, end));
    seconds.into_iter().map(|second| (second.t, second.answered)).collect()
}

/// Each second of a phase, from `start` to `end`.
pub(super) fn by_clock(
    clients: &[ClientRow],
    shake: Option<&Shake>,
    (start, end): (u64, u64),
) -> Vec<SecondTotals> {
    let mut written: BTreeMap<u64, SecondTotals> = BTreeMap::new();
    let mut online: BTreeMap<u64, Vec<(ShardOfClient, u64)>> = BTreeMap::new();
    for line in clients.iter().filter(|line| line.t < end) {
        online.entry(line.t).or_default().push(((line.client, line.shard), line.online));
        if line.t >= start {
            let second = written.entry(line.t).or_default();
            second.due = second.due.saturating_add(line.tally.offered);
            second.answered = second.answered.saturating_add(line.tally.answered);
        }
    }
    let mut last: HashMap<ShardOfClient, u64> = HashMap::new();
    last.extend(online.range(..start).flat_map(|(_, shards)| shards).copied());
    let clock: Vec<u64> = if end.saturating_sub(start) > LONGEST_S {
        written.keys().copied().collect()
    } else {
        (start..end).collect()
    };
    let mut seconds: Vec<SecondTotals> = clock
        .into_iter()
        .map(|t| {
            last.extend(online.get(&t).into_iter().flatten().copied());
            let online = last.values().copied().fold(0, u64::saturating_add);
            SecondTotals { t, online, ..written.get(&t).copied().unwrap_or_default() }
        })
        .collect();
    count_due(&mut seconds, shake);
    seconds
}

/// A shard that stood still counts what was due meanwhile when it goes on. The schedule knows
/// better, where what it has is what was counted in all.
fn count_due(seconds: &mut [SecondTotals], shake: Option<&Shake>) {
    let scheduled: Option<Vec<u64>> =
        (0..seconds.len() as u64).map(|second| shake?.due_in(second)).collect();
    let sum = |all: &mut dyn Iterator<Item = u64>| all.fold(0, u64::saturating_add);
    let counted = sum(&mut seconds.iter().map(|second| second.due));
    if let Some(due) = scheduled.filter(|due| sum(&mut due.iter().copied()) == counted) {
        seconds.iter_mut().zip(due).for_each(|(second, due)| second.due = due);
    }
}

#[cfg(test)]
mod tests {
    use spec::{Pacing, Rate};

    use super::*;

    /// A second of a shard: when, which, users online, shakes due, answers.
    fn rows(lines: &[(u64, usize, u64, u64, u64)]) -> Vec<ClientRow> {
        let row = |(t, shard, online, offered, answered): &(u64, usize, u64, u64, u64)| {
            let line = format!(
                "{{\"t\":{t},\"client\":0,\"shard\":{shard},\"online\":{online},\
                 \"offered\":{offered},\"answered\":{answered}}}"
            );
            record::parse(line.as_bytes()).expect("a row")
        };
        lines.iter().map(row).collect()
    }

    fn steady(rate: u32, pacing: Pacing) -> Shake {
        Shake::Open { rate: Rate::Fixed(rate), pacing }
    }

    /// A client that is stopped from 5.3 s to 7.8 s counts what was due meanwhile when it goes on.
    #[test]
    fn a_second_without_a_line_is_one_in_which_nothing_was_answered() {
        let lines =
            rows(&[(4, 0, 9, 100, 100), (5, 0, 9, 30, 30), (7, 0, 9, 270, 270), (8, 0, 9, 7, 7)]);
        let seconds = by_clock(&lines, Some(&steady(100, Pacing::Even)), (4, 8));
        let found: Vec<_> = seconds.iter().map(|it| (it.t, it.due, it.answered)).collect();
        assert_eq!(found, [(4, 100, 100), (5, 100, 30), (6, 100, 0), (7, 100, 270)]);
        assert!(seconds.iter().all(|second| second.online == 9), "nobody went away");
        // Where the schedule draws lots, what was counted has to do.
        let seconds = by_clock(&lines, Some(&steady(100, Pacing::Poisson)), (4, 8));
        assert_eq!(seconds.iter().map(|it| it.due).collect::<Vec<_>>(), [100, 30, 0, 270]);
        // The same where the rate was changed meanwhile.
        let seconds = by_clock(&lines, Some(&steady(50, Pacing::Even)), (4, 8));
        assert_eq!(seconds.iter().map(|it| it.due).collect::<Vec<_>>(), [100, 30, 0, 270]);
    }

    #[test]
    fn users_of_a_shard_that_says_nothing_are_those_it_had() {
        let lines = rows(&[(3, 1, 5, 0, 0), (4, 0, 5, 0, 0), (5, 1, 4, 0, 0), (6, 0, 6, 0, 0)]);
        let online: Vec<u64> = by_clock(&lines, None, (4, 7)).iter().map(|it| it.online).collect();
        assert_eq!(online, [10, 9, 10]);
    }

    #[test]
    fn a_phase_of_a_million_years_has_the_seconds_that_were_written() {
        let lines = rows(&[(4, 0, 5, 1, 1), (9, 0, 5, 1, 1)]);
        let seconds = by_clock(&lines, None, (4, u64::MAX));
        assert_eq!(seconds.iter().map(|it| it.t).collect::<Vec<_>>(), [4, 9]);
    }
}
