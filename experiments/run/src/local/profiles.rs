//! The profiles of a run: a flame graph per phase, and what an answered request costs both ends.
//!
//! A phase is cut off where its last second ends. Names are looked up and graphs written on a
//! thread that only runs when the CPU is idle, since the next phase goes on meanwhile. How many
//! answers a phase had is known when the run is over: then its costs are written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use host::profile::costs::{Costs, CountedInPhase, End, PartsOfTime, side_by_side};
use host::profile::{
    Recording, SampledAs, Sampler, Symboliser, costs_beside, folded_beside, write,
};
use host::program::Who;
use host::surroundings::SampleRow;
use record::PhaseTime;

use crate::options::Sampling;

/// A phase that was cut off.
struct Job {
    index: u16,
    phase: String,
    title: String,
    svg: PathBuf,
    recording: Recording,
}

/// A graph that was written, or not.
struct Written {
    index: u16,
    phase: String,
    svg: PathBuf,
    parts: PartsOfTime,
    /// For a person.
    line: String,
    /// For the record.
    fields: Value,
}

/// The phase that is being sampled.
struct Current {
    index: u16,
    name: String,
}

/// Samples a run, phase by phase.
struct Active {
    sampler: Sampler,
    sampling: Sampling,
    experiment: String,
    current: Option<Current>,
    jobs: Sender<Job>,
}

/// The profiles of a run, if they are wanted.
#[derive(Default)]
pub(crate) struct Profiles {
    active: Option<Active>,
    writer: Option<JoinHandle<Vec<Written>>>,
    /// By phase, as far as it is known yet.
    counted: BTreeMap<u16, CountedInPhase>,
    lines: Vec<String>,
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name().map(|it| it.to_string_lossy().into_owned())
}

/// Draws and writes what comes, until nothing more will.
fn draw(job: Job, symbols: &mut Symboliser, hertz: u32) -> Written {
    let graph = job.recording.draw(&job.title, symbols);
    let parts = job.recording.parts(symbols);
    let written = write(&graph, &job.svg);
    let fields = json!({
        "phase": job.phase,
        "hertz": hertz,
        "samples": graph.samples,
        "lost": graph.lost,
        "cut": graph.cut,
        "astray": graph.astray,
        "svg": name_of(&job.svg),
        "folded": name_of(&folded_beside(&job.svg)),
        "error": written.as_ref().err().map(ToString::to_string),
    });
    let line = match written {
        Ok(_) => format!("{} ({})", job.svg.display(), graph.counts()),
        Err(error) => format!("no profile of phase {}: {error}", job.phase),
    };
    let Job { index, phase, svg, .. } = job;
    Written { index, phase, svg, parts, line, fields }
}

impl Written {
    /// Writes what a request of the phase cost, and names the file in the record.
    fn write_costs(&mut self, counted: &CountedInPhase) -> (Costs, Option<String>) {
        let costs = Costs::of(&self.phase, &self.parts, counted);
        let file = costs_beside(&self.svg);
        let text = serde_json::to_string_pretty(&costs).map_err(io::Error::other);
        let written = text.and_then(|text| std::fs::write(&file, text + "\n"));
        let error =
            written.err().map(|error| format!("{}: cannot write it: {error}", file.display()));
        self.fields["costs"] = json!(name_of(&file).filter(|_| error.is_none()));
        (costs, error)
    }
}

impl Profiles {
    /// Begins to sample, if that is wanted.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub(crate) fn start(sampling: Option<Sampling>, experiment: &str) -> anyhow::Result<Self> {
        let Some(sampling) = sampling else { return Ok(Self::default()) };
        let mut sampler = Sampler::start(sampling.hertz)?;
        sampler.watch_beside();
        let (jobs, todo) = channel::<Job>();
        let writer = std::thread::Builder::new().name("lab-profile".to_owned());
        let writer = writer.spawn(move || {
            // On Linux the niceness is the thread's own. Where it cannot be set, it is in the way
            // a little.
            let _ = rustix::process::setpriority_process(None, 19);
            let mut symbols = Symboliser::default();
            todo.iter().map(|job| draw(job, &mut symbols, sampling.hertz)).collect()
        })?;
        let experiment = experiment.to_owned();
        let active = Some(Active { sampler, sampling, experiment, current: None, jobs });
        Ok(Self { active, writer: Some(writer), ..Self::default() })
    }

    /// Samples a program, and draws it if it is one of those that are wanted.
    pub(crate) fn watch(&mut self, who: Who, pid: u32) {
        let Some(active) = &mut self.active else { return };
        let all = active.sampling.clients;
        let end = match who {
            Who::Server => End::Server,
            Who::Client(_) => End::Clients,
            // It has no part in any request.
            Who::Hog(_) => return,
        };
        let label = all.then(|| who.to_string());
        active.sampler.watch(pid, SampledAs { end, drawn: all || end == End::Server, label });
    }

    /// Takes in what perf counted of a program in a second of a phase.
    pub(crate) fn counted(&mut self, phase: u16, rows: &[SampleRow]) {
        if self.active.is_none() {
            return;
        }
        let counted = self.counted.entry(phase).or_default();
        for row in rows.iter().filter(|row| row.source == "perf") {
            let place = match row.of.first().and_then(|(_, of)| of.as_str()) {
                Some("server") => 0,
                Some("client") => 1,
                _ => continue,
            };
            counted.perf[place].add(&row.values);
        }
    }

    /// A second begins that belongs to this phase, or to none. When the phase is another than
    /// before, that one's profile is made.
    ///
    /// # Errors
    /// When the samples cannot be read; the next phase is then tried again.
    pub(crate) fn second(&mut self, phase: Option<&PhaseTime>, into: &Path) -> io::Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let now = phase.map(|phase| phase.index);
        if active.current.as_ref().map(|current| current.index) == now {
            return Ok(());
        }
        let next = phase.map(|phase| Current { index: phase.index, name: phase.name.clone() });
        let over = std::mem::replace(&mut active.current, next);
        // Also before the first phase: what was sampled until then is of none.
        let recording = active.sampler.take()?;
        if let Some(Current { index, name: phase }) = over {
            let whom = if active.sampling.clients { "server and clients" } else { "server" };
            let title = format!("{}, phase {phase}: {whom}", active.experiment);
            let svg = into.join(format!("profile-{phase}.svg"));
            // It ends only when this is dropped.
            let _ = active.jobs.send(Job { index, phase, title, svg, recording });
        }
        Ok(())
    }

    /// Ends sampling: the last phase's profile is made.
    ///
    /// # Errors
    /// When the samples cannot be read.
    pub(crate) fn stop(&mut self, into: &Path) -> io::Result<()> {
        let cut = self.second(None, into);
        self.active = None;
        cut
    }

    /// Waits until all graphs are written, and writes what a request cost in each phase, of which
    /// so many were answered. Returns what there is now, for the record.
    pub(crate) async fn written(&mut self, answered: &BTreeMap<u16, u64>) -> Vec<Value> {
        let Some(writer) = self.writer.take() else { return Vec::new() };
        let joined = tokio::task::spawn_blocking(|| writer.join()).await;
        let Ok(Ok(written)) = joined else {
            self.lines.push("the thread that draws the profiles panicked".to_owned());
            return Vec::new();
        };
        let (mut fields, mut all) = (Vec::new(), Vec::new());
        for mut written in written {
            let mut counted = self.counted.remove(&written.index).unwrap_or_default();
            counted.answered = answered.get(&written.index).copied();
            let (costs, error) = written.write_costs(&counted);
            self.lines.extend([costs.table(), written.line]);
            self.lines.extend(error);
            fields.push(written.fields);
            all.push(costs);
        }
        self.lines.extend(side_by_side(&all));
        fields
    }

    /// What became of each graph, for a person.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
