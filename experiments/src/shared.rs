//! `lab export` and `lab import`, and archives in the place of directories: `lab compare` and
//! `lab report` unpack them for the time being. Must not know: how an archive is packed, and what
//! names a machine.

use std::path::{Path, PathBuf};

use analysis::compare::CompareArgs;
use analysis::summary;
use anyhow::{Context, bail};
use clap::Args;
use record::{DirectoryLock, SUMMARY_FILE};
use share::{AnonymousError, PackError, UnpackError};
use spec::UsageError;
use tempfile::TempDir;

use crate::exit::Exit;
use crate::made::Made;

/// What a run says of a machine that an anonymous export keeps, as figures mean nothing without it.
const KEPT: &str = "kept, as figures mean nothing without it: when the run was, kernel, CPU model, \
                    memory, settings, and the names of programs that held a CPU; the experiment's \
                    name and phases are as its author wrote them";

/// What to pack, and where.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The directory of the run
    run: PathBuf,
    /// The file to write; it must not be there
    #[arg(long, value_name = "FILE.zip")]
    out: PathBuf,
    /// Without what names the machine or its users: names of hosts and accounts, paths, addresses,
    /// ids of boots and of cards. Flame graphs are left out
    #[arg(long)]
    anonymous: bool,
}

/// What to unpack, and where.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A file that lab export has written
    file: PathBuf,
    /// The directory to write, which must not be there [default: results/NAME, by the file's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Packs a run that is over.
pub(crate) fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    report::assert_run(&args.run).map_err(UsageError::of)?;
    // What another process still writes is not whole.
    let _lock = DirectoryLock::share(&args.run).map_err(UsageError::of)?;
    let mut lacks = Vec::new();
    let packed = if args.anonymous {
        if args.out.exists() {
            return Err(UsageError::of(PackError::Exists(args.out.clone())));
        }
        let made = staging(&args.out)?;
        lacks = anonymous(&args.run, made.path())?;
        share::pack(made.path(), &args.out)
    } else {
        share::pack(&args.run, &args.out)
    };
    let packed = packed.map_err(|error| match error {
        PackError::NoRun(_) | PackError::Exists(_) => UsageError::of(error),
        other => other.into(),
    })?;
    for what in lacks.iter().chain(&packed.lacks) {
        text::say!("lab: {what}");
    }
    if args.anonymous {
        text::say!("lab: {KEPT}");
    }
    let count = packed.files.len();
    text::say!("lab: {count} files, {}", text::bytes(packed.bytes));
    text::tell!("{}", args.out.display());
    Ok(Exit::Fine)
}

/// A directory beside a file that is to be written, where there is room for it if anywhere.
fn staging(out: &Path) -> anyhow::Result<TempDir> {
    let parent = out.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(".lab-export-").tempdir_in(parent);
    made.with_context(|| format!("{}: cannot write it", out.display()))
}

/// Makes a run without what names the machine in a directory: the raw files anew, and from these
/// alone everything else.
fn anonymous(run: &Path, into: &Path) -> anyhow::Result<Vec<String>> {
    let machine = spec::machine::Machine::this().host;
    let people = ["SUDO_USER", "USER", "LOGNAME"].map(std::env::var);
    let people: Vec<String> = people.into_iter().flatten().collect();
    let left_out =
        share::anonymise(run, into, &[machine], &people).map_err(|error| match error {
            AnonymousError::Read { .. } => UsageError::of(error),
            AnonymousError::Write { .. } => error.into(),
        })?;
    let made = Made::of(into);
    if made.summary.is_none() || !made.whole {
        made.problems.sentences().for_each(|sentence| text::say!("lab: {sentence}"));
        bail!("{}: not exported: not all of it can be made anew without its names", run.display());
    }
    Ok(left_out)
}

/// Unpacks a run. Summary, tables and page are made here, from the raw files: what the archive has
/// of them may say something else, and a page is a program.
pub(crate) fn import(args: &ImportArgs) -> anyhow::Result<Exit> {
    let out = args.out.clone().unwrap_or_else(|| {
        let name = args.file.file_stem().unwrap_or(args.file.as_os_str());
        Path::new("results").join(name)
    });
    unpack(&args.file, &out)?;
    let had_summary = out.join(SUMMARY_FILE).exists();
    let made = Made::of(&out);
    made.tell_page(&out);
    let newer = made.summary.is_none() && had_summary;
    if newer {
        text::say!("lab: summary.json is that of the archive, and was not made here");
    }
    Ok(if made.whole { Exit::Fine } else { Exit::Error })
}

fn unpack(file: &Path, into: &Path) -> anyhow::Result<()> {
    let unpacked = share::unpack(file, into).map_err(|error| match error {
        UnpackError::Write { .. } => error.into(),
        other => UsageError::of(other),
    })?;
    unpacked.left_out.iter().for_each(|what| text::say!("lab: {what}"));
    Ok(())
}

/// An archive unpacked for the time being; `None` for what is a directory, or nothing.
fn unpacked(path: &Path) -> anyhow::Result<Option<(TempDir, PathBuf)>> {
    if !path.is_file() {
        return Ok(None);
    }
    let kept = tempfile::Builder::new().prefix("lab-import-").tempdir();
    let kept = kept.context("a directory for what is unpacked (TMPDIR says where)")?;
    let directory = kept.path().join("run");
    unpack(path, &directory)?;
    Ok(Some((kept, directory)))
}

/// Compares, archives among them.
pub(crate) fn with_unpacked<T>(
    args: &CompareArgs,
    what: impl FnOnce(&CompareArgs) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let kept = [unpacked(&args.first)?, unpacked(&args.second)?];
    let mut args = args.clone();
    args.unpacked = kept.each_ref().map(|it| it.as_ref().map(|(_, directory)| directory.clone()));
    what(&args)
}

/// What the run of an archive came to; `None` where the path is no archive.
pub(crate) fn report(path: &Path) -> anyhow::Result<Option<Exit>> {
    let Some((_kept, directory)) = unpacked(path)? else { return Ok(None) };
    let (summary, damage) = summary::of(&directory).map_err(UsageError::of)?;
    text::tell_words!("{}", summary::table(&summary));
    damage.sentences().for_each(|sentence| text::say!("lab: {sentence}"));
    text::say!("lab: lab import {} makes its directory, with the page", path.display());
    Ok(Some(if damage.is_empty() { Exit::of_report(&summary) } else { Exit::Error }))
}
