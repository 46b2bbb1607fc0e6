//! Who leads the runs that an agent knows, also after the agent was started again: a file beside
//! the spool of each run.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use crate::epoch::{Epoch, Leader};
use crate::names::RunName;
use crate::spool::LEADER_ENDING;

/// Runs that are over and still remembered, so that a message that comes late starts nothing.
const OVER: usize = 64;

/// Who leads which run.
#[derive(Debug)]
pub(super) struct Leads {
    directory: PathBuf,
    known: BTreeMap<RunName, Leader>,
    /// Runs that were forgotten, and who led them last.
    over: VecDeque<(RunName, Leader)>,
}

/// The most that a file says of who leads, in bytes.
const MOST_BYTES: u64 = 64 << 10;

fn path(directory: &Path, run: &RunName) -> PathBuf {
    directory.join(format!("{run}.{LEADER_ENDING}"))
}

impl Leads {
    /// What an earlier process left of these runs.
    pub(super) fn of_kept(directory: &Path, runs: &[RunName]) -> Self {
        let read = |run: &RunName| {
            let text = platform::read_within(&path(directory, run), MOST_BYTES).ok()?;
            Some((run.clone(), serde_json::from_slice(&text).ok()?))
        };
        let known = runs.iter().filter_map(read).collect();
        Self { directory: directory.to_owned(), known, over: VecDeque::new() }
    }

    /// Who leads a run, or led it last.
    pub(super) fn of(&self, run: &RunName) -> Option<&Leader> {
        self.known.get(run).or_else(|| self.of_over(run))
    }

    /// Who led a run that is over.
    pub(super) fn of_over(&self, run: &RunName) -> Option<&Leader> {
        self.over.iter().find(|(over, _)| over == run).map(|(_, leader)| leader)
    }

    /// A coordinator leads a run from now on.
    ///
    /// # Errors
    /// When that cannot be written; it is so all the same while this process lives.
    pub(super) fn lead(&mut self, run: &RunName, leader: Leader) -> io::Result<()> {
        let written = self.write(run, &leader);
        self.known.insert(run.clone(), leader);
        written
    }

    fn write(&self, run: &RunName, leader: &Leader) -> io::Result<()> {
        let path = path(&self.directory, run);
        let part = path.with_extension("leader-part");
        let mut file = std::fs::File::create(&part)?;
        std::io::Write::write_all(&mut file, &serde_json::to_vec(leader)?)?;
        // A name for what is not on disk would be an empty file after a power loss.
        file.sync_all()?;
        std::fs::rename(part, path)
    }

    /// A message of an epoch was heard.
    ///
    /// # Errors
    /// Who leads the run, when the message is of an earlier one.
    pub(super) fn heard(&mut self, run: &RunName, epoch: Epoch) -> Result<(), Leader> {
        if let Some(over) = self.of_over(run).filter(|over| epoch < over.epoch) {
            return Err(over.clone());
        }
        let Some(known) = self.known.get_mut(run) else { return Ok(()) };
        let before = known.epoch;
        known.heard(epoch)?;
        if known.epoch != before {
            let leader = known.clone();
            // It is so while this process lives, and a coordinator says it again every second.
            let _ = self.write(run, &leader);
        }
        Ok(())
    }

    /// Nothing is kept of a run any more.
    pub(super) fn forget(&mut self, run: &RunName) {
        // It may never have been written.
        let _ = std::fs::remove_file(path(&self.directory, run));
        if let Some(leader) = self.known.remove(run) {
            self.over.push_back((run.clone(), leader));
            if self.over.len() > OVER {
                self.over.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_was_started_again_knows_who_leads() {
        let directory = tempfile::tempdir().expect("a directory");
        let run: RunName = "run".to_owned().try_into().expect("a name");
        let first = Epoch::default().next(1);
        let (second, third) = (first.next(1), first.next(1).next(1));
        let mut leads = Leads::of_kept(directory.path(), &[]);
        assert_eq!(leads.heard(&run, first), Ok(()), "nothing is known of it");
        leads.lead(&run, Leader { epoch: second, who: "the second".to_owned() }).expect("written");
        assert_eq!(leads.heard(&run, first).map_err(|it| it.who), Err("the second".to_owned()));

        let mut leads = Leads::of_kept(directory.path(), std::slice::from_ref(&run));
        assert_eq!(leads.heard(&run, first).map_err(|it| it.who), Err("the second".to_owned()));
        assert_eq!(leads.heard(&run, second), Ok(()));
        assert_eq!(leads.heard(&run, third), Ok(()));
        let mut leads = Leads::of_kept(directory.path(), std::slice::from_ref(&run));
        assert!(leads.heard(&run, second).is_err());

        leads.forget(&run);
        assert!(leads.heard(&run, second).is_err(), "over, and led by another at its end");
        assert_eq!(leads.heard(&run, third), Ok(()));
        assert_eq!(leads.of(&run).map(|it| it.epoch), Some(third));
        assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 0);
        for number in 0..OVER {
            let other: RunName = format!("other{number}").try_into().expect("a name");
            leads.lead(&other, Leader::default()).expect("written");
            leads.forget(&other);
        }
        assert_eq!(leads.of(&run), None, "what is remembered has a bound");
    }
}
