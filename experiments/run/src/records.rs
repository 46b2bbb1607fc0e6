//! The record of a run: its files and manifest, seconds that are being put together, the books, and
//! what a person is told.
//!
//! Must not know: why something is recorded.

use std::collections::BTreeMap;

use accounting::server::Sample as ServerSample;
use attribution::{CauseRows, Sample as ClientSample, SlowRequest, Tally};
use host::program::Who;
use record::{Event, Files, Manifest, PhaseTime, Second, Seconds};
use report::live::RunCommand;
use serde_json::{Value, json};
use spec::PhaseSpec;
use spec::machine::host_name;
use text::thousands;

use crate::books::Books;
use crate::console::Console;
use crate::outcome::Ending;

/// Everything that is written of a run.
pub(crate) struct Records {
    pub(crate) files: Files,
    pub(crate) manifest: Manifest,
    pub(crate) seconds: Seconds,
    pub(crate) books: Books,
    pub(crate) console: Console,
    /// Shakes answered in the seconds of each phase.
    pub(crate) answered: BTreeMap<u16, u64>,
    phase_names: Vec<String>,
}

/// Whose causes a row has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CausesOf<'a> {
    /// The Unix second.
    pub(crate) t: u64,
    /// The client's host, when it is another one.
    pub(crate) host: Option<&'a str>,
    pub(crate) client: u32,
    /// `None` for requests that were joined by the coordinator.
    pub(crate) shard: Option<usize>,
    pub(crate) phase: u16,
}

/// What names the host of a program in a row, when it is another one.
fn row(host: Option<&str>) -> Vec<(&'static str, Value)> {
    host.map(|host| ("host", host.into())).into_iter().collect()
}

/// The same in an object.
fn add_host(host: Option<&str>, fields: &mut Value) {
    if let Some(host) = host {
        fields["host"] = host.into();
    }
}

impl Records {
    /// Nothing is recorded of these phases yet.
    pub(crate) fn new(files: Files, manifest: Manifest, phases: &[PhaseSpec]) -> Self {
        Self {
            files,
            manifest,
            seconds: Seconds::default(),
            books: Books::default(),
            console: Console::default(),
            answered: BTreeMap::new(),
            phase_names: phases.iter().map(|phase| phase.name.to_string()).collect(),
        }
    }

    /// The name of a phase.
    pub(crate) fn name_of(&self, phase: u16) -> String {
        let name = self.phase_names.get(usize::from(phase));
        name.cloned().unwrap_or_else(|| phase.to_string())
    }

    /// Tells a person something.
    pub(crate) fn say(&mut self, message: &str) {
        self.console.say(message);
    }

    /// Records something that happens now.
    pub(crate) fn event(&mut self, event: &'static str, fields: Value) -> anyhow::Result<()> {
        Ok(self.files.event(Event::now(event, fields))?)
    }

    /// Records something that is to happen at the start of a second.
    pub(crate) fn event_at(
        &mut self,
        t: u64,
        event: &'static str,
        fields: Value,
    ) -> anyhow::Result<()> {
        let mut event = Event::now(event, fields);
        event.t = t as f64;
        Ok(self.files.event(event)?)
    }

    /// Warns a person, and records the warning.
    pub(crate) fn warn(&mut self, from: &str, what: &str) -> anyhow::Result<()> {
        self.console.say(&format!("{from}: {what}"));
        self.event("warning", json!({ "from": from, "what": what }))
    }

    /// Tells a person of a host, and records it.
    pub(crate) fn host_event(
        &mut self,
        event: &'static str,
        host: &str,
        what: &str,
    ) -> anyhow::Result<()> {
        self.console.say(&format!("{host}: {what}"));
        self.event(event, json!({ "host": host, "what": what }))
    }

    /// Records a command of a person that was carried out.
    pub(crate) fn command(&mut self, command: &RunCommand) -> anyhow::Result<()> {
        let command = serde_json::to_value(command)?;
        self.console.say(&format!("ordered: {command}"));
        self.event("ordered", json!({ "order": command }))
    }

    /// Writes the manifest as it is now, or when there is room.
    pub(crate) fn write_manifest(&mut self) {
        self.files.manifest(&self.manifest);
    }

    /// Hands everything to the system, as far as there is room, and tells a person of that.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.files.flush();
        let news = self.files.take_news();
        news.iter().try_for_each(|news| self.warn_of_files(news))
    }

    /// Warns of files of this run that cannot be written, or can be again.
    pub(crate) fn warn_of_files(&mut self, what: &str) -> anyhow::Result<()> {
        let on = format!("lab on {}", host_name());
        self.warn(&on, what)
    }

    /// A second of a shard of the server.
    pub(crate) fn server_second(
        &mut self,
        host: Option<&str>,
        sample: &ServerSample,
    ) -> anyhow::Result<()> {
        self.seconds.server(sample);
        Ok(self.files.sample("server", &row(host), sample)?)
    }

    /// A second of a shard of a client.
    pub(crate) fn client_second(
        &mut self,
        host: Option<&str>,
        client: u32,
        sample: &ClientSample,
    ) -> anyhow::Result<()> {
        self.seconds.client(sample);
        let mut who = row(host);
        who.push(("client", client.into()));
        Ok(self.files.sample("client", &who, sample)?)
    }

    /// A client has logged in all users of a phase.
    pub(crate) fn established(
        &mut self,
        host: Option<&str>,
        client: u32,
        phase: u16,
        seconds: f64,
    ) -> anyhow::Result<()> {
        let name = self.name_of(phase);
        let mut fields = json!({ "client": client, "phase": name, "seconds": seconds });
        add_host(host, &mut fields);
        self.event("established", fields)?;
        self.books.establish(client, phase);
        Ok(())
    }

    /// A client has nothing of a phase under way any more.
    pub(crate) fn settled(
        &mut self,
        host: Option<&str>,
        client: u32,
        phase: u16,
        tally: &Tally,
    ) -> anyhow::Result<()> {
        let name = self.name_of(phase);
        let mut fields = json!({ "client": client, "phase": name, "tally": tally });
        add_host(host, &mut fields);
        self.event("settled", fields)?;
        self.books.settle(client, phase);
        Ok(())
    }

    /// Why requests of a second took their time.
    pub(crate) fn causes(&mut self, of: CausesOf<'_>, rows: &CauseRows) -> anyhow::Result<()> {
        let mut who = row(of.host);
        who.extend([
            ("phase", self.name_of(of.phase).into()),
            ("client", of.client.into()),
            ("shard", of.shard.into()),
        ]);
        let mut line = serde_json::to_value(rows)?;
        line["t"] = of.t.into();
        Ok(self.files.sample("causes", &who, &line)?)
    }

    /// Slow requests of a second of a client.
    pub(crate) fn slow(
        &mut self,
        t: u64,
        host: Option<&str>,
        client: u32,
        requests: Vec<SlowRequest>,
    ) -> anyhow::Result<()> {
        for request in requests {
            let mut request = serde_json::to_value(SlowRequest { client_side: None, ..request })?;
            request["client"] = client.into();
            add_host(host, &mut request);
            self.files.slow(t, &request)?;
        }
        Ok(())
    }

    /// Which connections the server's kernel has established.
    pub(crate) fn connections(
        &mut self,
        by_address: &BTreeMap<String, u64>,
        wanted: u64,
        host: Option<&str>,
    ) -> anyhow::Result<()> {
        let total = by_address.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
        self.console.say(&format!(
            "the kernel has {} established connections from {} addresses",
            thousands(total),
            by_address.len()
        ));
        let mut fields = json!({ "total": total, "wanted": wanted, "by_address": by_address });
        add_host(host, &mut fields);
        self.event("kernel_connections", fields)
    }

    /// A program is ready: what it said of itself, for the manifest.
    pub(crate) fn ready(&mut self, who: Who, host: Option<&str>, mut ready: Value) {
        add_host(host, &mut ready);
        match who {
            Who::Server => self.manifest.server = ready,
            Who::Client(client) => {
                if let Some(known) = self.manifest.clients.get_mut(client as usize) {
                    *known = ready;
                }
            }
            Who::Hog(_) => {}
        }
    }

    /// A second is complete: its histograms are written. Returns its phase, unless it is late or
    /// belongs to none.
    pub(crate) fn complete(&mut self, second: &Second) -> anyhow::Result<Option<PhaseTime>> {
        for (phase, segment, values) in &second.histograms {
            self.files.histogram(second.t, *phase, *segment, values)?;
        }
        let phase = self.files.phase_at(second.t);
        if let Some(phase) = phase {
            let answered = self.answered.entry(phase.index).or_default();
            *answered = answered.saturating_add(second.clients.answered);
        }
        Ok(phase.filter(|_| !second.late).cloned())
    }

    /// The run is over: the manifest says how.
    pub(crate) fn close(&mut self, ending: &Ending) {
        self.manifest.closed = true;
        self.manifest.outcome = Some(ending.outcome());
        self.manifest.outcome_because = ending.because().map(str::to_owned);
        self.write_manifest();
    }
}
