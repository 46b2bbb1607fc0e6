//! The start of a run on a fleet: hosts are found, chosen, leased and told what to start.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Context;
use async_nats::Client;
use fleet::assign::{Assignment, assign};
use fleet::clock::Offset;
use fleet::hosts;
use fleet::link::{HostNews, Nats, Orders, drop_stream, open_stream, question};
use fleet::protocol::{Answer, Ask, Card, HostReport, Lease, Order, PROTOCOL, What};
use fleet::{Epoch, Leader, RunName};
use host::probing::ProbeSpec;
use host::program::Who;
use interrupts::{Interrupted, Interrupts};
use record::{DirectoryLock, Files};
use serde_json::json;
use service::Line as ServerLine;
use spec::UsageError;
use spec::configure::{client_config, server_config};
use spec::machine::Machine;
use spec::preflight::{Preflight, table};
use spec::{Count, Source};
use tokio::time::Instant;
use workload::Line as ClientLine;

use super::assemble::{Parts, assemble};
use super::fleet::Fleet;
use super::hosts::{as_specs, check, probes_of_server, who_tells};
use super::roster::{Roster, RosterHost};
use super::state::HostState;
use crate::books::assert_new;
use crate::coordinator::Coordinator;
use crate::directory::{directory_of, manifest, unix_now};
use crate::leadership::this_process;
use crate::messages::Message;
use crate::options::Options;
use crate::place::Place;
use crate::run_control::RunControl;

/// Programs of all hosts are ready within this time.
const READY: Duration = Duration::from_secs(60);

/// A host is asked so often to work for a run, until it answers.
const LEASE: usize = 3;

/// Leases all hosts of a run, or none.
async fn lease(
    client: &Client,
    (run, leader): (&RunName, &Leader),
    cards: &[Card],
    agents: &[&str],
    clocks: &BTreeMap<String, Offset>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<()> {
    let machines = who_tells(agents, cards, |card| &card.boot);
    let networks = who_tells(agents, cards, |card| (&card.boot, card.netns));
    let mut leased: Vec<&str> = Vec::new();
    for agent in agents {
        let lease = Ask::Lease(Box::new(Lease {
            run: run.clone(),
            leader: leader.clone(),
            version: host::VERSION.to_owned(),
            protocol: PROTOCOL,
            ahead_ns: clocks.get(*agent).map_or(0, |offset| offset.ahead_ns),
            machine: machines.contains(agent),
            network: networks.contains(agent),
        }));
        let why = tokio::select! {
            answer = ask_for_lease(client, agent, &lease) => match answer {
                Some(Answer::Done {}) => {
                    leased.push(agent);
                    continue;
                }
                Some(Answer::Refused { why }) => Some(why),
                _ => Some("it does not answer".to_owned()),
            },
            () = interrupts.next() => None,
        };
        if why.is_none() {
            // It may have taken the lease.
            leased.push(agent);
        }
        release(client, (run, leader), leased).await;
        return Err(match why {
            Some(why) => UsageError::error(format!("{agent} cannot be used: {why}")),
            None => Interrupted.into(),
        });
    }
    Ok(())
}

/// Asks an agent to work for a run. A lease that was taken, and whose answer was lost, is taken
/// again.
async fn ask_for_lease(client: &Client, agent: &str, lease: &Ask) -> Option<Answer> {
    for _ in 0..LEASE {
        let answer = question(client, agent, lease).await;
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// Agents that work for a run of which nothing has begun need not any more.
async fn release(client: &Client, (run, leader): (&RunName, &Leader), agents: Vec<&str>) {
    for agent in agents {
        // An order with the number 1 is the first: none was given.
        let (run, epoch) = (run.clone(), leader.epoch);
        let stop = Order { run: run.clone(), epoch, number: 1, what: What::Stop {} };
        let _ = question(client, agent, &Ask::Order(Box::new(stop))).await;
        let _ = question(client, agent, &Ask::Forget { run, epoch }).await;
    }
}

/// The hosts that a run will have, and their clocks.
struct Chosen {
    cards: Vec<Card>,
    assignment: Assignment,
    clocks: BTreeMap<String, Offset>,
}

/// Finds and chooses hosts. The experiment says then what they are.
async fn choose(
    client: &Client,
    source: &mut Source,
    fleet: &fleet::Options,
) -> anyhow::Result<Chosen> {
    let experiment = &mut source.experiment;
    let cards = hosts::gather(client).await?;
    let free: Vec<Card> = cards.iter().filter(|card| card.beat.run.is_none()).cloned().collect();
    hosts::check(&cards)?;
    let assignment = assign(experiment, &free).map_err(|error| with_busy(error, &cards))?;
    let agents = assignment.agents();
    let clocks = hosts::clocks(client, &agents).await;
    hosts::check_clocks(&agents, &clocks, fleet.allow_clock_offset)?;
    experiment.hosts = as_specs(&cards, &assignment)?;
    let processes = Count::try_from(assignment.processes());
    experiment.client.processes = processes.map_err(anyhow::Error::msg)?;
    let preflight = Preflight::of(experiment, &Machine::this());
    if preflight.is_refused() {
        let why = format!("the run does not fit its hosts\n{}", table(&preflight));
        return Err(UsageError::Refused(why).into());
    }
    Ok(Chosen { cards, assignment, clocks })
}

/// Finds, chooses and leases hosts, has the programs of an experiment started, and waits until they
/// are ready.
///
/// # Errors
/// [`UsageError`], or what a host cannot do.
pub(crate) async fn start(
    mut source: Source,
    options: Options,
    fleet: &fleet::Options,
) -> anyhow::Result<Coordinator<Fleet>> {
    check(&source.experiment, &options)?;
    let phases = source.experiment.ordered_phases()?;
    let mut control = RunControl::bind(options.live, &options.live_hosts)?;
    let client = fleet.access.connect("lab run").await?;
    let context = fleet.access.jetstream(&client).await?;
    let Chosen { cards, assignment, clocks } = choose(&client, &mut source, fleet).await?;
    // Up to here nothing was made or changed: an interrupt ended this process.
    let mut interrupts = Interrupts::listen()?;
    let agents = assignment.agents();
    let started = unix_now().as_secs();
    let name = source.experiment.name.as_str();
    let directory = options.out.unwrap_or_else(|| directory_of(name, started));
    let run = run_name(name, started)?;
    let leader = Leader { epoch: Epoch::default().next(chance()?), who: this_process() };
    let lock = DirectoryLock::take(&directory, &leader.who).map_err(UsageError::of)?;
    let machine = |name: &&str| {
        let card = cards.iter().find(|card| card.name == **name)?;
        Some(Machine { host: card.name.clone(), ..card.machine.clone() })
    };
    let (here, sysctls) = (Machine::this(), BTreeMap::new());
    let mut manifest = manifest(&source, &options.settings, here, started, false, sysctls);
    let rights = |name: &&str| {
        let card = cards.iter().find(|card| card.name == **name)?;
        Some((card.name.clone(), card.privileges.clone()))
    };
    manifest.privileges = json!({
        "by_host": agents.iter().filter_map(rights).collect::<BTreeMap<_, _>>(),
    });
    manifest.hosts = agents.iter().filter_map(machine).collect();
    manifest.probes = json!({
        "attached": [], "absent": [], "because": "no host has told", "by_host": {},
    });
    let files = Files::create(lock, "coordinator", started, &manifest)?;
    let roster = roster(&run, fleet.access.url()?, &cards, &clocks, &assignment);
    roster.write(&directory)?;
    open_stream(&context, &run).await.map_err(|error| {
        UsageError::error(format!("JetStream does not take a stream for the results: {error}"))
    })?;
    let notices = control.open(&directory)?;
    let who = (&run, &leader);
    if let Err(error) = lease(&client, who, &cards, &agents, &clocks, &mut interrupts).await {
        drop_stream(&context, &run).await;
        return Err(error);
    }
    let mut coordinator = assemble(Parts {
        source,
        phases,
        files,
        manifest,
        control,
        interrupts,
        nats: Nats { client, context },
        epoch: leader.epoch,
        roster,
        hosts: agents.iter().map(|agent| ((*agent).to_owned(), HostState::default())).collect(),
        orders: agents.iter().map(|agent| ((*agent).to_owned(), Orders::default())).collect(),
        place: 0,
    })?;
    notices.iter().for_each(|line| coordinator.run.records.say(line));
    if let Err(error) = coordinator.wait_until_ready().await {
        coordinator.place.leave().await;
        coordinator.place.drop_stream().await;
        return Err(error);
    }
    Ok(coordinator)
}

impl Coordinator<Fleet> {
    /// Has the server started, then the clients, and waits for them.
    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        let probes = probes_of_server(&self.run.schedule.experiment, &self.place.roster);
        self.start_server(probes.as_ref());
        self.run.programs.server_address = loop {
            match self.first(deadline).await.context("the server does not get ready")? {
                Message::Server(ServerLine::Ready(ready)) => {
                    let host = self.place.host_of(Who::Server);
                    self.run.records.ready(Who::Server, host, json!(ready));
                    assert_new(ready.ledger.as_ref())?;
                    break ready.listen.parse()?;
                }
                other => self.on_unready(other)?,
            }
        };
        self.start_clients(probes.as_ref())?;
        let mut waiting = self.run.programs.clients();
        self.run.records.manifest.clients = vec![json!(null); waiting as usize];
        while waiting > 0 {
            match self.first(deadline).await.context("a client does not get ready")? {
                Message::Client(process, ClientLine::Ready(ready)) => {
                    let who = Who::Client(process);
                    self.run.records.ready(who, self.place.host_of(who), json!(ready));
                    waiting -= 1;
                }
                other => self.on_unready(other)?,
            }
        }
        self.run.records.write_manifest();
        let fields = json!({ "hosts": self.place.roster.hosts });
        self.run.records.event("fleet", fields)
    }

    /// Has the server started.
    fn start_server(&self, probes: Option<&ProbeSpec>) {
        let (who, roster) = (Who::Server, &self.place.roster);
        let assignment = &roster.assignment;
        let mut config = server_config(&self.run.schedule.experiment);
        config.listen = SocketAddrV4::new(assignment.address, 0);
        config.clock_ahead_ns = roster.ahead_ns(&assignment.server);
        let (config, probes) = (json!(config), probes.map(|order| Box::new(order.clone())));
        let orders = self.place.link.orders(&assignment.server);
        orders.give(What::Start { who, config, probes });
    }

    /// Has all clients of a server that listens started.
    fn start_clients(&self, probes: Option<&ProbeSpec>) -> anyhow::Result<()> {
        let Fleet { link, roster, .. } = &self.place;
        let assignment = &roster.assignment;
        let address = self.run.programs.server_address;
        for process in 0..assignment.processes() {
            let host = assignment.host_of(process).context("a process without a host")?;
            let users = assignment.users_of(process).context("a process without users")?;
            let mut config = client_config(&self.run.schedule.experiment, process);
            config.server = address;
            (config.first_user, config.end_user) = (users.start, users.end);
            config.first_flow = host.first_flow;
            config.flows = host.flows;
            config.sources = host.sources.clone();
            config.clock_ahead_ns = roster.ahead_ns(&host.agent);
            config.join = roster.has_other_kernels();
            let probes = probes.map(|order| {
                let port = Some(address.port());
                let server_end = roster.sees_server(&host.agent);
                Box::new(ProbeSpec { port, server_end, ..order.clone() })
            });
            let (who, config) = (Who::Client(process), json!(config));
            link.orders(&host.agent).give(What::Start { who, config, probes });
        }
        Ok(())
    }

    /// The next message while programs get ready.
    async fn first(&mut self, deadline: Instant) -> anyhow::Result<Message<HostNews>> {
        tokio::select! {
            message = self.messages.recv() => message.context("no program is left"),
            () = self.interrupts.next() => Err(Interrupted.into()),
            () = tokio::time::sleep_until(deadline) => {
                anyhow::bail!("it took more than {} s", READY.as_secs())
            }
        }
    }

    /// Something else than that a program is ready.
    fn on_unready(&mut self, message: Message<HostNews>) -> anyhow::Result<()> {
        match message {
            Message::Ended(who) => anyhow::bail!("{who} ended before it was ready"),
            Message::Client(process, ClientLine::Error(error)) => {
                anyhow::bail!("client {process}: {error}")
            }
            Message::Place(
                HostNews::Refused(host, why) | HostNews::Reported(host, HostReport::Failed { why }),
            ) => anyhow::bail!("{host}: {why}"),
            Message::Place(HostNews::Lost(host)) => anyhow::bail!("{host} was lost"),
            Message::Place(HostNews::Gone(host, why)) => anyhow::bail!("{host} is gone: {why}"),
            other => self.on_message(other),
        }
    }
}

fn roster(
    run: &RunName,
    nats: &str,
    cards: &[Card],
    clocks: &BTreeMap<String, Offset>,
    assignment: &Assignment,
) -> Roster {
    let agents = assignment.agents();
    let host = |card: &Card| {
        let offset = clocks.get(&card.name).copied().unwrap_or_default();
        (card.name.clone(), RosterHost::of(card, offset))
    };
    let used = cards.iter().filter(|card| agents.contains(&card.name.as_str()));
    let hosts = used.map(host).collect();
    Roster { run: run.clone(), nats: nats.to_owned(), hosts, assignment: assignment.clone() }
}

/// The name of a run among agents: it is part of subjects, streams and file names.
fn run_name(experiment: &str, started: u64) -> anyhow::Result<RunName> {
    let good = |it: char| if it.is_ascii_alphanumeric() || it == '-' { it } else { '_' };
    let name: String = experiment.chars().map(good).take(40).collect();
    let name = format!("{name}-{started}-{:08x}", chance()?);
    RunName::try_from(name).map_err(anyhow::Error::msg)
}

/// A number by chance.
///
/// # Errors
/// What the system says.
pub(super) fn chance() -> anyhow::Result<u32> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(u32::from_str_radix(uuid.get(..8).unwrap_or_default(), 16)?)
}

/// Says which hosts are busy, when one is missing.
fn with_busy(error: anyhow::Error, cards: &[Card]) -> anyhow::Error {
    let busy: Vec<String> = cards
        .iter()
        .filter_map(|card| Some(format!("{} works for {}", card.name, card.beat.run.as_ref()?)))
        .collect();
    if busy.is_empty() {
        return error;
    }
    UsageError::error(format!("{error}; {}", busy.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_names_that_subjects_take() {
        let name = run_name("three phases.ü", 17).expect("a name");
        assert!(name.as_str().starts_with("three_phases__-17-"), "{name}");
        assert!(run_name(&"x".repeat(64), u64::MAX).is_ok(), "the longest that there can be");
        assert_ne!(name, run_name("three phases.ü", 17).expect("another"));
    }
}
