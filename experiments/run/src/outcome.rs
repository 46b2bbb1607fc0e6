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

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Where its files are.
    pub directory: PathBuf,
    /// How it ended.
    pub ending: Ending,
    /// What became of the profile of each phase, in words.
    pub profiles: Vec<String>,
    /// Its live page, which shows how it ended until this is dropped.
    pub live: Option<Live>,
    /// What is made of the files has one writer, too.
    pub(crate) _lock: Arc<DirectoryLock>,
}
