//! The `lab` command line.

use std::ffi::CStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::check;
use crate::clean;
use crate::ledger;
use crate::made::Made;
use crate::owner::Handover;
use crate::tune;
use crate::validate;
use analysis::compare;
use analysis::projection;
use analysis::summary::Summary;
use fleet::Access;
use host::hog;
use host::leftover;
use host::privileges::Privileges;
use host::probe;
use host::profile;
use interrupts::{EndsAtOnce, Interrupted};
use record::{DirectoryLock, Outcome};
use report::live;
use run::{Ending, Options, Sampling, TakenOver};
use spec::machine::Machine;
use spec::preflight::{self, Preflight};
use spec::{Hosts, Source, UsageError};
use tokio::runtime::{Builder, Runtime};

/// A lab for the "10 billion red packets" experiment: it holds the line, and knows why when it does
/// not.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_STATUS)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  completed, and every phase is valid
  1  an error of the lab or the machine
  2  bad input: arguments or an experiment file
  3  refused: the run does not fit this machine, the doctor misses something, or runs are not
     to be compared
  4  completed, but a phase is not valid or the books do not balance
  5  aborted by a condition of the experiment, interrupted, or taken over by another lab run";

/// What `lab` can do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Show an experiment with all defaults, and whether it fits this machine
    Check {
        /// The experiment file
        file: PathBuf,
        /// Change a value, such as users=2000 or phases.60k.seconds=10; values are JSON or a word
        #[arg(long = "set", value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Carry out an experiment and record it
    Run {
        /// The experiment file
        #[arg(required_unless_present = "resume")]
        file: Option<PathBuf>,
        /// The directory to write [default: results/EXPERIMENT-START, start in UTC]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Change a value, such as users=2000 or phases.60k.seconds=10; values are JSON or a word
        #[arg(long = "set", value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// As whom programs run: NAME, UID or UID:GID [default: who has called sudo, else nobody]
        #[arg(long, value_name = "USER", conflicts_with = "nats")]
        user: Option<String>,
        /// Apply the tuning profile's settings of the machine, too, and put them back at the end
        #[arg(long)]
        tune_host: bool,
        /// Where the journals of what is changed are
        #[arg(long, value_name = "DIR", default_value = tuning::DEFAULT_DIRECTORY)]
        journals: PathBuf,
        /// Do it so many times, and write a directory of runs
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        repeat: Option<u32>,
        /// How many seconds the ending of an interrupted run may take [default: 120]
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        end_within: Option<u32>,
        /// Serve a live page there meanwhile, such as 127.0.0.1:8080
        #[arg(long, value_name = "ADDRESS")]
        live: Option<SocketAddr>,
        /// A further name that the live page is asked for by; addresses, localhost and this
        /// machine's own name always are. Can be repeated
        #[arg(long, value_name = "NAME", requires = "live")]
        live_host: Vec<String>,
        #[command(flatten)]
        access: Box<Access>,
        /// Use hosts whose clocks are off by more than 50 ms, too
        #[arg(long, requires = "nats")]
        allow_clock_offset: bool,
        /// Take over the run on a fleet in this directory, whose coordinator is gone, or merge what
        /// its hosts have kept
        #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "out", "settings", "repeat",
            "tune_host"])]
        resume: Option<PathBuf>,
    },
    /// Be a host of a fleet: wait for work from NATS and do it
    Agent(Box<fleet::agent::AgentArgs>),
    /// Say which hosts of a fleet are there, what they can do, and how far their clocks are off
    Hosts(Box<fleet::hosts::HostsArgs>),
    /// Say what differs between two runs, or two directories of repeated runs, and whether it could
    /// be chance
    Compare(compare::CompareArgs),
    /// Project measured runs: how many servers and clients, how long, for 10 billion shakes
    Plan(projection::PlanArgs),
    /// Serve the live page of a run that goes on, or is over
    Live {
        /// The directory of the run
        directory: PathBuf,
        /// Where to serve it
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// A further name that it is asked for by; addresses, localhost and this machine's own name
        /// always are. Can be repeated
        #[arg(long, value_name = "NAME")]
        live_host: Vec<String>,
    },
    /// Make summary and page of a run again from its raw files, also of one that was killed
    Report {
        /// The directory of the run
        directory: PathBuf,
    },
    /// Show where the server's CPU time goes: a flame graph per phase of a run, or of any process
    /// (as root)
    Profile(profile::ProfileArgs),
    /// Watch any server with the probes, a line a second (as root)
    Probe(probe::ProbeArgs),
    /// Prove on injected faults that the right causes are blamed (as root, on two CPUs)
    Validate(validate::Args),
    /// Settings of the kernel: check, apply, and put back exactly what was there
    Tune(tune::Args),
    /// Show what runs that were killed have left on this machine, or remove it
    Clean(clean::Args),
    /// Say what this machine can do, as whom programs run, and the way out where it cannot
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// As whom programs would run, as for lab run
        #[arg(long, value_name = "USER")]
        user: Option<String>,
    },
    /// A durable ledger: its audit
    #[command(subcommand)]
    Ledger(ledger::Ask),
    /// The server on its own, as lab-server
    Server(Box<lab_server::cli::Args>),
    /// A client on its own, as lab-client
    Client(Box<lab_client::cli::Args>),
    /// Take the CPU from others, as a fault of an experiment
    #[command(hide = true)]
    Hog(hog::HogArgs),
}

/// How `lab` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Exit {
    Fine = 0,
    Error = 1,
    BadInput = 2,
    Refused = 3,
    Invalid = 4,
    Aborted = 5,
}

impl From<&UsageError> for Exit {
    fn from(error: &UsageError) -> Self {
        match error {
            UsageError::BadInput(_) => Exit::BadInput,
            UsageError::Refused(_) => Exit::Refused,
        }
    }
}

impl From<tune::Ended> for Exit {
    fn from(ended: tune::Ended) -> Self {
        match ended {
            tune::Ended::Well => Exit::Fine,
            tune::Ended::Badly => Exit::Error,
        }
    }
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> ExitCode {
        // What has a CPU is known by its name. One that is started from an open file is named by
        // the number of that.
        let _ = rustix::thread::set_name(self.command.program());
        // What these come to is on disk, whether anybody reads the rest or not.
        let records = matches!(
            self.command,
            Command::Run { .. } | Command::Profile(_) | Command::Validate(_)
        );
        let exit = self.command.carry_out().unwrap_or_else(|error| {
            text::say!("lab: {error:#}");
            match error.downcast_ref::<UsageError>() {
                Some(usage) => Exit::from(usage),
                None if error.is::<Interrupted>() || error.is::<TakenOver>() => Exit::Aborted,
                None => Exit::Error,
            }
        });
        let exit = match text::output_error() {
            None => exit,
            Some(error) => {
                text::say!("lab: standard output cannot be written: {error}");
                if records { exit } else { exit.max(Exit::Error) }
            }
        };
        ExitCode::from(exit as u8)
    }
}

impl Command {
    /// The program that this is, as `ps`, the probes and verdicts name it.
    fn program(&self) -> &'static CStr {
        match self {
            Command::Server(_) => c"lab-server",
            Command::Client(_) => c"lab-client",
            Command::Agent(_) => c"lab-agent",
            Command::Hog(_) => c"lab-hog",
            _ => c"lab",
        }
    }

    fn carry_out(self) -> anyhow::Result<Exit> {
        match self {
            Command::Check { file, settings } => check(&file, &settings),
            Command::Run {
                file,
                out,
                settings,
                repeat,
                user,
                tune_host,
                journals,
                end_within,
                live,
                live_host: live_hosts,
                access,
                allow_clock_offset,
                resume,
            } => {
                let journals = Some(journals);
                let on_fleet = access.nats.is_some() || resume.is_some();
                let fleet =
                    on_fleet.then_some(fleet::Options { access: *access, allow_clock_offset });
                let options = Options {
                    out,
                    settings,
                    tune_host,
                    journals,
                    user,
                    sampling: None,
                    ends_within: end_within.map(|most| Duration::from_secs(most.into())),
                    live,
                    live_hosts,
                    fleet,
                };
                let file = file.unwrap_or_default();
                match (resume, repeat) {
                    (Some(directory), _) => resume_run(directory, options),
                    (None, Some(times)) => repeatedly(&file, &options, times),
                    (None, None) => carry_out(&file, options),
                }
            }
            Command::Agent(args) => {
                block_on("lab-agent-io", fleet::agent::run(&args, run::PIPE_PROTOCOL))
            }
            Command::Hosts(args) => block_on("lab-io", fleet::hosts::run(&args)),
            Command::Compare(args) => compare(&args),
            Command::Plan(args) => plan(&args),
            Command::Live { directory, listen, live_host } => {
                watch_live(&directory, listen, &live_host)
            }
            Command::Profile(args) => profile(args),
            Command::Report { directory } => report_again(&directory),
            Command::Probe(args) => watch(&args),
            Command::Validate(args) => {
                validate::run(&args).map(|passed| if passed { Exit::Fine } else { Exit::Invalid })
            }
            Command::Tune(args) => tune::run(&args).map(Exit::from),
            Command::Clean(args) => clean::run(&args).map(Exit::from),
            Command::Doctor { json, user } => doctor(json, user.as_deref()),
            Command::Ledger(ask) => {
                ledger::run(&ask).map(|fine| if fine { Exit::Fine } else { Exit::Invalid })
            }
            Command::Server(args) => lab_server::cli::run(&args).map(|()| Exit::Fine),
            Command::Client(args) => lab_client::cli::run(&args)
                .map(|valid| if valid { Exit::Fine } else { Exit::Invalid }),
            Command::Hog(args) => hog::run(&args).map(|()| Exit::Fine),
        }
    }
}

fn read(file: &Path, settings: &[String]) -> anyhow::Result<Source> {
    Source::read(file, settings).map_err(UsageError::of)
}

fn check(file: &Path, settings: &[String]) -> anyhow::Result<Exit> {
    let source = read(file, settings)?;
    let preflight = Preflight::of(&source.experiment, &Machine::this());
    text::tell_words!("{}", check::show(&source.experiment, &preflight)?);
    Ok(if preflight.is_refused() { Exit::Refused } else { Exit::Fine })
}

fn carry_out(file: &Path, mut options: Options) -> anyhow::Result<Exit> {
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
fn runtime(threads: &str) -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().thread_name(threads).build()
}

/// Something that NATS is needed for.
fn block_on(threads: &str, what: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Exit> {
    let runtime = runtime(threads)?;
    let done = runtime.block_on(what);
    runtime.shutdown_background();
    done.map(|()| Exit::Fine)
}

fn resume_run(directory: PathBuf, options: Options) -> anyhow::Result<Exit> {
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
            Some(summary) if made.whole && ended.unwritten.is_none() => verdict(&summary),
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
fn repeatedly(file: &Path, options: &Options, times: u32) -> anyhow::Result<Exit> {
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

fn compare(args: &compare::CompareArgs) -> anyhow::Result<Exit> {
    let comparison = compare::compare(args).map_err(UsageError::of)?;
    if !comparison.objections.is_empty() && !args.force {
        comparison.objections.iter().for_each(|objection| text::say!("lab: {objection}"));
        text::say!("lab: not compared: --force does it all the same");
        return Ok(Exit::Refused);
    }
    if args.json {
        text::tell!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        text::tell_words!("{}", compare::table(&comparison));
    }
    Ok(Exit::Fine)
}

fn plan(args: &projection::PlanArgs) -> anyhow::Result<Exit> {
    let plan = projection::project(args).map_err(UsageError::of)?;
    if args.json {
        text::tell!("{}", serde_json::to_string_pretty(&plan)?);
    } else {
        text::tell_words!("{}", projection::table(&plan));
    }
    Ok(Exit::Fine)
}

fn verdict(summary: &Summary) -> Exit {
    let valid = summary.phases.iter().all(|phase| phase.valid);
    let balanced = summary.ledger.balanced == Some(true);
    if valid && balanced { Exit::Fine } else { Exit::Invalid }
}

fn doctor(json: bool, user: Option<&str>) -> anyhow::Result<Exit> {
    let mut findings = ebpf::doctor::examine();
    findings.extend(Privileges::choose(user)?.findings());
    if json {
        text::tell!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        text::tell_words!("{}", ebpf::doctor::table(&findings));
    }
    let missing = ebpf::doctor::worst(&findings) == ebpf::doctor::State::Missing;
    Ok(if missing { Exit::Refused } else { Exit::Fine })
}

fn watch(args: &probe::ProbeArgs) -> anyhow::Result<Exit> {
    let runtime = runtime("lab-io")?;
    runtime.block_on(probe::run(args)).map(|()| Exit::Fine)
}

fn profile(args: profile::ProfileArgs) -> anyhow::Result<Exit> {
    if let Some(pid) = args.pid {
        let runtime = runtime("lab-io")?;
        return runtime.block_on(profile::of_process(&args, pid)).map(|()| Exit::Fine);
    }
    let profile::ProfileArgs { file, out, settings, hertz, clients, .. } = args;
    let sampling = Some(Sampling { hertz, clients });
    let options = Options { out, settings, sampling, ..Options::default() };
    carry_out(&file.unwrap_or_default(), options)
}

fn watch_live(directory: &Path, listen: SocketAddr, names: &[String]) -> anyhow::Result<Exit> {
    report::assert_run(directory).map_err(UsageError::of)?;
    let runtime = runtime("lab-io")?;
    runtime.block_on(live::watch(directory, listen, names))?;
    Ok(Exit::Fine)
}

/// Makes everything that can be made from what is left of a run, and says what cannot.
fn report_again(directory: &Path) -> anyhow::Result<Exit> {
    report::assert_run(directory).map_err(UsageError::of)?;
    // What another process still writes is not whole.
    let by = format!("lab report (process {})", std::process::id());
    let _lock = DirectoryLock::take_again(directory, &by).map_err(UsageError::of)?;
    let made = Made::of(directory);
    made.tell(directory, &[]);
    Ok(match made.summary {
        Some(summary) if made.problems.is_empty() => match summary.outcome {
            Outcome::Completed => verdict(&summary),
            _ => Exit::Aborted,
        },
        _ => Exit::Error,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
