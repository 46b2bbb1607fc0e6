//! Original values, and how they come back: also of settings that change each other, and never over
//! a value that another program has set meanwhile. Must not know: profiles, journals.

use std::io;

use serde::Serialize;

use crate::system::{Location, System};

/// The outcome of restoring one setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// It has its original value again.
    Restored,
    /// It had its original value already.
    AsItWas,
    /// Its interface or its namespace is gone, and its value with it.
    Gone,
    /// Another program has set it meanwhile: it was left alone.
    Changed {
        /// Its present value.
        now: String,
    },
    /// It could not be restored; the reason.
    Failed(String),
}

/// Something that is to have its original value again.
pub(crate) struct Original<'a> {
    pub(crate) at: &'a Location,
    /// Normal.
    pub(crate) before: &'a str,
    /// Where that is more.
    pub(crate) text: Option<&'a str>,
    /// Values that this lab, or the kernel on its behalf, has given it.
    pub(crate) ours: [Option<&'a str>; 2],
    /// Whether any other value may be written over, too.
    pub(crate) anything: bool,
}

/// What was found of an original before anything was written.
enum Found {
    /// It may be written.
    Writable {
        /// Whether it must be.
        differs: bool,
    },
    /// It stays.
    Stays(Outcome),
}

impl Original<'_> {
    fn is_there(&self, now: &str, system: &System) -> bool {
        let exact = || self.text.is_none_or(|text| system.exact(self.at).as_deref() == Some(text));
        now == self.before && exact()
    }

    fn find(&self, system: &System) -> Found {
        let gone = |error: &io::Error| {
            error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
        };
        let now = match system.read(self.at) {
            Err(error) if gone(&error) => return Found::Stays(Outcome::Gone),
            Err(error) => return Found::Stays(Outcome::Failed(error.to_string())),
            Ok(now) => now,
        };
        if self.is_there(&now, system) {
            return Found::Writable { differs: false };
        }
        let ours = self.ours.iter().flatten().any(|ours| *ours == now) || now == self.before;
        if ours || self.anything {
            Found::Writable { differs: true }
        } else {
            Found::Stays(Outcome::Changed { now })
        }
    }

    /// Writes it, unless it is there. `Ok` says whether it was.
    fn put(&self, system: &System) -> io::Result<bool> {
        if self.is_there(&system.read(self.at)?, system) {
            return Ok(true);
        }
        system.write(self.at, self.text.unwrap_or(self.before)).map(|()| false)
    }

    fn outcome(&self, differed: bool, error: Option<io::Error>, system: &System) -> Outcome {
        match (system.read(self.at), error) {
            (Ok(now), _) if self.is_there(&now, system) => {
                if differed {
                    Outcome::Restored
                } else {
                    Outcome::AsItWas
                }
            }
            (_, Some(error)) | (Err(error), None) => Outcome::Failed(error.to_string()),
            (Ok(now), None) => Outcome::Failed(format!("{now} is read back")),
        }
    }
}

/// Three settings that change each other need as many rounds; the last one proves it.
const ROUNDS: usize = 4;

/// Puts back a setting, which comes first, and those that the kernel changes along with it. Where
/// they reset each other, a value that cannot be written comes back when the other one is.
pub(crate) fn put_back(originals: &[Original<'_>], system: &System) -> Vec<Outcome> {
    let found: Vec<Found> = originals.iter().map(|it| it.find(system)).collect();
    let mut errors: Vec<Option<io::Error>> = originals.iter().map(|_| None).collect();
    if found.iter().any(|it| matches!(it, Found::Writable { differs: true })) {
        for _ in 0..ROUNDS {
            let mut there = true;
            for ((original, found), error) in originals.iter().zip(&found).zip(&mut errors) {
                if let Found::Writable { .. } = found {
                    let put = original.put(system);
                    there &= matches!(put, Ok(true));
                    *error = put.err();
                }
            }
            if there {
                break;
            }
        }
    }
    let all = originals.iter().zip(found).zip(errors);
    let outcome =
        |((original, found), error): ((&Original<'_>, Found), Option<io::Error>)| match found {
            Found::Stays(outcome) => outcome,
            Found::Writable { differs } => original.outcome(differs, error, system),
        };
    all.map(outcome).collect()
}
