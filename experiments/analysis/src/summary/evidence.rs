//! What the probes say of a phase: drops, waiting for CPUs, causes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use attribution::{Cause, End, Tally, Trace};
use serde_json::Value;

use super::blame::CauseTotals;
use super::blamed::{Holder, PhaseEvidence, Stop, Throttling};
use super::figures::RunQueue;
use super::seconds::SecondTotals;
use super::sentences::{connecting, unanswered};
use record::{Manifest, NicRow, ProbeRow, ProbedThread, ProcRow, ProcSubject, Raw, SlowRow, total};

/// The probes' rows of some seconds.
fn probe_rows(raw: &Raw, start: u64, end: u64) -> impl Iterator<Item = &ProbeRow> {
    raw.probes.iter().filter(move |row| (start..end).contains(&row.t))
}

/// Packets of the experiment that were dropped on this host and lost something, by reason; `None`
/// without probes.
pub(super) fn drops(raw: &Raw, start: u64, end: u64) -> Option<BTreeMap<String, u64>> {
    let mut drops = None;
    for row in probe_rows(raw, start, end) {
        let Some(places) = &row.drops_by_place else { continue };
        let drops = drops.get_or_insert_with(BTreeMap::new);
        for place in places.iter().filter(|place| place.lost() > 0) {
            if let Some(reason) = &place.reason {
                let count: &mut u64 = drops.entry(reason.clone()).or_default();
                *count = count.saturating_add(place.lost());
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

/// The ends of a run by process.
fn programs(manifest: &Manifest) -> HashMap<u64, End> {
    let pid = |said: &Value| said["pid"].as_u64();
    let server = pid(&manifest.server).map(|pid| (pid, End::Server));
    let clients = manifest.clients.iter().filter_map(pid).map(|pid| (pid, End::Client));
    server.into_iter().chain(clients).collect()
}

/// The slowest requests of a phase that the kernel saw.
fn slowest<'a>(raw: &'a Raw, name: &'a str) -> impl Iterator<Item = &'a SlowRow> {
    raw.slow.iter().filter(move |line| line.phase.as_deref() == Some(name))
}

/// The end of this run that a holder is: by its process, or by its name where that is all that is
/// known of it.
fn whose(name: &str, pids: &BTreeSet<u32>, programs: &HashMap<u64, End>) -> Option<End> {
    let by_name = [("lab-server", End::Server), ("lab-client", End::Client)];
    if pids.is_empty() {
        return by_name.into_iter().find(|(own, _)| name.starts_with(own)).map(|it| it.1);
    }
    pids.iter().find_map(|pid| programs.get(&u64::from(*pid))).copied()
}

/// Of one name: its processes, and how long requests waited behind them.
type Held<'a> = (BTreeSet<u32>, u64, &'a str);

/// Who had the CPUs that a request waited for, in microseconds of its wait. Runs of before name
/// only the longest.
fn held_up(seen: &Trace) -> Vec<(Cause, &str, Option<u32>, u64)> {
    let waited_us = |cause: Cause| seen.causes_us.get(&cause).copied().unwrap_or(0);
    let longest = [
        (Cause::ClientRunqueue, &seen.client_held_by, seen.client_holder_pid),
        (Cause::ServerRunqueue, &seen.server_held_by, seen.server_holder_pid),
    ];
    let longest = longest.into_iter().filter(|_| seen.holders.is_empty());
    let longest = longest
        .filter_map(|(cause, name, pid)| Some((cause, name.as_deref()?, pid, waited_us(cause))));
    let each = seen.holders.iter().map(|holder| {
        let cause = match holder.end {
            End::Client => Cause::ClientRunqueue,
            End::Server => Cause::ServerRunqueue,
        };
        (cause, holder.name.as_str(), Some(holder.pid), holder.us.min(waited_us(cause)))
    });
    longest.chain(each).filter(|(_, _, _, us)| *us > 0).collect()
}

/// By cause, the programs that had the CPUs that the slowest requests waited for, the longest
/// first: each request counts for as long as it waited.
fn holders(raw: &Raw, name: &str) -> BTreeMap<Cause, Vec<Holder>> {
    let programs = programs(&raw.manifest);
    let mut held: BTreeMap<Cause, HashMap<&str, Held<'_>>> = BTreeMap::new();
    let seen = slowest(raw, name).filter_map(|line| line.seen.as_ref());
    for (cause, holder, pid, us) in seen.flat_map(held_up) {
        let of_name = held.entry(cause).or_default();
        let (pids, all_us, _) = of_name.entry(holder).or_insert((BTreeSet::new(), 0, holder));
        pids.extend(pid);
        *all_us = all_us.saturating_add(us);
    }
    let sorted = |held: HashMap<&str, Held<'_>>| {
        let holder = |(pids, us, name): Held<'_>| Holder {
            of: whose(name, &pids, &programs),
            pid: pids.first().copied(),
            processes: pids.len(),
            name: name.to_owned(),
            us,
        };
        let mut all: Vec<Holder> = held.into_values().map(holder).collect();
        all.sort_by(|a, b| b.us.cmp(&a.us).then_with(|| a.name.cmp(&b.name)));
        all
    };
    held.into_iter().map(|(cause, held)| (cause, sorted(held))).collect()
}

/// The longest time that each cause took of one of the slowest requests.
fn longest(raw: &Raw, name: &str) -> BTreeMap<Cause, u64> {
    let mut longest = BTreeMap::new();
    for seen in slowest(raw, name).filter_map(|line| line.seen.as_ref()) {
        for (cause, us) in &seen.causes_us {
            let most: &mut u64 = longest.entry(*cause).or_default();
            *most = (*most).max(*us);
        }
    }
    longest
}

/// The rows of an end's processes in some seconds.
fn of_end(raw: &Raw, end: End, (from, until): (u64, u64)) -> impl Iterator<Item = &ProcRow> {
    let subject = match end {
        End::Server => ProcSubject::Server,
        End::Client => ProcSubject::Client,
    };
    raw.proc_rows(subject).filter(move |row| (from..until).contains(&row.t))
}

/// What quotas of CPU time took from an end, as far as they were read.
fn throttling(raw: &Raw, end: End, time: (u64, u64)) -> Option<Throttling> {
    let mut all = Throttling { whole: true, ..Throttling::default() };
    let mut most_us = 0;
    let mut rows = of_end(raw, end, time).peekable();
    rows.peek()?;
    for row in rows {
        let cgroup = row.cgroup.as_ref();
        let Some((cgroup, us)) = cgroup.and_then(|it| Some((it, it.throttled_us?))) else {
            all.whole = false;
            continue;
        };
        all.us = all.us.saturating_add(us);
        all.periods = all.periods.saturating_add(cgroup.throttled_periods.unwrap_or(0));
        if us > most_us {
            most_us = us;
            all.group = cgroup.limited_by.clone().unwrap_or_default();
        }
        all.quota_us = cgroup.quota_us.zip(cgroup.period_us).or(all.quota_us);
    }
    Some(all)
}

/// Who stopped the ends, and how often.
fn stops(raw: &Raw, (start, end): (u64, u64)) -> BTreeMap<End, BTreeMap<Stop, u64>> {
    let programs = programs(&raw.manifest);
    let mut stops: BTreeMap<End, BTreeMap<Stop, u64>> = BTreeMap::new();
    for row in probe_rows(raw, start, end).filter_map(|row| row.stops.as_ref()).flatten() {
        let Some(end) = programs.get(&u64::from(row.pid)) else { continue };
        let sender = row.sender.clone();
        let stop = Stop { signal: row.signal, sender, pid: row.sender_pid };
        *stops.entry(*end).or_default().entry(stop).or_default() += 1;
    }
    stops
}

/// Causes of which the counters show nothing at all: whatever looked like one was none.
fn bare(
    raw: &Raw,
    time: (u64, u64),
    throttled: &BTreeMap<End, Option<Throttling>>,
    lost: Option<u64>,
) -> BTreeSet<Cause> {
    let threads = |end: End, ns: fn(&ProbedThread) -> u64| {
        let mut sum = None;
        for row in probe_rows(raw, time.0, time.1) {
            let of_end =
                row.threads.iter().flatten().filter(|it| it.is_of_server() == (end == End::Server));
            sum = of_end.map(ns).chain(sum).reduce(u64::saturating_add);
        }
        sum
    };
    let quota = |end: End| {
        throttled.get(&end).and_then(|it| it.as_ref()).filter(|it| it.whole).map(|it| it.us)
    };
    let counted = [
        (Cause::NetworkLoss, lost),
        (Cause::ServerRunqueue, threads(End::Server, |it| it.wait_foreign_ns)),
        (Cause::ClientRunqueue, threads(End::Client, |it| it.wait_foreign_ns)),
        (Cause::ServerBusy, threads(End::Server, |it| it.ran_ns)),
        (Cause::ClientBusy, threads(End::Client, |it| it.ran_ns)),
        (Cause::ServerThrottled, quota(End::Server)),
        (Cause::ClientThrottled, quota(End::Client)),
    ];
    counted.into_iter().filter(|(_, count)| *count == Some(0)).map(|(cause, _)| cause).collect()
}

/// The kind of softirq that took most time, where they were timed.
fn softirq(raw: &Raw, (start, end): (u64, u64)) -> Option<String> {
    let mut by_kind: BTreeMap<&str, u64> = BTreeMap::new();
    for row in probe_rows(raw, start, end).filter_map(|row| row.softirq.as_ref()).flatten() {
        for (kind, ns) in &row.time_ns {
            let all = by_kind.entry(kind).or_default();
            *all = all.saturating_add(*ns);
        }
    }
    let most = by_kind.into_iter().max_by_key(|(_, ns)| *ns)?;
    (most.1 > 0).then(|| most.0.to_owned())
}

/// What became of connections that could not be made at once.
pub(super) fn of_connecting(raw: &Raw, (start, end): (u64, u64), tally: &Tally) -> Option<String> {
    let sides = || probe_rows(raw, start, end).filter_map(|row| row.retransmits.as_ref());
    let again = |kind: &str| {
        let counts = sides().flat_map(|sides| sides.values()).filter_map(|it| it.get(kind));
        counts.copied().fold(0, u64::saturating_add)
    };
    let of_tcp = |value: fn(&ProcRow) -> Option<u64>| {
        raw.sum(ProcSubject::Tcp, value, start, end).unwrap_or(0)
    };
    let counts = BTreeMap::from([
        ("syn", again("syn").max(of_tcp(|row| row.syn_retrans))),
        ("syn_ack", again("syn_ack")),
        ("listen_overflows", of_tcp(|row| row.listen_overflows)),
        ("connect_failed", tally.connect_failed),
        ("ports_taken", tally.ports_taken),
        ("login_refused", tally.login_refused),
    ]);
    connecting(&counts)
}

/// What became of the shakes that have no answer.
pub(super) fn of_unanswered(tally: &Tally) -> Option<String> {
    unanswered([
        (tally.timed_out, "timed out"),
        (tally.skipped_waiting, "never sent (their users still waited for an answer)"),
        (tally.skipped_offline, "never sent (their users were not logged in)"),
        (tally.skipped_late, "never sent (the client was too far behind)"),
        (tally.lost, "lost with their connection"),
    ])
}

/// What else is known of a phase that says why its requests were slow.
pub(super) fn of_phase(
    raw: &Raw,
    name: &str,
    (start, end): (u64, u64),
    (p99_us, late_share): (Option<u64>, Option<f64>),
    seconds: &[SecondTotals],
) -> PhaseEvidence {
    let time = (start, end);
    let retransmits = raw.sum(ProcSubject::Tcp, |row| row.retrans_segs, start, end);
    let drops = drops(raw, start, end).and_then(|drops| total(drops.values().copied().map(Some)));
    let throttled = [End::Client, End::Server].map(|end| (end, throttling(raw, end, time)));
    let throttled = BTreeMap::from(throttled);
    let of_machine =
        |value: fn(&ProcRow) -> Option<u64>| raw.sum(ProcSubject::Machine, value, start, end);
    let is_frozen = |end: &End| {
        of_end(raw, *end, time)
            .any(|row| row.cgroup.as_ref().and_then(|it| it.frozen) == Some(true))
    };
    PhaseEvidence {
        seconds: seconds.iter().map(|it| (it.t, it.due, it.answered)).collect(),
        p99_us,
        late_share,
        holders: holders(raw, name),
        stops: stops(raw, time),
        frozen: [End::Client, End::Server].into_iter().filter(is_frozen).collect(),
        longest_us: longest(raw, name),
        softirq: softirq(raw, time),
        steal_us: of_machine(|row| row.steal_us),
        pressure_io_us: of_machine(|row| row.pressure_io_us),
        pressure_memory_us: of_machine(|row| row.pressure_memory_us),
        bare: bare(raw, time, &throttled, total([drops, retransmits])),
        throttled: throttled
            .into_iter()
            .filter_map(|(end, it)| Some((end, it.filter(|it| it.us > 0)?)))
            .collect(),
        drops,
        retransmits,
    }
}
