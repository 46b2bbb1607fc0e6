//! What the threads of a watched connection's ends did with a second, beside running: the causes of
//! late answers by the names that runs have for them, each with its evidence.
//!
//! Must not know: requests, or whether any of them was late.

use std::collections::BTreeMap;

use attribution::{Doing, Spent};
use ebpf::proc::{CgroupReading, ProcReader};
use ebpf::{Counters, Probes, Program, Stopped};
use serde_json::{Map, Value, json};

/// What a cause must have taken of a second for a line to name it, in nanoseconds.
const NAMED_NS: u64 = 1_000_000;

/// What a cause took of the second of an end's threads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Caused {
    end: &'static str,
    cause: &'static str,
    ns: u64,
    /// Its evidence, for a line of JSON.
    evidence: Map<String, Value>,
    /// The same in words; empty when there is none.
    said: String,
}

/// What a second's causes are told from, beside the threads' own time.
#[derive(Clone, Debug, Default)]
struct Evidence {
    stop: Option<Stopped>,
    cgroup: CgroupReading,
    softirq: Option<&'static str>,
    longest_stall_ns: Option<u64>,
}

/// Looks at the threads of both ends, second by second.
#[derive(Debug, Default)]
pub(crate) struct Causing {
    proc: ProcReader,
    cgroups: BTreeMap<u32, CgroupReading>,
}

impl Causing {
    /// What happened between two readings; `None` when threads are not looked at. `grown` is the
    /// difference of the two.
    pub(crate) fn second(
        &mut self,
        probes: &Probes,
        (before, now): (&Counters, &Counters),
        grown: &Counters,
    ) -> Option<Vec<Caused>> {
        let (from_ns, to_ns) = (before.at_ns, now.at_ns);
        let timelines = probes.timelines();
        let mut ends: BTreeMap<&str, (Spent, u32, u64)> = BTreeMap::new();
        for thread in grown.threads.as_ref()?.iter().filter(|thread| !thread.ended) {
            let Some(slot) = timelines.threads().slot_of(thread.tid) else { continue };
            let spent = timelines.spent(slot, from_ns, to_ns);
            if spent[Doing::Unknown] == spent.total_ns() {
                // It serves no requests.
                continue;
            }
            let name = match thread.program {
                Program::Server => "server",
                Program::Client(_) => "client",
            };
            let end = ends.entry(name).or_default();
            end.0 += spent;
            end.1 = thread.pid;
            end.2 = end.2.max(timelines.longest_stall_ns(slot, from_ns, to_ns));
        }
        let mut all = Vec::new();
        for (end, (spent, pid, longest_ns)) in ends {
            let evidence = Evidence {
                stop: now.stops.iter().flatten().rfind(|stop| stop.pid == pid).cloned(),
                cgroup: self.cgroup(pid),
                softirq: softirq(grown),
                longest_stall_ns: (longest_ns > 0).then_some(longest_ns),
            };
            all.extend(causes(end, &spent, &evidence));
        }
        Some(all)
    }

    fn cgroup(&mut self, pid: u32) -> CgroupReading {
        let now = self.proc.cgroup(pid);
        match self.cgroups.insert(pid, now.clone()) {
            Some(before) => now.since(&before),
            None => CgroupReading { quotas: None, ..now },
        }
    }
}

/// The kind of softirq that took most.
fn softirq(grown: &Counters) -> Option<&'static str> {
    let mut kinds: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (kind, ns) in grown.softirq.iter().flatten().flat_map(|cpu| &cpu.time_ns) {
        *kinds.entry(kind).or_default() += ns;
    }
    let most = kinds.into_iter().max_by_key(|(_, ns)| *ns)?;
    (most.1 > 0).then_some(most.0)
}

/// A stretch of an end's threads, by cause.
fn causes(end: &'static str, spent: &Spent, evidence: &Evidence) -> Vec<Caused> {
    let of = |doing: &[Doing]| doing.iter().map(|doing| spent[*doing]).sum::<u64>();
    [
        ("busy", of(&[Doing::Run, Doing::WaitOwn])),
        ("runqueue", of(&[Doing::WaitOther])),
        ("throttled", of(&[Doing::Throttled])),
        ("stopped", of(&[Doing::Stopped])),
        ("blocked", of(&[Doing::Blocked])),
        ("interrupts", of(&[Doing::Interrupts])),
        ("stalled", of(&[Doing::Stalled, Doing::WaitIdle])),
    ]
    .into_iter()
    .filter(|(_, ns)| *ns > 0)
    .map(|(cause, ns)| {
        let (fields, said) = told(cause, evidence);
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        Caused { end, cause, ns, evidence: fields.collect(), said }
    })
    .collect()
}

/// The evidence of a cause, as fields and in words.
fn told(cause: &str, evidence: &Evidence) -> (Vec<(&'static str, Value)>, String) {
    match cause {
        "throttled" => {
            let Some((group, quota)) = evidence.cgroup.tightest() else {
                return (Vec::new(), String::new());
            };
            let fields = vec![
                ("cgroup", json!(group)),
                ("quota_us", json!(quota.quota_us)),
                ("period_us", json!(quota.period_us)),
                ("cpu_stat_us", json!(quota.throttled_us)),
            ];
            (fields, format!("cgroup {group}, cpu.stat {}", ms(quota.throttled_us * 1000)))
        }
        "stopped" => match (&evidence.stop, evidence.cgroup.frozen) {
            (_, Some(true)) => (vec![("frozen", json!(true))], "frozen".to_owned()),
            (Some(stop), _) => {
                let fields = vec![
                    ("signal", json!(stop.signal_name())),
                    ("sender", json!(stop.sender)),
                    ("sender_pid", json!(stop.sender_pid)),
                ];
                let said = format!(
                    "{} from {}, process {}",
                    stop.signal_name(),
                    stop.sender,
                    stop.sender_pid
                );
                (fields, said)
            }
            (None, _) => (Vec::new(), "no signal was seen: traced or frozen".to_owned()),
        },
        "interrupts" => match evidence.softirq {
            Some(kind) => (vec![("mostly", json!(kind))], format!("mostly {kind}")),
            None => (Vec::new(), String::new()),
        },
        "stalled" => match evidence.longest_stall_ns {
            Some(ns) => (vec![("longest_us", json!(ns / 1000))], format!("longest {}", ms(ns))),
            None => (Vec::new(), "slow to wake from idle".to_owned()),
        },
        _ => (Vec::new(), String::new()),
    }
}

fn ms(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// For a line of text: what was not the threads' own work, the longest first.
pub(crate) fn words(causes: Option<&[Caused]>) -> String {
    let mut named: Vec<&Caused> = causes
        .unwrap_or_default()
        .iter()
        .filter(|it| it.cause != "busy" && it.ns >= NAMED_NS)
        .collect();
    named.sort_by_key(|it| std::cmp::Reverse(it.ns));
    let said = named.into_iter().map(|it| {
        let why = if it.said.is_empty() { String::new() } else { format!(" ({})", it.said) };
        format!("{} {} {}{why}", it.end, it.cause, ms(it.ns))
    });
    let said: Vec<String> = said.collect();
    if said.is_empty() { String::new() } else { format!("  causes: {}", said.join(", ")) }
}

/// For a line of JSON, by the names that runs have for causes; null when nobody looked.
pub(crate) fn json(causes: Option<&[Caused]>) -> Value {
    let Some(causes) = causes else { return Value::Null };
    let each = causes.iter().map(|it| {
        let mut fields = it.evidence.clone();
        fields.insert("us".to_owned(), json!(it.ns / 1000));
        (format!("{}_{}", it.end, it.cause), Value::Object(fields))
    });
    Value::Object(each.collect())
}

#[cfg(test)]
mod tests {
    use ebpf::proc::CpuQuota;

    use super::*;

    #[test]
    fn causes_are_named_with_their_evidence_the_longest_first() {
        let mut spent = Spent::all(Doing::Run, 400_000_000);
        for (doing, ms) in [
            (Doing::Stopped, 300),
            (Doing::Throttled, 20),
            (Doing::Interrupts, 15),
            (Doing::Stalled, 8),
            (Doing::WaitIdle, 1),
            (Doing::WaitOther, 2),
            (Doing::Asleep, 200),
        ] {
            spent += Spent::all(doing, ms * 1_000_000);
        }
        spent += Spent::all(Doing::Blocked, 900_000);
        let quota = CpuQuota { quota_us: Some(1_000), throttled_us: 19_500, ..CpuQuota::default() };
        let cgroup = CgroupReading {
            group: Some("/box".to_owned()),
            quotas: Some(BTreeMap::from([("/box".to_owned(), quota)])),
            frozen: Some(false),
            ..CgroupReading::default()
        };
        let stop =
            Stopped { at_ns: 1, pid: 7, signal: 19, sender: "bash".to_owned(), sender_pid: 9 };
        let evidence = Evidence {
            stop: Some(stop),
            cgroup,
            softirq: Some("net_rx"),
            longest_stall_ns: Some(6_000_000),
        };
        let found = causes("server", &spent, &evidence);
        let said = [
            "server stopped 300 ms (SIGSTOP from bash, process 9)",
            "server throttled 20 ms (cgroup /box, cpu.stat 20 ms)",
            "server interrupts 15 ms (mostly net_rx)",
            "server stalled 9.0 ms (longest 6.0 ms)",
            "server runqueue 2.0 ms",
        ];
        assert_eq!(words(Some(&found)), format!("  causes: {}", said.join(", ")));
        let json = json(Some(&found));
        assert_eq!(
            (&json["server_busy"]["us"], &json["server_blocked"]["us"]),
            (&json!(400_000), &json!(900))
        );
        assert_eq!(json["server_throttled"]["cpu_stat_us"], 19_500);
        assert_eq!(json["server_stopped"]["sender_pid"], 9);
        assert_eq!(json.get("server_asleep"), None);
        // Nothing but its own work and its sleep.
        let quiet = causes("server", &Spent::all(Doing::Run, 5_000_000), &Evidence::default());
        assert_eq!(words(Some(&quiet)), "");
        assert_eq!((words(None), super::json(None)), (String::new(), Value::Null));
    }
}
