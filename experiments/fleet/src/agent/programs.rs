//! The programs of a run on this host: their start, which of them hang, and their end.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::fd::OwnedFd;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::control::PipeProtocol;
use super::events::LocalEvent;
use host::privileges::Privileges;
use host::program::{Given, Program, Who};

/// A program says something every second; one that is silent for this long hangs.
const HANGS: Duration = Duration::from_secs(4);

/// The programs of a run on this host.
pub(super) struct Programs {
    protocol: PipeProtocol,
    /// As whom they run, with nothing.
    privileges: Privileges,
    /// The same with what those that were started have kept.
    kept: Privileges,
    /// What was told of that.
    told: Value,
    events: UnboundedSender<LocalEvent>,
    /// All that were started.
    started: BTreeMap<Who, Program>,
    /// Those that have not ended.
    alive: usize,
    /// When each of those that are ready was heard; `None` once its silence was told.
    latest: BTreeMap<Who, Option<Instant>>,
}

impl Programs {
    /// None yet. What they say goes to `events`.
    pub(super) fn new(
        protocol: PipeProtocol,
        privileges: Privileges,
        events: UnboundedSender<LocalEvent>,
    ) -> Self {
        let (started, latest) = (BTreeMap::new(), BTreeMap::new());
        let (kept, told) = (privileges.clone(), privileges.to_json());
        Self { protocol, privileges, kept, told, events, started, alive: 0, latest }
    }

    /// Whether none was started.
    pub(super) fn is_empty(&self) -> bool {
        self.started.is_empty()
    }

    /// Whether all have ended.
    pub(super) fn all_ended(&self) -> bool {
        self.alive == 0
    }

    /// Starts one, with descriptors that it inherits.
    ///
    /// # Errors
    /// A congestion control that it cannot have, or what the system says.
    pub(super) fn start(
        &mut self,
        who: Who,
        config: &Value,
        keep: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let events = self.events.clone();
        // Nothing receives it any more when this process ends.
        let on_line = move |line| drop(events.send(LocalEvent::Line(who, line)));
        let privileges = self.rights(who, config)?;
        let given = Given { descriptors: keep, ..Given::as_here(&privileges) };
        let program = Program::start(who, config, given, on_line)?;
        self.started.insert(who, program);
        self.alive += 1;
        self.kept.add_kept(&privileges);
        Ok(())
    }

    /// As whom one runs, and what it keeps. A hog has neither sockets nor rings.
    fn rights(&self, who: Who, config: &Value) -> anyhow::Result<Privileges> {
        let mut privileges = self.privileges.clone();
        if let Who::Hog(_) = who {
            return Ok(privileges);
        }
        if let Some(name) = config["congestion"].as_str() {
            privileges.keep_for_congestion(name)?;
        }
        privileges.keep_for_rings(None);
        Ok(privileges)
    }

    /// As whom programs run, with what those that were started have kept, for the manifest; `None`
    /// when the agent's card or an earlier call has said the same.
    pub(super) fn new_privileges(&mut self) -> Option<Value> {
        let now = self.kept.to_json();
        (now != self.told).then(|| {
            self.told = now.clone();
            now
        })
    }

    /// One is ready: from here on its silence counts. Returns its process.
    pub(super) fn ready(&mut self, who: Who) -> Option<u32> {
        self.latest.insert(who, Some(Instant::now()));
        self.started.get(&who).and_then(Program::pid)
    }

    /// One has said something.
    pub(super) fn spoke(&mut self, who: Who) {
        if let Some(heard) = self.latest.get_mut(&who) {
            *heard = Some(Instant::now());
        }
    }

    /// This process itself stood still for so long: nobody was silent meanwhile.
    pub(super) fn missed(&mut self, time: Duration) {
        let now = Instant::now();
        for heard in self.latest.values_mut().flatten() {
            *heard = (*heard + time).min(now);
        }
    }

    /// One has ended.
    pub(super) fn ended(&mut self, who: Who) {
        self.alive = self.alive.saturating_sub(1);
        self.latest.remove(&who);
    }

    /// Warnings of programs that have ceased to say anything, once each time.
    pub(super) fn hanging(&mut self) -> Vec<String> {
        let silent = self
            .latest
            .iter_mut()
            .filter(|(_, heard)| heard.is_some_and(|at| at.elapsed() > HANGS));
        silent
            .map(|(who, heard)| {
                *heard = None;
                format!("{who} hangs: it has said nothing for {} s", HANGS.as_secs())
            })
            .collect()
    }

    /// Tells one a line. Returns whether it was ever started.
    pub(super) async fn tell(&mut self, who: Who, line: String) -> bool {
        let Some(program) = self.started.get_mut(&who) else { return false };
        // One that does not listen has ended, and the end of its output is heard.
        let _ = program.tell_line(line).await;
        true
    }

    /// Closes the input of one, which ends it.
    pub(super) fn close(&mut self, who: Who) {
        if let Some(program) = self.started.get_mut(&who) {
            program.end();
        }
    }

    /// Has all clients stop.
    pub(super) async fn stop_clients(&mut self) {
        for (who, program) in &mut self.started {
            if matches!(who, Who::Client(_)) {
                stop(*who, program, self.protocol).await;
            }
        }
    }

    /// Has the server stop.
    pub(super) async fn stop_server(&mut self) {
        if let Some(program) = self.started.get_mut(&Who::Server) {
            stop(Who::Server, program, self.protocol).await;
        }
    }

    /// Ends all of them at once.
    pub(super) fn kill(&mut self) {
        self.started.values_mut().for_each(Program::kill);
    }
}

async fn stop(who: Who, program: &mut Program, protocol: PipeProtocol) {
    match (protocol.stop_line)(who) {
        // One that does not listen has ended.
        Some(line) => drop(program.tell_line(line).await),
        None => program.end(),
    }
}
