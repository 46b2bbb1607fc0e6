//! Counters, gauges, books and durations as metrics.

use accounting::Money;
use control::metrics::{Distribution, Family};

use shard::Durations;

use crate::report::Snapshot;

/// What the snapshots say.
pub(super) fn families(snapshots: &[Snapshot]) -> Vec<Family> {
    let mut families = Vec::new();
    let mut family = |name: String, help: &str, counter, value: &dyn Fn(&Snapshot) -> u64| {
        let values = snapshots.iter().map(value).collect();
        families.push(Family { name, help: help.to_owned(), counter, values });
    };
    let names = snapshots.first().into_iter().flat_map(|first| first.counters.named());
    for (index, (name, help, _)) in names.enumerate() {
        family(name.to_owned(), help, true, &|it| {
            it.counters.named().nth(index).map_or(0, |(_, _, value)| value)
        });
    }
    type Level = fn(&Snapshot) -> u64;
    let levels: [(&str, &str, Level); 5] = [
        ("connections", "Connections", |it| u64::from(it.connections)),
        ("users_online", "Users logged in", |it| it.gauges.users_online),
        ("queued", "Packets and notices in the queues of SETs", |it| it.gauges.queued),
        ("packets_open", "Sent packets that can be claimed", |it| it.gauges.packets_open),
        ("timers", "Deadlines of logins, half frames and open packets", |it| it.gauges.timers),
    ];
    for (name, help, level) in levels {
        family(name.to_owned(), help, false, &level);
    }
    type Book = fn(&Snapshot) -> Money;
    let books: [(&str, Book); 5] = [
        ("created", |it| it.ledger.created),
        ("granted", |it| it.ledger.granted),
        ("claimed", |it| it.ledger.claimed),
        ("refunded", |it| it.ledger.refunded),
        ("remaining", |it| it.ledger.remaining),
    ];
    for (name, book) in books {
        let help = format!("Shares {name}, by the books of the SETs");
        family(format!("ledger_{name}_shares"), &help, false, &|it| book(it).count);
        let help = format!("Cents {name}, by the books of the SETs");
        family(format!("ledger_{name}_cents"), &help, false, &|it| book(it).amount);
    }
    families
}

/// How long polls and answers took.
pub(super) fn distributions(snapshots: &[Snapshot]) -> Vec<Distribution> {
    let distribution = |name: &str, help: &str, of: fn(&Snapshot) -> &Durations| Distribution {
        name: name.to_owned(),
        help: help.to_owned(),
        durations: snapshots.iter().map(|it| of(it).clone()).collect(),
    };
    vec![
        distribution("poll_seconds", "Polls in which something happened", |it| &it.timing.polls),
        distribution(
            "answer_seconds",
            "Answers to peers that were quiet, at most, from when their requests were ready",
            |it| &it.timing.answers,
        ),
    ]
}
