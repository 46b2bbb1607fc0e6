//! `lab clean`: what runs that were killed have left on this machine: shown, and removed when it is
//! asked for. Must not know: how settings are put back, how programs are started.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use host::orphans;
use tuning::{Directory, JournalError, Lock, Owner};

use crate::tune::Ended;

/// What to look for, and what to do about it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove what is found; without it, it is only shown
    #[arg(long)]
    remove: bool,
    /// Where the journals of changed settings are
    #[arg(long, value_name = "DIR", default_value = tuning::DEFAULT_DIRECTORY)]
    journals: PathBuf,
    /// Also the spools in the state directory of an agent that is not running, with results that
    /// no coordinator has; may be given again
    #[arg(long = "state", value_name = "DIR")]
    states: Vec<PathBuf>,
}

/// What came of it.
#[derive(Default)]
struct Tally {
    found: usize,
    left: usize,
}

impl Tally {
    /// Says what was found, and removes it when that is asked for.
    fn found(&mut self, what: &str, remove: Option<impl FnOnce() -> anyhow::Result<()>>) {
        self.found += 1;
        match remove.map(|remove| remove()) {
            None => {
                self.left += 1;
                text::tell!("found    {what}");
            }
            Some(Ok(())) => text::tell!("removed  {what}"),
            Some(Err(error)) => {
                self.left += 1;
                text::tell!("FAILED   {what}: {error:#}");
            }
        }
    }
}

/// Shows or removes leftovers.
///
/// # Errors
/// What keeps it from being looked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<Ended> {
    let mut tally = Tally::default();
    programs(args.remove, &mut tally)?;
    settings(args, &mut tally)?;
    for state in &args.states {
        spools(state, args.remove, &mut tally)?;
    }
    if tally.found == 0 {
        text::tell!("nothing is left over");
    } else if !args.remove {
        text::tell!("lab clean --remove removes it");
    }
    if !rustix::process::geteuid().is_root() {
        text::tell!("not root: programs of others, and settings, are not seen");
    }
    Ok(if tally.left == 0 { Ended::Well } else { Ended::Badly })
}

/// A namespace that the lab makes has no name: it goes, with its links, with the last program.
fn programs(remove: bool, tally: &mut Tally) -> anyhow::Result<()> {
    let own = std::fs::read_link("/proc/self/ns/net").ok();
    for orphan in orphans()? {
        let namespace = std::fs::read_link(format!("/proc/{}/ns/net", orphan.pid)).ok();
        let inside = match namespace.filter(|it| own.as_ref() != Some(it)) {
            Some(namespace) => format!(", in the network namespace {}", namespace.display()),
            None => String::new(),
        };
        let what = format!("process {}, whose run is over: {}{inside}", orphan.pid, orphan.command);
        tally.found(&what, remove.then_some(|| Ok(orphan.end()?)));
    }
    Ok(())
}

/// Settings that a run, or a command that was killed, has not put back.
fn settings(args: &Args, tally: &mut Tally) -> anyhow::Result<()> {
    let directory = Directory::new(&args.journals);
    let applied = match tuning::status(&directory) {
        // Only root may see them.
        Err(JournalError::File { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            return Ok(());
        }
        applied => applied?,
    };
    if applied.is_empty() {
        return Ok(());
    }
    let lock = match directory.lock() {
        // A run that has tuned the machine and goes on.
        Err(JournalError::Busy { .. }) => return Ok(()),
        lock => lock?,
    };
    let is_left = |it: &&tuning::AppliedProfile| it.owner == Owner::Run || !it.complete;
    let left: Vec<_> = applied.iter().filter(is_left).collect();
    if left.is_empty() {
        return Ok(());
    }
    // All of them go back together, or say why not.
    let done = args.remove.then(|| put_back(&directory, &lock).map_err(|error| error.to_string()));
    for it in left {
        let count = it.settings.len();
        let what = format!("profile {}: {count} settings that were not put back", it.profile);
        let done = done.clone();
        tally.found(&what, done.map(|done| move || done.map_err(anyhow::Error::msg)));
    }
    Ok(())
}

fn put_back(directory: &Directory, lock: &Lock) -> anyhow::Result<()> {
    let selection = tuning::Selection::Leftovers;
    let reverted = tuning::revert(directory, selection, false, lock)?;
    let left: Vec<String> = reverted
        .iter()
        .flat_map(|it| &it.settings)
        .filter(|it| !it.is_done())
        .map(ToString::to_string)
        .collect();
    anyhow::ensure!(left.is_empty(), "{}", left.join("; "));
    Ok(())
}

/// What an agent that is gone has kept. One that runs keeps it for coordinators, though it need not
/// have opened it yet.
fn spools(state: &Path, remove: bool, tally: &mut Tally) -> anyhow::Result<()> {
    let by = format!("lab clean, process {}", std::process::id());
    let taken = fleet::StateLock::take_again(state, &by);
    let _lock = match taken.with_context(|| state.display().to_string())? {
        Ok(lock) => lock,
        Err(by) => {
            text::tell!("in use   {}: {by} has it, and keeps what is there", state.display());
            return Ok(());
        }
    };
    let open = open_files();
    let entries = std::fs::read_dir(state).with_context(|| state.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|it| it != fleet::SPOOL_ENDING) {
            continue;
        }
        let file = std::fs::symlink_metadata(&path)?;
        // No agent made it.
        if !file.is_file() {
            continue;
        }
        // An agent that runs has it, where nothing can be locked.
        if open.contains(&(file.dev(), file.ino())) {
            continue;
        }
        // What is merged of it is a hole.
        let bytes = file.len().min(file.blocks() * 512);
        let what = format!("{}: {bytes} bytes that no coordinator has", path.display());
        tally.found(&what, remove.then_some(|| Ok(fleet::remove_spool(&path)?)));
    }
    Ok(())
}

/// The files that processes have open, by device and number.
fn open_files() -> HashSet<(u64, u64)> {
    let names = |path: PathBuf| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let descriptors = names("/proc".into()).into_iter().flat_map(|it| names(it.join("fd")));
    let files = descriptors.filter_map(|it| std::fs::metadata(it).ok());
    files.map(|file| (file.dev(), file.ino())).collect()
}
