//! The start of a run on this machine: what must be put back or ended later comes first, then the
//! server, then the clients.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use host::background::Background;
use host::ended::OomWatch;
use host::namespace::Netns;
use host::probing::Probing;
use host::program::{self, Given, Who};
use host::stalls::StallWatch;
use host::surroundings::Surroundings;
use interrupts::{Interrupted, Interrupts};
use record::{DirectoryLock, Files};
use serde::Serialize;
use serde_json::json;
use service::{Config, Line as ServerLine};
use spec::configure::{client_config, server_config};
use spec::machine::{Machine, sysctls};
use spec::places::group_of;
use spec::preflight::own_namespace;
use spec::{Experiment, Hosts, Source, UsageError};
use tokio::time::Instant;
use workload::Line as ClientLine;

use super::news::LocalNews;
use super::place::{Local, Own};
use super::profiles::Profiles;
use super::rights::Rights;
use crate::books::assert_new;
use crate::coordinator::Coordinator;
use crate::directory::{directory_of, manifest, unix_now};
use crate::faults::state::{Faults, HogLines};
use crate::leadership::this_process;
use crate::messages::{Message, Outlet, inbox};
use crate::options::Options;
use crate::place::Run;
use crate::programs::{Program, Programs};
use crate::records::Records;
use crate::run_control::RunControl;
use crate::schedule::Schedule;
use crate::tuned::Tuned;

/// Programs are ready within this time, or something is wrong with the machine.
const READY: Duration = Duration::from_secs(30);

/// A message of a run on this machine.
type LocalMessage = Message<LocalNews>;

/// Starts a program as a child of this process. Its lines go to the coordinator.
fn start_program(
    who: Who,
    config: &impl Serialize,
    given: Given<'_>,
    messages: Outlet<LocalNews>,
) -> std::io::Result<Program> {
    let on_line = move |line| messages.send_line(line, |line| Message::of_program(who, line));
    program::Program::start(who, config, given, on_line).map(Program::Here)
}

/// Takes the lines of hogs to the coordinator.
fn hog_lines(messages: Outlet<LocalNews>) -> HogLines {
    Arc::new(move |fault, line| {
        messages.send_line(line, |line| LocalNews::of_hog(fault, line));
    })
}

/// What the server is told, after what it needs rights for was done.
fn config_of_server(experiment: &Experiment, rights: &Rights) -> anyhow::Result<Config> {
    let mut config = server_config(experiment);
    rights.choose_congestion(&mut config.congestion);
    if let Some(ledger) = &config.ledger {
        let made = rights.privileges.make_directory(ledger);
        made.with_context(|| format!("server.ledger: {}", ledger.display()))?;
    }
    Ok(config)
}

/// Starts the programs of an experiment, and waits until they are ready.
///
/// # Errors
/// What the machine cannot do, or a program that does not get ready.
pub(crate) async fn start(
    mut source: Source,
    options: Options,
) -> anyhow::Result<Coordinator<Local>> {
    let mut control = RunControl::bind(options.live, &options.live_hosts)?;
    let machine = Machine::this();
    let experiment = &mut source.experiment;
    let phases = experiment.ordered_phases()?;
    let mut rights = Rights::choose(options.user.as_deref())?;
    let profiles = Profiles::start(options.sampling, experiment.name.as_str())?;
    let started = unix_now().as_secs();
    // Before anything that must be put back or ended: from here on an interrupt is listened to.
    let interrupts = Interrupts::listen()?;
    let own = own_namespace(experiment, machine.root);
    let journals = options.journals.as_deref();
    let mut tuned = Tuned::start(experiment, options.tune_host, journals, own)?;
    let namespaces = tuned.namespaces(experiment, own)?;
    rights.prepare(experiment, &namespaces)?;
    let experiment = &source.experiment;
    let directory = options.out.unwrap_or_else(|| directory_of(experiment.name.as_str(), started));
    let lock = DirectoryLock::take(&directory, &this_process()).map_err(UsageError::of)?;
    let namespace = namespaces.server.as_deref();
    let settings = namespace.map_or_else(|| Ok(sysctls()), |namespace| namespace.run(sysctls))?;
    let host = machine.host.clone();
    let mut manifest = manifest(&source, &options.settings, machine, started, own, settings);
    manifest.tuning = tuned.to_json(&namespaces)?;
    manifest.privileges = rights.privileges.to_json();
    let files = Files::create(lock, &host, started, &manifest)?;
    let notices = control.open(&directory)?;
    let (messages, received) = inbox();
    let hog_lines = hog_lines(messages.clone());
    let faults = Faults::new(&directory, &phases, hog_lines, rights.of_hogs())?;
    let config = config_of_server(experiment, &rights)?;
    let limits = tuned.limits();
    let given = Given { namespace, limits, ..Given::as_here(&rights.privileges) };
    let server = start_program(Who::Server, &config, given, messages.clone())
        .context("the server cannot be started")?;
    let local = Local {
        namespaces,
        tuned,
        rights,
        surroundings: Surroundings::of_machine(),
        probing: Probing::none("the server was not ready"),
        profiles,
        faults,
        messages,
        awaits_connections: false,
        ended: BTreeSet::new(),
        oom: OomWatch::start(),
        own: Own::new(),
    };
    let run = Run {
        records: Records::new(files, manifest, &phases),
        schedule: Schedule::new(source.experiment, phases),
        programs: Programs::new(server, Vec::new(), SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
        ending: false,
    };
    let mut coordinator = Coordinator::new(local, run, control, interrupts, received, started + 1);
    notices.iter().for_each(|line| coordinator.run.records.say(line));
    if let Err(error) = coordinator.wait_until_ready().await {
        coordinator.kill();
        coordinator.close_failed(&error);
        return Err(error);
    }
    Ok(coordinator)
}

impl Coordinator<Local> {
    /// Waits for the server, starts the clients, and waits for them.
    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        let message = self.first(deadline).await.context("the server does not get ready")?;
        let Message::Server(ServerLine::Ready(ready)) = message else {
            anyhow::bail!("the server says something else than that it is ready: {message:?}");
        };
        assert_new(ready.ledger.as_ref())?;
        let address: SocketAddrV4 = ready.listen.parse()?;
        self.run.programs.server_address = address;
        self.place.surroundings.add_process(Who::Server, ready.pid);
        let namespace = self.place.namespaces.server.clone();
        self.observe_network("server", namespace)?;
        self.attach_probes(address.port(), ready.pid)?;
        self.place.profiles.watch(Who::Server, ready.pid);
        self.run.records.ready(Who::Server, None, json!(ready));
        self.start_clients()?;
        let clients = self.run.programs.clients();
        self.run.records.manifest.clients = vec![json!(null); clients as usize];
        let mut waiting = clients;
        while waiting > 0 {
            match self.first(deadline).await.context("a client does not get ready")? {
                Message::Client(process, ClientLine::Ready(ready)) => {
                    let who = Who::Client(process);
                    self.place.surroundings.add_process(who, ready.pid);
                    self.place.probing.watch_client(process, ready.pid);
                    self.place.profiles.watch(who, ready.pid);
                    self.observe_client_network(process)?;
                    self.run.records.ready(who, None, json!(ready));
                    waiting -= 1;
                }
                Message::Client(process, ClientLine::Error(error)) => {
                    anyhow::bail!("client {process}: {error}");
                }
                other => self.on_message(other)?,
            }
        }
        self.run.records.write_manifest();
        self.watch_stalls()?;
        // Programs and threads that must not have this were started before.
        self.place.own.background = Background::enter();
        Ok(())
    }

    /// Starts all clients of a server that listens.
    fn start_clients(&mut self) -> anyhow::Result<()> {
        let experiment = &self.run.schedule.experiment;
        let local = &self.place;
        for process in 0..experiment.client.processes.get() {
            let mut config = client_config(experiment, process);
            config.server = self.run.programs.server_address;
            let (handover, keep) = local.probing.handover()?.unzip();
            config.probes = handover;
            local.rights.choose_congestion(&mut config.congestion);
            let descriptors = keep.map_or_else(Vec::new, Vec::from);
            let namespace = local.namespaces.of_client(experiment, process);
            let (messages, limits) = (local.messages.clone(), local.tuned.limits());
            let who = Who::Client(process);
            let given = Given::as_here(&local.rights.privileges);
            let given = Given { namespace, descriptors, limits, ..given };
            let client = start_program(who, &config, given, messages)
                .with_context(|| format!("client {process} cannot be started"))?;
            self.run.programs.add_client(client);
        }
        Ok(())
    }

    /// Attaches the probes before any client connects, so that they see all of every connection.
    fn attach_probes(&mut self, port: u16, server_pid: u32) -> anyhow::Result<()> {
        let experiment = &self.run.schedule.experiment;
        let namespaces = &self.place.namespaces;
        let ports = match &namespaces.server {
            Some(_) => experiment.network.ports,
            None => platform::port_range()?,
        };
        let alone = experiment.hosts == Hosts::Local;
        let namespace = namespaces.server.as_deref().filter(|_| alone);
        let loopback = namespace.map(Netns::number).transpose()?;
        self.place.probing = Probing::attach(experiment, port, server_pid, ports, loopback)?;
        self.run.records.manifest.probes = self.place.probing.to_json();
        Ok(())
    }

    /// Watches the CPUs of the shards from now on. The run goes on without, after a warning.
    fn watch_stalls(&mut self) -> anyhow::Result<()> {
        let experiment = &self.run.schedule.experiment;
        let cpus = match (&experiment.server.cpus, &experiment.client.cpus) {
            (Some(servers), Some(clients)) => {
                let cpus: BTreeSet<usize> = servers.iter().chain(clients).copied().collect();
                Ok(cpus.into_iter().collect())
            }
            _ => platform::cpus_allowed(),
        };
        match cpus.and_then(|cpus| StallWatch::start(&cpus)) {
            Ok(stalls) => self.place.own.stalls = Some(stalls),
            Err(error) => {
                let what = format!("stalls of the CPUs are not seen: {error}");
                self.run.records.warn("lab", &what)?;
            }
        }
        Ok(())
    }

    /// Reads a network's counters from now on. The run goes on without those that cannot be read,
    /// after a warning.
    fn observe_network(&mut self, name: &str, namespace: Option<Arc<Netns>>) -> anyhow::Result<()> {
        let unreadable = self.place.surroundings.add_network(name, namespace);
        unreadable.iter().try_for_each(|what| self.run.records.warn("lab", what))
    }

    /// The network of a client, unless another client of it was ready before.
    fn observe_client_network(&mut self, process: u32) -> anyhow::Result<()> {
        let Some((number, group)) = group_of(&self.run.schedule.experiment, process) else {
            return Ok(());
        };
        if group.processes.start != process {
            return Ok(());
        }
        let namespace = self.place.namespaces.clients.get(number).cloned();
        self.observe_network(&format!("clients {number}"), namespace)
    }

    /// The next message while programs get ready.
    async fn first(&mut self, deadline: Instant) -> anyhow::Result<LocalMessage> {
        let message = tokio::select! {
            message = tokio::time::timeout_at(deadline, self.messages.recv()) => message,
            () = self.interrupts.next() => return Err(Interrupted.into()),
        };
        match message {
            Ok(Some(Message::Ended(who))) => {
                let ended = tokio::select! {
                    ended = self.run.programs.ended(who) => ended,
                    () = self.interrupts.next() => return Err(Interrupted.into()),
                };
                let how = ended.map(|(pid, status)| self.place.oom.describe(Some(pid), status));
                let how = how.unwrap_or_else(|| "closed its output".to_owned());
                anyhow::bail!("{who} {how}; what it said about it stands above")
            }
            Ok(Some(message)) => Ok(message),
            Ok(None) => anyhow::bail!("no program is left"),
            Err(_) => anyhow::bail!("nothing was heard for {} s", READY.as_secs()),
        }
    }
}
