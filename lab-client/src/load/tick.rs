//! Phases begin and end, what is due is done, and what is over is reported.

use attribution::Tally;
use platform::SPIN_PER_POLL_NS;
use workload::{Load, Phase};

use crate::load::closed::ClosedLoad;
use crate::load::even::Social;
use crate::load::punctual::Punctuality;
use crate::load::state::{Event, LoadGenerator, Running, Timer};
use crate::pacer::Pacer;
use crate::transport::Transport;

/// Shakes that were due before the end of a phase are sent up to this long after it.
const LATEST_NS: u64 = 1_000_000_000;

impl LoadGenerator {
    /// A phase to be carried out when its second comes; the one before ends then at the latest.
    pub fn add_phase(&mut self, phase: Phase) {
        if let Some(before) = self.running.as_ref().map(|run| run.phase.index) {
            self.end_phase(before, phase.start);
        }
        // One that was told anew: as many wait as there are indices at most.
        self.upcoming.retain(|before| before.index != phase.index);
        self.upcoming.push_back(phase);
    }

    /// Ends a phase before a Unix second.
    pub(crate) fn end_phase(&mut self, index: u16, end: u64) {
        let end_ns = self.clock.start_of(end);
        if let Some(running) = self.running.as_mut().filter(|run| run.phase.index == index) {
            running.end_ns = running.end_ns.min(end_ns);
            if let Some(pacer) = &mut self.pacer {
                pacer.end_at(end);
            }
        }
        if let Some(phase) = self.upcoming.iter_mut().find(|phase| phase.index == index) {
            phase.seconds = Some(end.saturating_sub(phase.start));
        }
    }

    /// Changes the rate of the open load from a Unix second on.
    pub fn change_rate(&mut self, from: u64, rate: u32) {
        if let Some(pacer) = &mut self.pacer {
            pacer.change_rate(from, rate);
        }
        self.asked_rate = Some((from, rate));
    }

    /// Everything that happened was handled: does what is due by now. Returns when there is
    /// something to do next, in nanoseconds.
    pub fn poll(&mut self, net: &mut impl Transport) -> Option<u64> {
        let now_ns = net.now_ns();
        self.spin_left_ns = SPIN_PER_POLL_NS;
        self.change_phase(now_ns);
        self.expire(net, now_ns);
        self.connect_due(net);
        let behind = self.shake_due(net);
        let behind = self.socialize(net) || behind;
        self.settle(now_ns);
        if behind {
            return Some(net.now_ns());
        }
        let times = [
            self.upcoming.front().map(|phase| self.clock.start_of(phase.start)),
            self.running.as_ref().filter(|run| !run.ended).map(|run| run.end_ns),
            self.pacer.as_ref().map(Pacer::wake_ns),
            self.timeouts.front().map(|(due_ns, _)| due_ns + self.rules.timeout_ns),
            self.unsent.first_due_ns().map(|due_ns| due_ns + self.rules.timeout_ns),
            self.wheel.next_ns(),
            self.connecting.next_ns(),
            self.social.next_ns(),
            self.settling.iter().map(|(_, until_ns)| *until_ns).min(),
        ];
        times.into_iter().flatten().min().filter(|at| *at != u64::MAX)
    }

    fn change_phase(&mut self, now_ns: u64) {
        if let Some(run) = self.running.as_ref().filter(|run| !run.ended) {
            let end_ns = run.end_ns;
            if end_ns > now_ns {
                return;
            }
            // What was due before the end is still sent, late, but not for ever.
            let more = self.pacer.as_mut().is_some_and(|pacer| pacer.has_more(end_ns));
            if more && now_ns < end_ns + LATEST_NS {
                return;
            }
            if !self.skip_rest(now_ns) {
                return;
            }
            self.stop_phase(now_ns);
        }
        let due = |phase: &Phase| self.clock.start_of(phase.start) <= now_ns;
        if self.upcoming.front().is_some_and(due)
            && let Some(phase) = self.upcoming.pop_front()
        {
            self.start_phase(phase);
        }
    }

    fn stop_phase(&mut self, now_ns: u64) {
        self.pacer = None;
        self.closed = None;
        self.social = Social::default();
        if let Some(run) = &mut self.running {
            run.ended = true;
            self.settling.push((run.phase.index, now_ns + self.rules.timeout_ns));
        }
    }

    fn start_phase(&mut self, phase: Phase) {
        let index = usize::from(phase.index);
        if self.tallies.len() <= index {
            self.tallies.resize(index + 1, Tally::default());
        }
        let start_ns = self.clock.start_of(phase.start);
        let end = phase.seconds.map(|seconds| phase.start + seconds);
        if let Some(connect) = phase.connect {
            self.connecting.start(phase.index, &self.share, connect, start_ns);
            self.report_established(start_ns);
        }
        match phase.load {
            Load::None => {}
            Load::Open { rate, pacing } => {
                let (share, clock, seed) = (self.share, self.clock, self.rules.seed);
                let mut pacer = Pacer::new(share, clock, seed, rate, pacing, phase.start, end);
                let asked = self.asked_rate.take().filter(|(from, _)| *from >= phase.start);
                asked.into_iter().for_each(|(from, rate)| pacer.change_rate(from, rate));
                self.pacer = Some(pacer);
                self.punctuality = Punctuality::new(pacing);
            }
            Load::Closed { in_flight } => {
                let order = platform::splitmix64(self.rules.seed ^ u64::from(phase.index));
                self.closed = ClosedLoad::new(&self.share, in_flight, order);
            }
        }
        self.social = Social::new(&self.share, &phase, start_ns);
        let end_ns = end.map_or(u64::MAX, |end| self.clock.start_of(end));
        self.running = Some(Running { phase, end_ns, ended: false, skipping: false });
    }

    fn expire(&mut self, net: &mut impl Transport, now_ns: u64) {
        while let Some((due_ns, user)) = self.timeouts.front().copied() {
            if due_ns + self.rules.timeout_ns > now_ns {
                break;
            }
            self.timeouts.pop_front();
            self.time_out(user, due_ns);
        }
        self.expire_waiting(now_ns);
        if self.wheel.next_ns().is_some_and(|next| next <= now_ns) {
            let mut due = Vec::new();
            self.wheel.expire(now_ns, |timer| due.push(timer));
            for timer in due {
                match timer {
                    Timer::Handshake(user, conn) => self.handshake_late(net, user, conn),
                    Timer::Reconnect(user) => self.connecting.retry(user),
                }
            }
        }
    }

    /// Reports phases of which nothing is under way any more.
    fn settle(&mut self, now_ns: u64) {
        // A claim whose connection went away is never answered; the others are in milliseconds.
        let Tally { claims, claims_granted, claims_refused, .. } = self.tally;
        let claims_open = claims > claims_granted + claims_refused;
        let (tallies, unsent, events) = (&self.tallies, &self.unsent, &mut self.events);
        self.settling.retain(|(phase, until_ns)| {
            let tally = tallies[usize::from(*phase)];
            let waits = tally.in_flight() != Some(0)
                || unsent.any_of(*phase)
                || (claims_open && now_ns < *until_ns);
            if !waits {
                events.push(Event::Settled { phase: *phase, tally: Box::new(tally) });
            }
            waits
        });
    }
}
