//! How much counters grew between two readings: those that went round, and those that were reset.
//!
//! A pure function of the readings. Some drivers keep 32 bits (bnx2, tg3 in part): such a counter
//! goes round within seconds at a high rate. A card that was reset begins again with nearly all of
//! its counters at once. What cannot be told is not known: never negative, never huge.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{CountedBy, NicReading};

/// Where a counter of 32 bits begins again.
const ROUND: u64 = 1 << 32;

/// Beyond it a growth is a counter below zero: no card counts so much between two readings.
const HUGE: u64 = 1 << 63;

/// A counter that went back, and did not go round: how much it grew is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JumpedBack {
    /// Its name, without its queue.
    pub name: String,
    /// The queue, for a counter of one.
    pub queue: Option<u32>,
    /// Whose counter it is.
    pub counted_by: CountedBy,
    /// What it was.
    pub from: u64,
    /// What it is.
    pub to: u64,
}

/// A counter's way from one reading to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It grew by so much.
    Grew(u64),
    /// It was near the end of 32 bits and is near their beginning.
    WentRound(u64),
    /// It went back.
    Back,
}

fn step(then: u64, now: u64) -> Step {
    match now.checked_sub(then) {
        Some(growth) if growth < HUGE => Step::Grew(growth),
        None if (ROUND / 4 * 3..ROUND).contains(&then) && now < ROUND / 4 => {
            Step::WentRound(now + ROUND - then)
        }
        _ => Step::Back,
    }
}

/// How much each counter grew; `None` for one that is new or went back. The counters are of one
/// group, a card's own or a queue's, that is reset as a whole: where most of them are back near
/// their beginning, the others did not go round either.
fn grown<Name: Ord + Clone>(
    now: &BTreeMap<Name, Option<u64>>,
    then: Option<&BTreeMap<Name, Option<u64>>>,
) -> BTreeMap<Name, Option<u64>> {
    let before = |name: &Name| then.and_then(|then| then.get(name).copied()).flatten();
    let pairs = || {
        let pair = |(name, now): (&Name, &Option<u64>)| Some((before(name)?, (*now)?));
        now.iter().filter_map(pair)
    };
    let is_reset = was_reset(pairs());
    let growth = |name: &Name, now: Option<u64>| match step(before(name)?, now?) {
        Step::Grew(growth) => Some(growth),
        Step::WentRound(growth) if !is_reset => Some(growth),
        _ => None,
    };
    now.iter().map(|(name, now)| (name.clone(), growth(name, *now))).collect()
}

/// Whether a group began again: half or more of what had counted went back, and one of these
/// cannot have gone round.
fn was_reset(pairs: impl Iterator<Item = (u64, u64)>) -> bool {
    let (mut counted, mut fell, mut back) = (0, 0, false);
    for (then, now) in pairs.filter(|(then, _)| *then > 0) {
        let step = step(then, now);
        counted += 1;
        fell += usize::from(!matches!(step, Step::Grew(_)));
        back |= step == Step::Back;
    }
    back && fell * 2 >= counted
}

impl NicReading {
    /// What was counted since an earlier reading of the same interface.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let queues = self.queues.as_ref().map(|queues| {
            let then = |queue: &u32| before.queues.as_ref().and_then(|then| then.get(queue));
            queues.iter().map(|(queue, now)| (*queue, grown(now, then(queue)))).collect()
        });
        let own = self.driver_counters.as_ref();
        Self {
            link: grown(&self.link, Some(&before.link)),
            driver_counters: own.map(|now| grown(now, before.driver_counters.as_ref())),
            queues,
            ..self.clone()
        }
    }

    /// The counters that went back since an earlier reading of the same interface; the growth of
    /// each is `None` in [`since`](Self::since).
    pub fn jumped_back(&self, before: &Self) -> Vec<JumpedBack> {
        let grown = self.since(before);
        let mut all = Vec::new();
        let kernel = |(name, now): (&&'static str, &Option<u64>)| {
            (grown.link[name].is_none(), (*name).to_owned(), before.link.get(name).copied(), *now)
        };
        let link = self.link.iter().map(kernel);
        all.extend(link.filter_map(|it| jump(it, None, CountedBy::Kernel)));
        let own = grown.of_driver().zip(self.of_driver());
        all.extend(own.filter_map(|((queue, name, growth), (_, _, now))| {
            let counters = match queue {
                None => before.driver_counters.as_ref(),
                Some(queue) => before.queues.as_ref().and_then(|queues| queues.get(&queue)),
            };
            let then = counters.and_then(|counters| counters.get(name).copied());
            jump((growth.is_none(), name.clone(), then, *now), queue, CountedBy::Driver)
        }));
        all
    }
}

/// One that was known before and now, and whose growth is not.
fn jump(
    (unknown, name, then, now): (bool, String, Option<Option<u64>>, Option<u64>),
    queue: Option<u32>,
    counted_by: CountedBy,
) -> Option<JumpedBack> {
    let (from, to) = (then.flatten()?, now?);
    unknown.then_some(JumpedBack { name, queue, counted_by, from, to })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{FILES, of_file};
    use super::*;

    fn growth(then: u64, now: u64) -> Option<u64> {
        let one = |value| BTreeMap::from([("one", Some(value))]);
        grown(&one(now), Some(&one(then)))["one"]
    }

    #[test]
    fn counters_grow_go_round_or_were_reset() {
        let check = |then: u64, now: u64, grown: Option<u64>| {
            assert_eq!(growth(then, now), grown, "{then} to {now}");
        };
        check(5, 5, Some(0));
        check(5, 12, Some(7));
        check(0xffff_fff0, 0x10, Some(0x20));
        check(0xffff_fff0, 0x1_0000_0010, Some(0x20));
        check(1000, 3, None);
        check(1 << 40, 3, None);
        // Below zero, and back.
        check(5, u64::MAX - 1, None);
        check(u64::MAX - 1, 5, None);
        let one = BTreeMap::from([("one", Some(1))]);
        let unknown = BTreeMap::from([("one", None)]);
        assert_eq!(grown(&one, Some(&unknown))["one"], None);
        assert_eq!(grown(&unknown, Some(&one))["one"], None);
        assert_eq!(grown(&one, None)["one"], None);
    }

    #[test]
    fn what_goes_round_is_told_from_a_card_that_begins_again() {
        let group = |values: [u64; 3]| -> BTreeMap<&str, Option<u64>> {
            ["octets", "packets", "gauge"].into_iter().zip(values.map(Some)).collect()
        };
        let check = |then, now, expected: [Option<u64>; 3]| {
            let found: Vec<_> = grown(&group(now), Some(&group(then))).into_values().collect();
            // By name: gauge, octets, packets.
            assert_eq!(found, [expected[2], expected[0], expected[1]], "{then:?} to {now:?}");
        };
        let near = 0xffff_ff00;
        check([near, 900, 7], [0x100, 905, 7], [Some(0x200), Some(5), Some(0)]);
        // A value that is no count falls, too.
        check([near, 900, 7], [0x100, 905, 3], [None, Some(5), None]);
        check([near, 900, 7], [0x100, 2, 7], [None, None, Some(0)]);
    }

    /// A reading with each counter of the card's own made another.
    fn with(reading: &NicReading, each: impl Fn(u64) -> u64) -> NicReading {
        let mut reading = reading.clone();
        let own = reading.driver_counters.iter_mut();
        for counters in own.chain(reading.queues.iter_mut().flat_map(|it| it.values_mut())) {
            for value in counters.values_mut() {
                *value = value.map(&each);
            }
        }
        reading
    }

    #[test]
    fn every_drivers_counters_go_round_and_are_reset() {
        // Counts of real cards: the files' values are numbers of lines.
        for (file, driver) in FILES {
            let lines = of_file(driver, file);
            let before = with(&lines, |line| ROUND - 1 - line);
            let round = with(&lines, |line| line);
            let all: Vec<_> =
                round.of_driver().map(|(_, _, line)| line.map(|it| it * 2 + 1)).collect();
            let grown = round.since(&before);
            let found: Vec<_> = grown.of_driver().map(|(_, _, growth)| *growth).collect();
            assert_eq!(found, all, "{file} goes round");
            assert_eq!(round.jumped_back(&before), [], "{file}");
            // The same card, of which a counter says that it cannot have gone round: reset.
            let before = with(&lines, |line| if line % 3 == 0 { ROUND - 1 } else { 1_000_000 });
            let reset = with(&lines, |_| 0);
            let grown = reset.since(&before);
            let unknown = grown.of_driver().filter(|(_, _, growth)| growth.is_none()).count();
            let jumped = reset.jumped_back(&before);
            assert_eq!(jumped.len(), unknown, "{file} is reset");
            assert!(unknown * 2 > grown.of_driver().count(), "{file}: {jumped:?}");
            assert!(jumped.iter().all(|it| it.to == 0 && it.from > 0), "{file}: {jumped:?}");
            let least = grown.of_driver().filter_map(|(_, _, growth)| *growth).max();
            assert!(least.is_none_or(|growth| growth <= 1), "{file}: {least:?}");
            // What is lost is then unknown, where the driver's own counters say it.
            let lost = reset.since(&before).losses();
            assert!(lost.received.is_none_or(|lost| lost < 2 * 1_000_000), "{file}: {lost:?}");
        }
    }
}
