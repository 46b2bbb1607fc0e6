//! The hosts of a fleet as the place of a run: what becomes of the run when one is lost, and
//! checkpoints for a coordinator that takes the run over.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use attribution::{Sampled, SlowRequest};
use fleet::Leader;
use fleet::link::{self, HostNews, Link, drop_stream, question};
use fleet::protocol::{Answer, Ask, HostReport, What};
use host::program::Who;
use host::usage::own_cpu_us;
use platform::Spins;
use serde_json::json;
use spec::{OnLostHost, PhaseSpec};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::checkpoint::Checkpoint;
use super::lookups::{Lookup, Lookups};
use super::reports::sample;
use super::roster::Roster;
use super::state::HostState;
use crate::events::PhaseEvent;
use crate::leadership::TakenOver;
use crate::outcome::Ending;
use crate::place::{Place, Position, Run, StartsAt};
use crate::programs::Programs;
use crate::records::Records;
use crate::schedule::{PhaseUnderWay, Schedule};
use crate::waiting::Missed;

/// Orders that end a run have this long to arrive when there is nothing more to wait for.
const LEAVE: Duration = Duration::from_secs(2);

/// Hosts of a run that has not begun have this long to forget it: they kill programs that do not
/// end in less.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Between two attempts to have one forget it.
const AGAIN: Duration = Duration::from_millis(100);

/// A host is told so often to forget a run, until it answers.
const FORGET: usize = 3;

/// How far the stream of results is merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// The place of the last batch that is merged.
    pub(super) place: u64,
    /// A batch has begun whose end is yet to come.
    pub(super) in_batch: bool,
}

/// The hosts of a run.
pub(crate) struct Fleet {
    pub(super) link: Link,
    pub(super) roster: Roster,
    pub(super) hosts: BTreeMap<String, HostState>,
    pub(super) stream: Stream,
    pub(super) position: Option<Position>,
    pub(super) ending: Option<Ending>,
    pub(super) lookups: Lookups,
    /// Why the checkpoint cannot be written, while that is so.
    pub(super) trouble: Option<String>,
    /// CPU time of this process at the last tick, in microseconds.
    pub(super) cpu_us: u64,
}

impl Fleet {
    fn is_server(&self, host: &str) -> bool {
        self.roster.assignment.server == host
    }

    fn order_all(&self, what: &What) {
        self.link.all_orders().values().for_each(|orders| orders.give(what.clone()));
    }

    fn order_server(&self, what: What) {
        self.link.orders(&self.roster.assignment.server).give(what);
    }

    /// Something is missing: the run ends, or goes on with the others.
    fn missing(&self, what: String, indispensable: bool, run: &Run) -> PhaseEvent {
        let aborts = run.schedule.experiment.on_lost_host == OnLostHost::Abort;
        let stopped = run.ending || self.ending.is_some();
        match (aborts || indispensable) && !stopped {
            true => PhaseEvent::Abort(what),
            false => PhaseEvent::PlaceChanged,
        }
    }

    /// Nothing is heard of a host.
    fn on_lost(&mut self, host: &str, run: &mut Run) -> anyhow::Result<Option<PhaseEvent>> {
        if !self.hosts.get_mut(host).is_some_and(HostState::on_lost) {
            return Ok(None);
        }
        let what = "nothing was heard of it for more than 4 s";
        run.records.host_event("host_lost", host, what)?;
        let kind = if self.is_server(host) { "the server's host" } else { "host" };
        Ok(Some(self.missing(format!("{kind} {host} was lost: {what}"), false, run)))
    }

    /// A host does not work for the run any more.
    fn on_gone(
        &mut self,
        host: &str,
        why: &str,
        run: &mut Run,
    ) -> anyhow::Result<Option<PhaseEvent>> {
        if !self.hosts.get_mut(host).is_some_and(HostState::on_gone) {
            return Ok(None);
        }
        self.link.orders(host).close();
        run.records.host_event("host_gone", host, why)?;
        let what = format!("host {host} is gone: {why}");
        Ok(Some(self.missing(what, self.is_server(host), run)))
    }

    fn on_report(
        &mut self,
        host: &str,
        report: HostReport,
        run: &mut Run,
    ) -> anyhow::Result<Option<PhaseEvent>> {
        let records = &mut run.records;
        match report {
            HostReport::Sample { .. } => match sample(host, &report) {
                Some(row) => records.files.sample(row.source, &row.who, &row.values)?,
                None => records.warn(host, "it reports what is not for a host to tell")?,
            },
            HostReport::Settings { sysctls } => {
                if self.is_server(host) {
                    records.manifest.sysctls = sysctls;
                    records.write_manifest();
                }
            }
            HostReport::Probes { probes } => {
                let known = &mut records.manifest.probes;
                if self.is_server(host) {
                    let by_host = known["by_host"].take();
                    *known = probes.clone();
                    known["by_host"] = by_host;
                }
                known["by_host"][host] = probes;
                records.write_manifest();
            }
            HostReport::Privileges { privileges } => {
                records.manifest.privileges["by_host"][host] = privileges;
                records.write_manifest();
            }
            HostReport::Kernel { by_address, wanted } => {
                records.connections(&by_address, wanted, Some(host))?;
            }
            HostReport::Looked { number, sides } => {
                if let Some(lookup) = self.lookups.take(number) {
                    let host = self.client_host(&lookup);
                    lookup.record(Some(&sides), host, records)?;
                }
            }
            HostReport::Warning { what } => records.warn(host, &what)?,
            HostReport::Failed { why } => return refused(host, &why, run),
            HostReport::Over {} => {
                if let Some(state) = self.hosts.get_mut(host) {
                    state.on_finished();
                }
                return Ok(Some(PhaseEvent::PlaceChanged));
            }
        }
        Ok(None)
    }

    fn client_host(&self, lookup: &Lookup) -> Option<&str> {
        self.host_of(Who::Client(lookup.client()))
    }

    /// Writes down where the run stands. What hosts have said so far they need not keep. Without
    /// room for all of it they keep what they have, and this is tried again.
    fn checkpoint(&mut self, run: &mut Run) -> anyhow::Result<()> {
        let records = &mut run.records;
        records.flush()?;
        let within = self.stream.in_batch || self.hosts.values().any(HostState::is_within_a_line);
        if within || records.files.check_written().is_err() {
            return Ok(());
        }
        let (open, newest, complete_until) = records.seconds.open();
        let orders = self.link.all_orders().iter();
        let checkpoint = Checkpoint {
            epoch: self.link.epoch,
            lengths: records.files.lengths()?,
            phases: records.files.phases().to_vec(),
            hosts: self.hosts.clone(),
            place: self.stream.place,
            orders: orders.map(|(host, orders)| (host.clone(), orders.queue())).collect(),
            position: self.position,
            ending: self.ending.clone(),
            books: records.books.save(),
            open,
            newest,
            complete_until,
            lookups: self.lookups.clone(),
        };
        if let Err(error) = checkpoint.write(records.files.directory()) {
            let why = format!("{:#}; hosts keep what they have said", anyhow::Error::from(error));
            if self.trouble.as_ref() != Some(&why) {
                records.warn_of_files(&why)?;
                self.trouble = Some(why);
            }
            return Ok(());
        }
        self.trouble = None;
        let merged = self.hosts.iter().map(|(host, state)| (host.clone(), state.merged));
        self.link.is_safe(merged.collect());
        Ok(())
    }

    /// Another coordinator leads the run: nothing is sent to its hosts any more.
    fn taken_over(&self, leader: Leader) -> anyhow::Error {
        self.link.all_orders().values().for_each(link::Orders::close);
        TakenOver(leader).into()
    }

    /// Asks all hosts who leads the run. Returns who does instead of this coordinator, if anybody.
    async fn later_leader(&self) -> Option<Leader> {
        let mut asked = JoinSet::new();
        for host in self.hosts.keys() {
            let host = host.clone();
            let (client, run) = (self.link.nats.client.clone(), self.link.run.clone());
            asked.spawn(async move { question(&client, &host, &Ask::Leader { run }).await });
        }
        let mut latest = None;
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some(Answer::Led { leader: Some(leader) })) = answer
                && leader.epoch > self.link.epoch
            {
                latest = Some(leader);
            }
        }
        latest
    }

    /// The run has not begun: no host keeps anything of it. One whose programs are still ending is
    /// asked again.
    pub(super) async fn give_up(&self) {
        let deadline = Instant::now() + GIVE_UP;
        let mut asked = JoinSet::new();
        for host in self.hosts.keys() {
            let (client, host) = (self.link.nats.client.clone(), host.clone());
            let forget = Ask::Forget { run: self.link.run.clone(), epoch: self.link.epoch };
            asked.spawn(async move {
                while let None | Some(Answer::Refused { .. }) =
                    question(&client, &host, &forget).await
                {
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        let all = async { while asked.join_next().await.is_some() {} };
        // One that does not hear it keeps a file, which goes after some days.
        let _ = tokio::time::timeout_at(deadline, all).await;
        self.drop_stream().await;
        self.link.all_orders().values().for_each(link::Orders::close);
    }

    /// Removes the stream of the run: nothing of it is left to merge.
    pub(super) async fn drop_stream(&self) {
        drop_stream(&self.link.nats.context, &self.link.run).await;
    }
}

/// A host cannot do what the run needs of it.
fn refused(host: &str, why: &str, run: &mut Run) -> anyhow::Result<Option<PhaseEvent>> {
    run.records.warn(host, why)?;
    Ok((!run.ending).then(|| PhaseEvent::Abort(format!("{host}: {why}"))))
}

impl Place for Fleet {
    type News = HostNews;

    fn host_of(&self, who: Who) -> Option<&str> {
        let assignment = &self.roster.assignment;
        match who {
            Who::Server => Some(&assignment.server),
            Who::Client(number) => assignment.host_of(number).map(|host| host.agent.as_str()),
            Who::Hog(_) => None,
        }
    }

    fn shares_clock_with_server(&self, client: u32) -> bool {
        let host = self.host_of(Who::Client(client));
        host.is_some_and(|host| self.roster.sees_server(host))
    }

    fn is_expected(&self, who: Who) -> bool {
        let state = self.host_of(who).and_then(|host| self.hosts.get(host));
        state.is_none_or(|state| state.is_expected(who))
    }

    fn is_in_batch(&self) -> bool {
        self.stream.in_batch
    }

    fn on_news(&mut self, news: HostNews, run: &mut Run) -> anyhow::Result<Option<PhaseEvent>> {
        match news {
            HostNews::Batch => {
                self.stream.in_batch = true;
                Ok(None)
            }
            HostNews::Merged { host, number, place, open, room: _ } => {
                self.stream = Stream { place, in_batch: false };
                if let Some(state) = self.hosts.get_mut(&host) {
                    (state.merged, state.open) = (number, open);
                }
                Ok(None)
            }
            HostNews::Reported(host, report) => self.on_report(&host, report, run),
            HostNews::Lost(host) => self.on_lost(&host, run),
            HostNews::Back(host) => {
                if !self.hosts.get_mut(&host).is_some_and(HostState::on_back) {
                    return Ok(None);
                }
                run.records.host_event("host_back", &host, "it is there again")?;
                Ok(Some(PhaseEvent::PlaceChanged))
            }
            HostNews::Gone(host, why) => self.on_gone(&host, &why, run),
            HostNews::Refused(host, why) => refused(&host, &why, run),
            HostNews::TakenOver(leader) => Err(self.taken_over(leader)),
        }
    }

    fn on_program_ended(
        &mut self,
        who: Who,
        _: Option<(u32, ExitStatus)>,
        run: &mut Run,
    ) -> anyhow::Result<Option<PhaseEvent>> {
        let host = self.host_of(who).unwrap_or_default().to_owned();
        let mut stopped = run.ending || self.ending.is_some();
        if let Some(state) = self.hosts.get_mut(&host) {
            state.on_program_ended(who);
            stopped |= state.has_left();
        }
        if stopped {
            return Ok(Some(PhaseEvent::PlaceChanged));
        }
        let what = format!("{who} on {host} ended in the middle of the run");
        run.records.warn(&host, &what)?;
        Ok(Some(self.missing(what, who == Who::Server, run)))
    }

    /// There are no faults on purpose on a fleet.
    fn on_spins(&mut self, _: Option<u32>, _: usize, _: &Spins) -> anyhow::Result<()> {
        Ok(())
    }

    /// The server's host looks for its end of them first, where their client's kernel has one end
    /// only.
    fn on_slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
        run: &mut Run,
    ) -> anyhow::Result<()> {
        if requests.iter().all(|request| request.client_side.is_none()) {
            return run.records.slow(t, self.host_of(Who::Client(client)), client, requests);
        }
        let what = self.lookups.add_slow(t, client, requests, run.schedule.now());
        self.order_server(what);
        Ok(())
    }

    fn on_sampled(&mut self, t: u64, client: u32, requests: &[Sampled], schedule: &Schedule) {
        for what in self.lookups.add_sampled(t, client, requests, schedule.now()) {
            self.order_server(what);
        }
    }

    /// What this process itself used, lookups that have waited too long, and where the run stands.
    fn tick(&mut self, t: u64, now: u64, run: &mut Run) -> anyhow::Result<()> {
        let cpu_us = own_cpu_us();
        let used = cpu_us - std::mem::replace(&mut self.cpu_us, cpu_us);
        let who = [("of", json!("coordinator"))];
        run.records.files.sample("proc", &who, &json!({ "t": t, "cpu_us": used }))?;
        while let Some(lookup) = self.lookups.take_old(now) {
            let host = self.client_host(&lookup);
            lookup.record(None, host, &mut run.records)?;
        }
        self.checkpoint(run)
    }

    /// A tick leaves nothing: hosts have read everything.
    fn piece(&mut self, _: &mut Run) -> anyhow::Result<bool> {
        Ok(false)
    }

    /// A run whose coordinator is silent may be taken over: before anything is written, hosts say
    /// whether that was so. Hosts that were not suspended are so many seconds further.
    async fn on_stall(&mut self, missed: Missed, schedule: &mut Schedule) -> anyhow::Result<()> {
        schedule.catch_up(missed.suspended);
        self.lookups.put_off(missed.all().as_secs());
        match self.later_leader().await {
            Some(leader) => Err(self.taken_over(leader)),
            None => Ok(()),
        }
    }

    fn known_ending(&self) -> Option<Ending> {
        self.ending.clone()
    }

    fn starts_at(&self) -> StartsAt {
        self.position.map_or(StartsAt::FirstPhase, StartsAt::Within)
    }

    fn skip_repeated_commands(&self) {
        for (host, state) in &self.hosts {
            self.link.orders(host).not_before(state.carried_out);
        }
    }

    fn mark(&mut self, position: Position, run: &mut Run) -> anyhow::Result<()> {
        if position.begun {
            let PhaseUnderWay { start, end, .. } = position.phase;
            self.order_all(&What::Phase { start, end });
        }
        self.position = Some(position);
        self.checkpoint(run)
    }

    fn mark_ending(&mut self, ending: &Ending, run: &mut Run) -> anyhow::Result<()> {
        self.ending = Some(ending.clone());
        self.checkpoint(run)
    }

    /// There are none: an experiment with faults is refused before anything is started.
    async fn begin_faults(
        &mut self,
        _: &PhaseSpec,
        _: PhaseUnderWay,
        _: &mut Run,
    ) -> anyhow::Result<()> {
        Ok(())
    }

    async fn end_faults(&mut self, _: u16, _: u64, _: &mut Run) -> anyhow::Result<()> {
        Ok(())
    }

    fn faults_are_over(&self) -> bool {
        true
    }

    fn record_last_faults(&mut self, _: &mut Run) -> anyhow::Result<()> {
        Ok(())
    }

    fn flush(&mut self, _: &mut Records) -> anyhow::Result<bool> {
        Ok(true)
    }

    fn ask_for_connections(&mut self, wanted: u64, _: &Programs) {
        self.order_server(What::Kernel { wanted });
    }

    /// The answer is recorded when it comes.
    fn awaits_connections(&self) -> bool {
        false
    }

    fn end_profiles(&mut self, _: &mut Records) -> anyhow::Result<()> {
        Ok(())
    }

    async fn record_profiles(&mut self, _: &mut Records) -> anyhow::Result<()> {
        Ok(())
    }

    fn profile_lines(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Agents end everything within two seconds.
    fn interrupt(&mut self) -> bool {
        self.order_all(&What::Stop {});
        true
    }

    fn finish(&mut self) {
        self.order_all(&What::Finish {});
    }

    fn is_finished(&self) -> bool {
        self.hosts.values().all(HostState::is_merged)
    }

    fn record_rest(&mut self, run: &mut Run) -> anyhow::Result<()> {
        while let Some(lookup) = self.lookups.take_any() {
            let host = self.client_host(&lookup);
            lookup.record(None, host, &mut run.records)?;
        }
        self.checkpoint(run)
    }

    /// Hosts need not keep what is merged, and the stream can go. What is missing of a host stays
    /// where it is, for `lab run --resume`.
    async fn forget(&mut self, records: &mut Records) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        for (host, state) in &self.hosts {
            if !state.has_finished() && state.kept.is_none() {
                missing.push(host.clone());
                continue;
            }
            let forget = Ask::Forget { run: self.link.run.clone(), epoch: self.link.epoch };
            // One that does not hear it has nothing that is not merged, and keeps a file of it.
            for _ in 0..FORGET {
                if question(&self.link.nats.client, host, &forget).await.is_some() {
                    break;
                }
            }
        }
        if missing.is_empty() {
            self.drop_stream().await;
        }
        self.link.all_orders().values().for_each(link::Orders::close);
        let directory = records.files.directory().display().to_string();
        for host in missing {
            records.say(&format!(
                "{host} may have more of this run: lab run --resume {directory} merges it when it \
                 is there again"
            ));
        }
        Ok(())
    }

    fn rest_is(&self, directory: &Path) -> String {
        format!(
            "its hosts keep what they have said; with room, lab run --resume {} merges it",
            directory.display()
        )
    }

    async fn leave(&mut self) {
        self.order_all(&What::Stop {});
        let deadline = Instant::now() + LEAVE;
        let waiting = || {
            let mut all = self.link.all_orders().values();
            all.any(|orders| !orders.queue().waiting.is_empty())
        };
        while Instant::now() < deadline && waiting() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
