//! The projection itself: what a server would do, and what it takes to serve all shakes.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::measured::{IntervalEstimate, MeasuredPhase, measure};
use crate::compare::sets::{self, RecordedRun};
use crate::input::InputError;
use record::{EVENTS_FILE, SAMPLES_FILE};

/// What the articles answered: 10 billion shakes with 600 servers in 7 minutes.
const ARTICLES: (f64, f64, f64) = (1e10, 600.0, 7.0);

/// Memory of a machine that connections may take; the rest is the system's.
const MEMORY_SHARE: f64 = 0.9;

/// Ports of an address from which a client can connect to one server: 1024 to 65535.
const PORTS: f64 = 64_512.0;

/// The files from which a projection comes.
const PROJECTED: [&str; 2] = [SAMPLES_FILE, EVENTS_FILE];

/// What is asked about lies between these: whatever is divided by it stays a number.
const ASKED: std::ops::RangeInclusive<f64> = 1e-6..=1e18;

/// What `lab plan` is told.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// A run, or a directory of runs as lab run --repeat makes it
    pub run: PathBuf,
    /// The phase to project from [default: the one with the most shakes a second]
    #[arg(long, value_name = "NAME")]
    pub phase: Option<String>,
    /// Shakes in all
    #[arg(long, value_name = "N", default_value_t = ARTICLES.0, value_parser = positive)]
    pub shakes: f64,
    /// How long it may take: how many servers does that need?
    #[arg(long, value_name = "MINUTES", default_value_t = ARTICLES.2, value_parser = positive)]
    pub minutes: f64,
    /// How many servers there are: how long does it take them?
    #[arg(long, value_name = "N", default_value_t = ARTICLES.1, value_parser = positive)]
    pub servers: f64,
    /// Connections of a server [default: as measured]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub connections: Option<f64>,
    /// CPUs of a server, and of a client machine [default: as measured]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub cores: Option<f64>,
    /// Memory of a server, and of a client machine, in GiB [default: as measured]
    #[arg(long, value_name = "GIB", value_parser = positive)]
    pub memory_gib: Option<f64>,
    /// The network of each machine, in Gbit/s, both ways at once
    #[arg(long, value_name = "GBIT", default_value_t = 1.0, value_parser = positive)]
    pub gbit: f64,
    /// Addresses of a client machine
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = positive)]
    pub addresses: f64,
    /// The share of its CPU time that a machine may be busy
    #[arg(long, value_name = "SHARE", default_value_t = 0.7, value_parser = share)]
    pub busy: f64,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.replace(['_', ','], "").parse::<f64>() {
        Ok(value) if ASKED.contains(&value) => Ok(value),
        Ok(value) if value > 0.0 => {
            Err(format!("between {:e} and {:e}", ASKED.start(), ASKED.end()))
        }
        _ => Err("a number above 0".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    positive(text)?;
    text.parse().ok().filter(|share| *share <= 1.0).ok_or_else(|| "between 0 and 1".to_owned())
}

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// CPU time, of which a share is kept free.
    Cpu,
    /// Memory.
    Memory,
    /// The network card, in its busier direction.
    Network,
    /// Source ports towards one server.
    Ports,
}

/// How much of a resource a machine needs, 1 being all that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ResourceShare {
    /// Of what.
    pub resource: Resource,
    /// How much.
    pub share: f64,
}

/// How many servers it takes, or how long.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProjectedServers {
    /// Shakes a second that a server answers.
    pub rate: IntervalEstimate,
    /// Servers needed to be done in time.
    pub servers: IntervalEstimate,
    /// Minutes that the given servers need.
    pub minutes: IntervalEstimate,
    /// How many times more than was measured a server is taken to answer.
    pub extrapolated: f64,
    /// What a server needs at that rate, the scarcest first.
    pub server: Vec<ResourceShare>,
    /// Client machines for each server; null when no client was measured.
    pub clients_per_server: Option<f64>,
    /// What of a client machine each of them uses, the scarcest first.
    pub client: Vec<ResourceShare>,
}

/// A machine that is planned with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlannedMachine {
    /// CPUs.
    pub cores: f64,
    /// Memory in bytes; null when the run does not say how much its machine had.
    pub memory_bytes: Option<f64>,
    /// Bytes a second each way.
    pub network_bytes: f64,
    /// Addresses.
    pub addresses: f64,
    /// The share of its CPU time that it may be busy.
    pub busy: f64,
    /// Connections of a server.
    pub connections: f64,
}

/// A projection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Projection {
    /// Version of this layout.
    pub format: u32,
    /// What it is projected from.
    pub measured: MeasuredPhase,
    /// With what.
    pub machine: PlannedMachine,
    /// Shakes in all.
    pub shakes: f64,
    /// The time asked about, in minutes.
    pub minutes: f64,
    /// The servers asked about.
    pub servers: f64,
    /// Servers that do what the measured one did.
    pub as_measured: ProjectedServers,
    /// Servers whose CPUs are their own.
    pub by_cpu: ProjectedServers,
    /// Seconds until all connections of a server are there, at the rate measured; null when nobody
    /// logged in.
    pub connect_s: Option<f64>,
    /// What could not be read of the files of the runs, and was left out: nothing of it is in the
    /// projection.
    pub damage: Vec<String>,
}

/// Projects measured runs.
///
/// # Errors
/// [`InputError`].
pub fn project(args: &PlanArgs) -> Result<Projection, InputError> {
    let runs = sets::read(&args.run, &args.run)?;
    if let Some(run) = runs.iter().find(|run| run.lacks_some_of(&PROJECTED)) {
        return Err(InputError::Damaged {
            directory: run.directory.clone(),
            damage: run.raw.damage.sentences().collect::<Vec<_>>().join("; "),
        });
    }
    let measured = measure(&runs, args.phase.as_deref())?;
    let damage = runs.iter().flat_map(RecordedRun::damage).collect();
    Ok(Projection { damage, ..project_measured(measured, args) })
}

/// Projects what was measured.
fn project_measured(measured: MeasuredPhase, args: &PlanArgs) -> Projection {
    const GIB: f64 = (1_u64 << 30) as f64;
    // 0 is what a machine says that cannot tell.
    let known = (measured.memory_bytes > 0).then_some(measured.memory_bytes as f64);
    let machine = PlannedMachine {
        cores: args.cores.unwrap_or(measured.cpus as f64),
        memory_bytes: args.memory_gib.map(|gib| gib * GIB).or(known),
        network_bytes: args.gbit * 1e9 / 8.0,
        addresses: args.addresses,
        busy: args.busy,
        connections: args.connections.unwrap_or(measured.connections as f64),
    };
    // CPU time a second over CPU time a request.
    let cpu_us = machine.cores * machine.busy * 1e6;
    let by_cpu = inverse(measured.server_us, cpu_us);
    let servers_at = |rate| servers_at(rate, &measured, &machine, args);
    let rate = measured.connect_rate.filter(|rate| *rate > 0.0);
    let connect_s = rate.and_then(|rate| finite(machine.connections / rate));
    Projection {
        format: 1,
        machine,
        shakes: args.shakes,
        minutes: args.minutes,
        servers: args.servers,
        as_measured: servers_at(measured.rate),
        by_cpu: servers_at(by_cpu),
        connect_s,
        damage: Vec::new(),
        measured,
    }
}

/// A number that can be shown.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// `of` over a figure, which is above 0: what is more becomes less.
fn inverse(figure: IntervalEstimate, of: f64) -> IntervalEstimate {
    let interval = figure.interval.map(|(low, high)| (of / high, of / low));
    IntervalEstimate::new(of / figure.value, interval)
}

fn servers_at(
    rate: IntervalEstimate,
    measured: &MeasuredPhase,
    machine: &PlannedMachine,
    args: &PlanArgs,
) -> ProjectedServers {
    // A server cannot answer more than its network carries.
    let wire = measured.wire.map(|wire| machine.network_bytes / wire.to_server.max(wire.to_client));
    let limited = |rate: f64| wire.map_or(rate, |most| rate.min(most));
    let interval = rate.interval.map(|(low, high)| (limited(low), limited(high)));
    let rate = IntervalEstimate::new(limited(rate.value), interval);
    let cpu = |us: f64| rate.value * us / (machine.cores * machine.busy * 1e6);
    let memory = |of_connection: Option<IntervalEstimate>| {
        let (bytes, all) = of_connection.map(|it| it.value).zip(machine.memory_bytes)?;
        Some(machine.connections * bytes / (all * MEMORY_SHARE))
    };
    let network = wire.map(|most| rate.value / most);
    let mut server =
        vec![ResourceShare { resource: Resource::Cpu, share: cpu(measured.server_us.value) }];
    let add = |needs: &mut Vec<ResourceShare>, resource, share: Option<f64>| {
        needs.extend(share.map(|share| ResourceShare { resource, share }));
    };
    add(&mut server, Resource::Memory, memory(measured.server_bytes));
    add(&mut server, Resource::Network, network);
    // What all client machines of a server need together, in machines.
    let mut client = Vec::new();
    add(&mut client, Resource::Cpu, measured.client_us.map(|it| cpu(it.value)));
    add(&mut client, Resource::Memory, memory(measured.client_bytes));
    add(&mut client, Resource::Network, network);
    let ports = machine.connections / (machine.addresses * PORTS);
    add(&mut client, Resource::Ports, Some(ports));
    let scarcest_first =
        |needs: &mut Vec<ResourceShare>| needs.sort_by(|a, b| b.share.total_cmp(&a.share));
    scarcest_first(&mut server);
    scarcest_first(&mut client);
    let clients_per_server = measured.client_us.map(|_| client[0].share).filter(|it| *it > 0.0);
    if let Some(machines) = clients_per_server {
        client.iter_mut().for_each(|need| need.share /= machines);
    }
    ProjectedServers {
        servers: inverse(rate, args.shakes / (args.minutes * 60.0)),
        minutes: inverse(rate, args.shakes / args.servers / 60.0),
        extrapolated: rate.value / measured.rate.value,
        rate,
        server,
        clients_per_server,
        client,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::measured::WireUse;
    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: PlanArgs,
    }

    fn estimate(value: f64) -> IntervalEstimate {
        IntervalEstimate { value, interval: Some((value * 0.98, value * 1.02)) }
    }

    fn measured() -> MeasuredPhase {
        MeasuredPhase {
            experiment: "three-phases".to_owned(),
            phase: "60k".to_owned(),
            runs: 5,
            within_run: false,
            seconds: 60.0,
            cpus: 2,
            memory_bytes: 24 << 30,
            connections: 1_000_000,
            rate: estimate(60_000.0),
            held: true,
            saturated: false,
            server_us: estimate(7.0),
            client_us: Some(estimate(14.0)),
            server_bytes: Some(estimate(4_000.0)),
            client_bytes: Some(estimate(4_200.0)),
            wire: Some(WireUse { to_server: 220.0, to_client: 110.0, packets: 3.0 }),
            connect_rate: Some(40_000.0),
        }
    }

    fn projected(arguments: &[&str]) -> Projection {
        let line = CommandLine::parse_from([&["plan", "run"], arguments].concat());
        project_measured(measured(), &line.args)
    }

    fn near(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-9
    }

    #[test]
    fn ten_billion_shakes_by_hand() {
        let plan = projected(&[]);
        // 10¹⁰ in 420 s are 23,809,523.8 a second.
        assert!(near(plan.as_measured.servers.value, 1e10 / 420.0 / 60_000.0));
        assert!(near(plan.as_measured.minutes.value, 1e10 / 600.0 / 60_000.0 / 60.0));
        assert!(near(plan.as_measured.extrapolated, 1.0));
        // Two CPUs at 70%, 7 µs a request: 200,000 a second.
        let by_cpu = &plan.by_cpu;
        assert!(near(by_cpu.rate.value, 200_000.0), "{by_cpu:?}");
        assert!(near(by_cpu.servers.value, 1e10 / 420.0 / 200_000.0));
        let (low, high) = by_cpu.servers.interval.expect("an interval");
        assert!(near(low, by_cpu.servers.value * 0.98) && near(high, by_cpu.servers.value * 1.02));
        assert!(near(by_cpu.extrapolated, 200.0 / 60.0));
        assert_eq!(by_cpu.server[0].resource, Resource::Cpu);
        assert!(near(by_cpu.server[0].share, 1.0));
        // A million connections need 15.5 addresses' ports, and 2 machines' CPU.
        assert!(near(by_cpu.clients_per_server.expect("clients"), 1e6 / PORTS));
        assert_eq!(by_cpu.client[0].resource, Resource::Ports);
        assert!(near(plan.connect_s.expect("seconds"), 25.0));
    }

    #[test]
    fn what_runs_out_first_changes_with_the_machines() {
        let small = projected(&["--memory-gib", "4"]);
        assert_eq!(small.as_measured.server[0].resource, Resource::Memory);
        assert!(small.as_measured.server[0].share > 1.0, "it does not fit, and that is said");
        let wide = projected(&["--cores", "64"]);
        assert_eq!(wide.by_cpu.server[0].resource, Resource::Network);
        // 125 MB a second over 220 bytes.
        assert!(near(wide.by_cpu.rate.value, 125e6 / 220.0));
        let addresses = projected(&["--addresses", "17"]);
        assert_eq!(addresses.by_cpu.client[0].resource, Resource::Cpu);
        assert!(near(addresses.by_cpu.clients_per_server.expect("clients"), 2.0));
    }

    #[test]
    fn memory_that_is_not_known_is_none_that_runs_out() {
        let line = CommandLine::parse_from(["plan", "run"]);
        let unknown = MeasuredPhase { memory_bytes: 0, ..measured() };
        let plan = project_measured(unknown, &line.args);
        for projected in [&plan.as_measured, &plan.by_cpu] {
            let all = projected.server.iter().chain(&projected.client);
            assert!(all.clone().all(|it| it.resource != Resource::Memory && it.share.is_finite()));
            assert!(projected.clients_per_server.is_some_and(f64::is_finite));
        }
        let told = CommandLine::parse_from(["plan", "run", "--memory-gib", "4"]);
        let plan = project_measured(MeasuredPhase { memory_bytes: 0, ..measured() }, &told.args);
        assert_eq!(plan.as_measured.server[0].resource, Resource::Memory);
    }

    /// Whatever a run says, no figure of a projection is infinite or no number.
    #[test]
    fn what_a_run_has_none_of_is_none_that_is_divided_by() {
        let shown = |plan: &Projection| {
            let text = super::super::table(plan);
            assert!(!text.contains("inf") && !text.contains("NaN"), "{text}");
            text
        };
        let line = CommandLine::parse_from(["plan", "run"]);
        let of = |measured| project_measured(measured, &line.args);
        for rate in [Some(0.0), Some(f64::MIN_POSITIVE), None] {
            let plan = of(MeasuredPhase { connect_rate: rate, ..measured() });
            assert_eq!(plan.connect_s, None, "{rate:?}");
            assert!(shown(&plan).contains("how long connecting takes is not known"), "{rate:?}");
        }
        let alone = MeasuredPhase { connections: 0, client_us: Some(estimate(0.0)), ..measured() };
        let plan = of(MeasuredPhase { wire: None, client_bytes: None, ..alone });
        assert_eq!(plan.by_cpu.clients_per_server, None);
        let all = plan.as_measured.client.iter().chain(&plan.by_cpu.client);
        assert!(all.clone().all(|it| it.share.is_finite()), "{plan:?}");
        shown(&plan);
        let wide = IntervalEstimate::new(7.0, Some((0.0, f64::INFINITY)));
        assert_eq!(wide.interval, None, "it says nothing");
        let plan = of(MeasuredPhase { server_us: wide, rate: wide, ..measured() });
        shown(&plan);
    }

    #[test]
    fn arguments_are_numbers_that_make_sense() {
        for wrong in [
            ["--busy", "1.5"],
            ["--minutes", "0"],
            ["--shakes", "many"],
            ["--shakes", "inf"],
            ["--servers", "1e-300"],
            ["--gbit", "NaN"],
            ["--busy", "1e-30"],
        ] {
            assert!(CommandLine::try_parse_from([&["plan", "run"], &wrong[..]].concat()).is_err());
        }
    }
}
