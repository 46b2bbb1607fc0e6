//! What a verdict says: sentences about causes, each with its evidence and with what to do.
//!
//! Must not know: how shares are worked out, and where evidence is read.

use std::collections::BTreeMap;

use attribution::{Cause, Contradictions, End};
use text::thousands;

use super::blamed::{Attribution, Holder, PhaseEvidence, Stop, dominant};

/// Holders that are named; the rest had the CPU for less.
const NAMED: usize = 3;

/// Of the slow requests so many may be left out before it is said.
pub(super) const LEFT_OUT: f64 = 0.05;

pub(super) fn ms(us: u64) -> String {
    let ms = us as f64 / 1000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{} ms", thousands(ms.round() as u64)) }
}

/// `3` and `process` as `3 processes`.
fn counted(count: u64, what: &str) -> String {
    let many = match what {
        _ if count == 1 => "",
        what if what.ends_with("ss") => "es",
        _ => "s",
    };
    format!("{} {what}{many}", thousands(count))
}

/// The end whose thread a cause is about.
pub(super) fn end_of(cause: Cause) -> Option<End> {
    match cause.name().split_once('_') {
        Some(("client", _)) => Some(End::Client),
        Some(("server", _)) => Some(End::Server),
        _ => None,
    }
}

/// The verdict of a phase.
pub(super) fn verdict(
    (slow_us, late_share): (u32, f64),
    quiet: bool,
    attribution: &Attribution,
    evidence: &PhaseEvidence,
) -> String {
    let slow_us = u64::from(slow_us);
    let late = format!(
        "{:.2}% of the requests took more than {} ms",
        late_share * 100.0,
        slow_us as f64 / 1e3
    );
    let seconds = match attribution.jitter.seconds_off.unwrap_or(0) {
        0 => String::new(),
        1 => ", and 1 second was off".to_owned(),
        off => format!(", and {off} seconds were off"),
    };
    let mut parts = vec![late + &seconds];
    parts.extend(typical(slow_us, attribution, evidence));
    match (&attribution.tail.shares, quiet) {
        (Some(_), _) => parts.extend(excess(attribution, evidence)),
        (None, true) => parts[0].insert_str(0, "quiet: "),
        (None, false) => parts.push(
            "the slowest took hardly longer than the others: too little to ask why".to_owned(),
        ),
    }
    parts.extend(left_out(attribution));
    parts.join("; ")
}

/// What half of the requests took, when that alone is slow.
fn typical(slow_us: u64, attribution: &Attribution, evidence: &PhaseEvidence) -> Option<String> {
    let typical = &attribution.typical;
    let latency_us = typical.latency_us.filter(|us| *us >= slow_us)?;
    let causes = typical.causes_us.as_ref()?;
    let (cause, us) = causes.iter().max_by_key(|(_, us)| **us)?;
    let took = format!("half of the requests took {}", ms(latency_us));
    Some(format!("{took}, of it {} {}: {}", ms(*us), cause.name(), advice(*cause, evidence)))
}

/// What the slowest took beyond what is usual.
fn excess(attribution: &Attribution, evidence: &PhaseEvidence) -> Option<String> {
    let tail = &attribution.tail;
    let (cause, share) = dominant(tail.shares.as_ref()?)?;
    let (requests, excess_us) = (tail.requests?.max(1), tail.excess_us?);
    let part = tail.part.map_or_else(String::new, |part| match part * 100.0 {
        percent if percent < 0.1 => format!(" {percent:.2}%"),
        percent if percent < 10.0 => format!(" {percent:.1}%"),
        percent => format!(" {percent:.0}%"),
    });
    let mut said = format!(
        "the slowest{part} (from {:.1} ms) took {} more, {:.0}% of it {}: {}",
        tail.from_us.unwrap_or(0) as f64 / 1000.0,
        ms(excess_us / requests),
        share * 100.0,
        cause.name(),
        advice(cause, evidence)
    );
    for (cause, share) in &attribution.without_evidence {
        let percent = share * 100.0;
        said += &format!(
            "; {percent:.0}% of it looked like {}, of which the counters show nothing: it is \
             unexplained",
            cause.name()
        );
    }
    Some(said)
}

/// What of the tail is not in the shares.
fn left_out(attribution: &Attribution) -> Option<String> {
    let out = &attribution.left_out;
    let (mixed, unsampled) = (out.mixed.unwrap_or(0), out.unsampled.unwrap_or(0));
    let all = attribution.tail.requests?.saturating_add(mixed).saturating_add(unsampled);
    let part = |count: u64| count as f64 / all.max(1) as f64;
    let reasons = [
        (mixed, "shared their stretch of the stream with another frame"),
        (unsampled, "were not in the sample"),
    ];
    let said: Vec<String> = reasons
        .into_iter()
        .filter(|(count, _)| part(*count) > LEFT_OUT)
        .map(|(count, why)| {
            format!("{:.0}% of the slow ones are left out: they {why}", part(count) * 100.0)
        })
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// How evidence contradicts itself; `None` when it does not.
pub(super) fn contradicted(counts: &Contradictions) -> Option<String> {
    let said: Vec<String> = counts
        .named()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{} {what}", thousands(count)))
        .collect();
    let said = (!said.is_empty()).then(|| said.join(", "))?;
    Some(format!("evidence that contradicts itself is unexplained: {said}"))
}

/// What a cause is here, and what to do about it.
pub(super) fn advice(cause: Cause, evidence: &PhaseEvidence) -> String {
    let (whose, threads) = match end_of(cause) {
        Some(End::Server) => ("the server", "the server's"),
        _ => ("the clients", "the clients'"),
    };
    match cause {
        Cause::ClientRunqueue | Cause::ServerRunqueue => runqueue(cause, whose, threads, evidence),
        Cause::ClientBusy => {
            "the clients' threads had too much to do; give them more CPUs or machines".to_owned()
        }
        Cause::ServerBusy => {
            "the server's threads had too much to do; give it more shards on more CPUs".to_owned()
        }
        Cause::NetworkLoss => {
            let count = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), thousands);
            format!(
                "packets were lost ({} drops seen here, {} segments sent again); kernel.drops says \
                 where",
                count(evidence.drops),
                count(evidence.retransmits)
            )
        }
        Cause::NetworkDelay => match evidence.retransmits.filter(|count| *count > 0) {
            Some(count) => format!(
                "the path was slow without losing anything: a queue, a shaper or its length ({} \
                 segments sent again were not needed)",
                thousands(count)
            ),
            None => "the path was slow without losing anything: a queue, a shaper or its length"
                .to_owned(),
        },
        Cause::Unexplained => "and nothing that the probes see explains it".to_owned(),
        Cause::ClientThrottled | Cause::ServerThrottled => throttled(cause, threads, evidence),
        Cause::ClientStopped | Cause::ServerStopped => stopped(cause, whose, evidence),
        Cause::ClientBlocked | Cause::ServerBlocked => format!(
            "{threads} threads slept in the kernel with work to do{}; look at disks, memory limits \
             and locks",
            pressure(evidence)
        ),
        Cause::ClientInterrupts | Cause::ServerInterrupts => format!(
            "interrupts{} had {threads} CPUs; steer them to other CPUs (smp_affinity, rps_cpus)",
            evidence.softirq.as_ref().map_or_else(String::new, |kind| format!(" (mostly {kind})"))
        ),
        Cause::ClientStalled | Cause::ServerStalled => stalled(cause, threads, evidence),
        Cause::ClientPacing => {
            "the clients' loops slept past the instant: timer slack or batching, not the server"
                .to_owned()
        }
    }
}

fn runqueue(cause: Cause, whose: &str, threads: &str, evidence: &PhaseEvidence) -> String {
    let holders = evidence.holders.get(&cause).map(Vec::as_slice).unwrap_or_default();
    let other = match end_of(cause) {
        Some(End::Server) => (End::Client, "the clients"),
        _ => (End::Server, "the server"),
    };
    if holders.first().is_some_and(|holder| holder.of == Some(other.0)) {
        return format!("{} shares these CPUs: give {whose} CPUs of their own", other.1)
            .replace("the clients shares", "the clients share")
            .replace("the server CPUs of their own", "the server CPUs of its own");
    }
    let names: Vec<String> = holders.iter().take(NAMED).map(named).collect();
    let held = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    let own = if whose == "the server" { "its" } else { "their" };
    format!("other programs{held} held {threads} CPUs; give {whose} CPUs of {own} own")
}

fn named(holder: &Holder) -> String {
    match (holder.processes, holder.pid) {
        (0, _) | (_, None) => holder.name.clone(),
        (1, Some(pid)) => format!("{}, process {pid}", holder.name),
        (more, Some(_)) => format!("{}, {}", holder.name, counted(more as u64, "process")),
    }
}

fn throttled(cause: Cause, threads: &str, evidence: &PhaseEvidence) -> String {
    let found = end_of(cause).and_then(|end| evidence.throttled.get(&end));
    let Some(it) = found else {
        return format!("{threads} cgroup had used up its CPU quota; raise it or take it away");
    };
    let quota = it.quota_us.map_or_else(String::new, |(quota_us, period_us)| {
        format!(" of {} in {}", ms(quota_us), ms(period_us))
    });
    // A quota that is lifted again ends a period that is never counted.
    let periods = match it.periods {
        0 => String::new(),
        periods => format!("in {} ", counted(periods, "period")),
    };
    format!(
        "{threads} cgroup {} had used up its CPU quota{quota} (cpu.stat: throttled {periods}for \
         {}); raise the quota or take it away",
        it.group,
        ms(it.us)
    )
}

fn stopped(cause: Cause, whose: &str, evidence: &PhaseEvidence) -> String {
    let was = if whose == "the server" { "was" } else { "were" };
    let Some(end) = end_of(cause) else { return String::new() };
    let stops = evidence.stops.get(&end).into_iter().flatten();
    if let Some((stop, count)) = stops.max_by_key(|(stop, count)| (**count, *stop)) {
        let Stop { signal, sender, pid } = stop;
        return format!(
            "{whose} {was} stopped by {} from {sender} (process {pid}), {}",
            signal_name(*signal),
            counted(*count, "time")
        );
    }
    if evidence.frozen.contains(&end) {
        return format!("{whose} {was} frozen: cgroup.frozen says so; thaw the cgroup");
    }
    format!(
        "{whose} {was} stopped, traced or frozen, and no signal was seen to do it: look for a \
         debugger and for a freezer"
    )
}

fn signal_name(signal: u32) -> String {
    match signal {
        19 => "SIGSTOP".to_owned(),
        20 => "SIGTSTP".to_owned(),
        21 => "SIGTTIN".to_owned(),
        22 => "SIGTTOU".to_owned(),
        other => format!("signal {other}"),
    }
}

fn stalled(cause: Cause, threads: &str, evidence: &PhaseEvidence) -> String {
    let longest = evidence
        .longest_us
        .get(&cause)
        .map_or_else(String::new, |us| format!(", up to {} of one request", ms(*us)));
    let steal = match evidence.steal_us {
        Some(us) if us > 0 => format!(" (steal time: {})", ms(us)),
        _ => String::new(),
    };
    format!(
        "{threads} CPUs stood still or were slow to wake{longest}{steal}: look at the hypervisor \
         and at idle states"
    )
}

fn pressure(evidence: &PhaseEvidence) -> String {
    let parts = [("disks", evidence.pressure_io_us), ("memory", evidence.pressure_memory_us)];
    let parts: Vec<String> = parts
        .into_iter()
        .filter_map(|(what, us)| Some((what, us.filter(|us| *us > 0)?)))
        .map(|(what, us)| format!("{what} {}", ms(us)))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" (tasks waited for {})", parts.join(", "))
    }
}

/// What became of connections that could not be made at once; `None` when all were.
pub(super) fn connecting(counts: &BTreeMap<&'static str, u64>) -> Option<String> {
    let said: Vec<String> = [
        ("syn", "SYN", "sent again: the path or the listener dropped the first"),
        ("syn_ack", "SYN-ACK", "sent again: they or their acknowledgement were lost"),
        (
            "listen_overflows",
            "connection",
            "found the accept queue full: raise the backlog \
          (net.core.somaxconn), or let the server accept sooner",
        ),
        ("connect_failed", "connection", "could not be opened"),
        ("ports_taken", "source port", "taken: widen ip_local_port_range or add addresses"),
        ("login_refused", "login", "refused by the server"),
    ]
    .into_iter()
    .filter_map(|(key, what, how)| {
        let count = counts.get(key).copied().filter(|count| *count > 0)?;
        Some(format!("{} {how}", counted(count, what)))
    })
    .collect();
    (!said.is_empty()).then(|| format!("while connecting: {}", said.join("; ")))
}

/// What became of the shakes without an answer; `None` when all have one.
pub(super) fn unanswered(counts: [(u64, &str); 5]) -> Option<String> {
    let said: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{} {why}", thousands(count)))
        .collect();
    (!said.is_empty()).then(|| format!("without an answer: {}", said.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::blamed::Throttling;

    fn check(cause: Cause, evidence: &PhaseEvidence, words: &[&str]) {
        let said = advice(cause, evidence);
        assert!(words.iter().all(|word| said.contains(word)), "{}: {said}", cause.name());
    }

    #[test]
    fn every_cause_has_a_sentence_of_its_own_end() {
        for cause in Cause::ALL {
            let said = advice(cause, &PhaseEvidence::default());
            let other = match end_of(cause) {
                Some(End::Client) => "server's",
                Some(End::Server) => "clients'",
                None => continue,
            };
            assert!(!said.is_empty() && !said.contains(other), "{}: {said}", cause.name());
        }
    }

    #[test]
    fn evidence_is_in_the_sentence() {
        let mut evidence = PhaseEvidence::default();
        let holder = |name: &str, processes, of| Holder {
            name: name.to_owned(),
            processes,
            pid: Some(77),
            of,
            us: 5,
        };
        let storm = vec![holder("sh", 312, None), holder("culprit", 1, None)];
        evidence.holders.insert(Cause::ServerRunqueue, storm);
        let shared = vec![holder("lab-server", 1, Some(End::Server))];
        evidence.holders.insert(Cause::ClientRunqueue, shared);
        let throttling = Throttling {
            group: "/labbar".to_owned(),
            quota_us: Some((1_000, 1_000_000)),
            periods: 6,
            us: 1_802_000,
            whole: true,
        };
        evidence.throttled.insert(End::Server, throttling);
        let stop = Stop { signal: 19, sender: "bash".to_owned(), pid: 9 };
        evidence.stops.insert(End::Client, BTreeMap::from([(stop, 6)]));
        evidence.frozen.insert(End::Server);
        evidence.longest_us.insert(Cause::ClientStalled, 8_200);
        check(Cause::ServerRunqueue, &evidence, &["sh, 312 processes", "culprit, process 77"]);
        check(Cause::ClientRunqueue, &evidence, &["the server shares these CPUs"]);
        let words = ["/labbar", "1.0 ms in 1,000 ms", "6 periods for 1,802 ms"];
        check(Cause::ServerThrottled, &evidence, &words);
        check(Cause::ClientThrottled, &evidence, &["had used up its CPU quota"]);
        check(Cause::ClientStopped, &evidence, &["SIGSTOP from bash (process 9), 6 times"]);
        check(Cause::ServerStopped, &evidence, &["was frozen"]);
        check(Cause::ClientStalled, &evidence, &["up to 8.2 ms of one request"]);
    }

    #[test]
    fn connections_and_shakes_without_an_answer_are_told_by_reason() {
        assert_eq!(connecting(&BTreeMap::new()), None);
        let counts = BTreeMap::from([("syn", 12), ("listen_overflows", 1), ("ports_taken", 0)]);
        let said = connecting(&counts).expect("a sentence");
        assert!(
            said.contains("12 SYNs sent again") && said.contains("1 connection found"),
            "{said}"
        );
        let none = [(0, "a"), (0, "b"), (0, "c"), (0, "d"), (0, "e")];
        assert_eq!(unanswered(none), None);
        let said = unanswered([(2_000, "timed out"), none[0], none[1], none[2], (3, "lost")]);
        assert_eq!(said.as_deref(), Some("without an answer: 2,000 timed out, 3 lost"));
    }
}
