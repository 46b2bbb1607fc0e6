//! This machine as the place of a run.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::ExitStatus;

use attribution::{Sampled, SlowRequest};
use host::background::Background;
use host::ended::OomWatch;
use host::probing::Probing;
use host::program::{Program, Who};
use host::sock_diag;
use host::stalls::StallWatch;
use host::surroundings::{SampleRow, Surroundings};
use host::usage::own_cpu_us;
use platform::{Priority, Spins, monotonic_ns, set_priority};
use serde_json::{Value, json};
use spec::PhaseSpec;

use super::news::LocalNews;
use super::profiles::Profiles;
use super::rights::Rights;
use crate::events::PhaseEvent;
use crate::faults::inject::{begin, end};
use crate::faults::state::Faults;
use crate::links::Namespaces;
use crate::messages::{Message, Outlet};
use crate::outcome::Ending;
use crate::place::{Place, Position, Run, StartsAt};
use crate::programs::Programs;
use crate::records::Records;
use crate::schedule::{PhaseUnderWay, Schedule};
use crate::tuned::Tuned;
use crate::waiting::Missed;

/// This machine.
pub(crate) struct Local {
    pub(crate) namespaces: Namespaces,
    pub(crate) tuned: Tuned,
    pub(crate) rights: Rights,
    pub(crate) surroundings: Surroundings,
    pub(crate) probing: Probing,
    pub(crate) profiles: Profiles,
    pub(crate) faults: Faults,
    /// For programs yet to be started.
    pub(crate) messages: Outlet<LocalNews>,
    /// The kernel was asked for connections and has not answered.
    pub(crate) awaits_connections: bool,
    /// Programs that have ended.
    pub(crate) ended: BTreeSet<Who>,
    /// What the kernel has killed for want of memory.
    pub(crate) oom: OomWatch,
    pub(crate) own: Own,
}

/// What this process is to itself.
pub(crate) struct Own {
    /// What the last tick has left.
    left: Option<Left>,
    /// Its CPU time, as it stood at the last tick.
    cpu_us: u64,
    /// What sees CPUs stand still.
    pub(super) stalls: Option<StallWatch>,
    /// Whether it is in the background.
    pub(super) background: Background,
}

impl Own {
    /// Nothing has begun.
    pub(super) fn new() -> Self {
        Self { left: None, cpu_us: own_cpu_us(), stalls: None, background: Background::none() }
    }
}

/// What is left of a second to be read and written.
#[derive(Clone, Copy, Debug)]
struct Left {
    t: u64,
    /// The second that has begun.
    now: u64,
    /// How many pieces were done.
    done: usize,
}

/// Writes rows as they are.
fn write(rows: &[SampleRow], records: &mut Records) -> anyhow::Result<()> {
    for row in rows {
        records.files.sample(row.source, &row.of, &row.values)?;
    }
    Ok(())
}

/// What the hypervisor took of a CPU by the kernel's own account, which need not tell all of it.
fn steal_us(machine: Option<&SampleRow>, cpu: &Value) -> Value {
    let cpus = machine.and_then(|machine| machine.values["cpus"].as_array());
    let row = cpus.and_then(|cpus| cpus.iter().find(|it| it["cpu"] == *cpu));
    row.map_or(Value::Null, |row| row["steal_us"].clone())
}

impl Local {
    /// What this process itself took.
    fn record_own(&mut self, t: u64, records: &mut Records) -> anyhow::Result<()> {
        let cpu_us = own_cpu_us();
        let used = cpu_us - std::mem::replace(&mut self.own.cpu_us, cpu_us);
        let values = json!({
            "t": t,
            "cpu_us": used,
            "priority": self.own.background.priority(),
            "helped": self.own.background.helped(),
        });
        Ok(records.files.sample("proc", &[("of", json!("coordinator"))], &values)?)
    }

    /// Makes the profile of the phase that ended before the second `now`, if one did.
    fn profile_phase(&mut self, now: u64, records: &mut Records) -> anyhow::Result<()> {
        let files = &records.files;
        let cut = self.profiles.second(files.phase_at(now), files.directory());
        warn_of_profile(cut, records)
    }
}

impl Local {
    /// A program is gone that the run cannot do without.
    fn died(
        &self,
        who: Who,
        how: Option<String>,
        run: &mut Run,
    ) -> anyhow::Result<Option<PhaseEvent>> {
        let how = how.unwrap_or_else(|| "closed its output and does not end".to_owned());
        let what = format!("{how}, in the middle of the run");
        run.records.warn(&who.to_string(), &what)?;
        Ok(Some(PhaseEvent::Abort(format!("{who} {what}"))))
    }
}

/// A profile is never worth a run.
fn warn_of_profile(cut: io::Result<()>, records: &mut Records) -> anyhow::Result<()> {
    cut.or_else(|error| records.warn("profile", &error.to_string()))
}

impl Place for Local {
    type News = LocalNews;

    fn host_of(&self, _: Who) -> Option<&str> {
        None
    }

    fn shares_clock_with_server(&self, _: u32) -> bool {
        true
    }

    fn is_expected(&self, who: Who) -> bool {
        !self.ended.contains(&who)
    }

    fn is_in_batch(&self) -> bool {
        false
    }

    fn on_news(&mut self, news: LocalNews, run: &mut Run) -> anyhow::Result<Option<PhaseEvent>> {
        match news {
            LocalNews::Hog(fault, line) => self.faults.on_hog(fault, line)?,
            LocalNews::HogEnded(fault) => {
                let hog = self.faults.take_hog(fault);
                if !self.faults.on_hog_ended(fault) {
                    let pid = hog.as_ref().and_then(Program::pid);
                    let status = hog.and_then(|mut hog| hog.ended_soon());
                    let how = status.map(|status| self.oom.describe(pid, status));
                    return self.died(Who::Hog(fault), how, run);
                }
            }
            LocalNews::Connections(connections, wanted) => {
                self.awaits_connections = false;
                match connections {
                    Ok(connections) => {
                        let by_address = connections.into_iter();
                        let by_address =
                            by_address.map(|(address, count)| (address.to_string(), count));
                        run.records.connections(&by_address.collect(), wanted, None)?;
                    }
                    Err(error) => run.records.warn("lab", &format!("sock_diag: {error}"))?,
                }
                return Ok(Some(PhaseEvent::PlaceChanged));
            }
        }
        Ok(None)
    }

    /// The run ends with it, and what there is becomes its record.
    fn on_program_ended(
        &mut self,
        who: Who,
        ended: Option<(u32, ExitStatus)>,
        run: &mut Run,
    ) -> anyhow::Result<Option<PhaseEvent>> {
        self.ended.insert(who);
        if run.ending {
            return Ok(Some(PhaseEvent::PlaceChanged));
        }
        let how = ended.map(|(pid, status)| self.oom.describe(Some(pid), status));
        self.died(who, how, run)
    }

    fn on_spins(&mut self, client: Option<u32>, shard: usize, spins: &Spins) -> anyhow::Result<()> {
        Ok(self.faults.on_spins(client, shard, spins)?)
    }

    fn on_slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
        run: &mut Run,
    ) -> anyhow::Result<()> {
        run.records.slow(t, None, client, requests)
    }

    /// One kernel sees both ends of every request here.
    fn on_sampled(&mut self, _: u64, _: u32, _: &[Sampled], _: &Schedule) {}

    fn tick(&mut self, t: u64, now: u64, run: &mut Run) -> anyhow::Result<()> {
        let records = &mut run.records;
        let rows = self.surroundings.networks(t);
        write(&rows, records)?;
        let link = rows.iter().find(|row| row.source == "nic").map(|row| &row.values["link"]);
        if let Some(line) = self.probing.second(t, link, true) {
            records.files.sample("probe", &[], &line)?;
        }
        self.profile_phase(now, records)?;
        self.faults.tick(monotonic_ns())?;
        self.own.left = Some(Left { t, now, done: 0 });
        Ok(())
    }

    /// One after the other: a process each, the machine, this process, and what waits to be
    /// written.
    fn piece(&mut self, run: &mut Run) -> anyhow::Result<bool> {
        let Some(left) = self.own.left.take() else { return Ok(false) };
        let Left { t, now, done } = left;
        let records = &mut run.records;
        let processes = self.surroundings.processes();
        if done < processes {
            let rows = self.surroundings.process(t, done);
            if let Some(phase) = records.files.phase_at(t) {
                self.profiles.counted(phase.index, &rows);
            }
            write(&rows, records)?;
        } else if done == processes {
            let machine = self.surroundings.machine(t);
            write(machine.as_slice(), records)?;
            let mut stalls = self.own.stalls.as_mut().map_or_else(Vec::new, |it| it.second(t));
            for row in &mut stalls {
                row.values["steal_us"] = steal_us(machine.as_ref(), &row.values["cpu"]);
            }
            write(&stalls, records)?;
        } else {
            self.record_own(t, records)?;
            self.faults.record_over(now, records)?;
            records.flush()?;
            return Ok(false);
        }
        self.own.left = Some(Left { done: done + 1, ..left });
        Ok(true)
    }

    /// Nobody else can lead a run whose programs are children of this process, and their clocks
    /// stood still with its own.
    async fn on_stall(&mut self, _: Missed, _: &mut Schedule) -> anyhow::Result<()> {
        Ok(())
    }

    fn known_ending(&self) -> Option<Ending> {
        None
    }

    fn starts_at(&self) -> StartsAt {
        StartsAt::FirstPhase
    }

    fn skip_repeated_commands(&self) {}

    fn mark(&mut self, _: Position, _: &mut Run) -> anyhow::Result<()> {
        Ok(())
    }

    fn mark_ending(&mut self, _: &Ending, _: &mut Run) -> anyhow::Result<()> {
        Ok(())
    }

    async fn begin_faults(
        &mut self,
        spec: &PhaseSpec,
        phase: PhaseUnderWay,
        run: &mut Run,
    ) -> anyhow::Result<()> {
        begin(&mut self.faults, spec, phase, &self.namespaces, run).await
    }

    async fn end_faults(&mut self, phase: u16, at: u64, run: &mut Run) -> anyhow::Result<()> {
        end(&mut self.faults, phase, at, run).await
    }

    fn faults_are_over(&self) -> bool {
        self.faults.are_over()
    }

    fn record_last_faults(&mut self, run: &mut Run) -> anyhow::Result<()> {
        self.faults.record_all(run.schedule.now(), &mut run.records)
    }

    fn flush(&mut self, records: &mut Records) -> anyhow::Result<bool> {
        self.faults.flush(records)
    }

    /// The walk over a large socket table takes seconds; meanwhile messages are taken in. The next
    /// phase may wait for it, so it is not idle as this thread is.
    fn ask_for_connections(&mut self, wanted: u64, programs: &Programs) {
        let server = programs.server_address;
        let namespace = self.namespaces.server.clone();
        let messages = self.messages.clone();
        self.awaits_connections = true;
        let asked = tokio::task::spawn_blocking(move || {
            let _ = set_priority(None, Priority::Batch);
            let ask = || sock_diag::established(server);
            namespace.map_or_else(ask, |namespace| namespace.run(ask).and_then(|asked| asked))
        });
        tokio::spawn(async move {
            let connections = asked.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            // Nothing listens any more when the run is over.
            messages.send(Message::Place(LocalNews::Connections(connections, wanted)));
        });
    }

    fn awaits_connections(&self) -> bool {
        self.awaits_connections
    }

    fn end_profiles(&mut self, records: &mut Records) -> anyhow::Result<()> {
        let cut = self.profiles.stop(records.files.directory());
        warn_of_profile(cut, records)
    }

    async fn record_profiles(&mut self, records: &mut Records) -> anyhow::Result<()> {
        for profile in self.profiles.written(&records.answered).await {
            records.event("profile", profile)?;
        }
        Ok(())
    }

    fn profile_lines(&mut self) -> Vec<String> {
        self.profiles.lines()
    }

    /// Programs are told to stop in their order here.
    fn interrupt(&mut self) -> bool {
        false
    }

    fn finish(&mut self) {}

    fn is_finished(&self) -> bool {
        true
    }

    fn record_rest(&mut self, _: &mut Run) -> anyhow::Result<()> {
        Ok(())
    }

    async fn forget(&mut self, _: &mut Records) -> anyhow::Result<()> {
        Ok(())
    }

    fn rest_is(&self, directory: &Path) -> String {
        format!(
            "it was in the memory of this process, and is lost; with room, lab report {} makes \
             summary and page of what is there",
            directory.display()
        )
    }

    async fn leave(&mut self) {}
}
