//! How `lab` ends: its exit status, as docs/commands.md has it.

use analysis::summary::Summary;
use record::Outcome;
use spec::UsageError;

use crate::tune;

/// How `lab` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
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

impl From<&Summary> for Exit {
    fn from(summary: &Summary) -> Self {
        let valid = summary.phases.iter().all(|phase| phase.valid);
        let balanced = summary.ledger.balanced == Some(true);
        if valid && balanced { Exit::Fine } else { Exit::Invalid }
    }
}

impl Exit {
    /// Of a run that is read again.
    pub(crate) fn of_report(summary: &Summary) -> Self {
        match summary.outcome {
            Outcome::Completed => Self::from(summary),
            _ => Self::Aborted,
        }
    }
}
