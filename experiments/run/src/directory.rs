//! Where a run is written when no directory is given, and what is known of it before it begins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use sha2::{Digest, Sha256};

use record::{FORMAT, Manifest};
use spec::Source;
use spec::machine::Machine;

pub(super) fn unix_now() -> Duration {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `results/<experiment>-<UTC start>`, a directory that does not exist.
pub fn default_directory(name: &str) -> PathBuf {
    directory_of(name, unix_now().as_secs())
}

pub(super) fn directory_of(name: &str, started: u64) -> PathBuf {
    PathBuf::from(format!("results/{name}-{}", text::utc_in_a_name(started)))
}

/// What is known of a run before it begins.
pub(super) fn manifest(
    source: &Source,
    settings: &[String],
    machine: Machine,
    started: u64,
    own_namespace: bool,
    sysctls: BTreeMap<String, String>,
) -> Manifest {
    Manifest {
        format: FORMAT,
        closed: false,
        outcome: None,
        outcome_because: None,
        started,
        experiment: source.experiment.clone(),
        file: source.file.display().to_string(),
        text: source.text.clone(),
        sha256: Sha256::digest(&source.text).iter().map(|byte| format!("{byte:02x}")).collect(),
        settings: settings.to_vec(),
        version: host::VERSION.to_owned(),
        hosts: vec![machine],
        own_namespace,
        sysctls,
        tuning: json!(null),
        privileges: json!(null),
        server: json!(null),
        clients: Vec::new(),
        probes: json!({ "attached": [], "absent": [], "because": "the server was not ready" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_by_utc() {
        assert_eq!(
            directory_of("smoke", 1_795_311_895),
            PathBuf::from("results/smoke-20261122T014455Z")
        );
    }
}
