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
    let (year, month, day) = civil(started / 86_400);
    let (hour, minute, second) = (started / 3600 % 24, started / 60 % 60, started % 60);
    PathBuf::from(format!(
        "results/{name}-{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"
    ))
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
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
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_818), (2026, 12, 31));
    }
}
