//! The `lab` command line.

use std::ffi::CStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::agent;
use crate::check;
use crate::clean;
use crate::examples;
use crate::exit::Exit;
use crate::explain::explain;
use crate::history;
use crate::install;
use crate::ledger;
use crate::runs::{carry_out, read, repeatedly, report_again, resume_run, runtime};
use crate::shared;
use crate::tune;
use crate::validate;
use analysis::compare;
use analysis::history::HistoryArgs;
use analysis::projection;
use fleet::Access;
use host::hog;
use host::nic;
use host::privileges::Privileges;
use host::probe;
use host::profile;
use interrupts::Interrupted;
use report::live;
use run::{Options, Sampling, TakenOver};
use spec::UsageError;
use spec::machine::Machine;
use spec::preflight::Preflight;

/// A lab for the "10 billion red packets" experiment: it holds the line, and knows why when it does
/// not.
#[derive(Debug, Parser)]
#[command(name = "lab", version, after_help = EXIT_STATUS)]
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

/// What to carry out, and where.
#[derive(Debug, clap::Args)]
struct RunArgs {
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
}

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
    Run(Box<RunArgs>),
    /// Be a host of a fleet: wait for work from NATS and do it
    Agent(Box<fleet::agent::AgentArgs>),
    /// Say which hosts of a fleet are there, what they can do, and how far their clocks are off
    Hosts(Box<fleet::hosts::HostsArgs>),
    /// Say what differs between two runs, or two directories of repeated runs, and whether it could
    /// be chance
    Compare(compare::CompareArgs),
    /// Show the runs of a directory in their order: what changed from one to the next, and which
    /// figures moved beyond chance
    History(HistoryArgs),
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
        /// The directory of the run; of a file of lab export the tables are shown
        directory: PathBuf,
    },
    /// Pack a run into one file to give away
    Export(shared::ExportArgs),
    /// Unpack a run that somebody has given away
    Import(shared::ImportArgs),
    /// Show where the server's CPU time goes: a flame graph per phase of a run, or of any process
    /// (as root)
    Profile(profile::ProfileArgs),
    /// Watch any server with the probes, a line a second (as root)
    Probe(probe::ProbeArgs),
    /// Watch network interfaces, a line a second each: traffic, queues, what was lost and where,
    /// and every driver counter that moved
    Nic(nic::NicArgs),
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
    /// Print what the documents say of a cause, a field of a file, an exit status or a word
    Explain {
        /// Such as client_stopped, shake.late_turns, 4
        #[arg(required = true)]
        name: Vec<String>,
    },
    /// Print completions of this command line for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write man pages of all commands, lab.1 and others
    Man {
        /// The directory to write them to
        directory: PathBuf,
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

impl Cli {
    /// What the arguments of this process ask for; ends it where they ask for help, or wrongly.
    pub fn of_arguments() -> Self {
        let matches = Self::described().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The command line with an example for each command.
    fn described() -> clap::Command {
        examples::added(Self::command()).long_version(install::version())
    }

    /// Does what was asked.
    pub fn run(self) -> ExitCode {
        // What has a CPU is known by its name. One that is started from an open file is named by
        // the number of that.
        let _ = rustix::thread::set_name(self.command.program());
        // What these come to is on disk, whether anybody reads the rest or not.
        let records =
            matches!(self.command, Command::Run(_) | Command::Profile(_) | Command::Validate(_));
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
            Command::Run(args) => run(*args),
            Command::Agent(args) => block_on("lab-agent-io", agent::run(&args)),
            Command::Hosts(args) => block_on("lab-io", fleet::hosts::run(&args)),
            Command::Compare(args) => shared::with_unpacked(&args, compare),
            Command::History(args) => history::show(&args),
            Command::Plan(args) => plan(&args),
            Command::Live { directory, listen, live_host } => {
                watch_live(&directory, listen, &live_host)
            }
            Command::Profile(args) => profile(args),
            Command::Report { directory } => report_again(&directory),
            Command::Export(args) => shared::export(&args),
            Command::Import(args) => shared::import(&args),
            Command::Probe(args) => watch(&args),
            Command::Nic(args) => watch_interfaces(&args),
            Command::Validate(args) => {
                validate::run(&args).map(|passed| if passed { Exit::Fine } else { Exit::Invalid })
            }
            Command::Tune(args) => tune::run(&args).map(Exit::from),
            Command::Clean(args) => clean::run(&args).map(Exit::from),
            Command::Explain { name } => {
                text::tell_words!("{}", explain(&name)?);
                Ok(Exit::Fine)
            }
            Command::Completions { shell } => {
                text::tell_words!("{}", install::completions(&mut Cli::described(), shell));
                Ok(Exit::Fine)
            }
            Command::Man { directory } => {
                install::man(Cli::described(), &directory).map(|()| Exit::Fine)
            }
            Command::Doctor { json, user } => doctor(json, user.as_deref()),
            Command::Ledger(ask) => {
                ledger::run(&ask).map(|fine| if fine { Exit::Fine } else { Exit::Invalid })
            }
            Command::Server(args) => serve(&args),
            Command::Client(args) => load(&args),
            Command::Hog(args) => hog::run(&args).map(|()| Exit::Fine),
        }
    }
}

/// A server on its own ends as `lab-server` does.
fn serve(args: &lab_server::cli::Args) -> anyhow::Result<Exit> {
    match lab_server::cli::run(args) {
        Err(error) if lab_server::cli::is_usage(&error) => Err(UsageError::of(error)),
        ended => ended.map(|()| Exit::Fine),
    }
}

/// A client on its own ends as `lab-client` does.
fn load(args: &lab_client::cli::Args) -> anyhow::Result<Exit> {
    match lab_client::cli::run(args) {
        Err(error) if lab_client::cli::is_usage(&error) => Err(UsageError::of(error)),
        ended => ended.map(|valid| if valid { Exit::Fine } else { Exit::Invalid }),
    }
}

fn run(args: RunArgs) -> anyhow::Result<Exit> {
    let on_fleet = args.access.nats.is_some() || args.resume.is_some();
    let fleet = on_fleet.then_some(fleet::Options {
        access: *args.access,
        allow_clock_offset: args.allow_clock_offset,
    });
    let options = Options {
        out: args.out,
        settings: args.settings,
        tune_host: args.tune_host,
        journals: Some(args.journals),
        user: args.user,
        sampling: None,
        ends_within: args.end_within.map(|most| Duration::from_secs(most.into())),
        live: args.live,
        live_hosts: args.live_host,
        fleet,
    };
    let file = args.file.unwrap_or_default();
    match (args.resume, args.repeat) {
        (Some(directory), _) => resume_run(directory, options),
        (None, Some(times)) => repeatedly(&file, &options, times),
        (None, None) => carry_out(&file, options),
    }
}

fn check(file: &Path, settings: &[String]) -> anyhow::Result<Exit> {
    let source = read(file, settings)?;
    let preflight = Preflight::of(&source.experiment, &Machine::this());
    text::tell_words!("{}", check::show(&source.experiment, &preflight)?);
    Ok(if preflight.is_refused() { Exit::Refused } else { Exit::Fine })
}

/// Something that NATS is needed for.
fn block_on(threads: &str, what: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Exit> {
    let runtime = runtime(threads)?;
    let done = runtime.block_on(what);
    runtime.shutdown_background();
    done.map(|()| Exit::Fine)
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

fn watch_interfaces(args: &nic::NicArgs) -> anyhow::Result<Exit> {
    let runtime = runtime("lab-io")?;
    runtime.block_on(nic::run(args)).map(|()| Exit::Fine)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::described().debug_assert();
    }

    /// Every example of every command, with the command.
    fn walk(command: &clap::Command, path: &str, found: &mut Vec<(String, Vec<String>)>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
        let lines = lines.take_while(|line| line.starts_with("  "));
        found.push((path.to_owned(), lines.map(|line| line.trim().to_owned()).collect()));
        for below in command.get_subcommands().filter(|it| it.get_name() != "help") {
            walk(below, &format!("{path} {}", below.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_an_example_that_is_one_of_it() {
        let mut found = Vec::new();
        walk(&Cli::described(), "lab", &mut found);
        assert!(found.len() > 30, "{found:?}");
        for (path, examples) in found {
            assert!(!examples.is_empty(), "{path}: the help has no example (examples.rs)");
            for example in examples {
                // A shell's redirection is not the command's.
                let line = example.split(" > ").next().unwrap_or_default();
                let line = line.strip_prefix("sudo ").unwrap_or(line);
                assert!(line.starts_with(&path), "{path}: {example}");
                let words: Vec<String> = line.split(' ').map(|it| it.replace('\'', "")).collect();
                if let Err(error) = Cli::described().try_get_matches_from(words) {
                    panic!("{path}: {example}: {error}");
                }
            }
        }
    }
}
