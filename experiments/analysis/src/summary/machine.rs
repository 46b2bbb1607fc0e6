//! What is the machine's own, or the lab's, and not of the programs under test: CPUs that stood
//! still, and what the process took that records.

use attribution::{Cause, Stalls};
use serde::{Deserialize, Serialize};

use record::{ProcSubject, Raw, SlowRow};
use text::milliseconds;

/// A stall is worth a sentence from so many microseconds on: that late, a shake is not sent in time
/// by default.
const WORTH_US: u64 = 1_000;

/// More stalls than a second of a CPU can have one by one, times a day of them.
const MOST: usize = 1 << 20;

/// Threads of the process that records, as they are named; `lab-stalls` has a number behind it.
const OWN: [&str; 6] = ["lab", "lab-guard", "lab-io", "lab-live", "lab-profile", "lab-sampling"];

/// Times in which CPUs ran nothing, though something was due on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStalls {
    /// How many, of all CPUs; null when nothing watched.
    pub count: Option<u64>,
    /// All of them together, in microseconds.
    pub total_us: Option<u64>,
    /// The longest one; null when there was none.
    pub longest: Option<LongestStall>,
    /// Slow requests that are recorded, and were under way during one.
    pub slow_requests: Option<u64>,
}

/// The longest stall of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongestStall {
    /// How long, in microseconds.
    pub us: u64,
    /// The CPU.
    pub cpu: u32,
    /// The second of the phase, from 1.
    pub second: u64,
    /// What the hypervisor took of the CPU in that second, as far as the kernel was told.
    pub steal_us: Option<u64>,
}

/// What the process took that records a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabShare {
    /// CPU time of a second, in microseconds.
    pub cpu_us_per_second: Option<f64>,
    /// The part of the machine's CPUs; null on a fleet, where it is on another machine.
    pub cpu_share: Option<f64>,
    /// The part of the time of the recorded slow requests in which it had a CPU that they waited
    /// for; null without probes.
    pub slow_share: Option<f64>,
}

/// The stalls of a phase between two seconds.
pub(super) fn stalls(raw: &Raw, name: &str, (start, end): (u64, u64)) -> MachineStalls {
    let mut all = MachineStalls::default();
    let mut intervals = Stalls::new(MOST);
    for row in raw.stalls.iter().filter(|row| (start..end).contains(&row.t)) {
        let Some(count) = row.stalls else { continue };
        all.count = Some(all.count.unwrap_or(0).saturating_add(count));
        all.total_us = Some(all.total_us.unwrap_or(0).saturating_add(row.stalled_us));
        let (us, second) = (row.longest_us, row.t - start + 1);
        if us > all.longest.map_or(0, |longest| longest.us) {
            let (cpu, steal_us) = (row.cpu, row.steal_us);
            all.longest = Some(LongestStall { us, cpu, second, steal_us });
        }
        row.intervals_ns.iter().for_each(|interval| intervals.add(row.cpu, *interval));
    }
    // Clocks of several hosts have nothing in common.
    if all.count.is_some() && raw.stalls.iter().all(|row| row.host.is_none()) {
        let span = |row: &SlowRow| {
            let due_ns = row.due_ns?;
            Some((due_ns, due_ns.saturating_add(row.latency_us.saturating_mul(1000))))
        };
        let of_phase = raw.slow.iter().filter(|row| row.phase.as_deref() == Some(name));
        let touched = of_phase.filter_map(span).filter(|span| intervals.touch(*span));
        all.slow_requests = Some(touched.count() as u64);
    }
    all
}

/// What the lab itself took in a phase.
pub(super) fn lab_share(raw: &Raw, name: &str, (start, end): (u64, u64)) -> LabShare {
    let rows = raw.proc_rows(ProcSubject::Coordinator);
    let seconds = rows.filter(|row| (start..end).contains(&row.t)).count();
    let used = raw.sum(ProcSubject::Coordinator, |row| row.cpu_us, start, end);
    let each = used.map(|us| us as f64 / seconds.max(1) as f64);
    let manifest = &raw.manifest;
    let is_here = !matches!(manifest.experiment.hosts, spec::Hosts::Fleet { .. });
    let machine = manifest.hosts.first().filter(|_| is_here);
    let cpus = machine.map(|machine| machine.cpus.len()).filter(|cpus| *cpus > 0);
    let cpu_share = each.zip(cpus).map(|(us, cpus)| us / (cpus as f64 * 1e6));
    LabShare { cpu_us_per_second: each, cpu_share, slow_share: slow_share(raw, name) }
}

fn slow_share(raw: &Raw, name: &str) -> Option<f64> {
    let (mut all, mut held) = (0, 0);
    for row in raw.slow.iter().filter(|row| row.phase.as_deref() == Some(name)) {
        let Some(seen) = &row.seen else { continue };
        all += u128::from(row.latency_us);
        if !seen.holders.is_empty() {
            let own = seen.holders.iter().filter(|holder| is_own(&holder.name));
            held += own.map(|holder| u128::from(holder.us)).sum::<u128>();
            continue;
        }
        // A run of before, or a wait whose holders are not known one by one.
        for (cause, holder) in [
            (Cause::ClientRunqueue, &seen.client_held_by),
            (Cause::ServerRunqueue, &seen.server_held_by),
        ] {
            if holder.as_deref().is_some_and(is_own) {
                held += u128::from(seen.causes_us.get(&cause).copied().unwrap_or(0));
            }
        }
    }
    (all > 0).then(|| held as f64 / all as f64)
}

fn is_own(thread: &str) -> bool {
    OWN.contains(&thread) || thread.starts_with("lab-stalls-")
}

impl MachineStalls {
    /// A sentence about the stalls that were long enough to make a send late.
    pub fn sentence(&self) -> Option<String> {
        let longest = self.longest.filter(|longest| longest.us >= WORTH_US)?;
        let ms = |us: u64| milliseconds(us, 0);
        let steal = longest.steal_us.map_or_else(
            || "steal unknown".to_owned(),
            |us| format!("steal {} ms", milliseconds(us, 0)),
        );
        let place = format!(
            "for {} ms in second {} (CPU {}, {steal})",
            ms(longest.us),
            longest.second,
            longest.cpu
        );
        let said = match (self.count, self.total_us) {
            (Some(count @ 2..), Some(total_us)) => {
                let all = ms(total_us);
                format!(
                    "the machine stood still {count} times, for {all} ms in all; longest {place}"
                )
            }
            _ => format!("the machine stood still {place}"),
        };
        let met = self.slow_requests.filter(|count| *count > 0);
        Some(met.map_or_else(
            || said.clone(),
            |count| format!("{said}; {count} of the recorded slow requests were under way then"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_told_when_they_can_matter() {
        let longest = |us, steal_us| Some(LongestStall { us, cpu: 1, second: 7, steal_us });
        let stalls = |count, total_us, longest, slow_requests| MachineStalls {
            count: Some(count),
            total_us: Some(total_us),
            longest,
            slow_requests,
        };
        for (stalls, expected) in [
            (MachineStalls::default(), None),
            (stalls(0, 0, None, Some(0)), None),
            (stalls(4, 3_000, longest(900, Some(0)), Some(0)), None),
            (
                stalls(1, 12_300, longest(12_300, Some(10_000)), None),
                Some("the machine stood still for 12 ms in second 7 (CPU 1, steal 10 ms)"),
            ),
            (
                stalls(3, 20_000, longest(12_300, None), Some(8)),
                Some(
                    "the machine stood still 3 times, for 20 ms in all; longest for 12 ms in \
                     second 7 (CPU 1, steal unknown); 8 of the recorded slow requests were under \
                     way then",
                ),
            ),
        ] {
            assert_eq!(stalls.sentence().as_deref(), expected);
        }
    }

    #[test]
    fn the_labs_own_threads_are_known_from_the_programs_under_test() {
        for own in ["lab", "lab-io", "lab-stalls-0", "lab-stalls-63"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["lab-server", "lab-server-1", "lab-client-io", "lab-hog", "lab-agent", "x"] {
            assert!(!is_own(other), "{other}");
        }
    }
}
