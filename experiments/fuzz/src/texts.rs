//! Texts that people write: experiment files with settings of the command line, and profiles.

use std::path::Path;

use platform::DescriptorLimits;
use spec::{Source, configure, places};
use tuning::{Facts, Profile};

/// Descriptors of a usual machine.
const LIMITS: DescriptorLimits = DescriptorLimits { soft: 1024, hard: 1 << 20 };

/// Processes whose configuration is looked at.
const PROCESSES: u32 = 3;

/// An experiment file; lines behind a NUL are `--set`.
pub(crate) fn experiment(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let text = parts.next().unwrap_or_default().to_owned();
    let settings: Vec<String> = parts.map(str::to_owned).collect();
    let source = match Source::parse(Path::new("fuzzed.ron"), text, &settings) {
        Ok(source) => source,
        Err(error) => return drop(error.to_string()),
    };
    let experiment = source.experiment;
    // As `lab check` shows it, and as a manifest keeps it.
    let shown = Source::parse(Path::new("shown.ron"), experiment.to_ron(), &[]);
    assert_eq!(shown.expect("it reads what it shows").experiment, experiment);
    let kept = serde_json::to_string(&experiment).expect("JSON");
    let kept: spec::Experiment = serde_json::from_str(&kept).expect("it reads what it keeps");
    assert_eq!(kept, experiment);
    // As programs are told it.
    drop(configure::server_config(&experiment).resolve(&[0, 1], LIMITS));
    drop(places::groups(&experiment));
    for process in 0..PROCESSES {
        if places::group_of(&experiment, process).is_some() {
            let config = configure::client_config(&experiment, process);
            drop(config.resolve(&[0, 1], LIMITS, (32_768, 60_999)));
        }
    }
    let phases = experiment.ordered_phases().expect("they were ordered before");
    for (index, phase) in phases.iter().enumerate() {
        let index = u16::try_from(index).expect("few phases");
        drop(configure::client_phase(&experiment, phase, index, 1_000).check());
        drop(configure::server_commands(&experiment, phase, index, 1_000, None));
        let _ = configure::shakes_offered(phase, experiment.users);
    }
}

/// A tuning profile, as a script and on a machine.
pub(crate) fn profile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Paths to include would be files of this machine.
    if text.contains("include") && text.contains('/') {
        return;
    }
    let file = crate::results::place().join("fuzzed.ron");
    std::fs::write(&file, text).expect("written");
    let profile = match Profile::load(file.to_str().expect("UTF-8")) {
        Ok(profile) => profile,
        Err(error) => return drop(error.to_string()),
    };
    drop(tuning::script(&profile));
    for memory in [0, 1 << 30, u64::MAX] {
        let cpus = vec![0, 1];
        let facts = Facts { memory, page: 4096, cpus, kernel: "6.18.1".to_owned() };
        for placed in &profile.settings {
            let value = placed.setting.value.text().on(&facts);
            drop(value.map_err(|reason| assert!(!reason.is_empty())));
        }
    }
}
