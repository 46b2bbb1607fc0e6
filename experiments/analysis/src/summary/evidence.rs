//! What the probes say of a phase: drops, waiting for CPUs, causes.

use std::collections::{BTreeMap, HashMap};

use attribution::Cause;

use super::blame::{CauseTotals, PhaseEvidence};
use super::figures::RunQueue;
use super::seconds::SecondTotals;
use record::{NicRow, ProbeRow, ProcSubject, Raw, total};

/// The probes' rows of some seconds.
fn probe_rows(raw: &Raw, start: u64, end: u64) -> impl Iterator<Item = &ProbeRow> {
    raw.probes.iter().filter(move |row| (start..end).contains(&row.t))
}

/// Packets of the experiment that were dropped on this host, by reason; `None` without probes.
pub(super) fn drops(raw: &Raw, start: u64, end: u64) -> Option<BTreeMap<String, u64>> {
    let mut drops = None;
    for row in probe_rows(raw, start, end) {
        let Some(places) = &row.drops_by_place else { continue };
        let drops = drops.get_or_insert_with(BTreeMap::new);
        for place in places.iter().filter(|place| place.port > 0) {
            if let Some(reason) = &place.reason {
                let count: &mut u64 = drops.entry(reason.clone()).or_default();
                *count = count.saturating_add(place.port);
            }
        }
    }
    drops
}

/// Frames that the interfaces of the run lost, by the card's own counters; `None` when one of them
/// cannot be read. The same frame may be among [`drops`]: a virtual card's losses are the kernel's.
pub(super) fn nic_lost(raw: &Raw, start: u64, end: u64) -> Option<u64> {
    let rows = raw.nics.iter().filter(|row| (start..end).contains(&row.t));
    let lost = |row: &NicRow| total([row.lost_received, row.lost_sent]);
    let all: Vec<Option<u64>> = rows.map(lost).collect();
    if all.is_empty() { None } else { total(all) }
}

/// How long the threads of a side waited for a CPU, each time.
pub(super) fn runqueue_delay(raw: &Raw, side: &str, start: u64, end: u64) -> RunQueue {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for row in probe_rows(raw, start, end) {
        let sides = row.runqueue_delay_buckets_ns.as_ref();
        for (ns, count) in sides.and_then(|sides| sides.get(side)).into_iter().flatten() {
            let all = counts.entry(*ns).or_default();
            *all = all.saturating_add(*count);
        }
    }
    let all = counts.values().copied().fold(0, u64::saturating_add);
    let at = |share: f64| {
        let rank = (share * all as f64).ceil() as u64;
        let mut below: u64 = 0;
        let found = counts.iter().find(|(_, count)| {
            below = below.saturating_add(**count);
            below >= rank.max(1)
        });
        found.map(|(ns, _)| ns.div_ceil(1000))
    };
    RunQueue { p50: at(0.5), p99: at(0.99), max: at(1.0) }
}

/// What each cause took in a phase; `None` without probes.
pub(super) fn cause_totals(raw: &Raw, name: &str) -> Option<CauseTotals> {
    let mut totals = None;
    for line in raw.causes.iter().filter(|line| line.phase.as_deref() == Some(name)) {
        totals.get_or_insert_with(CauseTotals::default).add(line.t, &line.rows);
    }
    totals
}

/// By blamed cause, the program that most often held the CPUs that slow requests waited for.
pub(super) fn holders(raw: &Raw, name: &str) -> BTreeMap<Cause, String> {
    let mut counts: BTreeMap<Cause, HashMap<&str, usize>> = BTreeMap::new();
    for line in raw.slow.iter().filter(|line| line.phase.as_deref() == Some(name)) {
        let Some(seen) = &line.seen else { continue };
        let holder = match seen.blamed {
            Cause::ClientRunqueue => &seen.client_held_by,
            Cause::ServerRunqueue => &seen.server_held_by,
            _ => &None,
        };
        if let Some(holder) = holder {
            *counts.entry(seen.blamed).or_default().entry(holder).or_default() += 1;
        }
    }
    let most = |names: HashMap<&str, usize>| {
        names.into_iter().max_by_key(|(name, count)| (*count, *name)).map(|it| it.0.to_owned())
    };
    counts.into_iter().filter_map(|(cause, names)| Some((cause, most(names)?))).collect()
}

/// What else is known of a phase that says why its requests were slow.
pub(super) fn of_phase(
    raw: &Raw,
    name: &str,
    (start, end): (u64, u64),
    (p99_us, late_share): (Option<u64>, Option<f64>),
    seconds: &[SecondTotals],
) -> PhaseEvidence {
    let retransmits = raw.sum(ProcSubject::Tcp, |row| row.retrans_segs, start, end);
    PhaseEvidence {
        seconds: seconds.iter().map(|it| (it.t, it.due, it.answered)).collect(),
        p99_us,
        late_share,
        holders: holders(raw, name),
        drops: drops(raw, start, end).and_then(|drops| total(drops.values().copied().map(Some))),
        retransmits,
    }
}
