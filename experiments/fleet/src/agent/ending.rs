//! When a run ends on this host: because its coordinator says so, or because no coordinator has
//! been heard for too long.

use std::time::Duration;

use tokio::time::Instant;

/// A coordinator that was not heard for this long is gone.
const SILENT: Duration = Duration::from_secs(5);

/// A new coordinator is refused while the old one was heard within this time.
const FRESH: Duration = Duration::from_secs(3);

/// Told to stop, clients have this long until the server is told, too.
const CLIENTS_STOP: Duration = Duration::from_millis(700);

/// Told to stop, all programs have this long until they are killed.
const ALL_STOP: Duration = Duration::from_millis(1400);

/// Told that nothing more comes, programs have this long: closing many sockets takes a while.
const FINISH: Duration = Duration::from_secs(60);

/// When a coordinator was heard, and until when its absence is no reason to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coordinator {
    heard: Instant,
    /// When a new one took over.
    resumed: Instant,
    /// The end of the phase under way, if it ends by itself.
    phase_ends: Option<Instant>,
}

impl Coordinator {
    /// One that is there now.
    pub(super) fn present() -> Self {
        let now = Instant::now();
        Self { heard: now, resumed: now, phase_ends: None }
    }

    /// This process itself stood still for so long: nobody was silent meanwhile.
    pub(super) fn missed(&mut self, time: Duration) {
        let now = Instant::now();
        self.heard = (self.heard + time).min(now);
        self.resumed = (self.resumed + time).min(now);
    }

    /// It was heard.
    pub(super) fn pulse(&mut self) {
        self.heard = Instant::now();
    }

    /// Whether it was heard a moment ago.
    pub(super) fn is_present(&self) -> bool {
        self.heard.elapsed() < FRESH
    }

    /// Another one takes over.
    pub(super) fn replaced(&mut self) {
        self.resumed = Instant::now();
    }

    /// A phase is under way that ends by itself then.
    pub(super) fn phase_ends(&mut self, at: Option<Instant>) {
        self.phase_ends = at;
    }

    /// When the run ends here unless a coordinator is heard. The agent waits `wait` for a new one,
    /// counted from the end of the phase.
    pub(super) fn deserted_at(&self, wait: Duration) -> Instant {
        let silent = self.heard.max(self.resumed) + SILENT;
        self.phase_ends.map_or(silent, |end| silent.max(end)) + wait
    }
}

/// The deadlines of a run that is ending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// When the server is told to stop; `None` when it was told, or ends by other orders.
    server_at: Option<Instant>,
    kill_at: Instant,
}

impl Ending {
    /// All programs end soon, clients first.
    pub(super) fn stop() -> Self {
        let now = Instant::now();
        Self { server_at: Some(now + CLIENTS_STOP), kill_at: now + ALL_STOP }
    }

    /// Programs end by themselves.
    pub(super) fn finish() -> Self {
        Self { server_at: None, kill_at: Instant::now() + FINISH }
    }

    /// Whether all ends as soon as [`Ending::stop`] would have it end.
    pub(super) fn is_soon(&self) -> bool {
        self.kill_at <= Instant::now() + ALL_STOP
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Instant {
        self.server_at.unwrap_or(self.kill_at)
    }

    /// Whether the server must be told to stop now; true once.
    pub(super) fn stops_server(&mut self, now: Instant) -> bool {
        self.server_at.take_if(|at| now >= *at).is_some()
    }

    /// Whether programs must be killed now. Once is enough, since what is killed ends: the next
    /// time is far away.
    pub(super) fn kills(&mut self, now: Instant) -> bool {
        let due = now >= self.kill_at;
        if due {
            self.kill_at = now + FINISH;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_the_agent_missed_is_not_the_coordinators_silence() {
        let wait = Duration::from_secs(1);
        let (stopped, mut coordinator) = (Duration::from_secs(30), Coordinator::present());
        // As if the agent had been stopped since it heard the coordinator.
        coordinator.heard -= stopped;
        coordinator.resumed -= stopped;
        assert!(coordinator.deserted_at(wait) < Instant::now());
        coordinator.missed(stopped);
        assert!(coordinator.deserted_at(wait) > Instant::now());
        assert!(coordinator.deserted_at(wait) <= Instant::now() + SILENT + wait);
        assert!(coordinator.is_present());
    }
}
