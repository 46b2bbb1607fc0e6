//! Probes that were not attached, as a manifest has them.

use attribution::NOT_NEEDED;
use serde_json::Value;

use crate::files::Manifest;

/// Why a probe was not attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAbsence {
    /// A better probe stands in for it: nothing is missed.
    NotNeeded,
    /// Something is missed: the reason in words.
    Missed(String),
}

impl Manifest {
    /// The probes that were not attached, by name, and why.
    pub fn absent_probes(&self) -> impl Iterator<Item = (&str, ProbeAbsence)> {
        let absent = self.probes["absent"].as_array().into_iter().flatten();
        absent.filter_map(|probe| Some((probe["name"].as_str()?, of(&probe["reason"])?)))
    }
}

fn of(reason: &Value) -> Option<ProbeAbsence> {
    let reason = reason.as_str()?;
    Some(match reason.starts_with(NOT_NEEDED) {
        true => ProbeAbsence::NotNeeded,
        false => ProbeAbsence::Missed(reason.to_owned()),
    })
}
