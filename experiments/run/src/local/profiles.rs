//! The profiles of a run: a flame graph per phase.
//!
//! A phase is cut off where its last second ends. Names are looked up and files written on a
//! thread that only runs when the CPU is idle, since the next phase goes on meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use host::profile::{Recording, Sampler, Symboliser, folded_beside, write};
use host::program::Who;
use record::PhaseTime;

use crate::options::Sampling;

/// A phase that was cut off.
struct Job {
    phase: String,
    title: String,
    svg: PathBuf,
    recording: Recording,
}

/// A graph that was written, or not.
struct Written {
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
    lines: Vec<String>,
}

/// Draws and writes what comes, until nothing more will.
fn draw(job: &Job, symbols: &mut Symboliser, hertz: u32) -> Written {
    let graph = job.recording.draw(&job.title, symbols);
    let written = write(&graph, &job.svg);
    let name = |path: &Path| path.file_name().map(|it| it.to_string_lossy().into_owned());
    let fields = json!({
        "phase": job.phase,
        "hertz": hertz,
        "samples": graph.samples,
        "lost": graph.lost,
        "cut": graph.cut,
        "astray": graph.astray,
        "svg": name(&job.svg),
        "folded": name(&folded_beside(&job.svg)),
        "error": written.as_ref().err().map(ToString::to_string),
    });
    let line = match written {
        Ok(_) => format!("{} ({})", job.svg.display(), graph.counts()),
        Err(error) => format!("no profile of phase {}: {error}", job.phase),
    };
    Written { line, fields }
}

impl Profiles {
    /// Begins to sample, if that is wanted.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub(crate) fn start(sampling: Option<Sampling>, experiment: &str) -> anyhow::Result<Self> {
        let Some(sampling) = sampling else { return Ok(Self::default()) };
        let sampler = Sampler::start(sampling.hertz)?;
        let (jobs, todo) = channel::<Job>();
        let writer = std::thread::Builder::new().name("lab-profile".to_owned());
        let writer = writer.spawn(move || {
            // On Linux the niceness is the thread's own. Where it cannot be set, it is in the way
            // a little.
            let _ = rustix::process::setpriority_process(None, 19);
            let mut symbols = Symboliser::default();
            todo.iter().map(|job| draw(&job, &mut symbols, sampling.hertz)).collect()
        })?;
        let experiment = experiment.to_owned();
        let active = Some(Active { sampler, sampling, experiment, current: None, jobs });
        Ok(Self { active, writer: Some(writer), lines: Vec::new() })
    }

    /// Samples a program, if it is one of those that are wanted.
    pub(crate) fn watch(&mut self, who: Who, pid: u32) {
        let Some(active) = &mut self.active else { return };
        let all = active.sampling.clients;
        if all || who == Who::Server {
            active.sampler.watch(pid, all.then(|| who.to_string()));
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
        if let Some(Current { name: phase, .. }) = over {
            let whom = if active.sampling.clients { "server and clients" } else { "server" };
            let title = format!("{}, phase {phase}: {whom}", active.experiment);
            let svg = into.join(format!("profile-{phase}.svg"));
            // It ends only when this is dropped.
            let _ = active.jobs.send(Job { phase, title, svg, recording });
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

    /// Waits until all graphs are written; what they are, for the record.
    pub(crate) async fn written(&mut self) -> Vec<Value> {
        let Some(writer) = self.writer.take() else { return Vec::new() };
        let joined = tokio::task::spawn_blocking(|| writer.join()).await;
        let Ok(Ok(written)) = joined else {
            self.lines.push("the thread that draws the profiles panicked".to_owned());
            return Vec::new();
        };
        let (lines, fields) = written.into_iter().map(|it| (it.line, it.fields)).unzip();
        self.lines = lines;
        fields
    }

    /// What became of each graph, for a person.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
