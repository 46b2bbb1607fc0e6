//! The cases of the proof: which faults, of which seeded sizes, and what must be blamed for them.

use attribution::Cause;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::expected::Places;

/// Where the programs run while validating: on a CPU of their own each, or a hog would hit both.
pub(super) const PLACES: Places = Places { server_cpu: 0, client_cpu: 1 };

/// How long the load of a run is, and of the one that measures the machine.
const SECONDS: u64 = 7;
const MEASURING_SECONDS: u64 = 15;

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

impl Case {
    /// Whether packets are lost, and nothing else is done to them: what is held back is sent once
    /// more by the injector.
    pub(super) fn only_loses(&self) -> bool {
        self.causes.contains(&Cause::NetworkLoss) && !self.causes.contains(&Cause::NetworkDelay)
    }

    /// Whether its traffic crosses an interface: loss and delay need that.
    fn crosses(&self) -> bool {
        let network = [Cause::NetworkLoss, Cause::NetworkDelay];
        self.causes.iter().any(|cause| network.contains(cause))
    }
}

/// A fault as an experiment file has it, in units of `unit_us`, which the machine's own noise does
/// not reach. Beside another fault both are of a size: a packet that is lost waits for 200 ms, so
/// few are, and a hog is interrupted where spinning is not.
fn fault(cause: Cause, alone: bool, unit_us: u64, random: &mut Pcg64Mcg) -> String {
    let direction = if random.random() { "ToServer" } else { "ToClient" };
    let (spins, held) = if alone { (0.01, 0.05) } else { (0.005, 0.02) };
    let mut units = |from: u64, to: u64| random.random_range(from * unit_us..to * unit_us);
    let mut hog = |cpu: usize| {
        let (busy_us, period_us) = (units(4, 6), units(12, 16));
        let busy = busy_us as f64 / period_us as f64;
        format!("Hog(cpus: [{cpu}], busy: {busy:.3}, period_us: {period_us}, nice: -20)")
    };
    match cause {
        Cause::ServerRunqueue => hog(PLACES.server_cpu),
        Cause::ClientRunqueue => hog(PLACES.client_cpu),
        Cause::ServerBusy => format!("SlowHandler(us: {}, share: {spins})", units(2, 4)),
        Cause::ClientBusy => format!("SlowClient(us: {}, share: {spins})", units(2, 4)),
        Cause::NetworkLoss => {
            let per_10_000 = if alone { units(20, 150) } else { units(8, 15) } / unit_us;
            let share = per_10_000 as f64 / 10_000.0;
            format!("Loss(share: {share}, direction: {direction})")
        }
        Cause::NetworkDelay => {
            let us = units(2, 4);
            format!("Delay(us: {us}, share: {held}, direction: {direction})")
        }
        _ => unreachable!("it is not injected from inside"),
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
const MIXED: [[Cause; 2]; 5] = [
    [Cause::ServerRunqueue, Cause::ServerBusy],
    [Cause::ClientRunqueue, Cause::ServerBusy],
    [Cause::ServerRunqueue, Cause::ClientBusy],
    [Cause::NetworkDelay, Cause::ServerRunqueue],
    [Cause::NetworkLoss, Cause::ServerBusy],
];

/// A run with these faults, in which slow means slower than `slow_us`.
fn case(causes: &[Cause], slow_us: u64, seconds: u64, random: &mut Pcg64Mcg) -> Case {
    let alone = causes.len() == 1;
    let faults: Vec<String> =
        causes.iter().map(|cause| fault(*cause, alone, slow_us, random)).collect();
    let names: Vec<&str> = causes.iter().map(|cause| cause.name()).collect();
    let name = if names.is_empty() { "quiet".to_owned() } else { names.join("+") };
    let Places { server_cpu, client_cpu } = PLACES;
    let mut case = Case { name, causes: causes.to_vec(), text: String::new() };
    case.text = format!(
        r#"(
    name: "validate",
    users: 1000,
    seed: {seed},
    hosts: {hosts},
    server: (shards: 1, cpus: [{server_cpu}]),
    client: (shards: 1, cpus: [{client_cpu}], slow_kept: 20000),
    probes: Required,
    attribution: (slow_us: {slow_us}),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "faults are injected"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 30),
        (
            name: "load",
            after: Terminated("connect"),
            seconds: {seconds},
            shake: Open(rate: Fixed(1000)),
            faults: [{faults}],
        ),
    ],
)"#,
        hosts = if case.crosses() { "Namespaces(1)" } else { "Local" },
        seed = random.random_range(0..u32::MAX),
        faults = faults.join(", "),
    );
    case
}

/// A run without faults that shows what the machine does to a request by itself.
pub(super) fn measuring() -> Case {
    case(&[], 1_000, MEASURING_SECONDS, &mut Pcg64Mcg::seed_from_u64(0))
}

/// All cases of a seed; `rounds` of each kind. What the machine does by itself is below `slow_us`.
pub(super) fn cases(seed: u64, rounds: usize, slow_us: u64) -> Vec<Case> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut cases = Vec::new();
    for _ in 0..rounds {
        cases.push(case(&[], slow_us, SECONDS, &mut random));
        for cause in INJECTED {
            cases.push(case(&[cause], slow_us, SECONDS, &mut random));
        }
        for causes in MIXED {
            cases.push(case(&causes, slow_us, SECONDS, &mut random));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use spec::Source;

    #[test]
    fn every_case_is_an_experiment_and_a_seed_gives_the_same_again() {
        let all = cases(7, 2, 4_000);
        assert_eq!(all.len(), 24);
        assert_eq!(all, cases(7, 2, 4_000));
        assert_ne!(all, cases(8, 2, 4_000));
        for case in all {
            let source = Source::parse(Path::new("case.ron"), case.text.clone(), &[]);
            let source = source.unwrap_or_else(|error| panic!("{error}: {}", case.text));
            assert_eq!(source.experiment.phases[1].faults.len(), case.causes.len());
        }
    }
}
