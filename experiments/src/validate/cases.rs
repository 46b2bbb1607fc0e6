//! The cases of the proof: which faults, of which seeded sizes, and what must be blamed for them.

use lab_client::causes::Cause;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::expected::Places;

/// Where the programs run while validating: on a CPU of their own each, or a hog would hit both.
pub(super) const PLACES: Places = Places { server_cpu: 0, client_cpu: 1 };

/// A run of the proof.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    /// Its name: the causes that it injects.
    pub(super) name: String,
    /// The causes injected; none for a quiet run.
    pub(super) causes: Vec<Cause>,
    /// The experiment file.
    pub(super) text: String,
}

/// A fault as an experiment file has it.
fn fault(cause: Cause, random: &mut Pcg64Mcg) -> String {
    let mut hog = |cpu: usize| {
        let busy = f64::from(random.random_range(25..45)) / 100.0;
        let period_us = random.random_range(20..40) * 1000;
        format!("Hog(cpus: [{cpu}], busy: {busy}, period_us: {period_us}, nice: -10)")
    };
    match cause {
        Cause::ServerRunqueue => hog(PLACES.server_cpu),
        Cause::ClientRunqueue => hog(PLACES.client_cpu),
        Cause::ServerBusy => {
            let us = random.random_range(6_000..12_000);
            format!("SlowHandler(us: {us}, share: 0.01)")
        }
        Cause::ClientBusy => {
            let us = random.random_range(6_000..12_000);
            format!("SlowClient(us: {us}, share: 0.01)")
        }
        Cause::NetworkLoss => {
            let share = f64::from(random.random_range(5..15)) / 1000.0;
            format!("Loss(share: {share}, direction: ToServer)")
        }
        Cause::NetworkDelay => {
            let us = random.random_range(6_000..12_000);
            format!("Delay(us: {us}, share: 0.05, direction: ToServer)")
        }
        Cause::Unexplained => unreachable!("nobody injects it"),
    }
}

/// What can be injected.
const INJECTED: [Cause; 6] = [
    Cause::ServerRunqueue,
    Cause::ClientRunqueue,
    Cause::ServerBusy,
    Cause::ClientBusy,
    Cause::NetworkLoss,
    Cause::NetworkDelay,
];

/// Pairs of faults of comparable size.
const MIXED: [[Cause; 2]; 3] = [
    [Cause::ServerRunqueue, Cause::ServerBusy],
    [Cause::ClientRunqueue, Cause::ServerBusy],
    [Cause::ServerRunqueue, Cause::ClientBusy],
];

fn case(causes: &[Cause], random: &mut Pcg64Mcg) -> Case {
    let faults: Vec<String> = causes.iter().map(|cause| fault(*cause, random)).collect();
    let names: Vec<&str> = causes.iter().map(|cause| cause.name()).collect();
    let name = if names.is_empty() { "quiet".to_owned() } else { names.join("+") };
    let Places { server_cpu, client_cpu } = PLACES;
    let network = [Cause::NetworkLoss, Cause::NetworkDelay];
    let crossing = causes.iter().any(|cause| network.contains(cause));
    let text = format!(
        r#"(
    name: "validate",
    users: 1000,
    seed: {seed},
    hosts: {hosts},
    server: (shards: 1, cpus: [{server_cpu}]),
    client: (shards: 1, cpus: [{client_cpu}], slow_kept: 20000),
    probes: Required,
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "faults are injected"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 30),
        (
            name: "load",
            after: Terminated("connect"),
            seconds: 6,
            shake: Open(rate: Fixed(1000)),
            faults: [{faults}],
        ),
    ],
)"#,
        // Loss and delay need traffic that crosses an interface.
        hosts = if crossing { "Namespaces(1)" } else { "Local" },
        seed = random.random_range(0..u32::MAX),
        faults = faults.join(", "),
    );
    Case { name, causes: causes.to_vec(), text }
}

/// All cases of a seed; `rounds` of each kind.
pub(super) fn cases(seed: u64, rounds: usize) -> Vec<Case> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut cases = Vec::new();
    for _ in 0..rounds {
        cases.push(case(&[], &mut random));
        for cause in INJECTED {
            cases.push(case(&[cause], &mut random));
        }
        for causes in MIXED {
            cases.push(case(&causes, &mut random));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::experiment::Source;

    #[test]
    fn every_case_is_an_experiment_and_a_seed_gives_the_same_again() {
        let all = cases(7, 2);
        assert_eq!(all.len(), 20);
        assert_eq!(all, cases(7, 2));
        assert_ne!(all, cases(8, 2));
        for case in all {
            let source = Source::parse(Path::new("case.ron"), case.text.clone(), &[]);
            let source = source.unwrap_or_else(|error| panic!("{error}: {}", case.text));
            assert_eq!(source.experiment.phases[1].faults.len(), case.causes.len());
        }
    }
}
