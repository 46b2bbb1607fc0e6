//! How a run ends.

use std::path::PathBuf;
use std::sync::Arc;

use record::{DirectoryLock, Outcome};
use report::live::Live;
use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All phases were carried out.
    Completed,
    /// A condition of the experiment ended it: why.
    Aborted(String),
    /// A person pressed Ctrl-C.
    Interrupted,
}

impl Ending {
    /// In a word, for files.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Ending::Completed => Outcome::Completed,
            Ending::Aborted(_) => Outcome::Aborted,
            Ending::Interrupted => Outcome::Interrupted,
        }
    }

    /// Why, unless the name says it all.
    pub(crate) fn because(&self) -> Option<&str> {
        match self {
            Ending::Aborted(why) => Some(why),
            Ending::Completed | Ending::Interrupted => None,
        }
    }
}

/// What of a run's record is not on disk.
#[derive(Clone, Debug)]
pub struct Unwritten {
    /// What is where, and the way out, for a person.
    pub what: String,
    /// A person did not want to wait for room any longer.
    pub given_up: bool,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Where its files are.
    pub directory: PathBuf,
    /// How it ended.
    pub ending: Ending,
    /// What became of the profile of each phase, in words.
    pub profiles: Vec<String>,
    /// What of its record is not on disk, when there was no room for it to the end.
    pub unwritten: Option<Unwritten>,
    /// Its live page, which shows how it ended until this is dropped.
    pub live: Option<Live>,
    /// What is made of the files has one writer, too.
    pub(crate) _lock: Arc<DirectoryLock>,
}
