//! `lab profile`: where the CPU time goes, by sampling, as a flame graph.
//!
//! Read it in the order of the data: [`Sampler`] (addresses and what they lie in), [`Symboliser`]
//! (names), [`fold`] (stacks with counts), [`svg`] (the picture); `parts` (which part of the work a
//! stack belongs to), [`costs`] (what a request costs by part). An experiment's phases are profiled
//! by `run`, with the same parts; here is the profile of a server that runs already.
//!
//! User stacks follow frame pointers (`.cargo/config.toml` has them built in). What that cannot
//! see: the caller of a function that is just setting up or taking down its frame, and callers in
//! programs and libraries built without them, whose stacks then begin in the middle.

pub mod costs;
pub mod fold;
mod made;
mod parts;
mod sampler;
pub mod svg;
mod symbols;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interrupts::Interrupts;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use spec::UsageError;
use tokio::time::Instant;

use costs::{End, EndCosts};

pub use sampler::{Graph, Recording, SampledAs, Sampler};
pub use symbols::{CodeMap, Symboliser};

/// How often processes are looked at for new threads and libraries.
const LOOK: Duration = Duration::from_millis(500);

/// What to profile.
#[derive(Clone, Debug, clap::Args)]
pub struct ProfileArgs {
    /// The experiment file: its phases are profiled, a graph each
    #[arg(required_unless_present = "pid", conflicts_with = "pid")]
    pub file: Option<PathBuf>,
    /// A process that runs already, instead of an experiment
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// End after so many seconds [default: when interrupted, or when the process ends]
    #[arg(long, value_name = "N", requires = "pid",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// The run's directory, or with --pid the file to write [default: profile-PID.svg]
    #[arg(long, value_name = "DIR|FILE.svg")]
    pub out: Option<PathBuf>,
    /// Change a value, such as users=2000 or phases.60k.seconds=10; values are JSON or a word
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "pid")]
    pub settings: Vec<String>,
    /// Draw the clients, too
    #[arg(long, conflicts_with = "pid")]
    pub clients: bool,
    // Just beside the 100 Hz of much that happens in step with the clock.
    /// Samples a second of each CPU
    #[arg(long, value_name = "N", default_value_t = 99,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub hertz: u32,
}

/// The file of a graph's lines beside that of its picture.
pub fn folded_beside(svg: &Path) -> PathBuf {
    if svg.extension().is_some_and(|it| it == "svg") {
        return svg.with_extension("folded");
    }
    let mut name = svg.as_os_str().to_owned();
    name.push(".folded");
    PathBuf::from(name)
}

/// The file of what a request costs beside the picture of its phase.
pub fn costs_beside(svg: &Path) -> PathBuf {
    svg.with_extension("json")
}

/// The files of a graph: the picture, and the lines beside it.
///
/// # Errors
/// When one cannot be written.
pub fn write(graph: &Graph, svg: &Path) -> io::Result<PathBuf> {
    let folded = folded_beside(svg);
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: cannot write it: {error}", path.display()))
    };
    std::fs::write(svg, &graph.svg).map_err(|error| named(svg, error))?;
    std::fs::write(&folded, &graph.folded).map_err(|error| named(&folded, error))?;
    Ok(folded)
}

/// Where the graph of a process goes: known to be writable before anything is sampled.
fn target(args: &ProfileArgs, pid: i32) -> anyhow::Result<PathBuf> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("profile-{pid}.svg")));
    if out.is_dir() {
        let out = out.display();
        return Err(UsageError::error(format!(
            "{out}: is a directory, and with --pid --out names a file"
        )));
    }
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            let out = out.display();
            Err(UsageError::error(format!("{out}: there is no directory to write it to")))
        }
        _ => Ok(out),
    }
}

/// Whether a process has ended: its descriptor then reads.
fn has_ended(process: &OwnedFd) -> bool {
    let mut ask = [PollFd::new(process, PollFlags::IN)];
    poll(&mut ask, Some(&Timespec::default())).is_ok_and(|ended| ended > 0)
}

/// Why sampling ended.
enum Over {
    Time,
    Interrupt,
    Gone,
}

/// Profiles the process `pid` as `args` say.
///
/// # Errors
/// [`UsageError`], or what keeps the kernel from sampling.
pub async fn of_process(args: &ProfileArgs, pid: i32) -> anyhow::Result<()> {
    let out = target(args, pid)?;
    let process = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH);
    let process = process.and_then(|process| pidfd_open(process, PidfdFlags::NONBLOCK));
    let process = process.map_err(|errno| {
        UsageError::error(format!(
            "there is no process {pid} to profile (a thread has the number of its process there): \
             {errno}"
        ))
    })?;
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name).trim_end().to_owned();

    let mut interrupts = Interrupts::listen()?;
    let mut sampler = Sampler::start(args.hertz)?;
    let begun = Instant::now();
    let what = SampledAs { end: End::Server, drawn: true, label: None };
    sampler.watch(pid.unsigned_abs(), what);
    // Without an end: a century.
    let seconds = args.seconds.unwrap_or(u64::MAX).min(100 * 365 * 86_400);
    let end = begun + Duration::from_secs(seconds);
    let mut ticks = tokio::time::interval(LOOK);
    let over = loop {
        sampler.look();
        tokio::select! {
            () = interrupts.next() => break Over::Interrupt,
            () = tokio::time::sleep_until(end) => break Over::Time,
            _ = ticks.tick() => {}
        }
        if has_ended(&process) {
            break Over::Gone;
        }
    };
    let lasted = begun.elapsed().as_secs_f64();
    let recording = sampler.take()?;
    drop(sampler);

    let title = format!("{name} (process {pid}), {lasted:.1} s");
    let mut symbols = Symboliser::default();
    let graph = recording.draw(&title, &mut symbols);
    let parts = recording.parts(&symbols);
    let folded = write(&graph, &out)?;
    match over {
        Over::Gone => text::say!("process {pid} ended after {lasted:.1} s: this is until then"),
        Over::Interrupt => text::say!("interrupted after {lasted:.1} s: this is until then"),
        Over::Time => {}
    }
    if graph.samples == 0 {
        text::say!("process {pid} did not run at any tick of the clock: the graph is empty");
    }
    if let Some(process) = parts.ends.get(&End::Server).filter(|_| graph.samples > 0) {
        text::tell_words!("{}", EndCosts::of_process(process, args.hertz).shares());
    }
    text::tell!("{}", graph.counts());
    text::tell!("{}\n{}", out.display(), folded.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_never_overwrite_the_picture() {
        for (svg, folded) in [
            ("a/profile-60k.svg", "a/profile-60k.folded"),
            ("profile-1.5.svg", "profile-1.5.folded"),
            ("x.folded", "x.folded.folded"),
            ("x", "x.folded"),
        ] {
            assert_eq!(folded_beside(Path::new(svg)), PathBuf::from(folded));
        }
    }
}
