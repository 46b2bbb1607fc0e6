//! The beginnings of a run on a fleet: hosts are found, chosen, leased and told what to start; or a
//! run is taken over whose coordinator is gone.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_nats::Client;
use platform::Clock;
use serde_json::json;
use service::Line as ServerLine;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use workload::Line as ClientLine;

use super::checkpoint::{Checkpoint, Host, Hosts};
use crate::links::Namespaces;
use fleet::assign::{Assignment, assign};
use fleet::clock::Offset;
use fleet::link::{
    Link, Listener, Merged, Orders as HostOrders, drop_stream, open_stream, question,
};
use fleet::protocol::{Answer, Ask, Card, Lease, PROTOCOL, STILL_THERE, Said, What};
use fleet::{Mistake, hosts};
use record::{Event, Files, Manifest, Seconds};
use spec::configure::{client_config, server_config};
use spec::machine::Machine;
use spec::preflight::{Preflight, table};
use spec::{Count, Experiment, Source};

use super::Fleet;
use super::hosts::{as_specs, check, probes_of_server, who_tells};
use super::joining::Joining;
use crate::directory::{directory_of, unix_now};
use crate::ending::Books;
use crate::faults::Faults;
use crate::heard::Heard;
use crate::ordering::Orders;
use crate::profiling::Profiling;
use crate::programs::Program;
use crate::tuned::Tuned;
use crate::watch::{Progress, Watch};
use crate::{Options, Run, manifest};
use host::probing::{ProbeOrder, Probing};
use host::program::Who;
use host::surroundings::Surroundings;
use host::usage::own_cpu_us;

/// Programs of all hosts are ready within this time.
const READY: Duration = Duration::from_secs(60);

/// A coordinator that takes over asks a host for so long: the old one must be silent for a while.
const RESUME: Duration = Duration::from_secs(8);

/// Leases all hosts of a run, or none.
async fn lease(
    client: &Client,
    run: &str,
    cards: &[Card],
    agents: &[&str],
    clocks: &BTreeMap<String, Offset>,
) -> anyhow::Result<()> {
    let machines = who_tells(agents, cards, |card| &card.boot);
    let networks = who_tells(agents, cards, |card| (&card.boot, card.netns));
    let mut leased: Vec<&str> = Vec::new();
    for agent in agents {
        let lease = Ask::Lease(Box::new(Lease {
            run: run.to_owned(),
            version: host::VERSION.to_owned(),
            protocol: PROTOCOL,
            ahead_ns: clocks.get(*agent).map_or(0, |it| it.ahead_ns),
            machine: machines.contains(agent),
            network: networks.contains(agent),
        }));
        let why = match question(client, agent, &lease).await {
            Some(Answer::Done {}) => {
                leased.push(agent);
                continue;
            }
            Some(Answer::Refused { why }) => why,
            _ => "it does not answer".to_owned(),
        };
        for agent in leased {
            // An order with the number 1 is the first: none was given.
            let stop =
                fleet::protocol::Order { run: run.to_owned(), number: 1, what: What::Stop {} };
            let _ = question(client, agent, &Ask::Order(Box::new(stop))).await;
            let _ = question(client, agent, &Ask::Forget { run: run.to_owned() }).await;
        }
        return Err(Mistake::error(format!("{agent} cannot be used: {why}")));
    }
    Ok(())
}

impl Run {
    /// Finds, chooses and leases hosts, and has programs started.
    pub(crate) async fn start_on_fleet(
        mut source: Source,
        options: Options,
        fleet: &fleet::Options,
    ) -> anyhow::Result<Self> {
        check(&source.experiment, &options)?;
        let phases = source.experiment.ordered_phases()?;
        let mut orders = Orders::new(options.live)?;
        let interrupts = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        let client = fleet.access.connect("lab run").await?;
        let context = fleet.access.jetstream(&client).await?;
        let cards = hosts::gather(&client).await?;
        let free: Vec<Card> = cards.iter().filter(|it| it.beat.run.is_none()).cloned().collect();
        hosts::check(&cards)?;
        let it = assign(&source.experiment, &free).map_err(|error| with_busy(error, &cards))?;
        let agents = it.agents();
        let clocks = hosts::clocks(&client, &agents).await;
        hosts::check_clocks(&agents, &clocks, fleet.allow_clock_offset)?;
        source.experiment.hosts = as_specs(&cards, &it)?;
        source.experiment.client.processes =
            Count::try_from(it.processes()).map_err(anyhow::Error::msg)?;
        let preflight = Preflight::of(&source.experiment, &Machine::this());
        if preflight.is_refused() {
            return Err(fleet::DoesNotFit(table(&preflight)).into());
        }
        let started = unix_now().as_secs();
        let directory =
            options.out.unwrap_or_else(|| directory_of(source.experiment.name.as_str(), started));
        let run = run_name(source.experiment.name.as_str(), started)?;
        let files = Files::create(&directory, "coordinator", started)?;
        let machine = |name: &&str| {
            let card = cards.iter().find(|card| card.name == **name)?;
            Some(Machine { host: card.name.clone(), ..card.machine.clone() })
        };
        let mut manifest =
            manifest(&source, &options.settings, Machine::this(), started, false, BTreeMap::new());
        manifest.hosts = agents.iter().filter_map(machine).collect();
        manifest.probes = json!({
            "attached": [], "absent": [], "because": "no host has told", "by_host": {},
        });
        files.manifest(&manifest)?;
        let nats = fleet.access.url()?;
        let fleet_of_run = hosts_of_run(&run, nats, &cards, &clocks, &it);
        fleet_of_run.write(&directory)?;
        open_stream(&context, &run).await.map_err(|error| {
            Mistake::error(format!("JetStream does not take a stream for the results: {error}"))
        })?;
        let said = orders.open(&directory)?;
        if let Err(error) = lease(&client, &run, &cards, &agents, &clocks).await {
            drop_stream(&context, &run).await;
            return Err(error);
        }
        let merged = Merged {
            batches: agents.iter().map(|agent| ((*agent).to_owned(), 0)).collect(),
            place: 0,
        };
        let queues = agents.iter().map(|it| ((*it).to_owned(), HostOrders::default())).collect();
        let mut run = Self::on_fleet(
            (source, phases, manifest, files, orders, interrupts),
            (client, context),
            (fleet_of_run, merged, queues, BTreeMap::new()),
        )?;
        said.iter().for_each(|line| run.progress.say(line));
        match run.ready_on_fleet().await {
            Ok(()) => Ok(run),
            Err(error) => {
                run.leave_fleet().await;
                if let Some(fleet) = &run.fleet {
                    drop_stream(&fleet.link.context, &fleet.link.run).await;
                }
                Err(error)
            }
        }
    }

    /// A run whose programs are on a fleet.
    #[allow(clippy::type_complexity)] // Two callers, and the parts have no name of their own.
    fn on_fleet(
        (source, phases, manifest, files, orders, interrupts): (
            Source,
            Vec<spec::PhaseSpec>,
            Manifest,
            Files,
            Orders,
            [tokio::signal::unix::Signal; 2],
        ),
        nats: (Client, async_nats::jetstream::Context),
        (hosts, merged, queues, done): (
            Hosts,
            Merged,
            BTreeMap<String, HostOrders>,
            BTreeMap<String, u64>,
        ),
    ) -> anyhow::Result<Self> {
        let (tell, heard) = unbounded_channel();
        let sessions =
            hosts.hosts.iter().map(|(name, host)| (name.clone(), host.session.clone())).collect();
        let told = tell.clone();
        // Nothing listens any more when the run is over.
        let listener: Listener = Arc::new(move |news| drop(told.send(Heard::of_fleet(news))));
        let link =
            Link::start(nats, &hosts.run, (sessions, done), merged.clone(), queues, &listener);
        let server =
            Program::There { who: Who::Server, orders: link.orders(&hosts.assignment.server) };
        let clients = (0..hosts.assignment.processes())
            .map(|process| {
                let host = hosts.assignment.host_of(process).context("a process without a host")?;
                let orders = link.orders(&host.agent);
                Ok(Program::There { who: Who::Client(process), orders })
            })
            .collect::<anyhow::Result<Vec<Program>>>()?;
        let clock = Clock::read();
        let faults = Faults::new(files.directory(), &[])?;
        Ok(Self {
            watches: phases.iter().map(|phase| Watch::new(&phase.abort)).collect(),
            phases,
            namespaces: Namespaces::default(),
            tuned: Tuned::default(),
            files,
            manifest,
            clock,
            server,
            server_address: SocketAddrV4::new(hosts.assignment.address, 0),
            clients,
            tell,
            heard,
            interrupts,
            seconds: Seconds::of_fleet(),
            surroundings: Surroundings::without_machine(),
            probing: Probing::none("they are on the hosts of the fleet"),
            profiling: Profiling::default(),
            faults,
            orders,
            next_look: clock.unix_second(platform::monotonic_ns()) + 1,
            books: Books::default(),
            progress: Progress::default(),
            happened: VecDeque::new(),
            ending: false,
            source,
            fleet: Some(Fleet {
                link,
                hosts,
                merged,
                in_batch: false,
                whole: true,
                position: None,
                ending: None,
                silent: std::collections::BTreeSet::new(),
                lost: std::collections::BTreeSet::new(),
                gone: std::collections::BTreeSet::new(),
                over: std::collections::BTreeSet::new(),
                left: BTreeMap::new(),
                joining: Joining::default(),
                cpu_us: own_cpu_us(),
                resumed: None,
            }),
        })
    }

    /// Has the server started, then the clients, and waits for them.
    async fn ready_on_fleet(&mut self) -> anyhow::Result<()> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let it = fleet.hosts.assignment.clone();
        let experiment = self.source.experiment.clone();
        let ordered = probes_of_server(&experiment, &fleet.hosts);
        let mut config = server_config(&experiment);
        config.listen = SocketAddrV4::new(it.address, 0);
        config.clock_ahead_ns = fleet.hosts.ahead_ns(&it.server);
        let config = json!(config);
        let probes = ordered.as_ref().map(|order| Box::new(order.clone()));
        fleet.link.orders(&it.server).give(What::Start { who: Who::Server, config, probes });
        let deadline = Instant::now() + READY;
        let address: SocketAddrV4 = loop {
            match self.next_heard(deadline).await.context("the server does not get ready")? {
                Heard::Server(ServerLine::Ready(ready)) => {
                    let address = ready.listen.parse()?;
                    self.manifest.server = json!(ready);
                    self.manifest.server["host"] = json!(it.server);
                    break address;
                }
                other => self.unready(other)?,
            }
        };
        self.server_address = address;
        self.start_clients(&experiment, ordered.as_ref())?;
        let mut waiting = it.processes();
        self.manifest.clients = vec![json!(null); waiting as usize];
        while waiting > 0 {
            match self.next_heard(deadline).await.context("a client does not get ready")? {
                Heard::Client(process, ClientLine::Ready(ready)) => {
                    let mut ready = json!(ready);
                    self.add_host(process, &mut ready);
                    self.manifest.clients[process as usize] = ready;
                    waiting -= 1;
                }
                other => self.unready(other)?,
            }
        }
        self.files.manifest(&self.manifest)?;
        let fields = json!({ "hosts": self.fleet.as_ref().map(|it| &it.hosts.hosts) });
        self.files.event(Event::now("fleet", fields))?;
        Ok(())
    }

    /// Has all clients of a server that listens started.
    fn start_clients(
        &self,
        experiment: &Experiment,
        probes: Option<&ProbeOrder>,
    ) -> anyhow::Result<()> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let it = &fleet.hosts.assignment;
        for process in 0..it.processes() {
            let host = it.host_of(process).context("a process without a host")?;
            let users = it.users_of(process).context("a process without users")?;
            let mut config = client_config(experiment, process);
            config.server = self.server_address;
            (config.first_user, config.end_user) = (users.start, users.end);
            config.first_flow = host.first_flow;
            config.flows = host.flows;
            config.sources = host.sources.clone();
            config.clock_ahead_ns = fleet.hosts.ahead_ns(&host.agent);
            config.join = fleet.hosts.has_other_kernels();
            let probes = probes.map(|order| {
                let port = Some(self.server_address.port());
                let server_end = fleet.hosts.sees_server(&host.agent);
                Box::new(ProbeOrder { port, server_end, ..order.clone() })
            });
            let (who, config) = (Who::Client(process), json!(config));
            fleet.link.orders(&host.agent).give(What::Start { who, config, probes });
        }
        Ok(())
    }

    async fn next_heard(&mut self, deadline: Instant) -> anyhow::Result<Heard> {
        let [interrupt, terminate] = &mut self.interrupts;
        tokio::select! {
            heard = self.heard.recv() => heard.context("nobody is left"),
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("interrupted"),
            () = tokio::time::sleep_until(deadline) => {
                anyhow::bail!("it took more than {} s", READY.as_secs())
            }
        }
    }

    /// Something else than that a program is ready.
    fn unready(&mut self, heard: Heard) -> anyhow::Result<()> {
        use fleet::link::FromFleet;
        match heard {
            Heard::Silence(who) => anyhow::bail!("{who} ended before it was ready"),
            Heard::Client(process, ClientLine::Error(error)) => {
                anyhow::bail!("client {process}: {error}")
            }
            Heard::Fleet(
                FromFleet::Refused(host, why) | FromFleet::Said(host, Said::Failed { why }),
            ) => anyhow::bail!("{host}: {why}"),
            Heard::Fleet(FromFleet::Lost(host)) => anyhow::bail!("{host} was lost"),
            Heard::Fleet(FromFleet::Gone(host, why)) => anyhow::bail!("{host} is gone: {why}"),
            other => self.take(other),
        }
    }

    /// Takes a run over whose coordinator is gone, or merges what hosts still have of one that is
    /// over.
    pub(crate) async fn resume_on_fleet(
        directory: PathBuf,
        options: Options,
    ) -> anyhow::Result<Self> {
        let fleet = options.fleet.clone().unwrap_or_default();
        let hosts = Hosts::read(&directory)?;
        let checkpoint = Checkpoint::read(&directory)?;
        let text = std::fs::read_to_string(directory.join("manifest.json"))?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|error| Mistake::error(format!("manifest.json: {error}")))?;
        let mut orders = Orders::new(options.live)?;
        let interrupts = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        let mut access = fleet.access.clone();
        access.nats.get_or_insert_with(|| hosts.nats.clone());
        let client = access.connect("lab run --resume").await?;
        let context = access.jetstream(&client).await?;
        let merged = checkpoint.merged.clone();
        let Asked { left, unheard, done } = ask_hosts(&client, &hosts, &checkpoint).await?;
        let source = Source {
            file: PathBuf::from(&manifest.file),
            text: manifest.text.clone(),
            experiment: manifest.experiment.clone(),
        };
        let phases = source.experiment.ordered_phases()?;
        let files = Files::again(
            &directory,
            "coordinator",
            manifest.started,
            checkpoint.lengths,
            checkpoint.phases.clone(),
        )?;
        let said = orders.open(&directory)?;
        let queues = orders_again(&checkpoint, &done);
        let mut run = Self::on_fleet(
            (source, phases, manifest, files, orders, interrupts),
            (client, context),
            (hosts, merged, queues, done),
        )?;
        run.books = Books::again(checkpoint.books)?;
        run.seconds = Seconds::again(checkpoint.open, checkpoint.newest, checkpoint.complete_until);
        if let Some(fleet) = &mut run.fleet {
            fleet.position = checkpoint.position;
            fleet.ending = checkpoint.ending;
            fleet.silent = checkpoint.silent;
            fleet.gone = checkpoint.gone;
            fleet.over = checkpoint.over;
            fleet.joining = checkpoint.joining;
            fleet.resumed = Some(checkpoint.position);
            fleet.left = left;
        }
        said.iter().for_each(|line| run.progress.say(line));
        run.files.event(Event::now("resumed", json!({})))?;
        for (host, why) in unheard {
            if run.fleet.as_ref().is_some_and(|it| it.over.contains(&host)) {
                continue;
            }
            run.news(fleet::link::FromFleet::Gone(host, why.to_owned()))?;
        }
        Ok(run)
    }
}

/// What hosts have of a run that is taken over.
#[derive(Default)]
struct Asked {
    /// The numbers of the last batches of hosts that have ended it.
    left: BTreeMap<String, u64>,
    /// Hosts that do not work for it any more, and why.
    unheard: Vec<(String, &'static str)>,
    /// The numbers of the last orders of those that do.
    done: BTreeMap<String, u64>,
}

async fn ask_hosts(
    client: &Client,
    hosts: &Hosts,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Asked> {
    let mut asked = Asked::default();
    for host in hosts.hosts.keys() {
        let number = checkpoint.merged.batches.get(host).copied().unwrap_or(0);
        let ask = Ask::Resume { run: hosts.run.clone(), merged: number };
        let over = checkpoint.over.contains(host);
        match ask_again(client, host, &ask).await {
            Some(Answer::Kept { working: true, done: last, .. }) => {
                asked.done.insert(host.clone(), last);
            }
            Some(Answer::Kept { written, .. }) => {
                asked.left.insert(host.clone(), written);
                asked.unheard.push((host.clone(), "its agent has ended the run by itself"));
            }
            Some(Answer::Refused { why }) if why.contains(STILL_THERE) => {
                return Err(Mistake::error(why));
            }
            // All of it was merged before.
            _ if over => {}
            Some(_) => asked.unheard.push((host.clone(), "it has nothing of the run any more")),
            None => asked.unheard.push((host.clone(), "it does not answer")),
        }
    }
    Ok(asked)
}

/// Orders that an earlier coordinator gave and hosts have not carried out.
fn orders_again(
    checkpoint: &Checkpoint,
    done: &BTreeMap<String, u64>,
) -> BTreeMap<String, HostOrders> {
    let queues = checkpoint.orders.iter().map(|(host, queue)| {
        let mut queue = queue.clone();
        let last = done.get(host).copied().unwrap_or(0);
        queue.waiting.retain(|(number, _)| *number > last);
        if checkpoint.position.is_none_or(|it| it.begun) {
            queue.number = queue.number.max(last);
        }
        (host.clone(), HostOrders::again(queue))
    });
    queues.collect()
}

fn hosts_of_run(
    run: &str,
    nats: &str,
    cards: &[Card],
    clocks: &BTreeMap<String, Offset>,
    it: &Assignment,
) -> Hosts {
    let agents = it.agents();
    let host = |card: &Card| {
        let offset = clocks.get(&card.name).copied().unwrap_or_default();
        (card.name.clone(), Host::of(card, offset))
    };
    let used = cards.iter().filter(|card| agents.contains(&card.name.as_str()));
    Hosts {
        run: run.to_owned(),
        nats: nats.to_owned(),
        hosts: used.map(host).collect(),
        assignment: it.clone(),
    }
}

async fn ask_again(client: &Client, host: &str, ask: &Ask) -> Option<Answer> {
    let deadline = Instant::now() + RESUME;
    loop {
        match question(client, host, ask).await {
            Some(Answer::Refused { why }) if Instant::now() < deadline => {
                // Another coordinator was heard a moment ago: is it gone?
                if !why.contains(STILL_THERE) {
                    return Some(Answer::Refused { why });
                }
            }
            None if Instant::now() < deadline => {}
            answer => return answer,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The name of a run among agents: it is part of subjects, streams and file names.
fn run_name(experiment: &str, started: u64) -> anyhow::Result<String> {
    let good = |it: char| if it.is_ascii_alphanumeric() || it == '-' { it } else { '_' };
    let name: String = experiment.chars().map(good).take(40).collect();
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(format!("{name}-{started}-{}", &uuid[..8]))
}

/// Says which hosts are busy, when somebody is missing.
fn with_busy(error: anyhow::Error, cards: &[Card]) -> anyhow::Error {
    let busy: Vec<String> = cards
        .iter()
        .filter_map(|card| Some(format!("{} works for {}", card.name, card.beat.run.as_ref()?)))
        .collect();
    if busy.is_empty() {
        return error;
    }
    Mistake::error(format!("{error}; {}", busy.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_names_that_subjects_take() {
        let name = run_name("three phases.ü", 17).expect("a name");
        assert!(name.starts_with("three_phases__-17-"), "{name}");
        assert_ne!(name, run_name("three phases.ü", 17).expect("another"));
    }
}
