//! A run whose programs are on other hosts: what is known of them, what becomes of the run when one
//! is lost, and checkpoints for whoever takes the run over. The beginnings are in [`fleet_start`].
//!
//! [`fleet_start`]: super::fleet_start

mod checkpoint;
mod hosts;
mod joining;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use checkpoint::{Checkpoint, Hosts};
pub(crate) use checkpoint::{KeptBooks, Position};
use fleet::link::{FromFleet, Link, Merged, drop_stream, question};
use fleet::protocol::{Ask, Said, What};
use record::Event;
use spec::OnLostHost;

use host::program::Who;
use host::usage::own_cpu_us;

use crate::ending::Books;
use crate::{Ending, Happened, Run};
use joining::Joining;

/// Orders that end a run have this long to arrive when there is nothing more to wait for.
const LEAVE: Duration = Duration::from_secs(2);

/// A host is told so often to forget a run, until it answers.
const FORGET: usize = 3;

/// The hosts of a run.
pub(crate) struct Fleet {
    pub(crate) link: Link,
    pub(crate) hosts: Hosts,
    pub(crate) merged: Merged,
    /// A batch has begun whose end has not been taken.
    pub(crate) in_batch: bool,
    /// Nothing is open that a later batch will close.
    pub(crate) whole: bool,
    pub(crate) position: Option<Position>,
    pub(crate) ending: Option<(String, Option<String>)>,
    /// Programs that have ended.
    pub(crate) silent: BTreeSet<Who>,
    /// Hosts of which nothing is heard.
    pub(crate) lost: BTreeSet<String>,
    /// Hosts that do not work for the run any more.
    pub(crate) gone: BTreeSet<String>,
    /// Hosts that have said their last word.
    pub(crate) over: BTreeSet<String>,
    /// The numbers of the last batches of hosts that only have something left, by host.
    pub(crate) left: BTreeMap<String, u64>,
    /// Requests whose other end is being looked up.
    pub(crate) joining: Joining,
    /// CPU time of this process when it was asked the last time, in microseconds.
    pub(crate) cpu_us: u64,
    /// The first phase to carry out, and the one under way, for who takes over.
    pub(crate) resumed: Option<Option<Position>>,
}

impl Fleet {
    fn host_of(&self, who: Who) -> Option<&str> {
        match who {
            Who::Server => Some(&self.hosts.assignment.server),
            Who::Client(number) => {
                self.hosts.assignment.host_of(number).map(|it| it.agent.as_str())
            }
            Who::Hog(_) => None,
        }
    }

    /// Whether something may be expected of a program.
    fn is_there(&self, who: Who) -> bool {
        let here = |host: &str| {
            let not = [&self.lost, &self.gone, &self.over];
            not.iter().all(|hosts| !hosts.contains(host))
        };
        !self.silent.contains(&who) && self.host_of(who).is_none_or(here)
    }
}

impl Run {
    /// Whether a batch has begun whose end is yet to be taken.
    pub(crate) fn is_in_batch(&self) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.in_batch)
    }

    /// What names the host of a program in a line, when it is another one.
    pub(crate) fn host_of(&self, who: Who) -> Vec<(&'static str, Value)> {
        let host = self.fleet.as_ref().and_then(|fleet| fleet.host_of(who));
        host.map(|host| ("host", host.into())).into_iter().collect()
    }

    /// The same in an event.
    pub(crate) fn add_host(&self, client: u32, fields: &mut Value) {
        for (key, host) in self.host_of(Who::Client(client)) {
            fields[key] = host;
        }
    }

    /// Whether a client's monotonic clock is that of the server.
    pub(crate) fn shares_clock_with_server(&self, client: u32) -> bool {
        let Some(fleet) = &self.fleet else { return true };
        fleet.host_of(Who::Client(client)).is_some_and(|host| fleet.hosts.sees_server(host))
    }

    /// Whether something may be expected of a program.
    pub(crate) fn is_there(&self, who: Who) -> bool {
        self.fleet.as_ref().is_none_or(|fleet| fleet.is_there(who))
    }

    /// Whether something is so of all clients that are there; not when none is.
    pub(crate) fn all_clients(&self, so: impl Fn(&Books, u32) -> bool) -> bool {
        let mut there = (0..self.clients.len() as u32).filter(|it| self.is_there(Who::Client(*it)));
        let Some(first) = there.next() else { return self.ending };
        so(&self.books, first) && there.all(|client| so(&self.books, client))
    }

    /// A program has ended.
    pub(crate) fn silent(&mut self, who: Who) -> anyhow::Result<()> {
        let Some(fleet) = &mut self.fleet else {
            anyhow::ensure!(self.ending, "{who} ended in the middle of the run");
            return Ok(());
        };
        fleet.silent.insert(who);
        let host = fleet.host_of(who).unwrap_or_default().to_owned();
        let stopped = self.ending || fleet.ending.is_some();
        if stopped || fleet.gone.contains(&host) || fleet.over.contains(&host) {
            self.happened.push_back(Happened::Host);
            return Ok(());
        }
        let what = format!("{who} on {host} ended in the middle of the run");
        self.warn(&host, &what)?;
        let server = who == Who::Server;
        self.miss(what, server);
        Ok(())
    }

    /// Something is missing: the run ends, or goes on with the others.
    fn miss(&mut self, what: String, indispensable: bool) {
        let abort = self.source.experiment.on_lost_host == OnLostHost::Abort;
        let stopped = self.ending || self.fleet.as_ref().is_some_and(|it| it.ending.is_some());
        self.happened.push_back(match (abort || indispensable) && !stopped {
            true => Happened::Broken(what),
            false => Happened::Host,
        });
    }

    fn host_event(&mut self, event: &'static str, host: &str, why: &str) -> anyhow::Result<()> {
        self.progress.say(&format!("{host}: {why}"));
        let fields = json!({ "host": host, "what": why });
        Ok(self.files.event(Event::now(event, fields))?)
    }

    /// Something of a host of the fleet.
    pub(crate) fn news(&mut self, news: FromFleet) -> anyhow::Result<()> {
        let Some(fleet) = &mut self.fleet else { return Ok(()) };
        match news {
            FromFleet::Batch => fleet.in_batch = true,
            FromFleet::Merged { host, number, place, whole } => {
                fleet.in_batch = false;
                fleet.whole = whole;
                fleet.merged.batches.insert(host, number);
                fleet.merged.place = place;
            }
            FromFleet::Said(host, said) => self.said(&host, said)?,
            FromFleet::Lost(host) => {
                if fleet.over.contains(&host) || !fleet.lost.insert(host.clone()) {
                    return Ok(());
                }
                let server = fleet.hosts.assignment.server == host;
                let what = "nothing was heard of it for more than 4 s";
                self.host_event("host_lost", &host, what)?;
                let kind = if server { "the server's host" } else { "host" };
                self.miss(format!("{kind} {host} was lost: {what}"), false);
            }
            FromFleet::Back(host) => {
                fleet.lost.remove(&host);
                self.host_event("host_back", &host, "it is there again")?;
                self.happened.push_back(Happened::Host);
            }
            FromFleet::Gone(host, why) => {
                if fleet.over.contains(&host) || !fleet.gone.insert(host.clone()) {
                    return Ok(());
                }
                fleet.lost.remove(&host);
                fleet.link.orders(&host).close();
                let server = fleet.hosts.assignment.server == host;
                self.host_event("host_gone", &host, &why)?;
                self.miss(format!("host {host} is gone: {why}"), server);
            }
            FromFleet::Refused(host, why) => self.refused(&host, &why)?,
            // They are heard as what their programs say.
            FromFleet::Line(..) | FromFleet::Silence(_) => {}
        }
        Ok(())
    }

    /// A host cannot do what the run needs of it.
    fn refused(&mut self, host: &str, why: &str) -> anyhow::Result<()> {
        self.warn(host, why)?;
        if !self.ending {
            self.happened.push_back(Happened::Broken(format!("{host}: {why}")));
        }
        Ok(())
    }

    fn said(&mut self, host: &str, said: Said) -> anyhow::Result<()> {
        match said {
            Said::Sample { source, of, values } => {
                let mut who = vec![("host", json!(host))];
                who.extend(of.iter().map(|(key, value)| (key.as_str(), value.clone())));
                self.files.sample(&source, &who, &values)?;
            }
            Said::Settings { sysctls } => {
                let server = self.fleet.as_ref().map(|it| it.hosts.assignment.server.as_str());
                if server == Some(host) {
                    self.manifest.sysctls = sysctls;
                    self.files.manifest(&self.manifest)?;
                }
            }
            Said::Probes { probes } => {
                let server = self.fleet.as_ref().map(|it| it.hosts.assignment.server.as_str());
                if server == Some(host) {
                    let by_host = self.manifest.probes["by_host"].take();
                    self.manifest.probes = probes.clone();
                    self.manifest.probes["by_host"] = by_host;
                }
                self.manifest.probes["by_host"][host] = probes;
                self.files.manifest(&self.manifest)?;
            }
            Said::Kernel { by_address, wanted } => {
                self.record_kernel(&by_address, wanted, Some(host))?;
            }
            Said::Looked { number, sides } => self.looked(number, &sides)?,
            Said::Warning { what } => self.warn(host, &what)?,
            Said::Failed { why } => self.refused(host, &why)?,
            Said::Over {} => {
                if let Some(fleet) = &mut self.fleet {
                    fleet.over.insert(host.to_owned());
                    fleet.lost.remove(host);
                }
                self.happened.push_back(Happened::Host);
            }
            // The link has put them together.
            Said::Line { .. } | Said::Piece { .. } | Said::Silence { .. } => {}
        }
        Ok(())
    }

    /// Asks the server's host for its connections, if that is another one.
    pub(crate) fn ask_kernel_of_server(&self, wanted: u64) -> bool {
        let Some(fleet) = &self.fleet else { return false };
        fleet.link.orders(&fleet.hosts.assignment.server).give(What::Kernel { wanted });
        true
    }

    /// What this process itself used in the second that has just ended, and where the run stands.
    pub(crate) fn look_at_fleet(&mut self, t: u64) -> anyhow::Result<()> {
        if let Some(fleet) = &mut self.fleet {
            let cpu_us = own_cpu_us();
            let used = cpu_us - fleet.cpu_us;
            fleet.cpu_us = cpu_us;
            let who = [("of", json!("coordinator"))];
            self.files.sample("proc", &who, &json!({ "t": t, "cpu_us": used }))?;
        }
        self.record_waiting(false)?;
        self.checkpoint()
    }

    /// Writes down where the run stands. What hosts have said so far they need not keep.
    pub(crate) fn checkpoint(&mut self) -> anyhow::Result<()> {
        self.files.flush()?;
        let Some(fleet) = &self.fleet else { return Ok(()) };
        if fleet.in_batch || !fleet.whole {
            return Ok(());
        }
        let (open, newest, complete_until) = self.seconds.open();
        let orders = fleet.link.all_orders().iter();
        let checkpoint = Checkpoint {
            lengths: self.files.lengths()?,
            phases: self.files.phases().to_vec(),
            merged: fleet.merged.clone(),
            orders: orders.map(|(host, orders)| (host.clone(), orders.queue())).collect(),
            position: fleet.position,
            ending: fleet.ending.clone(),
            books: self.books.kept(),
            open,
            newest,
            complete_until,
            silent: fleet.silent.clone(),
            gone: fleet.gone.clone(),
            over: fleet.over.clone(),
            joining: fleet.joining.clone(),
        };
        checkpoint.write(self.files.directory())?;
        fleet.link.is_safe(&fleet.merged.batches);
        Ok(())
    }

    /// The run is there now, or will be: whoever takes over goes on from here.
    pub(crate) fn mark(&mut self, position: Position) -> anyhow::Result<()> {
        let Some(fleet) = &mut self.fleet else { return Ok(()) };
        if position.begun {
            let (start, end) = (position.start, position.end);
            fleet.link.all_orders().values().for_each(|it| it.give(What::Phase { start, end }));
        }
        fleet.position = Some(position);
        self.checkpoint()
    }

    /// The run ends, and how.
    pub(crate) fn mark_ending(&mut self, ending: &Ending) -> anyhow::Result<()> {
        let Some(fleet) = &mut self.fleet else { return Ok(()) };
        let why = match ending {
            Ending::Aborted(why) => Some(why.clone()),
            Ending::Completed | Ending::Interrupted => None,
        };
        fleet.ending = Some((ending.name().to_owned(), why));
        self.checkpoint()
    }

    /// How the run ends, when an earlier coordinator knew that.
    pub(crate) fn known_ending(&self) -> Option<Ending> {
        let (name, why) = self.fleet.as_ref()?.ending.clone()?;
        Some(match (name.as_str(), why) {
            ("aborted", why) => Ending::Aborted(why.unwrap_or_default()),
            ("interrupted", _) => Ending::Interrupted,
            _ => Ending::Completed,
        })
    }

    /// The first phase to carry out, and where in it the run stands.
    pub(crate) fn where_it_stands(&mut self) -> (usize, Option<Position>) {
        let resumed = self.fleet.as_mut().and_then(|fleet| fleet.resumed.take());
        let position = resumed.flatten();
        (position.map_or(0, |it| usize::from(it.index)), position)
    }

    /// Orders that may have been given before were given again: new ones come behind all of them.
    pub(crate) fn after_orders_again(&self) {
        let Some(fleet) = &self.fleet else { return };
        for (host, number) in &fleet.link.done {
            fleet.link.orders(host).not_before(*number);
        }
    }

    /// Ctrl-C: everything ends within two seconds.
    pub(crate) fn stop_fleet(&mut self) {
        let Some(fleet) = &self.fleet else { return };
        fleet.link.all_orders().values().for_each(|orders| orders.give(What::Stop {}));
    }

    /// Nothing more comes: waits for the last word of all hosts that are there.
    pub(crate) async fn end_on_fleet(&mut self) -> anyhow::Result<()> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        fleet.link.all_orders().values().for_each(|orders| orders.give(What::Finish {}));
        self.until(|run| {
            run.fleet.as_ref().is_none_or(|fleet| {
                let merged = |host: &str| fleet.merged.batches.get(host).copied().unwrap_or(0);
                let all = fleet.left.iter().all(|(host, last)| merged(host) >= *last);
                let done = [&fleet.over, &fleet.gone, &fleet.lost];
                let is_done = |host: &String| done.iter().any(|hosts| hosts.contains(host));
                all && fleet.hosts.hosts.keys().all(is_done)
            })
        })
        .await?;
        while let Some(second) = self.seconds.next(true) {
            self.complete(&second)?;
        }
        self.record_waiting(true)?;
        self.checkpoint()
    }

    /// All is merged and written: hosts need not keep it, and the stream can go. What is missing of
    /// a host stays where it is, for `lab run --resume`.
    pub(crate) async fn forget_fleet(&mut self) -> anyhow::Result<()> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let mut missing = Vec::new();
        for host in fleet.hosts.hosts.keys() {
            let forget = Ask::Forget { run: fleet.link.run.clone() };
            if fleet.over.contains(host) || fleet.left.contains_key(host) {
                // One that does not hear it has nothing that is not merged, and keeps a file of it.
                for _ in 0..FORGET {
                    if question(&fleet.link.client, host, &forget).await.is_some() {
                        break;
                    }
                }
            } else {
                missing.push(host.clone());
            }
        }
        let unmerged = missing;
        if unmerged.is_empty() {
            drop_stream(&fleet.link.context, &fleet.link.run).await;
        }
        fleet.link.all_orders().values().for_each(fleet::link::Orders::close);
        let lines: Vec<String> = unmerged
            .iter()
            .map(|host| {
                format!(
                    "{host} may have more of this run: lab run --resume {} merges it when it is \
                     there again",
                    self.files.directory().display()
                )
            })
            .collect();
        lines.iter().for_each(|line| self.progress.say(line));
        Ok(())
    }

    /// An error ends the run: hosts are told, if they can be.
    pub(crate) async fn leave_fleet(&mut self) {
        let Some(fleet) = &self.fleet else { return };
        let orders: Vec<_> = fleet.link.all_orders().values().cloned().collect();
        orders.iter().for_each(|orders| orders.give(What::Stop {}));
        let deadline = Instant::now() + LEAVE;
        while Instant::now() < deadline && orders.iter().any(|it| !it.queue().waiting.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
