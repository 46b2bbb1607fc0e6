//! What becomes of a run: one or several are carried out, and summary and page are made of them,
//! also later. Must not know: the command line.

use std::path::{Path, PathBuf};

use anyhow::Context;
use host::leftover;
use interrupts::EndsAtOnce;
use record::DirectoryLock;
use run::{Ending, Options};
use spec::machine::Machine;
use spec::preflight::{self, Preflight};
use spec::{Hosts, Source, UsageError};
use tokio::runtime::{Builder, Runtime};

use crate::exit::Exit;
use crate::made::Made;
use crate::owner::Handover;
use crate::shared;

/// An experiment file with settings.
pub(crate) fn read(file: &Path, settings: &[String]) -> anyhow::Result<Source> {
    Source::read(file, settings).map_err(UsageError::of)
}

/// Carries an experiment out, into a directory that belongs to who has called.
pub(crate) fn carry_out(file: &Path, mut options: Options) -> anyhow::Result<Exit> {
    let source = read(file, &options.settings)?;
    let name = source.experiment.name.as_str();
    let out = options.out.take().unwrap_or_else(|| run::default_directory(name));
    let handover = Handover::of_new(&out);
    options.out = Some(out.clone());
    let exit = carry_out_into(file, source, options);
    // Also of a run that has failed.
    if let Some(handover) = handover.filter(|_| out.exists()) {
        handover.hand_over(&out).with_context(|| format!("{}: owner", out.display()))?;
    }
    exit
}

fn carry_out_into(file: &Path, source: Source, options: Options) -> anyhow::Result<Exit> {
    if options.fleet.is_some() {
        return to_its_end(run::run(source, options));
    }
    if matches!(source.experiment.hosts, Hosts::Fleet { .. }) {
        return Err(UsageError::error(format!(
            "{} wants a fleet of machines: give --nats URL, or --set 'hosts=\"Local\"' to run it \
             here",
            file.display()
        )));
    }
    // Between the runs of --repeat nothing is under way, and nothing listens.
    let at_once = EndsAtOnce::begin();
    leftover::wait();
    let preflight = Preflight::of(&source.experiment, &Machine::this());
    if preflight.is_refused() {
        text::say_words(&preflight::table(&preflight));
        return Ok(Exit::Refused);
    }
    drop(at_once);
    to_its_end(run::run(source, options))
}

/// One whose further threads have this name.
pub(crate) fn runtime(threads: &str) -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().thread_name(threads).build()
}

/// Takes over a run on a fleet.
pub(crate) fn resume_run(directory: PathBuf, options: Options) -> anyhow::Result<Exit> {
    to_its_end(run::resume(directory, options))
}

fn to_its_end(run: impl Future<Output = anyhow::Result<run::Ended>>) -> anyhow::Result<Exit> {
    let runtime = runtime("lab-io")?;
    let ended = runtime.block_on(run)?;
    runtime.shutdown_background();
    // Everything is recorded, and what was changed is put back. An interrupt from here on ends this
    // process at once; `lab report` makes summary and page again.
    let _at_once = EndsAtOnce::begin();
    let made = Made::of(&ended.directory);
    made.tell(&ended.directory, &ended.profiles);
    if let Some(unwritten) = &ended.unwritten {
        text::say!("lab: {}", unwritten.what);
    }
    let given_up = ended.unwritten.as_ref().is_some_and(|it| it.given_up);
    Ok(match ended.ending {
        Ending::Aborted(why) => {
            text::say!("lab: aborted: {why}");
            Exit::Aborted
        }
        Ending::Completed if !given_up => match made.summary {
            Some(summary) if made.whole && ended.unwritten.is_none() => Exit::from(&summary),
            _ => Exit::Error,
        },
        Ending::Interrupted | Ending::Completed => {
            text::say!("lab: interrupted");
            Exit::Aborted
        }
    })
}

/// Carries an experiment out again and again, into directories 1, 2, … of one directory. Ends at
/// the first run that does not complete.
pub(crate) fn repeatedly(file: &Path, options: &Options, times: u32) -> anyhow::Result<Exit> {
    let source = read(file, &options.settings)?;
    let name = format!("{}-x{times}", source.experiment.name);
    let out = options.out.clone().unwrap_or_else(|| run::default_directory(&name));
    let handover = Handover::of_new(&out);
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let exit = one_by_one(file, options, times, &out);
    // Also of runs that have failed.
    if let Some(handover) = handover {
        handover.hand_over(&out).with_context(|| format!("{}: owner", out.display()))?;
    }
    exit
}

fn one_by_one(file: &Path, options: &Options, times: u32, out: &Path) -> anyhow::Result<Exit> {
    let width = times.to_string().len();
    let mut worst = Exit::Fine;
    for time in 1..=times {
        text::say!("run {time} of {times}");
        let out = Some(out.join(format!("{time:0width$}")));
        match carry_out(file, Options { out, ..options.clone() })? {
            exit @ (Exit::Fine | Exit::Invalid) => worst = worst.max(exit),
            other => return Ok(other),
        }
    }
    text::tell!("{}", out.display());
    Ok(worst)
}

/// Makes everything that can be made from what is left of a run, and says what cannot.
pub(crate) fn report_again(directory: &Path) -> anyhow::Result<Exit> {
    if let Some(exit) = shared::report(directory)? {
        return Ok(exit);
    }
    report::assert_run(directory).map_err(UsageError::of)?;
    // What another process still writes is not whole.
    let by = format!("lab report (process {})", std::process::id());
    let _lock = DirectoryLock::take_again(directory, &by).map_err(UsageError::of)?;
    let made = Made::of(directory);
    made.tell(directory, &[]);
    Ok(match made.summary {
        Some(summary) if made.problems.is_empty() => Exit::of_report(&summary),
        _ => Exit::Error,
    })
}
