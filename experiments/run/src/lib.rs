//! Carrying an experiment out on this machine: programs are started, phases follow each other on
//! whole seconds, everything heard is recorded.

mod directory;
mod ending;
mod faults;
mod heard;
pub mod links;
mod ordering;
mod phases;
mod profiling;
mod programs;
mod remote;
mod tuned;
mod watch;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use attribution::{Segment, Tally};
use platform::{Clock, monotonic_ns};
use serde_json::json;
use service::Line as ServerLine;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use workload::Line as ClientLine;

use host::namespace::Netns;
use host::probing::Probing;
use host::program::Who;
use host::surroundings::Surroundings;
use record::{Event, Files, Manifest, Second, Seconds};
use report::live::Live;
use spec::configure::{client_config, server_config};
use spec::machine::{Machine, sysctls};
use spec::places::group_of;
use spec::preflight::own_namespace;
use spec::{Hosts, PhaseSpec, Seconds as PhaseSeconds, Source};

pub use directory::default_directory;
use directory::{directory_of, manifest, unix_now};
use ending::Books;
use faults::Faults;
use heard::Heard;
use links::Namespaces;
use ordering::Orders;
use profiling::Profiling;
pub use profiling::Sampling;
use programs::Program;
use remote::Fleet;
use tuned::Tuned;
use watch::{Progress, Watch};

/// Programs are ready within this time, or something is wrong with the machine.
const READY: Duration = Duration::from_secs(30);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All phases were carried out.
    Completed,
    /// A condition of the experiment ended it.
    Aborted(String),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl Ending {
    /// Its name in files.
    pub fn name(&self) -> &'static str {
        match self {
            Ending::Completed => "completed",
            Ending::Aborted(_) => "aborted",
            Ending::Interrupted => "interrupted",
        }
    }
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The directory to write; `results/<name>-<start>` when `None`.
    pub out: Option<PathBuf>,
    /// What the command line changed, for the record.
    pub settings: Vec<String>,
    /// Whether the profile's settings of the machine are applied, too, until the run is over.
    pub tune_host: bool,
    /// Where the journals of what is changed are, unless it is the usual place.
    pub journals: Option<PathBuf>,
    /// How to sample what the programs do; not at all when `None`.
    pub sampling: Option<Sampling>,
    /// Where to serve the live page; nowhere when `None`.
    pub live: Option<SocketAddr>,
    /// Which fleet to run on; on this machine when `None`.
    pub fleet: Option<fleet::Options>,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Where its files are.
    pub directory: PathBuf,
    /// How it ended.
    pub ending: Ending,
    /// What became of the profile of each phase, in words.
    pub profiles: Vec<String>,
    /// Its live page, which shows how it ended until this is dropped.
    pub live: Option<Live>,
}

/// What happened that a phase may be waiting for.
#[derive(Debug)]
enum Happened {
    /// A client has logged in all users of a phase.
    Established,
    /// Nothing of a phase is under way at a client any more.
    Settled,
    /// A condition of the experiment wants the run to end.
    Broken(String),
    /// Ctrl-C.
    Interrupt,
    /// A person wants the phase to end.
    EndPhase(tokio::sync::oneshot::Sender<report::live::Answer>),
    /// A host of the fleet was lost, or is there again.
    Host,
    /// The time waited for has come.
    Time,
}

/// A run under way.
struct Run {
    source: Source,
    phases: Vec<PhaseSpec>,
    /// What is watched for in each.
    watches: Vec<Watch>,
    namespaces: Namespaces,
    tuned: Tuned,
    files: Files,
    manifest: Manifest,
    clock: Clock,
    server: Program,
    server_address: SocketAddrV4,
    clients: Vec<Program>,
    /// For programs yet to be started.
    tell: UnboundedSender<Heard>,
    heard: UnboundedReceiver<Heard>,
    interrupts: [Signal; 2],
    seconds: Seconds,
    surroundings: Surroundings,
    probing: Probing,
    profiling: Profiling,
    faults: Faults,
    orders: Orders,
    next_look: u64,
    books: Books,
    progress: Progress,
    /// The hosts, unless that is this machine.
    fleet: Option<Fleet>,
    /// What happened and nobody has waited for yet.
    happened: VecDeque<Happened>,
    /// A program has gone though nobody told it to.
    ending: bool,
}

/// Runs an experiment whose hosts are this machine.
///
/// # Errors What keeps it from being carried out: files, programs, the machine. What happens to the
/// load is no error, but in the record.
pub async fn run(source: Source, options: Options) -> anyhow::Result<Ended> {
    let run = match options.fleet.clone() {
        Some(fleet) => Run::start_on_fleet(source, options, &fleet).await?,
        None => Run::start(source, options).await?,
    };
    run.carried_to_its_end().await
}

/// Goes on with a run on a fleet whose coordinator is gone.
///
/// # Errors
/// As [`run`].
pub async fn resume(directory: PathBuf, options: Options) -> anyhow::Result<Ended> {
    Run::resume_on_fleet(directory, options).await?.carried_to_its_end().await
}

impl Run {
    async fn carried_to_its_end(mut self) -> anyhow::Result<Ended> {
        match self.carry_out().await {
            Ok(ending) => self.finish(ending).await,
            Err(error) => {
                self.kill();
                self.leave_fleet().await;
                Err(error)
            }
        }
    }

    async fn start(mut source: Source, options: Options) -> anyhow::Result<Self> {
        let mut orders = Orders::new(options.live)?;
        let machine = Machine::this();
        let experiment = &mut source.experiment;
        let phases = experiment.ordered_phases()?;
        let profiling = Profiling::start(options.sampling, experiment.name.as_str())?;
        let started = unix_now().as_secs();
        // Signals before anything that must be put back or ended: an interrupt must find somebody
        // who listens.
        let interrupts = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        let own = own_namespace(experiment, machine.root);
        let journals = options.journals.as_deref();
        let mut tuned = Tuned::start(experiment, options.tune_host, journals, own)?;
        let namespaces = tuned.namespaces(experiment, own)?;
        let experiment = &source.experiment;
        let directory =
            options.out.unwrap_or_else(|| directory_of(experiment.name.as_str(), started));
        let files = Files::create(&directory, &machine.host, started)?;
        let namespace = namespaces.server.as_deref();
        let settings = match namespace {
            Some(namespace) => namespace.run(sysctls)?,
            None => sysctls(),
        };
        let mut manifest = manifest(&source, &options.settings, machine, started, own, settings);
        manifest.tuning = tuned.to_json(&namespaces)?;
        files.manifest(&manifest)?;
        let said = orders.open(&directory)?;
        let (tell, heard) = unbounded_channel();
        let faults = Faults::new(&directory, &phases)?;
        let config = server_config(experiment);
        let limits = tuned.limits();
        let server =
            Program::start(Who::Server, &config, namespace, Vec::new(), limits, tell.clone())
                .context("the server cannot be started")?;
        let mut run = Self {
            watches: phases.iter().map(|phase| Watch::new(&phase.abort)).collect(),
            phases,
            namespaces,
            tuned,
            files,
            manifest,
            clock: Clock::read(),
            server,
            server_address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
            clients: Vec::new(),
            tell,
            heard,
            interrupts,
            seconds: Seconds::default(),
            surroundings: Surroundings::of_machine(),
            probing: Probing::none("the server was not ready"),
            profiling,
            faults,
            orders,
            next_look: started + 1,
            books: Books::default(),
            progress: Progress::default(),
            fleet: None,
            happened: VecDeque::new(),
            ending: false,
            source,
        };
        said.iter().for_each(|line| run.progress.say(line));
        match run.ready().await {
            Ok(()) => Ok(run),
            Err(error) => {
                run.kill();
                Err(error)
            }
        }
    }

    /// Waits for the server, starts the clients, and waits for them.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        let heard = self.first_line(deadline).await.context("the server does not get ready")?;
        let Heard::Server(ServerLine::Ready(ready)) = heard else {
            anyhow::bail!("the server says something else than that it is ready: {heard:?}");
        };
        let address: SocketAddrV4 = ready.listen.parse()?;
        self.server_address = address;
        self.surroundings.add_process(Who::Server, ready.pid);
        let namespace = self.namespaces.server.clone();
        self.look_at_network("server", namespace)?;
        self.attach_probes(address.port(), ready.pid)?;
        self.profiling.watch(Who::Server, ready.pid);
        self.manifest.server = json!(ready);
        let processes = self.source.experiment.client.processes.get();
        for process in 0..processes {
            let mut config = client_config(&self.source.experiment, process);
            config.server = address;
            let (handover, keep) = self.probing.handover()?.unzip();
            config.probes = handover;
            let keep = keep.map_or_else(Vec::new, Vec::from);
            let namespace = self.namespaces.of_client(&self.source.experiment, process);
            let (tell, limits) = (self.tell.clone(), self.tuned.limits());
            let client =
                Program::start(Who::Client(process), &config, namespace, keep, limits, tell)
                    .with_context(|| format!("client {process} cannot be started"))?;
            self.clients.push(client);
        }
        let mut waiting = processes;
        self.manifest.clients = vec![json!(null); processes as usize];
        while waiting > 0 {
            let heard = self.first_line(deadline).await.context("a client does not get ready")?;
            match heard {
                Heard::Client(process, ClientLine::Ready(ready)) => {
                    self.surroundings.add_process(Who::Client(process), ready.pid);
                    self.probing.watch_client(process, ready.pid);
                    self.profiling.watch(Who::Client(process), ready.pid);
                    self.look_at_client_network(process)?;
                    self.manifest.clients[process as usize] = json!(ready);
                    waiting -= 1;
                }
                Heard::Client(process, ClientLine::Error(error)) => {
                    anyhow::bail!("client {process}: {error}");
                }
                Heard::Silence(who) => anyhow::bail!("{who} ended before it was ready"),
                other => self.note(other)?,
            }
        }
        self.files.manifest(&self.manifest)?;
        Ok(())
    }

    /// Attaches the probes before anybody connects, so that they see all of every connection.
    fn attach_probes(&mut self, port: u16, server_pid: u32) -> anyhow::Result<()> {
        let ports = match &self.namespaces.server {
            Some(_) => self.source.experiment.network.ports,
            None => platform::port_range()?,
        };
        let alone = self.source.experiment.hosts == Hosts::Local;
        let namespace = self.namespaces.server.as_deref().filter(|_| alone);
        let loopback = namespace.map(Netns::number).transpose()?;
        self.probing = Probing::attach(&self.source.experiment, port, server_pid, ports, loopback)?;
        self.manifest.probes = self.probing.to_json();
        Ok(())
    }

    /// What cannot be looked at is told, and the run goes on without it.
    fn look_at_network(&mut self, name: &str, namespace: Option<Arc<Netns>>) -> anyhow::Result<()> {
        let not = self.surroundings.add_network(name, namespace);
        not.iter().try_for_each(|what| self.warn("lab", what))
    }

    /// The network of a client, unless it is another one's, too.
    fn look_at_client_network(&mut self, process: u32) -> anyhow::Result<()> {
        let Some((number, group)) = group_of(&self.source.experiment, process) else {
            return Ok(());
        };
        if group.processes.start != process {
            return Ok(());
        }
        let namespace = self.namespaces.clients.get(number).cloned();
        self.look_at_network(&format!("clients {number}"), namespace)
    }

    async fn first_line(&mut self, deadline: Instant) -> anyhow::Result<Heard> {
        match tokio::time::timeout_at(deadline, self.heard.recv()).await {
            Ok(Some(Heard::Silence(who))) => {
                anyhow::bail!("{who} ended; what it said about it stands above")
            }
            Ok(Some(heard)) => Ok(heard),
            Ok(None) => anyhow::bail!("nobody is left"),
            Err(_) => anyhow::bail!("nothing was heard for {} s", READY.as_secs()),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Program> {
        std::iter::once(&mut self.server).chain(&mut self.clients)
    }

    fn kill(&mut self) {
        self.progress.end_line();
        self.all().for_each(Program::kill);
    }

    /// The Unix second at this moment.
    fn now(&self) -> u64 {
        self.clock.unix_second(monotonic_ns())
    }

    /// Waits for something to happen, until `deadline` at the latest. Everything heard is recorded.
    async fn next(&mut self, deadline: Instant) -> anyhow::Result<Happened> {
        loop {
            while let Some(second) = self.seconds.next(false) {
                if let Some(why) = self.complete(&second)? {
                    self.happened.push_back(Happened::Broken(why));
                }
            }
            if self.is_in_batch() {
                // The rest of it has been heard, too.
                let heard = self.heard.try_recv()?;
                self.take(heard)?;
                continue;
            }
            if let Some(happened) = self.happened.pop_front() {
                return Ok(happened);
            }
            let look = self.instant_of(self.next_look);
            let [interrupt, terminate] = &mut self.interrupts;
            tokio::select! {
                heard = self.heard.recv() => match heard {
                    Some(heard) => self.take(heard)?,
                    None => anyhow::bail!("all programs have ended"),
                },
                Some(given) = self.orders.given.recv() => {
                    if let Some(happened) = self.obey(given).await? {
                        return Ok(happened);
                    }
                }
                _ = interrupt.recv() => return Ok(Happened::Interrupt),
                _ = terminate.recv() => return Ok(Happened::Interrupt),
                () = tokio::time::sleep_until(look) => self.look()?,
                () = tokio::time::sleep_until(deadline) => return Ok(Happened::Time),
            }
        }
    }

    /// Records what was heard, and what happened by it.
    fn take(&mut self, heard: Heard) -> anyhow::Result<()> {
        match heard {
            Heard::Client(client, ClientLine::Established { phase, seconds }) => {
                self.established(client, phase, seconds)?;
                self.books.establish(client, phase);
                self.happened.push_back(Happened::Established);
            }
            Heard::Client(client, ClientLine::Settled { phase, tally }) => {
                self.settled(client, phase, &tally)?;
                self.books.settle(client, phase);
                self.happened.push_back(Happened::Settled);
            }
            Heard::Silence(who @ (Who::Server | Who::Client(_))) => self.silent(who)?,
            Heard::Fleet(news) => self.news(news)?,
            heard => self.note(heard)?,
        }
        Ok(())
    }

    /// When a Unix second begins.
    fn instant_of(&self, unix_second: u64) -> Instant {
        let ahead = self.clock.start_of(unix_second).saturating_sub(monotonic_ns());
        Instant::now() + Duration::from_nanos(ahead)
    }

    /// Records what was heard.
    fn note(&mut self, heard: Heard) -> anyhow::Result<()> {
        match heard {
            Heard::Server(ServerLine::Sample(sample)) => {
                self.seconds.server(&sample);
                self.files.sample("server", &self.host_of(Who::Server), &sample)?;
            }
            Heard::Client(process, ClientLine::Sample(sample)) => {
                self.seconds.client(&sample);
                let mut who = self.host_of(Who::Client(process));
                who.push(("client", process.into()));
                self.files.sample("client", &who, &sample)?;
            }
            Heard::Client(process, ClientLine::Histogram { t, phase, segment, values }) => {
                if segment != Segment::Push || self.shares_clock_with_server(process) {
                    self.seconds.histogram(t, phase, segment, &values.0);
                }
            }
            Heard::Client(process, ClientLine::Causes { t, shard, phase, rows }) => {
                self.causes(t, process, Some(shard), phase, &rows)?;
            }
            Heard::Client(process, ClientLine::Sampled { t, requests }) => {
                self.sampled(t, process, &requests);
            }
            Heard::Client(process, ClientLine::Slow { t, requests }) => {
                self.slow(t, process, requests)?;
            }
            Heard::Server(ServerLine::Spun { shard, spins }) => {
                self.faults.spun(None, shard, &spins)?;
            }
            Heard::Client(process, ClientLine::Spun { shard, spins }) => {
                self.faults.spun(Some(process), shard, &spins)?;
            }
            heard @ (Heard::Hog(..) | Heard::Silence(Who::Hog(_))) => {
                self.note_fault(heard)?;
            }
            Heard::Server(ServerLine::Ended(ledger)) => self.books.server = Some(ledger),
            Heard::Client(client, ClientLine::Ended(audit)) => self.books.add(client, audit)?,
            Heard::Server(ServerLine::Error(error)) => self.warn("server", &error)?,
            Heard::Client(process, ClientLine::Error(error)) => {
                self.warn(&format!("client {process}"), &error)?;
            }
            Heard::Nonsense(who, line) => {
                self.warn(&who.to_string(), &format!("said what cannot be read: {line}"))?;
            }
            Heard::Silence(_)
            | Heard::Fleet(_)
            | Heard::Server(ServerLine::Ready(_))
            | Heard::Client(_, ClientLine::Ready(_))
            | Heard::Client(_, ClientLine::Established { .. } | ClientLine::Settled { .. }) => {}
        }
        Ok(())
    }

    fn warn(&mut self, who: &str, what: &str) -> anyhow::Result<()> {
        self.progress.say(&format!("{who}: {what}"));
        self.files.event(Event::now("warning", json!({ "from": who, "what": what })))?;
        Ok(())
    }

    /// Records what `/proc` says about the second that has just ended.
    fn look(&mut self) -> anyhow::Result<()> {
        let t = self.next_look - 1;
        self.next_look = self.now() + 1;
        if self.fleet.is_some() {
            return self.look_at_fleet(t);
        }
        let lines = self.surroundings.second(t);
        for (source, of, values) in &lines {
            self.files.sample(source, of, values)?;
        }
        let link = lines.iter().find(|(source, ..)| *source == "nic").map(|line| &line.2["link"]);
        if let Some(line) = self.probing.second(t, link, true) {
            self.files.sample("probe", &[], &line)?;
        }
        self.profile_phase(self.next_look - 1)?;
        self.look_at_faults()?;
        self.files.flush()?;
        Ok(())
    }

    fn established(&mut self, client: u32, phase: u16, seconds: f64) -> anyhow::Result<()> {
        let mut fields =
            json!({ "client": client, "phase": self.name_of(phase), "seconds": seconds });
        self.add_host(client, &mut fields);
        self.files.event(Event::now("established", fields))?;
        Ok(())
    }

    fn settled(&mut self, client: u32, phase: u16, tally: &Tally) -> anyhow::Result<()> {
        let mut fields = json!({ "client": client, "phase": self.name_of(phase), "tally": tally });
        self.add_host(client, &mut fields);
        self.files.event(Event::now("settled", fields))?;
        Ok(())
    }

    fn name_of(&self, phase: u16) -> String {
        let spec = self.phases.get(usize::from(phase));
        spec.map_or_else(|| phase.to_string(), |spec| spec.name.to_string())
    }

    /// A second is complete: it is recorded, shown, and held against the conditions of its phase.
    /// Returns why the run must end, if it must.
    fn complete(&mut self, second: &Second) -> anyhow::Result<Option<String>> {
        for (phase, segment, values) in &second.histograms {
            self.files.histogram(second.t, *phase, *segment, values)?;
        }
        if second.late {
            return Ok(None);
        }
        let Some(phase) = self.files.phase_at(second.t).cloned() else { return Ok(None) };
        let index = usize::from(phase.index);
        let (spec, later) = (&self.phases[index], &self.phases[index + 1..]);
        let of = spec.seconds.map(PhaseSeconds::get);
        let gone = second.t + 1 - phase.start;
        let rest: Option<u64> =
            later.iter().map(|phase| phase.seconds.map(PhaseSeconds::get)).sum();
        let left = of.zip(rest).map(|(of, rest)| of.saturating_sub(gone) + rest);
        self.progress.second(&phase.name, gone, of, left, second);
        let why = self.watches[index].see(second);
        Ok(why.map(|why| format!("phase {}: {why}", phase.name)))
    }
}
