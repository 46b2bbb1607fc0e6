//! Reading a thread's timeline: what it did between two instants.
//!
//! Clocks that only grow are written down now and then ([`events::TimelineEntry`]). Between two
//! checkpoints one clock has run, and the answer is exact; or several have, less than half a
//! millisecond in all, and each counts in proportion. Whatever is older than the oldest checkpoint,
//! is [`Doing::Unknown`], and what contradicts itself is [`Doing::Contradicted`]: nothing is
//! guessed.
//!
//! Must not know: where checkpoints lie.

use events::{COARSE, Checkpoint, FINE, KINDS, STALLS, Stall};

use crate::spent::{Doing, Spent, in_proportion};

/// One of a timeline's two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// All checkpoints.
    Fine,
    /// Some, of a longer time.
    Coarse,
}

impl Ring {
    const fn length(self) -> u64 {
        match self {
            Self::Fine => FINE as u64,
            Self::Coarse => COARSE as u64,
        }
    }
}

/// Where a thread's checkpoints and its CPUs' stalls come from. They may be written meanwhile.
pub trait Timeline {
    /// The clocks as they stood when what the thread does now began, and as they stand now; `None`
    /// when that is not known.
    fn present(&self) -> Option<[Checkpoint; 2]>;

    /// Checkpoints of a ring so far.
    fn written(&self, ring: Ring) -> u64;

    /// The checkpoint with a number, if it has not been overwritten: any other one then.
    fn checkpoint(&self, ring: Ring, number: u64) -> Checkpoint;

    /// Stalls of a CPU so far.
    fn stalls_written(&self, cpu: u32) -> u64;

    /// The stall with a number, likewise.
    fn stall(&self, cpu: u32, number: u64) -> Stall;
}

/// What the thread of a timeline did between two instants: sums to the time between them.
pub fn spent(timeline: &impl Timeline, from_ns: u64, to_ns: u64) -> Spent {
    if to_ns <= from_ns {
        return Spent::default();
    }
    let (mut spent, cpu) = without_stalls(timeline, from_ns, to_ns);
    for number in kept(timeline.stalls_written(cpu), STALLS as u64).rev() {
        let stall = timeline.stall(cpu, number);
        if stall.until_ns <= from_ns {
            break;
        }
        let (from_ns, to_ns) = (stall.from_ns.max(from_ns), stall.until_ns.min(to_ns));
        if from_ns < to_ns {
            let (part, of_cpu) = without_stalls(timeline, from_ns, to_ns);
            if of_cpu == cpu {
                spent.stall(&part);
            }
        }
    }
    spent
}

/// Numbers of what a ring still has; one place may be under the writer's hands.
fn kept(written: u64, length: u64) -> std::ops::Range<u64> {
    written.saturating_sub(length - 1)..written
}

/// A stretch between two checkpoints.
#[derive(Clone, Copy)]
struct Stretch {
    begin: Checkpoint,
    end: Checkpoint,
}

impl Stretch {
    /// What `ns` of it went by with.
    fn part(&self, ns: u64) -> Spent {
        let span_ns = self.end.at_ns - self.begin.at_ns;
        let Some(clocks_ns) = grown(&self.begin, &self.end) else {
            return Spent::all(Doing::Contradicted, ns);
        };
        if ns >= span_ns {
            return Spent::of_clocks(&clocks_ns);
        }
        let mut parts = [0; KINDS];
        let (mut left_ns, mut most) = (ns, 0);
        for (clock, grown_ns) in clocks_ns.into_iter().enumerate().filter(|(_, ns)| *ns > 0) {
            parts[clock] = in_proportion(grown_ns, ns, span_ns);
            left_ns -= parts[clock];
            if grown_ns > clocks_ns[most] {
                most = clock;
            }
        }
        // What rounding leaves belongs to the largest.
        parts[most] += left_ns;
        Spent::of_clocks(&parts)
    }
}

/// What the clocks grew by from one checkpoint to another; `None` if they contradict the time that
/// passed.
fn grown(begin: &Checkpoint, end: &Checkpoint) -> Option<[u64; KINDS]> {
    let mut grown_ns = [0; KINDS];
    let mut left_ns = end.at_ns.checked_sub(begin.at_ns)?;
    for (clock, grown_ns) in grown_ns.iter_mut().enumerate() {
        *grown_ns = end.clocks_ns[clock].checked_sub(begin.clocks_ns[clock])?;
        left_ns = left_ns.checked_sub(*grown_ns)?;
    }
    (left_ns == 0).then_some(grown_ns)
}

/// What the thread did, stalls left aside, and the CPU on which it was at last.
fn without_stalls(timeline: &impl Timeline, from_ns: u64, to_ns: u64) -> (Spent, u32) {
    let whole_ns = to_ns - from_ns;
    let unknown = |cpu: u32| (Spent::all(Doing::Unknown, whole_ns), cpu);
    let Some(present) = timeline.present() else { return unknown(u32::MAX) };
    let Some(last) = stretch_at(timeline, &present, to_ns) else {
        return unknown(present[0].cpu);
    };
    let cpu = last.end.cpu;
    // What is later than the clocks' present.
    let late_ns = to_ns.saturating_sub(last.end.at_ns);
    let to_ns = to_ns - late_ns.min(whole_ns);
    let mut spent = Spent::all(Doing::Unknown, late_ns.min(whole_ns));
    if from_ns >= last.begin.at_ns {
        spent += last.part(to_ns - from_ns);
        return (spent, cpu);
    }
    spent += last.part(to_ns - last.begin.at_ns);
    let (first, from_ns) = match stretch_at(timeline, &present, from_ns) {
        Some(first) => (first, from_ns),
        // Before the oldest checkpoint.
        None => match oldest(timeline).filter(|at_ns| (from_ns..to_ns).contains(at_ns)) {
            Some(oldest_ns) => {
                spent += Spent::all(Doing::Unknown, oldest_ns.min(last.begin.at_ns) - from_ns);
                if oldest_ns >= last.begin.at_ns {
                    return (spent, cpu);
                }
                match stretch_at(timeline, &present, oldest_ns) {
                    Some(first) => (first, oldest_ns),
                    None => return unknown(cpu),
                }
            }
            None => return unknown(cpu),
        },
    };
    if first.end.at_ns > last.begin.at_ns {
        // Overwritten while it was read.
        return unknown(cpu);
    }
    spent += first.part(first.end.at_ns - from_ns);
    spent += Stretch { begin: first.end, end: last.begin }.part(last.begin.at_ns - first.end.at_ns);
    (spent, cpu)
}

/// When the oldest checkpoint was.
fn oldest(timeline: &impl Timeline) -> Option<u64> {
    [Ring::Coarse, Ring::Fine].into_iter().find_map(|ring| {
        let first = kept(timeline.written(ring), ring.length()).next()?;
        Some(timeline.checkpoint(ring, first).at_ns)
    })
}

/// The stretch with an instant in it; the last one also for what is later.
fn stretch_at(timeline: &impl Timeline, present: &[Checkpoint; 2], at_ns: u64) -> Option<Stretch> {
    let [begin, end] = *present;
    if at_ns >= begin.at_ns {
        return Some(Stretch { begin, end });
    }
    let mut next = begin;
    for ring in [Ring::Fine, Ring::Coarse] {
        let numbers = kept(timeline.written(ring), ring.length());
        if let Some((begin, after)) = last_before(timeline, ring, numbers.clone(), at_ns) {
            let end = after.unwrap_or(next);
            let whole = (begin.at_ns..end.at_ns).contains(&at_ns);
            return whole.then_some(Stretch { begin, end });
        }
        if !numbers.is_empty() {
            next = timeline.checkpoint(ring, numbers.start);
        }
    }
    None
}

/// The last checkpoint of a ring at or before an instant, and the one after it. Most often asked
/// for an instant just passed, so the newest come first, in growing steps.
fn last_before(
    timeline: &impl Timeline,
    ring: Ring,
    numbers: std::ops::Range<u64>,
    at_ns: u64,
) -> Option<(Checkpoint, Option<Checkpoint>)> {
    let (mut high, mut after, mut step) = (numbers.end, None, 1);
    let (mut low, mut found) = loop {
        if high == numbers.start {
            return None;
        }
        let probe = high.saturating_sub(step).max(numbers.start);
        let point = timeline.checkpoint(ring, probe);
        if point.at_ns <= at_ns {
            break (probe, point);
        }
        (high, after, step) = (probe, Some(point), step * 2);
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let point = timeline.checkpoint(ring, middle);
        if point.at_ns <= at_ns {
            (low, found) = (middle, point);
        } else {
            (high, after) = (middle, Some(point));
        }
    }
    Some((found, after))
}

#[cfg(test)]
mod tests;
