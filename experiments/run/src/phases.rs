//! The phases of a run, one after the other, each on a whole second.

use std::time::Duration;

use record::PhaseTime;
use report::live::RunCommand;
use serde_json::json;
use spec::configure::{client_phase, server_commands, server_commands_after};
use spec::{After, PhaseSpec, Seconds, Until};
use tokio::time::Instant;
use workload::Command as ClientCommand;

use crate::coordinator::Coordinator;
use crate::events::PhaseEvent;
use crate::outcome::{Ended, Ending};
use crate::place::{Place, Position, StartsAt};
use crate::schedule::{LEAD, PhaseUnderWay};

/// How long after its end a phase may take to settle beyond the timeout of its last shake.
const SETTLE: Duration = Duration::from_secs(5);

/// All that the ending of an interrupted run waits for, together, unless its options say less: a
/// million sockets are closed by clients and server within it. `lab validate` waits a minute longer
/// for a run.
const INTERRUPTED: Duration = Duration::from_secs(120);

/// A deadline for what takes as long as it takes.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// Why the waiting in a phase is over.
enum PhaseOver {
    /// It is time to tell the programs of the next phase.
    EndsSoon,
    /// The run ends.
    RunEnds(Ending),
}

impl<P: Place> Coordinator<P> {
    /// Carries the run out until everything of it is written. When it is interrupted, its ending
    /// waits for `ends_within` at most.
    pub(crate) async fn carry_out_to_the_end(
        mut self,
        ends_within: Option<Duration>,
    ) -> anyhow::Result<Ended> {
        match self.carry_out_phases().await {
            Ok(ending) => {
                if ending == Ending::Interrupted {
                    let most = ends_within.unwrap_or(INTERRUPTED);
                    self.ends = Some(self.stalls.patience(Instant::now() + most));
                }
                self.finish(ending).await
            }
            Err(error) => {
                self.kill();
                self.close_failed(&error);
                self.place.leave().await;
                Err(error)
            }
        }
    }

    async fn carry_out_phases(&mut self) -> anyhow::Result<Ending> {
        if let Some(ending) = self.place.known_ending() {
            return Ok(ending);
        }
        let mut start = self.run.schedule.soonest();
        let (first, mut resumed) = match self.place.starts_at() {
            StartsAt::FirstPhase => (0, None),
            StartsAt::Within(position) => (usize::from(position.phase.index), Some(position)),
        };
        for index in first..self.run.schedule.phases.len() {
            let spec = self.run.schedule.phases[index].clone();
            let index = u16::try_from(index)?;
            let mut phase = match resumed.take() {
                Some(position) => self.go_on(&spec, position).await?,
                None => {
                    let before = index.checked_sub(1);
                    if let (Some(After::Terminated(_)), Some(before)) = (&spec.after, before)
                        && let Some(ending) = self.wait_until_settled(before).await?
                    {
                        return Ok(ending);
                    }
                    start = start.max(self.run.schedule.soonest());
                    self.begin(&spec, index, start).await?
                }
            };
            let over = self.wait_in_phase(&spec, &mut phase).await?;
            let soonest = self.run.schedule.soonest();
            let end = match over {
                PhaseOver::EndsSoon => phase.end.unwrap_or(soonest),
                // Cut short: the end that was planned is too late.
                PhaseOver::RunEnds(_) => phase.end.map_or(soonest, |end| end.min(soonest)),
            };
            self.end(&spec, phase, end).await?;
            if let PhaseOver::RunEnds(ending) = over {
                return Ok(ending);
            }
            if spec.connect.is_some() {
                self.ask_for_connections().await?;
            }
            start = end;
        }
        Ok(Ending::Completed)
    }

    async fn begin(
        &mut self,
        spec: &PhaseSpec,
        index: u16,
        start: u64,
    ) -> anyhow::Result<PhaseUnderWay> {
        let end = spec.seconds.map(|seconds| start + seconds.get());
        let phase = PhaseUnderWay { index, start, end };
        self.mark(phase, false)?;
        let experiment = &self.run.schedule.experiment;
        let for_clients = client_phase(experiment, spec, index, start);
        let for_server = server_commands(experiment, spec, index, start, end);
        self.run.programs.tell_clients(&ClientCommand::Phase(Box::new(for_clients))).await?;
        for command in for_server {
            self.run.programs.tell_server(&command).await?;
        }
        self.record_phase(spec, phase, end.unwrap_or(u64::MAX));
        let fields = json!({ "phase": spec.name.to_string(), "end": end });
        self.run.records.event_at(start, "phase_starts", fields)?;
        self.place.begin_faults(spec, phase, &mut self.run).await?;
        self.mark(phase, true)?;
        Ok(phase)
    }

    fn mark(&mut self, phase: PhaseUnderWay, begun: bool) -> anyhow::Result<()> {
        self.place.mark(Position { phase, begun }, &mut self.run)
    }

    fn record_phase(&mut self, spec: &PhaseSpec, phase: PhaseUnderWay, end: u64) {
        let PhaseUnderWay { index, start, .. } = phase;
        let time = PhaseTime { index, name: spec.name.to_string(), start, end };
        self.run.records.files.set_phase(time);
    }

    /// Goes on with a phase that another coordinator has begun, or was about to.
    async fn go_on(&mut self, spec: &PhaseSpec, at: Position) -> anyhow::Result<PhaseUnderWay> {
        if at.begun {
            return Ok(at.phase);
        }
        // The commands have the numbers that they had: hosts that have them do nothing.
        let phase = self.begin(spec, at.phase.index, at.phase.start).await;
        self.place.skip_repeated_commands();
        phase
    }

    /// Waits until the phase is about to end, or must.
    async fn wait_in_phase(
        &mut self,
        spec: &PhaseSpec,
        phase: &mut PhaseUnderWay,
    ) -> anyhow::Result<PhaseOver> {
        let longest = spec.longest_s.map(Seconds::get);
        let far = Instant::now() + FAR;
        let killed_at =
            longest.map_or(far, |longest| self.run.schedule.instant_of(phase.start + longest));
        let patience = self.stalls.patience(killed_at);
        let until_established = spec.until == Some(Until::Established);
        let aborted = |why: String| Ok(PhaseOver::RunEnds(Ending::Aborted(why)));
        loop {
            let index = phase.index;
            if until_established
                && phase.end.is_none()
                && self.all_clients(|books, client| books.is_established(client, index))
            {
                self.run.records.say(&format!("all users of phase {} are logged in", spec.name));
                phase.end = Some(self.run.schedule.soonest());
            }
            let ends_at = phase.end.map_or(far, |end| self.run.schedule.instant_of(end) - LEAD);
            let killed_at = self.stalls.end_of(patience);
            match self.next(ends_at.min(killed_at)).await? {
                PhaseEvent::Deadline if Instant::now() >= ends_at => {
                    return Ok(PhaseOver::EndsSoon);
                }
                PhaseEvent::Deadline if Instant::now() < self.stalls.end_of(patience) => {}
                PhaseEvent::Deadline => {
                    let longest = longest.unwrap_or_default();
                    return aborted(format!("phase {} took longer than {longest} s", spec.name));
                }
                PhaseEvent::Abort(why) => return aborted(why),
                PhaseEvent::Interrupt => return Ok(PhaseOver::RunEnds(Ending::Interrupted)),
                PhaseEvent::EndPhase(answer) => {
                    let end = self.run.schedule.soonest();
                    if phase.end.is_none_or(|planned| end < planned) {
                        phase.end = Some(end);
                    }
                    self.run.records.command(&RunCommand::EndPhase {})?;
                    // Dropped when the person does not wait any more.
                    let _ = answer.send(Ok(format!("phase {} ends with this second", spec.name)));
                }
                PhaseEvent::Settled | PhaseEvent::Established | PhaseEvent::PlaceChanged => {}
            }
        }
    }

    /// Tells all programs that a phase ends before the second `end`.
    async fn end(
        &mut self,
        spec: &PhaseSpec,
        phase: PhaseUnderWay,
        end: u64,
    ) -> anyhow::Result<()> {
        let PhaseUnderWay { index, start, .. } = phase;
        let known = spec.seconds.is_some_and(|seconds| start + seconds.get() == end);
        self.mark(PhaseUnderWay { end: Some(end), ..phase }, true)?;
        if !known {
            self.run.programs.tell_clients(&ClientCommand::EndPhase { index, end }).await?;
        }
        for command in server_commands_after(spec, known) {
            self.run.programs.tell_server(&command).await?;
        }
        self.place.end_faults(index, end, &mut self.run).await?;
        self.record_phase(spec, phase, end);
        let fields = json!({ "phase": spec.name.to_string() });
        self.run.records.event_at(end, "phase_ends", fields)
    }

    /// Waits until nothing of a phase is under way any more. Returns how the run ends, if it does.
    async fn wait_until_settled(&mut self, phase: u16) -> anyhow::Result<Option<Ending>> {
        let known = self.run.records.files.phases();
        let end = known.iter().find(|known| known.index == phase).map_or(0, |known| known.end);
        let timeout_s = self.run.schedule.experiment.client.timeout_s.get();
        let timeout = Duration::from_secs_f64(timeout_s);
        let deadline = self.run.schedule.instant_of(end) + timeout + SETTLE;
        let patience = self.stalls.patience(deadline);
        while !self.all_clients(|books, client| books.is_settled(client, phase)) {
            match self.next(self.bounded(patience)).await? {
                PhaseEvent::Interrupt => return Ok(Some(Ending::Interrupted)),
                PhaseEvent::Deadline if Instant::now() < self.bounded(patience) => {}
                PhaseEvent::Deadline => {
                    let name = self.run.records.name_of(phase);
                    let what = format!("phase {name} does not settle; going on without it");
                    self.run.records.warn("lab", &what)?;
                    return Ok(None);
                }
                PhaseEvent::Abort(why) => return Ok(Some(Ending::Aborted(why))),
                // Dropped, the sender of a command hears that no phase is under way.
                PhaseEvent::Established
                | PhaseEvent::Settled
                | PhaseEvent::PlaceChanged
                | PhaseEvent::EndPhase(_) => {}
            }
        }
        Ok(None)
    }

    /// Waits until nothing of any phase is under way any more. Returns how the run ends, if
    /// something has it end before.
    pub(crate) async fn wait_until_all_settled(&mut self) -> anyhow::Result<Option<Ending>> {
        let phases = self.run.records.files.phases();
        let begun: Vec<u16> = phases.iter().map(|phase| phase.index).collect();
        for phase in begun {
            if let Some(ending) = self.wait_until_settled(phase).await? {
                return Ok(Some(ending));
            }
        }
        Ok(None)
    }

    /// Asks the kernel which connections are established: the answer is recorded beside our own
    /// count.
    async fn ask_for_connections(&mut self) -> anyhow::Result<()> {
        let wanted = self.run.schedule.users_connected();
        self.place.ask_for_connections(wanted, &self.run.programs);
        let far = Instant::now() + FAR;
        let mut meanwhile = Vec::new();
        while self.place.awaits_connections() {
            match self.next(far).await? {
                // The wait in the next phase looks at the books for these.
                PhaseEvent::Established
                | PhaseEvent::Settled
                | PhaseEvent::PlaceChanged
                | PhaseEvent::Deadline => {}
                event @ PhaseEvent::EndPhase(_) => meanwhile.push(event),
                // The run ends, and nobody asks for the answer any more.
                event @ (PhaseEvent::Interrupt | PhaseEvent::Abort(_)) => {
                    meanwhile.push(event);
                    break;
                }
            }
        }
        self.pending.extend(meanwhile);
        Ok(())
    }
}
