//! The phases of a run, one after the other, each on a whole second.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use service::Command as ServerCommand;
use tokio::time::Instant;
use workload::Command as ClientCommand;

use crate::remote::Position;
use host::sock_diag;
use record::{Event, PhaseTime};
use report::live::Order;
use spec::configure::{client_phase, server_commands, server_commands_after, users_connected};
use spec::{After, PhaseSpec, Seconds, Until};

use super::{Ending, Happened, Run};
use text::thousands;

/// Programs are told of a phase this long before it starts: time enough for a line over a pipe and
/// a message to every shard.
const LEAD: Duration = Duration::from_millis(700);

/// How long after its end a phase may take to settle beyond the timeout of its last shake.
const SETTLE: Duration = Duration::from_secs(5);

/// A phase that goes on.
struct Current {
    index: u16,
    start: u64,
    /// The first second behind it, once that is known.
    end: Option<u64>,
}

/// Why the waiting in a phase is over.
enum Over {
    /// It is time to tell the programs of the next phase.
    Soon,
    Ending(Ending),
}

impl Run {
    /// Carries out all phases.
    pub(super) async fn carry_out(&mut self) -> anyhow::Result<Ending> {
        if let Some(ending) = self.known_ending() {
            return Ok(ending);
        }
        let mut start = self.soonest();
        let (first, mut under_way) = self.where_it_stands();
        for index in first..self.phases.len() {
            let spec = self.phases[index].clone();
            let index = u16::try_from(index)?;
            let mut current = match under_way.take() {
                Some(position) => self.go_on(&spec, position).await?,
                None => {
                    let before = index.checked_sub(1);
                    if let (Some(After::Terminated(_)), Some(before)) = (&spec.after, before)
                        && let Some(ending) = self.until_settled(before).await?
                    {
                        return Ok(ending);
                    }
                    start = start.max(self.soonest());
                    self.begin(&spec, index, start).await?
                }
            };
            let over = self.during(&spec, &mut current).await?;
            let soonest = self.soonest();
            let end = match over {
                Over::Soon => current.end.unwrap_or(soonest),
                // Cut short: nobody waits for the end that was planned.
                Over::Ending(_) => current.end.map_or(soonest, |end| end.min(soonest)),
            };
            self.end(&spec, &current, end).await?;
            if let Over::Ending(ending) = over {
                return Ok(ending);
            }
            if spec.connect.is_some() {
                self.ask_kernel().await?;
            }
            start = end;
        }
        Ok(Ending::Completed)
    }

    /// The first Unix second that everybody can be told of in time.
    fn soonest(&self) -> u64 {
        self.clock.unix_second(platform::monotonic_ns() + LEAD.as_nanos() as u64) + 1
    }

    pub(super) async fn tell_clients(&mut self, command: &ClientCommand) -> anyhow::Result<()> {
        for client in &mut self.clients {
            client.tell(command).await?;
        }
        Ok(())
    }

    async fn tell_server(&mut self, commands: Vec<ServerCommand>) -> anyhow::Result<()> {
        for command in commands {
            self.server.tell(&command).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, spec: &PhaseSpec, index: u16, start: u64) -> anyhow::Result<Current> {
        let end = spec.seconds.map(|seconds| start + seconds.get());
        self.mark(Position { index, start, end, begun: false })?;
        let phase = client_phase(&self.source.experiment, spec, index, start);
        self.tell_clients(&ClientCommand::Phase(Box::new(phase))).await?;
        let commands = server_commands(&self.source.experiment, spec, index, start, end);
        self.tell_server(commands).await?;
        let name = spec.name.to_string();
        self.files.set_phase(PhaseTime {
            index,
            name: name.clone(),
            start,
            end: end.unwrap_or(u64::MAX),
        });
        self.event_at(start, "phase_starts", json!({ "phase": name, "end": end }))?;
        self.begin_faults(spec, index, start, end).await?;
        self.mark(Position { index, start, end, begun: true })?;
        Ok(Current { index, start, end })
    }

    /// Goes on with a phase that another coordinator has begun, or was about to.
    async fn go_on(&mut self, spec: &PhaseSpec, at: Position) -> anyhow::Result<Current> {
        if !at.begun {
            // The orders have the numbers that they had: hosts that have them do nothing.
            let current = self.begin(spec, at.index, at.start).await;
            self.after_orders_again();
            return current;
        }
        Ok(Current { index: at.index, start: at.start, end: at.end })
    }

    /// Records something that is to happen at the start of a second.
    pub(super) fn event_at(
        &mut self,
        t: u64,
        event: &'static str,
        fields: Value,
    ) -> anyhow::Result<()> {
        let mut event = Event::now(event, fields);
        event.t = t as f64;
        Ok(self.files.event(event)?)
    }

    /// Waits until the phase is about to end, or must.
    async fn during(&mut self, spec: &PhaseSpec, current: &mut Current) -> anyhow::Result<Over> {
        let longest = spec.longest_s.map(Seconds::get);
        let far = Instant::now() + Duration::from_secs(365 * 86_400);
        let killed_at = longest.map_or(far, |longest| self.instant_of(current.start + longest));
        let until_established = spec.until == Some(Until::Established);
        loop {
            let index = current.index;
            if until_established
                && current.end.is_none()
                && self.all_clients(|books, client| books.is_established(client, index))
            {
                self.progress.say(&format!("all users of phase {} are logged in", spec.name));
                current.end = Some(self.soonest());
            }
            let ends_at = current.end.map_or(far, |end| self.instant_of(end) - LEAD);
            match self.next(ends_at.min(killed_at)).await? {
                Happened::Time if Instant::now() >= ends_at => return Ok(Over::Soon),
                Happened::Time => {
                    let longest = longest.unwrap_or_default();
                    let why = format!("phase {} took longer than {longest} s", spec.name);
                    return Ok(Over::Ending(Ending::Aborted(why)));
                }
                Happened::Broken(why) => return Ok(Over::Ending(Ending::Aborted(why))),
                Happened::Interrupt => return Ok(Over::Ending(Ending::Interrupted)),
                Happened::EndPhase(answer) => {
                    let end = self.soonest();
                    if current.end.is_none_or(|planned| end < planned) {
                        current.end = Some(end);
                    }
                    self.record_order(&Order::EndPhase {})?;
                    // Whoever gave the order may not wait any more.
                    let _ = answer.send(Ok(format!("phase {} ends with this second", spec.name)));
                }
                Happened::Settled | Happened::Established | Happened::Host => {}
            }
        }
    }

    /// Tells everybody that a phase ends before the second `end`.
    async fn end(&mut self, spec: &PhaseSpec, current: &Current, end: u64) -> anyhow::Result<()> {
        let known = spec.seconds.is_some_and(|seconds| current.start + seconds.get() == end);
        let (index, start) = (current.index, current.start);
        self.mark(Position { index, start, end: Some(end), begun: true })?;
        if !known {
            let command = ClientCommand::EndPhase { index: current.index, end };
            self.tell_clients(&command).await?;
        }
        self.tell_server(server_commands_after(spec, known)).await?;
        self.end_faults(current.index, end).await?;
        let name = spec.name.to_string();
        let index = current.index;
        self.files.set_phase(PhaseTime { index, name: name.clone(), start: current.start, end });
        self.event_at(end, "phase_ends", json!({ "phase": name }))
    }

    /// Waits until nothing of a phase is under way any more. Returns how the run ends, if it does.
    async fn until_settled(&mut self, phase: u16) -> anyhow::Result<Option<Ending>> {
        let end = self.files.phases().iter().find(|it| it.index == phase).map_or(0, |it| it.end);
        let timeout = Duration::from_secs_f64(self.source.experiment.client.timeout_s.get());
        let deadline = self.instant_of(end) + timeout + SETTLE;
        while !self.all_clients(|books, client| books.is_settled(client, phase)) {
            match self.next(deadline).await? {
                Happened::Interrupt => return Ok(Some(Ending::Interrupted)),
                Happened::Time => {
                    let name = self.name_of(phase);
                    self.warn(
                        "lab",
                        &format!("phase {name} does not settle; going on without it"),
                    )?;
                    return Ok(None);
                }
                Happened::Broken(why) => return Ok(Some(Ending::Aborted(why))),
                // Dropped, its sender hears that no phase is under way.
                Happened::Established
                | Happened::Settled
                | Happened::Host
                | Happened::EndPhase(_) => {}
            }
        }
        Ok(None)
    }

    /// Waits until nothing of any phase is under way any more; Ctrl-C cuts that short.
    pub(super) async fn settle_all(&mut self) -> anyhow::Result<()> {
        let begun: Vec<u16> = self.files.phases().iter().map(|phase| phase.index).collect();
        for phase in begun {
            if self.until_settled(phase).await?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Records which connections are established.
    pub(super) fn record_kernel(
        &mut self,
        by_address: &BTreeMap<String, u64>,
        wanted: u64,
        host: Option<&str>,
    ) -> anyhow::Result<()> {
        let total: u64 = by_address.values().sum();
        self.progress.say(&format!(
            "the kernel has {} established connections from {} addresses",
            thousands(total),
            by_address.len()
        ));
        let mut fields = json!({ "total": total, "wanted": wanted, "by_address": by_address });
        if let Some(host) = host {
            fields["host"] = host.into();
        }
        Ok(self.files.event(Event::now("kernel_connections", fields))?)
    }

    /// Asks the kernel which connections are established, and records the answer beside our own
    /// count.
    async fn ask_kernel(&mut self) -> anyhow::Result<()> {
        let users = self.phases.iter();
        let users = users.filter_map(|phase| users_connected(&self.source.experiment, phase));
        let ours: u64 = users.map(u64::from).max().unwrap_or(0);
        if self.ask_kernel_of_server(ours) {
            return Ok(());
        }
        let server = self.server_address;
        let namespace = self.namespaces.server.clone();
        // The walk over a large socket table takes seconds; meanwhile the programs are heard.
        let mut asked = tokio::task::spawn_blocking(move || match namespace {
            Some(namespace) => namespace.run(|| sock_diag::established(server))?,
            None => sock_diag::established(server),
        });
        let far = Instant::now() + Duration::from_secs(3600);
        let mut meanwhile = Vec::new();
        let asked = loop {
            tokio::select! {
                asked = &mut asked => break asked?,
                happened = self.next(far) => match happened? {
                    // The wait for the next phase looks at the books for these.
                    Happened::Established
                    | Happened::Settled
                    | Happened::Host
                    | Happened::Time => {}
                    other => meanwhile.push(other),
                },
            }
        };
        self.happened.extend(meanwhile);
        match asked {
            Ok(counts) => {
                let by_address = counts.into_iter();
                let by_address = by_address.map(|(address, count)| (address.to_string(), count));
                self.record_kernel(&by_address.collect(), ours, None)?;
            }
            Err(error) => self.warn("lab", &format!("sock_diag: {error}"))?,
        }
        Ok(())
    }
}
