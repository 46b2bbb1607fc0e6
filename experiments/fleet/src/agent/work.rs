//! A run as one of its hosts has it: orders are carried out, what programs and the host say is
//! handed on, and the run ends with or without a coordinator.
//!
//! Must not know: what lines mean, but for the milestones that a [`PipeProtocol`] finds in them.

use std::time::Duration;

use platform::{Clock, SuspendWatch, boottime_ns, monotonic_ns};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::control::{Milestone, PipeProtocol};
use super::cpus::Cpus;
use super::ending::{Coordinator, Ending};
use super::events::LocalEvent;
use super::observed::{Observed, kernel};
use super::outbox::Outbox;
use super::programs::Programs;
use super::sender::Sending;
use crate::names::RunName;
use crate::protocol::{Answer, HostReport, Lease, Said, What};
use crate::target::Targets;
use host::privileges::Privileges;
use host::probing::ProbeSpec;
use host::program::Who;

/// A second that is told of later than this was held up: the agent itself stood still.
const HELD_UP: Duration = Duration::from_millis(500);

/// Requests that may be looked for at a time: the answer, 300 bytes each, is one message.
const MOST_REQUESTS: usize = 1024;

/// A run under way.
pub(super) struct Work {
    lease: Lease,
    protocol: PipeProtocol,
    /// What programs may be told to load.
    targets: Targets,
    /// The number of the last order that was carried out.
    done: u64,
    /// Why that one was refused, if it was: an answer that is lost or late is asked for again.
    refused: Option<String>,
    clock: Clock,
    suspends: SuspendWatch,
    /// The Unix second at whose begin the one before is told of.
    next_second: u64,
    programs: Programs,
    cpus: Cpus,
    host: Observed,
    outbox: Outbox,
    coordinator: Coordinator,
    ending: Option<Ending>,
    over: bool,
}

impl Work {
    /// Nothing done yet.
    pub(super) fn new(
        lease: Lease,
        agent: &str,
        protocol: PipeProtocol,
        targets: Targets,
        privileges: Privileges,
        events: UnboundedSender<LocalEvent>,
    ) -> Self {
        let clock = Clock::read_ahead(lease.ahead_ns);
        Self {
            next_second: clock.unix_second(monotonic_ns()) + 1,
            host: Observed::new(agent, &lease, events.clone()),
            lease,
            protocol,
            targets,
            done: 0,
            refused: None,
            clock,
            suspends: SuspendWatch::new(monotonic_ns(), boottime_ns()),
            programs: Programs::new(protocol, privileges, events),
            cpus: Cpus::allowed(),
            outbox: Outbox::default(),
            coordinator: Coordinator::present(),
            ending: None,
            over: false,
        }
    }

    /// Which run.
    pub(super) fn run(&self) -> &RunName {
        &self.lease.run
    }

    /// The number of the last order that was carried out.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Whether the last word was said.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The coordinator is there.
    pub(super) fn pulse(&mut self) {
        self.coordinator.pulse();
    }

    /// Another coordinator takes over.
    ///
    /// # Errors
    /// The answer to a coordinator that cannot have the run.
    pub(super) fn resume(&mut self) -> Result<(), Answer> {
        self.check_led()?;
        if self.ending.is_some() {
            let why = format!("run {} is being ended", self.lease.run);
            return Err(Answer::Refused { why });
        }
        self.coordinator.replaced();
        Ok(())
    }

    /// Whether the coordinator is gone.
    ///
    /// # Errors
    /// The answer to another one, when it is not.
    pub(super) fn check_led(&self) -> Result<(), Answer> {
        if self.coordinator.is_present() {
            let why = format!("the coordinator of run {} is still there", self.lease.run);
            return Err(Answer::StillLed { why });
        }
        Ok(())
    }

    /// When a Unix second of the coordinator begins.
    fn instant_of(&self, second: u64) -> Instant {
        let ahead = self.clock.start_of(second).saturating_sub(monotonic_ns());
        Instant::now() + Duration::from_nanos(ahead)
    }

    /// When the next tick is due, a desertion apart, which has time until the next second.
    pub(super) fn next(&self) -> Instant {
        let second = self.instant_of(self.next_second);
        let others = [self.outbox.flush_at(), self.ending.map(|ending| ending.next())];
        others.into_iter().flatten().fold(second, Instant::min)
    }

    /// Does what is due.
    pub(super) async fn tick(&mut self, sending: Option<&Sending>, wait: Duration) {
        let now = Instant::now();
        self.look_at_clocks(monotonic_ns(), boottime_ns());
        let due = self.clock.start_of(self.next_second);
        if let Some(late_ns) = monotonic_ns().checked_sub(due) {
            let late = Duration::from_nanos(late_ns);
            if late > HELD_UP {
                self.coordinator.missed(late);
                self.programs.missed(late);
            }
            self.second();
            if let Some(news) = sending.and_then(Sending::write_waiting) {
                self.outbox.tell(news);
            }
        }
        if self.ending.is_none() && now >= self.coordinator.deserted_at(wait) {
            self.outbox.warn(format!("nobody took run {} over; ending it", self.lease.run));
            self.stop().await;
        }
        if let Some(ending) = &mut self.ending {
            if ending.stops_server(now) {
                self.programs.stop_server().await;
            }
            if ending.kills(now) {
                self.programs.kill();
            }
        }
        self.end_if_over();
        if self.outbox.flush_at().is_some_and(|at| Instant::now() >= at) {
            self.outbox.flush(sending);
        }
    }

    /// A machine that was suspended goes on with the seconds that others have. Its programs do not:
    /// they keep the clock that they began with.
    fn look_at_clocks(&mut self, monotonic_ns: u64, boottime_ns: u64) {
        let Some(suspended) = self.suspends.look(monotonic_ns, boottime_ns) else { return };
        self.clock = self.clock.after_suspend(suspended);
        self.outbox.warn(format!(
            "this machine was suspended for {:.1} s: its programs are so much behind those of \
             other hosts",
            suspended.as_secs_f64()
        ));
    }

    /// Tells of the second that has just ended.
    fn second(&mut self) {
        let t = self.next_second - 1;
        self.next_second = self.clock.unix_second(monotonic_ns()) + 1;
        if self.programs.is_empty() && !self.host.reads_network() {
            return;
        }
        for warning in self.programs.hanging() {
            self.outbox.warn(warning);
        }
        self.host.second(t, &mut self.outbox);
    }

    /// A program says something or has ended, or the kernel has answered.
    pub(super) async fn heard(&mut self, event: LocalEvent, sending: Option<&Sending>) {
        match event {
            LocalEvent::Line(who, Some(line)) => self.line(who, line.text).await,
            LocalEvent::Line(who, None) => {
                self.programs.ended(who);
                self.outbox.push(Said::Silence { who });
                self.end_if_over();
            }
            LocalEvent::Kernel(counts, wanted) => self.outbox.push(kernel(counts, wanted)),
        }
        // A program that never pauses leaves no time for a tick.
        if self.over || self.outbox.is_full() {
            self.outbox.flush(sending);
        }
    }

    /// Hands a line on, after doing what the milestone in it asks for.
    async fn line(&mut self, who: Who, line: String) {
        match (self.protocol.milestone)(who, &line) {
            Some(Milestone::Ready { threads, listens }) => {
                let pid = self.programs.ready(who);
                self.cpus.pinned_by(&threads);
                self.leave_shards();
                match (who, pid) {
                    (Who::Server, Some(pid)) => {
                        self.host.server_ready(pid, listens, &mut self.outbox).await;
                    }
                    (Who::Client(number), Some(pid)) => self.host.client_ready(number, pid),
                    (Who::Hog(_), _) | (_, None) => {}
                }
            }
            Some(Milestone::Ended) if self.ending.is_some() => self.programs.close(who),
            Some(Milestone::Ended) | None => {}
        }
        self.programs.spoke(who);
        self.outbox.line(who, line);
    }

    /// Carries out an order, unless that was done: then the answer is the same again.
    pub(super) async fn order(
        &mut self,
        number: u64,
        what: What,
        sending: Option<&Sending>,
    ) -> Answer {
        if number <= self.done {
            let refused = self.refused.clone().filter(|_| number == self.done);
            return refused.map_or(Answer::Done {}, |why| Answer::Refused { why });
        }
        if number > self.done + 1 {
            let why = format!("order {number} came after order {}", self.done);
            return Answer::Refused { why };
        }
        self.done = number;
        if number == 1 {
            self.outbox.push(Observed::settings());
        }
        self.host.add_network(&mut self.outbox);
        let done = self.carry_out(what).await;
        if self.over {
            self.outbox.flush(sending);
        }
        self.refused = done.err();
        self.refused.clone().map_or(Answer::Done {}, |why| Answer::Refused { why })
    }

    /// # Errors
    /// Why it cannot be done, for people.
    async fn carry_out(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Start { who, config, probes } => {
                if let Some(to) = (self.protocol.target)(who, &config)? {
                    self.targets.check(to)?;
                }
                let started = self.start(who, config, probes.map(|probes| *probes)).await;
                return started.map_err(|error| format!("{who} cannot be started: {error:#}"));
            }
            What::Tell { who, line } => {
                if !self.programs.tell(who, line).await {
                    return Err(format!("there is no {who}"));
                }
            }
            What::Phase { start: _, end } => {
                self.coordinator.phase_ends(end.map(|end| self.instant_of(end)));
            }
            What::Kernel { wanted } => {
                if !self.host.ask_kernel(wanted) {
                    self.outbox.warn("the kernel was asked for connections of a server elsewhere");
                }
            }
            What::Look { number, requests } => {
                if requests.len() > MOST_REQUESTS {
                    return Err(format!("{MOST_REQUESTS} requests can be looked for at a time"));
                }
                let sides = self.host.server_sides(&requests);
                self.outbox.push(HostReport::Looked { number, sides });
            }
            What::Close { who } => self.programs.close(who),
            What::Stop {} => self.stop().await,
            What::Finish {} => {
                self.ending.get_or_insert_with(Ending::finish);
                self.end_if_over();
            }
        }
        Ok(())
    }

    async fn start(
        &mut self,
        who: Who,
        mut config: Value,
        probes: Option<ProbeSpec>,
    ) -> anyhow::Result<()> {
        if let Some(probes) = probes {
            self.host.order_probes(probes, &mut self.outbox).await?;
        }
        let mut keep = Vec::new();
        if let (Who::Client(_), Some((handover, descriptors))) = (who, self.host.handover()?) {
            config["probes"] = handover;
            keep = descriptors;
        }
        // Children inherit where this process may run.
        if let Err(warning) = self.cpus.use_all() {
            self.outbox.warn(warning);
        }
        self.programs.start(who, &config, keep)?;
        if let Some(privileges) = self.programs.new_privileges() {
            self.outbox.push(HostReport::Privileges { privileges });
        }
        self.leave_shards();
        Ok(())
    }

    fn leave_shards(&mut self) {
        if let Err(warning) = self.cpus.leave_shards() {
            self.outbox.warn(warning);
        }
    }

    /// Ends all programs soon: clients first, so that the server sees every answer taken or
    /// refused.
    async fn stop(&mut self) {
        if self.ending.is_some_and(|ending| ending.is_soon()) {
            return;
        }
        self.ending = Some(Ending::stop());
        self.programs.stop_clients().await;
        self.end_if_over();
    }

    fn end_if_over(&mut self) {
        if self.ending.is_some() && self.programs.all_ended() && !self.over {
            self.over = true;
            if let Err(warning) = self.cpus.use_all() {
                self.outbox.warn(warning);
            }
            self.outbox.push(HostReport::Over {});
            self.outbox.flush_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Leader;
    use tokio::sync::mpsc::unbounded_channel;

    fn work() -> Work {
        let lease = Lease {
            run: "x".to_owned().try_into().expect("a name"),
            leader: Leader::default(),
            version: host::VERSION.to_owned(),
            protocol: crate::protocol::PROTOCOL,
            ahead_ns: 0,
            machine: false,
            network: false,
        };
        let protocol =
            PipeProtocol { milestone: |_, _| None, target: |_, _| Ok(None), stop_line: |_| None };
        let privileges = Privileges::choose(None).expect("somebody");
        let targets = Targets::new(&[]);
        Work::new(lease, "vm1", protocol, targets, privileges, unbounded_channel().0)
    }

    #[tokio::test]
    async fn a_machine_that_was_suspended_says_so_and_goes_on_with_the_seconds_of_others() {
        let mut work = work();
        let (monotonic_ns, boottime_ns) = (monotonic_ns(), boottime_ns());
        let told = work.outbox.flush_at();
        work.look_at_clocks(monotonic_ns, boottime_ns);
        assert_eq!(work.outbox.flush_at(), told, "it was not");
        let before = work.clock.unix_second(monotonic_ns);
        work.look_at_clocks(monotonic_ns, boottime_ns + 3_600_000_000_000);
        assert_eq!(work.clock.unix_second(monotonic_ns), before + 3_600);
        assert!(work.outbox.flush_at().is_some(), "it tells of it");
        // Nobody was silent for that.
        assert!(work.coordinator.is_present());
    }

    #[tokio::test]
    async fn an_order_that_comes_again_is_answered_as_the_first_time() {
        let mut work = work();
        let nobody = || What::Tell { who: Who::Client(3), line: "{}".to_owned() };
        let refused = work.order(1, nobody(), None).await;
        let Answer::Refused { why } = &refused else { panic!("{refused:?}") };
        assert!(why.contains("there is no"), "{why}");
        assert_eq!(work.order(1, nobody(), None).await, refused);
        let done = work.order(2, What::Close { who: Who::Client(3) }, None).await;
        assert_eq!(done, Answer::Done {});
        for number in [1, 2] {
            let again = work.order(number, nobody(), None).await;
            assert_eq!(again, Answer::Done {}, "order {number} is behind");
        }
    }
}
