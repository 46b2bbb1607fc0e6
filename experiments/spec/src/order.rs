//! In which order phases run. One at a time: a request belongs to the phase in which it was due,
//! and two loads at once would make each other's measurement.

use std::collections::HashMap;

use crate::experiment::Experiment;
use crate::phase::{After, PhaseSpec};
use crate::values::Name;

/// Why phases have no order. Names the phase, so that its line can be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Two phases with one name.
    #[error("two phases are named \"{0}\"")]
    Twice(Name),
    /// A phase starts after one that does not exist.
    #[error("phase \"{phase}\" starts after \"{after}\", which is none of: {known}")]
    Unknown {
        /// The phase.
        phase: Name,
        /// What it names.
        after: Name,
        /// All phases.
        known: String,
    },
    /// Two phases start after the same one.
    #[error(
        "phases \"{first}\" and \"{phase}\" both start after \"{after}\": phases run one at a time"
    )]
    Both {
        /// One phase.
        first: Name,
        /// The other.
        phase: Name,
        /// What both name.
        after: Name,
    },
    /// Phases that wait for each other.
    #[error("phase \"{0}\" can never start: it waits for itself")]
    Circle(Name),
}

impl OrderError {
    /// The phase at fault.
    pub fn phase(&self) -> &Name {
        match self {
            OrderError::Twice(phase) | OrderError::Circle(phase) => phase,
            OrderError::Unknown { phase, .. } | OrderError::Both { phase, .. } => phase,
        }
    }
}

impl Experiment {
    /// The phases in the order in which they run, each with what it starts after written out.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn ordered_phases(&self) -> Result<Vec<PhaseSpec>, OrderError> {
        let mut by_name = HashMap::new();
        for phase in &self.phases {
            if by_name.insert(&phase.name, phase).is_some() {
                return Err(OrderError::Twice(phase.name.clone()));
            }
        }
        // What each starts after: the one before it in the file, unless it says otherwise.
        let mut next: HashMap<Option<&Name>, &PhaseSpec> = HashMap::new();
        let mut before = None;
        for phase in &self.phases {
            let after = phase.after.as_ref().map(After::name).or(before);
            if let Some(after) = after.filter(|after| !by_name.contains_key(after)) {
                let known: Vec<&str> = self.phases.iter().map(|it| it.name.as_str()).collect();
                return Err(OrderError::Unknown {
                    phase: phase.name.clone(),
                    after: after.clone(),
                    known: known.join(", "),
                });
            }
            if let Some(first) = next.insert(after, phase) {
                return Err(OrderError::Both {
                    first: first.name.clone(),
                    phase: phase.name.clone(),
                    after: after.unwrap_or(&phase.name).clone(),
                });
            }
            before = Some(&phase.name);
        }
        let mut ordered: Vec<PhaseSpec> = Vec::new();
        let mut last = None;
        while let Some(phase) = next.remove(&last) {
            let mut phase = phase.clone();
            if let (None, Some(last)) = (&phase.after, last) {
                phase.after = Some(After::Finished(last.clone()));
            }
            last = by_name.get(&phase.name).map(|found| &found.name);
            ordered.push(phase);
        }
        match next.into_values().next() {
            Some(left) => Err(OrderError::Circle(left.name.clone())),
            None => Ok(ordered),
        }
    }
}
