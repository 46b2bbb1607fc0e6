//! The control plane of a fleet of many hosts against a real NATS server: what it costs, and how
//! far apart hosts start a phase.
//!
//! `cargo bench -p fleet --bench simulate` runs in full, with 600 servers and 10,200 client
//! machines; arguments behind `--` change that, and `-- --help` lists them. Among the tests 18
//! hosts run, and their counts are checked.
//!
//! Stub agents, many to a process, speak the agents' protocol: they register, are leased, start a
//! phase on a second and send a sample a second, through the spools and streams of real ones. The
//! coordinator's end is the one of `lab run`.

mod stubs;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_nats::Client;
use clap::Parser;
use futures_util::{StreamExt, stream};
use platform::{Clock, NANOS_PER_SECOND, monotonic_ns};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use fleet::link::{FromFleet, HostNews, Link, LinkedHost, Listener, Nats, open_stream, question};
use fleet::protocol::{Answer, Ask, Card, HostReport, Lease, PROTOCOL, What};
use fleet::{Access, hosts};
use host::usage::own_cpu_us;
use spec::UsageError;

/// Questions at a time.
const AT_A_TIME: usize = 64;

/// Stubs register within this time.
const REGISTERED: Duration = Duration::from_secs(300);

/// What comes after the last second comes within this time.
const SETTLE: Duration = Duration::from_secs(60);

/// What can be changed.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Server machines
    #[arg(long, default_value_t = 600)]
    servers: u32,
    /// Client machines
    #[arg(long, default_value_t = 10_200)]
    clients: u32,
    /// How long the phase is
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Processes among which the stubs are divided
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,
    /// How long before its start the phase is announced, in seconds [default: 1, and a second for
    /// every 1,000 hosts]
    #[arg(long, value_name = "SECONDS")]
    lead: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Be stubs with these numbers, of a NATS server at this port
    #[arg(long, hide = true, num_args = 4, value_names = ["PORT", "FIRST", "END", "SERVERS"])]
    stubs: Option<Vec<u32>>,
    /// Where stubs keep their spools
    #[arg(long, hide = true, default_value = ".")]
    state: std::path::PathBuf,
    /// Cargo says so when it runs benchmarks, and nothing when it runs tests
    #[arg(long, hide = true)]
    bench: bool,
}

/// The hosts that run among the tests.
const SMALL: [&str; 5] =
    ["simulate", "--servers=1", "--clients=17", "--seconds=4", "--processes=2"];

/// Hosts start a phase within this time of each other, in milliseconds.
const SPREAD_MS: f64 = 5.0;

/// A child that ends with this process.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_us: u64,
    memory_bytes: u64,
}

fn usage(pid: u32) -> Usage {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    // User and system time are the 14th and 15th field; the name before may have spaces.
    let ticks: Option<u64> = read("stat").and_then(|text| {
        let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    let rss = read("status").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    // A tick is a hundredth of a second on every Linux that this runs on.
    Usage { cpu_us: ticks.unwrap_or(0) * 10_000, memory_bytes: rss.unwrap_or(0) * 1024 }
}

/// A connection is a descriptor: as many as this process may have, and what it starts.
fn raise_descriptors() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

fn start_nats(directory: &Path) -> anyhow::Result<(Ends, u16)> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let log = std::fs::File::create(directory.join("nats.log"))?;
    let mut command = Command::new("nats-server");
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]);
    let child = command.arg(directory.join("store")).stderr(log).spawn();
    let child = child.map_err(|error| {
        UsageError::error(format!("nats-server cannot be started ({error}): install it"))
    })?;
    Ok((Ends(child), port))
}

fn start_stubs(args: &Args, port: u16, directory: &Path) -> anyhow::Result<Vec<Ends>> {
    let hosts = args.servers + args.clients;
    let first = |process: u32| u64::from(hosts) * u64::from(process) / u64::from(args.processes);
    (0..args.processes)
        .map(|process| {
            let numbers = [u64::from(port), first(process), first(process + 1)];
            let child = Command::new(std::env::current_exe()?)
                .arg("--state")
                .arg(directory)
                .arg("--stubs")
                .args(numbers.map(|number| number.to_string()))
                .arg(args.servers.to_string())
                .stdin(Stdio::null())
                .spawn()?;
            Ok(Ends(child))
        })
        .collect()
}

/// What a simulation has found.
#[derive(Debug, Default, serde::Serialize)]
struct Found {
    hosts: u32,
    registered: u32,
    registered_in_s: f64,
    clocks: u32,
    clocks_in_s: f64,
    largest_clock_offset_ms: f64,
    leased_in_s: f64,
    seconds: u64,
    samples_wanted: u64,
    samples: u64,
    twice: u64,
    lost_hosts: u32,
    started: u32,
    start_spread_ms: f64,
    start_latest_ms: f64,
    coordinator_cpu_share: f64,
    coordinator_memory_bytes: u64,
    nats_cpu_share: f64,
    nats_memory_bytes: u64,
    idle_nats_cpu_share: f64,
    idle_coordinator_cpu_share: f64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if !args.bench && args.stubs.is_none() {
        return Ok(needs::alone("eighteen_hosts_start_together_and_nothing_is_lost", move || {
            if needs::program("nats", "nats-server") {
                run(&args).expect("it runs");
            }
        }));
    }
    run(&args)?;
    Ok(ExitCode::SUCCESS)
}

fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match &args.stubs {
            Some(stubs) => stubs::run(stubs, &args.state).await,
            None if args.bench => show(args, &simulate(args).await?),
            None => small().await,
        }
    });
    runtime.shutdown_background();
    done
}

/// Eighteen hosts start together and nothing is lost.
async fn small() -> anyhow::Result<()> {
    let args = Args::parse_from(SMALL);
    // What else runs here can only make it worse.
    let mut spread_ms = f64::INFINITY;
    for _ in 0..3 {
        let found = simulate(&args).await?;
        show(&args, &found)?;
        anyhow::ensure!(found.started == 18, "{} hosts started", found.started);
        spread_ms = spread_ms.min(found.start_spread_ms);
        if spread_ms < SPREAD_MS {
            return Ok(());
        }
    }
    anyhow::bail!("hosts start within {spread_ms} ms of each other, not {SPREAD_MS}")
}

fn show(args: &Args, found: &Found) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(found)?);
    } else {
        print!("{}", table(found));
    }
    Ok(())
}

/// # Errors
/// [`UsageError`], what the system says, and counts that are not what they must be.
async fn simulate(args: &Args) -> anyhow::Result<Found> {
    let hosts = args.servers + args.clients;
    if hosts == 0 || hosts < args.processes {
        return Err(UsageError::error("--servers and --clients: fewer hosts than --processes"));
    }
    raise_descriptors()?;
    let directory = tempfile::tempdir()?;
    let (nats, port) = start_nats(directory.path())?;
    let access = Access { nats: Some(format!("nats://127.0.0.1:{port}")), ..Access::default() };
    let client = connect(&access).await?;
    let began = Instant::now();
    let _stubs = start_stubs(args, port, directory.path())?;
    let mut found = Found { hosts, seconds: args.seconds, ..Found::default() };
    let cards = registered(&client, hosts).await?;
    found.registered = u32::try_from(cards.len())?;
    found.registered_in_s = began.elapsed().as_secs_f64();
    hosts::check(&cards)?;
    eprintln!("{} of {hosts} registered after {:.1} s", cards.len(), found.registered_in_s);
    phase(args, &access, &client, &cards, nats.0.id(), &mut found).await?;
    anyhow::ensure!(found.registered == hosts, "not all hosts have registered");
    anyhow::ensure!(found.samples == found.samples_wanted, "samples are missing");
    anyhow::ensure!(found.twice == 0 && found.lost_hosts == 0, "samples came twice, or hosts left");
    Ok(found)
}

/// The server has just been started.
async fn connect(access: &Access) -> anyhow::Result<Client> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match access.connect("simulate").await {
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            connected => return connected,
        }
    }
}

async fn registered(client: &Client, hosts: u32) -> anyhow::Result<Vec<Card>> {
    let deadline = Instant::now() + REGISTERED;
    loop {
        let cards = hosts::gather(client).await?;
        if cards.len() >= hosts as usize || Instant::now() >= deadline {
            return Ok(cards);
        }
    }
}

async fn lease(client: &Client, run: &str, cards: &[Card]) -> anyhow::Result<()> {
    let lease = Ask::Lease(Box::new(Lease {
        run: run.to_owned(),
        version: host::VERSION.to_owned(),
        protocol: PROTOCOL,
        ahead_ns: 0,
        machine: false,
        network: false,
    }));
    let answers = stream::iter(cards.iter().map(|card| question(client, &card.name, &lease)));
    let mut answers = answers.buffer_unordered(AT_A_TIME);
    while let Some(answer) = answers.next().await {
        anyhow::ensure!(
            answer == Some(Answer::Done {}),
            "a stub does not take a lease: {answer:?}"
        );
    }
    Ok(())
}

/// How much of a core was used from one reading to another.
fn share(before: u64, after: u64, since: Instant) -> f64 {
    after.saturating_sub(before) as f64 / 1e6 / since.elapsed().as_secs_f64()
}

async fn phase(
    args: &Args,
    access: &Access,
    client: &Client,
    cards: &[Card],
    nats: u32,
    found: &mut Found,
) -> anyhow::Result<()> {
    let names: Vec<&str> = cards.iter().map(|card| card.name.as_str()).collect();
    let began = Instant::now();
    let clocks = hosts::clocks(client, &names).await;
    found.clocks = u32::try_from(clocks.len())?;
    found.clocks_in_s = began.elapsed().as_secs_f64();
    let most = clocks.values().map(|it| it.ahead_ns.unsigned_abs()).max().unwrap_or(0);
    found.largest_clock_offset_ms = most as f64 / 1e6;
    eprintln!("{} clocks read after {:.1} s", found.clocks, found.clocks_in_s);

    let run = "simulated";
    let context = access.jetstream(client).await?;
    open_stream(&context, run).await.map_err(|error| anyhow::anyhow!("the stream: {error}"))?;
    let began = Instant::now();
    lease(client, run, cards).await?;
    found.leased_in_s = began.elapsed().as_secs_f64();
    eprintln!("all leased after {:.1} s", found.leased_in_s);
    let (tell, mut heard) = unbounded_channel();
    let tell: Listener = Arc::new(move |news| drop(tell.send(news)));
    let host = |card: &Card| {
        let host = LinkedHost { session: card.session.clone(), ..LinkedHost::default() };
        (card.name.clone(), host)
    };
    let hosts_of_link = cards.iter().map(host).collect();
    let nats_of_link = Nats { client: client.clone(), context };
    let link = Link::start(nats_of_link, run, hosts_of_link, 0, &tell);

    // Nothing but beats and pulses.
    let (idle, before, own) = (Instant::now(), usage(nats), own_cpu_us());
    tokio::time::sleep(Duration::from_secs(5)).await;
    found.idle_nats_cpu_share = share(before.cpu_us, usage(nats).cpu_us, idle);
    found.idle_coordinator_cpu_share = share(own, own_cpu_us(), idle);

    let clock = Clock::read();
    let lead = args.lead.unwrap_or(1 + u64::from(found.hosts) / 1000);
    let start = clock.unix_second(monotonic_ns()) + 1 + lead;
    let end = start + args.seconds;
    let (began, before, own) = (Instant::now(), usage(nats), own_cpu_us());
    for orders in link.all_orders().values() {
        orders.give(What::Phase { start, end: Some(end) });
    }
    found.samples_wanted = u64::from(found.hosts) * args.seconds;
    let starts = collect(&mut heard, &link, (clock, start, end), found).await?;
    found.coordinator_cpu_share = share(own, own_cpu_us(), began);
    found.nats_cpu_share = share(before.cpu_us, usage(nats).cpu_us, began);
    found.nats_memory_bytes = usage(nats).memory_bytes;
    found.coordinator_memory_bytes = usage(std::process::id()).memory_bytes;
    found.started = u32::try_from(starts.len())?;
    let (first, last) = (starts.iter().min(), starts.iter().max());
    if let (Some(first), Some(last)) = (first, last) {
        found.start_spread_ms = (last - first) as f64 / 1e6;
        found.start_latest_ms = last.saturating_sub(clock.start_of(start)) as f64 / 1e6;
    }
    Ok(())
}

/// Takes what stubs say until all samples are there or it takes too long. Returns when they
/// started, on the machine's monotonic clock.
async fn collect(
    heard: &mut UnboundedReceiver<FromFleet>,
    link: &Link,
    (clock, start, end): (Clock, u64, u64),
    found: &mut Found,
) -> anyhow::Result<Vec<u64>> {
    let ends = Duration::from_nanos(clock.start_of(end).saturating_sub(monotonic_ns()));
    let deadline = Instant::now() + ends + SETTLE;
    let mut seen: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    let mut merged: BTreeMap<String, u64> = BTreeMap::new();
    let mut starts = Vec::new();
    let mut safe_at = Instant::now();
    while found.samples < found.samples_wanted {
        let Ok(heard) = tokio::time::timeout_at(deadline, heard.recv()).await else { break };
        match heard.context("the link is gone")? {
            FromFleet::Host(HostNews::Reported(host, HostReport::Sample { values, .. })) => {
                starts.extend(values["started_ns"].as_u64());
                let t = values["t"].as_u64().unwrap_or(0);
                let seconds =
                    seen.entry(host).or_insert_with(|| vec![false; (end - start) as usize]);
                let place = t.checked_sub(start).and_then(|it| seconds.get_mut(it as usize));
                let place = place.context("a sample of a second that is not of the phase")?;
                found.twice += u64::from(std::mem::replace(place, true));
                found.samples += 1;
            }
            FromFleet::Host(HostNews::Merged { host, number, .. }) => {
                merged.insert(host, number);
            }
            FromFleet::Host(HostNews::Lost(_) | HostNews::Gone(..)) => found.lost_hosts += 1,
            _ => {}
        }
        if safe_at.elapsed() > Duration::from_nanos(NANOS_PER_SECOND) {
            safe_at = Instant::now();
            link.is_safe(merged.clone());
        }
    }
    Ok(starts)
}

fn table(it: &Found) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "registered         {} of {} hosts after {:.1} s\n\
         clocks             {} measured in {:.1} s; the furthest off by {:.3} ms (one machine)\n\
         leased             in {:.1} s\n\
         phase              {} s; {} hosts started, all within {:.3} ms, the last {:.3} ms late\n\
         samples            {} of {}; {} twice; {} hosts lost\n\
         nats-server        {:.1}% of a core, {:.0} MiB; with beats alone {:.1}%\n\
         coordinator        {:.1}% of a core, {:.0} MiB; with beats alone {:.1}%\n",
        it.registered,
        it.hosts,
        it.registered_in_s,
        it.clocks,
        it.clocks_in_s,
        it.largest_clock_offset_ms,
        it.leased_in_s,
        it.seconds,
        it.started,
        it.start_spread_ms,
        it.start_latest_ms,
        it.samples,
        it.samples_wanted,
        it.twice,
        it.lost_hosts,
        it.nats_cpu_share * 100.0,
        mib(it.nats_memory_bytes),
        it.idle_nats_cpu_share * 100.0,
        it.coordinator_cpu_share * 100.0,
        mib(it.coordinator_memory_bytes),
        it.idle_coordinator_cpu_share * 100.0,
    )
}
