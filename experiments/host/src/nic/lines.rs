//! A second of interfaces in words: a line each. Must not know: how it was read.

use std::collections::BTreeSet;

use ebpf::nic::{CardSecond, CountedBy, Direction, JumpedBack, NicChange, NicLoss, Weight};

use super::second::{Second, Softnet};

/// Names in a line at most, without `--all`: the rest are counted.
const NAMES: usize = 8;

/// Queues in a line at most, without `--all`.
const QUEUES: usize = 8;

/// A reading that is so much later than a second is said.
const LATE_NS: u64 = 1_250_000_000;

/// Losses whose meaning has been said, by driver and name.
pub(super) type Explained = BTreeSet<(Option<String>, String)>;

impl Second {
    /// Its lines: what changed, then an interface each, then what CPUs dropped.
    pub(super) fn lines(&self, all: bool) -> String {
        let of_day = self.t % 86_400;
        let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let time = format!("{hours:02}:{minutes:02}:{seconds:02}");
        let width = self.nics.cards.iter().map(|card| card.nic.chars().count()).max();
        let width = width.unwrap_or(0);
        let mut lines: Vec<String> = self.nics.changes.iter().map(change).collect();
        lines.extend(self.nics.cards.iter().map(|card| card_line(card, width, all)));
        if self.nics.left_out > 0 {
            lines.push(format!("NOT WATCHED: {} interfaces more; name some", self.nics.left_out));
        }
        lines.extend(self.softnet.and_then(Softnet::line));
        lines.iter().map(|line| format!("{time}  {line}\n")).collect()
    }

    /// What losses that are seen for the first time mean.
    pub(super) fn meanings(&self, explained: &mut Explained) -> Vec<String> {
        let mut new = Vec::new();
        for card in &self.nics.cards {
            for loss in card.row.losses.iter().filter(|loss| loss.frames.is_some()) {
                if explained.insert((card.driver.clone(), loss.name.clone())) {
                    new.push(format!("{}: {}: {}", card.nic, loss.name, loss.meaning));
                }
            }
        }
        new
    }
}

impl Softnet {
    /// `None` when there is nothing to say.
    fn line(self) -> Option<String> {
        let flow_limit = self.flow_limit.unwrap_or(0);
        if (self.dropped, flow_limit, self.time_squeeze) == (0, 0, 0) {
            return None;
        }
        Some(format!(
            "kernel, all CPUs: dropped before the stack {} (queue full) {flow_limit} (flow \
             limit)  rounds cut off {}",
            self.dropped, self.time_squeeze
        ))
    }
}

fn change(change: &NicChange) -> String {
    match change {
        NicChange::Came { nic, ifindex } => {
            format!("{nic} came (interface {ifindex}): it counts from here on")
        }
        NicChange::Gone { nic, ifindex } => {
            format!("{nic} is gone (interface {ifindex}): removed, or in another namespace")
        }
        NicChange::Renamed { nic, from, .. } => format!("{from} is called {nic} now"),
        NicChange::Unread { nic, reason, .. } => format!("{nic} NOT READ: {reason}"),
    }
}

fn count(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), text::thousands)
}

fn card_line(card: &CardSecond, width: usize, all: bool) -> String {
    let row = &card.row;
    let link = |name: &str| row.link.get(name).copied().flatten();
    let size = |name: &str| link(name).map_or_else(|| "-".to_owned(), text::bytes);
    let mut line = format!(
        "{:<width$}  in {} packets {}  out {} packets {}  lost in {} out {}",
        card.nic,
        count(link("rx_packets")),
        size("rx_bytes"),
        count(link("tx_packets")),
        size("tx_bytes"),
        count(row.lost_received),
        count(row.lost_sent),
    );
    line += &losses(&row.losses, all);
    let (rx, tx) = (link("rx_dropped"), link("tx_dropped"));
    if rx.unwrap_or(0) + tx.unwrap_or(0) > 0 {
        line += &format!("  kernel let go in {} out {}", count(rx), count(tx));
    }
    line += &queues(card, all);
    line += &moved(card, all);
    line += &jumps(&card.jumped_back);
    if card.over_ns > LATE_NS {
        line += &format!("  IN {:.1} s", card.over_ns as f64 / 1e9);
    }
    line
}

/// What was lost, each with its place and worth.
fn losses(losses: &[NicLoss], all: bool) -> String {
    let known = losses.iter().filter(|loss| loss.frames.is_some());
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|loss| std::cmp::Reverse(loss.frames));
    let words = known.iter().map(|loss| {
        let place = match (loss.counted_by, loss.queue) {
            (CountedBy::Kernel, _) => "kernel".to_owned(),
            (CountedBy::Driver, None) => "card".to_owned(),
            (CountedBy::Driver, Some(queue)) => format!("queue{queue}"),
        };
        let worth = match loss.weight {
            Weight::Lost => "",
            Weight::PartOf => " (counted already)",
            Weight::Perhaps if loss.direction == Direction::Sent => " (out, perhaps)",
            Weight::Perhaps => " (in, perhaps)",
        };
        format!("{}@{place}:{}{worth}", loss.name, count(loss.frames))
    });
    some("  lost ", words, if all { usize::MAX } else { NAMES })
}

/// Packets in and out of the queues that moved.
fn queues(card: &CardSecond, all: bool) -> String {
    let queues = card.row.queues.as_deref().unwrap_or_default();
    let moved = |it: &u64| *it > 0;
    let active = queues.iter().filter(|queue| {
        queue.rx_packets.as_ref().is_some_and(moved) || queue.tx_packets.as_ref().is_some_and(moved)
    });
    let words = active.map(|queue| {
        format!("{}:{}/{}", queue.queue, count(queue.rx_packets), count(queue.tx_packets))
    });
    some("  queues in/out ", words, if all { usize::MAX } else { QUEUES })
}

/// Every counter of the driver that moved, those that moved most first.
fn moved(card: &CardSecond, all: bool) -> String {
    let whole = card.row.driver_counters.iter().flatten().map(|(name, by)| (name, None, by));
    let queues =
        card.row.queues.iter().flatten().flat_map(|queue| {
            queue.counters.iter().map(|(name, by)| (name, Some(queue.queue), by))
        });
    let mut moved: Vec<_> =
        whole.chain(queues).filter_map(|(name, queue, by)| Some((name, queue, (*by)?))).collect();
    moved.sort_by_key(|(_, _, by)| std::cmp::Reverse(*by));
    let words = moved.iter().map(|(name, queue, by)| match queue {
        Some(queue) => format!("{name}@queue{queue} {}", text::thousands(*by)),
        None => format!("{name} {}", text::thousands(*by)),
    });
    some("  moved ", words, if all { usize::MAX } else { NAMES })
}

/// Counters that went back: how much they grew is not known.
fn jumps(jumps: &[JumpedBack]) -> String {
    let words = jumps.iter().map(|jump| {
        let queue = jump.queue.map(|queue| format!("@queue{queue}")).unwrap_or_default();
        format!("{}{queue} {} to {}", jump.name, jump.from, jump.to)
    });
    some("  WENT BACK (reset?): ", words, NAMES)
}

/// The first of some words, and how many there are more; nothing without any.
fn some(title: &str, words: impl Iterator<Item = String>, most: usize) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        return String::new();
    }
    let more = words.len().saturating_sub(most);
    let mut line = format!("{title}{}", words[..words.len() - more].join(", "));
    if more > 0 {
        line += &format!(" and {more} more");
    }
    line
}

#[cfg(test)]
mod tests {
    use ebpf::nic::{NicRow, NicSecond, QueueRow};

    use super::*;

    fn counters(all: &[(&str, u64)]) -> ebpf::nic::NicCounters {
        all.iter().map(|(name, by)| ((*name).to_owned(), Some(*by))).collect()
    }

    fn loss(name: &str, queue: Option<u32>, weight: Weight, frames: Option<u64>) -> NicLoss {
        NicLoss {
            name: name.to_owned(),
            queue,
            counted_by: if queue.is_none() { CountedBy::Kernel } else { CountedBy::Driver },
            direction: Direction::Received,
            weight,
            frames,
            meaning: "the ring was empty",
        }
    }

    fn card() -> CardSecond {
        let link = [("rx_packets", 1234), ("rx_bytes", 2048), ("tx_packets", 7), ("tx_bytes", 9)];
        let queue = |queue, rx_packets, names: &[(&str, u64)]| QueueRow {
            queue,
            rx_packets,
            tx_packets: None,
            counters: counters(names),
        };
        CardSecond {
            nic: "eth0".to_owned(),
            ifindex: 2,
            driver: Some("virtio_net".to_owned()),
            over_ns: 1_000_000_000,
            row: NicRow {
                link: link.map(|(name, value)| (name, Some(value))).into(),
                driver_counters: Some(counters(&[("rx_kicks", 3), ("rx_csum", 40)])),
                queues: Some(vec![
                    queue(0, Some(1234), &[("rx_packets", 1234)]),
                    queue(1, Some(0), &[]),
                ]),
                lost_received: Some(5),
                lost_sent: None,
                losses: vec![
                    loss("rx_drops", Some(0), Weight::Lost, Some(5)),
                    loss("rx_missed_errors", None, Weight::PartOf, Some(9)),
                    loss("tx_errors", None, Weight::Lost, None),
                ],
                missing: std::collections::BTreeMap::new(),
            },
            jumped_back: Vec::new(),
        }
    }

    #[test]
    fn a_line_has_what_went_what_was_lost_and_what_moved() {
        let expected = "eth0   in 1,234 packets 2.0 KiB  out 7 packets 9 B  lost in 5 out -  lost \
                        rx_missed_errors@kernel:9 (counted already), rx_drops@queue0:5  queues \
                        in/out 0:1,234/-  moved rx_packets@queue0 1,234, rx_csum 40, rx_kicks 3";
        assert_eq!(card_line(&card(), 5, false), expected);
    }

    #[test]
    fn what_went_back_and_a_late_reading_are_said() {
        let jump = JumpedBack {
            name: "rx_csum".to_owned(),
            queue: Some(3),
            counted_by: CountedBy::Driver,
            from: 900,
            to: 2,
        };
        let late = CardSecond { over_ns: 3_200_000_000, jumped_back: vec![jump], ..card() };
        let line = card_line(&late, 0, false);
        assert!(
            line.ends_with("  WENT BACK (reset?): rx_csum@queue3 900 to 2  IN 3.2 s"),
            "{line}"
        );
    }

    #[test]
    fn more_than_a_line_holds_is_counted_and_named_with_all() {
        let names: Vec<String> = (0..30).map(|number| format!("c{number}")).collect();
        let many: Vec<(&str, u64)> = names.iter().map(|it| it.as_str()).zip(1..).collect();
        let mut card = card();
        card.row.driver_counters = Some(counters(&many));
        let line = card_line(&card, 0, false);
        assert!(line.ends_with(" and 23 more") && !line.contains("c1 "), "{line}");
        let line = card_line(&card, 0, true);
        assert!(names.iter().all(|name| line.contains(&format!("{name} "))), "{line}");
    }

    #[test]
    fn changes_and_the_kernels_drops_have_lines_and_a_meaning_is_said_once() {
        let changes = vec![
            NicChange::Came { nic: "veth1".to_owned(), ifindex: 7 },
            NicChange::Renamed { nic: "lan0".to_owned(), ifindex: 2, from: "eth0".to_owned() },
            NicChange::Gone { nic: "veth2".to_owned(), ifindex: 8 },
        ];
        let softnet = Softnet { dropped: 4, flow_limit: None, time_squeeze: 2 };
        let nics = NicSecond { cards: vec![card()], changes, left_out: 3 };
        let second = Second { t: 86_400 + 3_661, nics, softnet: Some(softnet) };
        let lines = second.lines(false);
        let beginnings = [
            "01:01:01  veth1 came (interface 7)",
            "01:01:01  eth0 is called lan0 now",
            "01:01:01  veth2 is gone",
            "01:01:01  eth0  in 1,234",
            "01:01:01  NOT WATCHED: 3 interfaces more",
            "01:01:01  kernel, all CPUs: dropped before the stack 4 (queue full) 0 (flow limit)",
        ];
        assert_eq!(lines.lines().count(), beginnings.len(), "{lines}");
        for (line, beginning) in lines.lines().zip(beginnings) {
            assert!(line.starts_with(beginning), "{line}");
        }
        let mut explained = Explained::new();
        let meanings = second.meanings(&mut explained);
        assert_eq!(meanings[0], "eth0: rx_drops: the ring was empty");
        assert_eq!((meanings.len(), second.meanings(&mut explained).len()), (2, 0));
        assert_eq!(Softnet::default().line(), None);
    }
}
