//! What is to be carried out, and when: the experiment, its phases, what aborts them, and the clock
//! that turns Unix seconds into instants.

use std::time::Duration;

use platform::{Clock, monotonic_ns};
use record::{PhaseTime, Second};
use serde::{Deserialize, Serialize};
use spec::configure::users_connected;
use spec::{Experiment, PhaseSpec, Seconds};
use tokio::time::Instant;

use crate::console::Elapsed;
use crate::watch::AbortWatch;

/// Programs are told of a phase this long before it starts: time enough for a line over a pipe and
/// a message to every shard.
pub(crate) const LEAD: Duration = Duration::from_millis(700);

/// A phase that has begun, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PhaseUnderWay {
    pub(crate) index: u16,
    /// Its first Unix second.
    pub(crate) start: u64,
    /// Its exclusive end, once that is known.
    pub(crate) end: Option<u64>,
}

/// The phases of a run.
pub(crate) struct Schedule {
    pub(crate) experiment: Experiment,
    pub(crate) phases: Vec<PhaseSpec>,
    /// What aborts each.
    watches: Vec<AbortWatch>,
    clock: Clock,
}

impl Schedule {
    pub(crate) fn new(experiment: Experiment, phases: Vec<PhaseSpec>) -> Self {
        let watches = phases.iter().map(|phase| AbortWatch::new(&phase.abort)).collect();
        Self { experiment, phases, watches, clock: Clock::read() }
    }

    /// The machine was suspended for so long, and the clock of this process stood still with it:
    /// seconds are again those of hosts that were not.
    pub(crate) fn catch_up(&mut self, suspended: Duration) {
        self.clock = self.clock.after_suspend(suspended);
    }

    /// The Unix second at this moment.
    pub(crate) fn now(&self) -> u64 {
        self.clock.unix_second(monotonic_ns())
    }

    /// The first Unix second that all programs can be told of in time.
    pub(crate) fn soonest(&self) -> u64 {
        self.clock.unix_second(monotonic_ns() + LEAD.as_nanos() as u64) + 1
    }

    /// When a Unix second begins.
    pub(crate) fn instant_of(&self, unix_second: u64) -> Instant {
        let ahead = self.start_ns(unix_second).saturating_sub(monotonic_ns());
        Instant::now() + Duration::from_nanos(ahead)
    }

    /// When a Unix second begins, on the monotonic clock.
    pub(crate) fn start_ns(&self, unix_second: u64) -> u64 {
        self.clock.start_of(unix_second)
    }

    /// The most users that any phase has connected, as far as that is known.
    pub(crate) fn users_connected(&self) -> u64 {
        let users = self.phases.iter();
        let users = users.filter_map(|phase| users_connected(&self.experiment, phase));
        users.map(u64::from).max().unwrap_or(0)
    }

    /// How far a phase and the run are when a second of the phase has passed.
    pub(crate) fn elapsed(&self, phase: &PhaseTime, t: u64) -> Elapsed {
        let index = usize::from(phase.index);
        let (spec, later) = (&self.phases[index], &self.phases[index + 1..]);
        let of_s = spec.seconds.map(Seconds::get);
        let elapsed_s = t + 1 - phase.start;
        let rest_s: Option<u64> = later.iter().map(|phase| phase.seconds.map(Seconds::get)).sum();
        let left_s = of_s.zip(rest_s).map(|(of, rest)| of.saturating_sub(elapsed_s) + rest);
        Elapsed { elapsed_s, of_s, left_s }
    }

    /// Compares a second of a phase with what aborts the phase. Returns why the run must end, if it
    /// must.
    pub(crate) fn watch(&mut self, phase: &PhaseTime, second: &Second) -> Option<String> {
        let why = self.watches[usize::from(phase.index)].on_second(second)?;
        Some(format!("phase {}: {why}", phase.name))
    }
}
