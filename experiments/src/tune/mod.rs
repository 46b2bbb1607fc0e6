//! `lab tune`: what an operator sees of the tuning crate. Must not know: how settings are read and
//! written.

mod ablate;
mod arms;
mod effects;

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use tuning::profile::{EMBEDDED, Scope};
use tuning::{
    Applied, AppliedSetting, ApplyError, ApplyOptions, Directory, Finding, JournalError, Outcome,
    Owner, Profile, ProfileError, Selection, State,
};

use spec::{ReadError, UsageError};

/// What to do about settings of the kernel.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the journals of what was changed are
    #[arg(long, global = true, value_name = "DIR", default_value = tuning::DEFAULT_DIRECTORY)]
    journals: PathBuf,
    #[command(subcommand)]
    command: Command,
}

/// What `lab tune` can do.
#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List the profiles
    List,
    /// Show what a profile sets, to what on this machine, why, and where that is known from
    Show {
        /// A profile's name, or a file
        profile: String,
    },
    /// List every difference between this machine and a profile; exit 1 if there is one
    Check {
        /// A profile's name, or a file
        profile: String,
        /// Count what is pending or not possible here as a difference, too
        #[arg(long)]
        strict: bool,
    },
    /// Show what applying a profile would change, now and then
    Diff {
        /// A profile's name, or a file
        profile: String,
    },
    /// Apply a profile; what was there is on disk before the first change (as root)
    Apply {
        /// A profile's name, or a file
        profile: String,
        /// Go on when a setting fails, instead of taking all of them back
        #[arg(long)]
        keep_going: bool,
    },
    /// Put everything back, the last profile first (as root)
    Revert {
        /// Only the profile that was applied last
        #[arg(long)]
        last: bool,
        /// Put back also what somebody else has set meanwhile
        #[arg(long, conflicts_with = "forget")]
        overwrite: bool,
        /// Keep what somebody else has set meanwhile, and forget what was there before
        #[arg(long)]
        forget: bool,
    },
    /// Print a profile made from a file like /etc/sysctl.conf; say what of it was not taken
    Import {
        /// The file
        file: PathBuf,
    },
    /// Show which profiles are applied, and what has become of their settings
    Status,
    /// Measure what each setting is worth: the experiment with the profile, without it, and with
    /// each setting left out, in turns
    Ablate(ablate::Args),
    /// Print a POSIX shell script with the same effect and its undo
    Script {
        /// A profile's name, or a file
        profile: String,
        /// Print the limits of the profile instead, for logins or for a unit
        #[arg(long, value_enum)]
        limits: Option<LimitsFor>,
    },
}

/// Who reads limits.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LimitsFor {
    /// A file for /etc/security/limits.d
    LimitsD,
    /// A drop-in for a unit of systemd
    Systemd,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything is as it should be.
    Well,
    /// There are differences, or something could not be done; it was said.
    Badly,
}

/// Does what was asked.
///
/// # Errors
/// What keeps it from being tried: the machine, the journals.
pub(crate) fn run(args: &Args) -> anyhow::Result<Ended> {
    match act(args) {
        Err(error) if error.is::<ProfileError>() || error.is::<ReadError>() => {
            Err(UsageError::of(error))
        }
        ended => ended,
    }
}

fn act(args: &Args) -> anyhow::Result<Ended> {
    let directory = Directory::new(&args.journals);
    match &args.command {
        Command::List => list(),
        Command::Show { profile } => show(&Profile::load(profile)?),
        Command::Check { profile, strict } => check(&Profile::load(profile)?, *strict),
        Command::Diff { profile } => diff(&Profile::load(profile)?),
        Command::Apply { profile, keep_going } => {
            apply(&Profile::load(profile)?, &directory, *keep_going)
        }
        Command::Revert { last, overwrite, forget } => {
            revert(&directory, *last, *overwrite, *forget)
        }
        Command::Import { file } => import(file),
        Command::Status => status(&directory),
        Command::Ablate(ablation) => ablate::run(ablation, &args.journals).map(|()| Ended::Well),
        Command::Script { profile, limits } => script(&Profile::load(profile)?, *limits),
    }
}

fn list() -> anyhow::Result<Ended> {
    let width = EMBEDDED.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, _) in EMBEDDED {
        let profile = Profile::load(name)?;
        let count = profile.settings.len();
        text::tell!("{name:width$}  {}, {count} settings", profile.about);
    }
    Ok(Ended::Well)
}

fn show(profile: &Profile) -> anyhow::Result<Ended> {
    let facts = tuning::Facts::of_this_machine()?;
    text::tell!("{}: {}", profile.name, profile.about);
    for placed in &profile.settings {
        let setting = &placed.setting;
        let scope = match setting.scope {
            Scope::Namespace => "of each network namespace",
            Scope::Machine => "of the machine",
            Scope::Process => "of a process",
        };
        let optional = if setting.optional { ", optional" } else { "" };
        text::tell!("\n{}  {}", setting.key, setting.value);
        match setting.value.text().on(&facts) {
            Ok(here) if here != setting.value.text().source() => text::tell!("    here: {here}"),
            Ok(_) => {}
            Err(why) => text::tell!("    here: {why}"),
        }
        text::tell!("    {}", setting.because);
        text::tell!("    {scope}, Linux {}{optional}; {}", setting.since, setting.source);
        if let tuning::profile::Effect::NewNamespace { shown_by } = &setting.effect {
            text::tell!(
                "    takes effect in network namespaces made after it was set ({shown_by})"
            );
        }
        if let Some(since_then) = &setting.since_then {
            text::tell!("    since then: {since_then}");
        }
        text::tell!("    {}", placed.place);
    }
    for file in tuning::at_boot(profile) {
        text::tell!("\n{file}");
    }
    Ok(Ended::Well)
}

fn check(profile: &Profile, strict: bool) -> anyhow::Result<Ended> {
    let findings = tuning::check(profile)?;
    let mut differences = 0;
    for finding in &findings {
        differences += usize::from(finding.is_difference(strict));
        if !matches!(finding.state, State::Holds) {
            text::tell!("{finding}");
        }
    }
    let of = findings.len();
    text::tell!("{}: {differences} of {of} settings differ", profile.name);
    Ok(if differences == 0 { Ended::Well } else { Ended::Badly })
}

fn diff(profile: &Profile) -> anyhow::Result<Ended> {
    let findings = tuning::check(profile)?;
    let differs = |it: &&Finding| matches!(it.state, State::Differs);
    let width = findings.iter().filter(differs).map(|it| it.name.len()).max().unwrap_or(0);
    for finding in &findings {
        match finding.state {
            State::Holds => {}
            State::Differs => {
                let text = |value: &Option<String>| value.clone().unwrap_or_default();
                let (now, target) = (text(&finding.now), text(&finding.target));
                text::tell!("{:width$}  {now} -> {target}", finding.name);
            }
            _ => text::tell!("{finding}"),
        }
    }
    Ok(Ended::Well)
}

fn apply(profile: &Profile, directory: &Directory, keep_going: bool) -> anyhow::Result<Ended> {
    let lock = tuning::recover(directory, |line| text::say!("{line}"))?;
    let options = ApplyOptions { owner: Owner::Hand, keep_going };
    let applied = match tuning::apply(profile, directory, options, &lock) {
        Ok(applied) => applied,
        Err(error @ ApplyError::Refused(_)) => {
            text::say!("lab: {error}");
            return Ok(Ended::Badly);
        }
        Err(error) => return Err(error.into()),
    };
    report(profile, &applied);
    Ok(if applied.failures.is_empty() { Ended::Well } else { Ended::Badly })
}

fn report(profile: &Profile, applied: &Applied) {
    for change in &applied.changes {
        text::tell!("changed       {change}");
    }
    for finding in &applied.others {
        text::tell!("{finding}");
    }
    for failure in &applied.failures {
        text::say!("FAILED        {failure}");
    }
    if let Some(rolled_back) = &applied.rolled_back {
        text::say!("rolled back:");
        rolled_back.settings.iter().for_each(|setting| text::say!("{setting}"));
    }
    let changed = applied.changes.len();
    let millis = applied.took.as_secs_f64() * 1000.0;
    text::tell!("{}: {changed} settings changed in {millis:.1} ms", profile.name);
    if applied.failures.is_empty() {
        for file in tuning::at_boot(profile) {
            text::tell!("note: {file}");
        }
    }
}

fn revert(
    directory: &Directory,
    last: bool,
    overwrite: bool,
    forget: bool,
) -> anyhow::Result<Ended> {
    let lock = directory.lock()?;
    let which = if last { Selection::Last } else { Selection::All };
    let reverted = tuning::revert(directory, which, overwrite, &lock)?;
    if reverted.is_empty() {
        text::tell!("nothing is applied");
    }
    let mut ended = Ended::Well;
    let mut failed = false;
    for it in &reverted {
        text::tell!("{}:", it.profile);
        if it.rebooted {
            text::tell!("nothing is left to restore: the machine was started anew since");
        }
        for setting in &it.settings {
            text::tell!("{setting}");
            failed |= matches!(setting.outcome, Outcome::Failed(_));
        }
        if !it.is_done() {
            ended = Ended::Badly;
        }
    }
    if ended == Ended::Badly && forget && !last && !failed {
        tuning::forget(directory, &lock)?;
        text::tell!("what was left alone stays as it is, and what was before is forgotten");
        return Ok(Ended::Well);
    }
    if ended == Ended::Badly {
        text::tell!(
            "the journal is kept: lab tune revert --overwrite puts back what was left alone, \
             --forget keeps it"
        );
    }
    Ok(ended)
}

/// Prints the profile, and says what is not in it.
fn import(file: &Path) -> anyhow::Result<Ended> {
    let imported = tuning::import(file)?;
    text::tell_words!("{}", imported.ron);
    imported.not_taken.iter().for_each(|line| text::say!("not taken     {line}"));
    let (taken, left) = (imported.settings, imported.not_taken.len());
    text::say!("{taken} settings taken, {left} lines not; keep the text as a .ron file");
    Ok(if taken == 0 { Ended::Badly } else { Ended::Well })
}

fn status(directory: &Directory) -> Result<Ended, anyhow::Error> {
    let applied = match tuning::status(directory) {
        Err(JournalError::File { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            anyhow::bail!("the journals can be read by root alone");
        }
        applied => applied?,
    };
    if applied.is_empty() {
        text::tell!("nothing is applied");
    }
    for it in applied {
        let by = match it.owner {
            Owner::Hand => "by hand",
            Owner::Run => "by a run",
        };
        let half = if it.complete { "" } else { ", and not to its end: lab tune revert" };
        text::tell!("{}: applied {by} at {} (Unix seconds){half}", it.profile, it.since);
        if it.rebooted {
            text::tell!("    the machine was started anew since: nothing is left to restore");
            continue;
        }
        for AppliedSetting { name, before, set: ours, now } in it.settings {
            let now = match now {
                None => "cannot be read from here".to_owned(),
                Some(now) if now == ours => format!("{now} (before: {before})"),
                Some(now) if now == before => format!("{now}, as before"),
                Some(now) => format!("{now}, set by somebody else (set: {ours}, before: {before})"),
            };
            text::tell!("    {name} = {now}");
        }
    }
    Ok(Ended::Well)
}

fn script(profile: &Profile, limits: Option<LimitsFor>) -> anyhow::Result<Ended> {
    let name = &profile.name;
    match limits {
        None => text::tell_words!("{}", tuning::script(profile)),
        Some(LimitsFor::LimitsD) => {
            text::tell_words!("{}", tuning::limits_d(name, &tuning::limits(profile)?));
        }
        Some(LimitsFor::Systemd) => {
            text::tell_words!("{}", tuning::systemd(name, &tuning::limits(profile)?));
        }
    }
    Ok(Ended::Well)
}
