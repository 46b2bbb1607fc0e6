//! A run as one of its hosts has it: programs, what is around them, and the way to an end with or
//! without a coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use platform::{Clock, monotonic_ns};
use serde_json::{Value, json};
use service::Line as ServerLine;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use workload::Line as ClientLine;

use super::sender::Sending;
use crate::protocol::{Answer, Lease, STILL_THERE, Said, What};
use host::probing::{ProbeOrder, Probing};
use host::program::{Program, Who};
use host::sock_diag;
use host::surroundings::Surroundings;
use spec::machine::sysctls;

/// What programs say waits so long for more, so that a message has many lines.
const GATHER: Duration = Duration::from_millis(40);

/// A batch is closed when it is this long, in bytes: NATS takes messages of 1 MiB.
const BATCH: usize = 256 << 10;

/// A line that is longer travels in pieces. Escaping may double it.
const PIECE: usize = 200 << 10;

/// A program says something every second; one that is silent for this long hangs.
const HANGS: Duration = Duration::from_secs(4);

/// A coordinator that was not heard for this long is gone.
const SILENT: Duration = Duration::from_secs(5);

/// A new coordinator is refused while the old one was heard within this time.
const FRESH: Duration = Duration::from_secs(3);

/// Told to stop, clients have this long until the server is told, too.
const CLIENTS_STOP: Duration = Duration::from_millis(700);

/// Told to stop, all programs have this long until they are killed.
const ALL_STOP: Duration = Duration::from_millis(1400);

/// Told that nothing more comes, programs have this long: closing many sockets takes a while.
const FINISH: Duration = Duration::from_secs(60);

/// What is heard here.
pub(super) enum FromChild {
    /// A line of a child; `None` at its end.
    Line(Who, Option<String>),
    /// What the kernel says of the server's connections, and how many there should be.
    Kernel(std::io::Result<BTreeMap<IpAddr, u64>>, u64),
}

/// How a run ends here.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// When the server is told to stop; `None` when it was, or is by others.
    server_at: Option<Instant>,
    kill_at: Instant,
}

/// A run under way.
pub(super) struct Work {
    lease: Lease,
    agent: String,
    children: UnboundedSender<FromChild>,
    programs: BTreeMap<Who, Program>,
    /// Programs that have not ended.
    alive: usize,
    /// When each of those that are ready was heard; `None` once its silence was told.
    latest: BTreeMap<Who, Option<Instant>>,
    /// The number of the last order that was carried out.
    done: u64,
    clock: Clock,
    surroundings: Surroundings,
    looks_at_network: bool,
    probing: Probing,
    probes: Option<ProbeOrder>,
    server: Option<SocketAddrV4>,
    next_look: u64,
    said: Vec<Said>,
    said_bytes: usize,
    flush_at: Option<Instant>,
    /// When the coordinator was heard.
    heard: Instant,
    /// When a new one took over.
    resumed: Instant,
    /// When the phase is over, if one is under way that ends by itself.
    phase_ends: Option<Instant>,
    ending: Option<Ending>,
    over: bool,
    /// CPUs that this process may use, and those that were given to shards.
    allowed: Vec<usize>,
    shards: BTreeSet<usize>,
}

/// The kinds of lines that matter here, by how they begin.
fn is_last(line: &str) -> bool {
    line.starts_with("{\"ended\"")
}

impl Work {
    /// Nothing done yet.
    pub(super) fn new(lease: Lease, agent: &str, children: UnboundedSender<FromChild>) -> Self {
        let now = Instant::now();
        let clock = Clock::read_ahead(lease.ahead_ns);
        let surroundings = if lease.machine {
            Surroundings::of_machine()
        } else {
            Surroundings::without_machine()
        };
        Self {
            next_look: clock.unix_second(monotonic_ns()) + 1,
            agent: agent.to_owned(),
            lease,
            children,
            programs: BTreeMap::new(),
            alive: 0,
            latest: BTreeMap::new(),
            done: 0,
            clock,
            surroundings,
            looks_at_network: false,
            probing: Probing::none("no program was started on this host"),
            probes: None,
            server: None,
            said: Vec::new(),
            said_bytes: 0,
            flush_at: None,
            heard: now,
            resumed: now,
            phase_ends: None,
            ending: None,
            over: false,
            allowed: platform::cpus_allowed().unwrap_or_default(),
            shards: BTreeSet::new(),
        }
    }

    /// Which run.
    pub(super) fn run(&self) -> &str {
        &self.lease.run
    }

    /// The number of the last order that was carried out.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Whether the last word was said.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The coordinator is there.
    pub(super) fn pulse(&mut self) {
        self.heard = Instant::now();
    }

    /// Another coordinator takes over.
    pub(super) fn resume(&mut self) -> Result<(), String> {
        if self.heard.elapsed() < FRESH {
            return Err(format!("the coordinator of run {} {STILL_THERE}", self.lease.run));
        }
        if self.ending.is_some() {
            return Err(format!("run {} is being ended", self.lease.run));
        }
        self.resumed = Instant::now();
        Ok(())
    }

    /// When a Unix second of the coordinator begins.
    fn instant_of(&self, second: u64) -> Instant {
        let ahead = self.clock.start_of(second).saturating_sub(monotonic_ns());
        Instant::now() + Duration::from_nanos(ahead)
    }

    /// When the run ends here because nobody asks for it any more.
    fn deserted_at(&self, wait: Duration) -> Instant {
        let silent = self.heard.max(self.resumed) + SILENT;
        self.phase_ends.map_or(silent, |end| silent.max(end)) + wait
    }

    /// When the next turn is due, a desertion apart, which has time until the next second.
    pub(super) fn next(&self) -> Instant {
        let ending = self.ending.map(|it| it.server_at.unwrap_or(it.kill_at));
        let look = self.instant_of(self.next_look);
        [self.flush_at, ending].into_iter().flatten().fold(look, Instant::min)
    }

    /// Does what is due.
    pub(super) async fn turn(
        &mut self,
        kept: &BTreeMap<String, Sending>,
        wait: Duration,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        if monotonic_ns() >= self.clock.start_of(self.next_look) {
            self.look();
        }
        if self.ending.is_none() && now >= self.deserted_at(wait) {
            let what = format!("nobody took run {} over; ending it", self.lease.run);
            self.say(Said::Warning { what });
            self.stop().await;
        }
        if let Some(ending) = self.ending {
            if ending.server_at.is_some_and(|at| now >= at) {
                self.stop_server().await;
            }
            if now >= ending.kill_at {
                self.programs.values_mut().for_each(Program::kill);
                // Once is enough: what is killed ends.
                self.ending = Some(Ending { kill_at: now + FINISH, ..ending });
            }
        }
        self.end_if_over();
        let due = self.flush_at.is_some_and(|at| Instant::now() >= at);
        if due || self.over { self.flush(kept) } else { Ok(()) }
    }

    /// Keeps what is to be told until it is worth a message.
    fn say(&mut self, said: Said) {
        let length = match &said {
            Said::Line { line, .. } => line.len(),
            Said::Piece { piece, .. } => piece.len(),
            Said::Sample { .. } => 2_000,
            _ => 200,
        };
        self.said.push(said);
        self.said_bytes += length;
        let now = Instant::now();
        let at = *self.flush_at.get_or_insert(now + GATHER);
        self.flush_at = Some(if self.said_bytes > BATCH { now } else { at });
    }

    fn flush(&mut self, kept: &BTreeMap<String, Sending>) -> anyhow::Result<()> {
        self.flush_at = None;
        let Some(kept) = kept.get(&self.lease.run) else { return Ok(()) };
        let mut batch = Vec::new();
        let mut bytes = 0;
        for said in std::mem::take(&mut self.said) {
            let length = match &said {
                Said::Line { line, .. } => line.len(),
                Said::Piece { piece, .. } => piece.len(),
                Said::Looked { sides, .. } => 300 * sides.len(),
                _ => 2_000,
            };
            if bytes + length > BATCH && !batch.is_empty() {
                kept.push(std::mem::take(&mut batch))?;
                bytes = 0;
            }
            bytes += length;
            batch.push(said);
        }
        self.said_bytes = 0;
        if batch.is_empty() { Ok(()) } else { Ok(kept.push(batch)?) }
    }

    fn warn(&mut self, what: impl Into<String>) {
        self.say(Said::Warning { what: what.into() });
    }

    /// What the second that has just ended was like.
    fn look(&mut self) {
        let t = self.next_look - 1;
        self.next_look = self.clock.unix_second(monotonic_ns()) + 1;
        if self.programs.is_empty() && !self.looks_at_network {
            return;
        }
        self.miss_silent();
        for (source, of, values) in self.surroundings.second(t) {
            let of = of.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            self.say(Said::Sample { source: source.to_owned(), of, values });
        }
        // Where agents share a kernel, one tells of it, and each of its own programs.
        if let Some(values) = self.probing.second(t, None, self.lease.machine) {
            self.say(Said::Sample { source: "probe".to_owned(), of: Vec::new(), values });
        }
    }

    /// Tells of programs that have ceased to say anything, once each time.
    fn miss_silent(&mut self) {
        let silent: Vec<Who> = self
            .latest
            .iter_mut()
            .filter(|(_, heard)| heard.is_some_and(|at| at.elapsed() > HANGS))
            .map(|(who, heard)| {
                *heard = None;
                *who
            })
            .collect();
        for who in silent {
            self.warn(format!("{who} hangs: it has said nothing for {} s", HANGS.as_secs()));
        }
    }

    /// A child says something, or has ended.
    pub(super) async fn heard(
        &mut self,
        heard: FromChild,
        kept: &BTreeMap<String, Sending>,
    ) -> anyhow::Result<()> {
        let (who, line) = match heard {
            FromChild::Line(who, line) => (who, line),
            FromChild::Kernel(counts, wanted) => {
                self.kernel(counts, wanted);
                return Ok(());
            }
        };
        let Some(line) = line else {
            self.alive = self.alive.saturating_sub(1);
            self.latest.remove(&who);
            self.say(Said::Silence { who });
            self.end_if_over();
            return if self.over { self.flush(kept) } else { Ok(()) };
        };
        self.is_ready(who, &line).await;
        if let Some(heard) = self.latest.get_mut(&who) {
            *heard = Some(Instant::now());
        }
        if self.ending.is_some()
            && is_last(&line)
            && let Some(program) = self.programs.get_mut(&who)
        {
            program.end();
        }
        if line.len() <= PIECE {
            self.say(Said::Line { who, line });
            return Ok(());
        }
        let mut rest = line.as_str();
        while !rest.is_empty() {
            let mut at = PIECE.min(rest.len());
            while !rest.is_char_boundary(at) {
                at -= 1;
            }
            let (piece, after) = rest.split_at(at);
            rest = after;
            self.say(Said::Piece { who, piece: piece.to_owned(), last: rest.is_empty() });
        }
        Ok(())
    }

    /// Looks at a program from when it is ready on.
    async fn is_ready(&mut self, who: Who, line: &str) {
        if !line.starts_with("{\"ready\"") {
            return;
        }
        self.latest.insert(who, Some(Instant::now()));
        match who {
            Who::Server => {
                let Ok(ServerLine::Ready(ready)) = serde_json::from_str(line) else { return };
                self.surroundings.add_process(who, ready.pid);
                self.make_room(&ready.threads);
                self.server = ready.listen.parse().ok();
                if let (Some(address), Some(order)) = (self.server, self.probes.take()) {
                    let attached = self.attach(&order, address.port(), Some(ready.pid)).await;
                    if let Err(error) = attached {
                        self.say(Said::Failed { why: format!("{error:#}") });
                    }
                    self.probes = Some(order);
                }
            }
            Who::Client(number) => {
                let Ok(ClientLine::Ready(ready)) = serde_json::from_str(line) else { return };
                self.surroundings.add_process(who, ready.pid);
                self.make_room(&ready.threads);
                self.probing.watch_client(number, ready.pid);
            }
            Who::Hog(_) => {}
        }
    }

    /// Attaches the probes in a thread of its own, which takes seconds on a slow machine: beats go
    /// on meanwhile.
    ///
    /// # Errors
    /// Only when the run cannot do without the probes.
    async fn attach(
        &mut self,
        order: &ProbeOrder,
        port: u16,
        server_pid: Option<u32>,
    ) -> anyhow::Result<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let order = order.clone();
        std::thread::Builder::new().name("attach".to_owned()).spawn(move || {
            // Nobody listens any more when this process ends.
            let _ = tell.send(Probing::attach_as(&order, port, server_pid));
        })?;
        let attached = told.await?;
        let none = |error: &anyhow::Error| Probing::none(&format!("{error:#}"));
        let (probing, outcome) = match attached {
            Ok(probing) => (probing, Ok(())),
            Err(error) => (none(&error), Err(error)),
        };
        self.probing = probing;
        let probes = self.probing.to_json();
        self.say(Said::Probes { probes });
        outcome
    }

    fn look_at_network(&mut self) {
        if self.done == 1 {
            self.say(Said::Settings { sysctls: sysctls() });
        }
        if self.lease.network && !self.looks_at_network {
            self.looks_at_network = true;
            for what in self.surroundings.add_network(&self.agent.clone(), None) {
                self.warn(what);
            }
        }
    }

    /// Does something for the run, unless it was done.
    pub(super) async fn order(
        &mut self,
        number: u64,
        what: What,
        kept: &BTreeMap<String, Sending>,
    ) -> anyhow::Result<Answer> {
        if number <= self.done {
            return Ok(Answer::Done {});
        }
        if number > self.done + 1 {
            let why = format!("order {number} came after order {}", self.done);
            return Ok(Answer::Refused { why });
        }
        self.done = number;
        self.look_at_network();
        match what {
            What::Start { who, config, probes } => {
                if let Err(error) = self.start(who, config, probes.map(|it| *it)).await {
                    let why = format!("{who} cannot be started: {error:#}");
                    return Ok(Answer::Refused { why });
                }
            }
            What::Tell { who, line } => {
                let Some(program) = self.programs.get_mut(&who) else {
                    return Ok(Answer::Refused { why: format!("there is no {who}") });
                };
                // One that does not listen has ended, and its silence is heard.
                let _ = program.tell_line(line).await;
            }
            What::Phase { start: _, end } => {
                self.phase_ends = end.map(|end| self.instant_of(end));
            }
            What::Kernel { wanted } => self.ask_kernel(wanted),
            What::Look { number, requests } => {
                let sides = self.probing.server_sides(&requests);
                self.say(Said::Looked { number, sides });
            }
            What::Close { who } => {
                if let Some(program) = self.programs.get_mut(&who) {
                    program.end();
                }
            }
            What::Stop {} => self.stop().await,
            What::Finish {} => {
                let kill_at = Instant::now() + FINISH;
                self.ending.get_or_insert(Ending { server_at: None, kill_at });
                self.end_if_over();
            }
        }
        if self.over {
            self.flush(kept)?;
        }
        Ok(Answer::Done {})
    }

    async fn start(
        &mut self,
        who: Who,
        mut config: Value,
        probes: Option<ProbeOrder>,
    ) -> anyhow::Result<()> {
        if let Some(order) = probes
            && !self.probing.is_attached()
            && self.probes.is_none()
        {
            // Those of the server's host are attached when it listens.
            if let Some(port) = order.port {
                self.attach(&order, port, None).await?;
            }
            self.probes = Some(order);
        }
        let mut keep = Vec::new();
        if let (Who::Client(_), Some((handover, fds))) = (who, self.probing.handover()?) {
            config["probes"] = json!(handover);
            keep = Vec::from(fds);
        }
        // Children inherit where this process may run.
        self.stay_on(&self.allowed.clone());
        let children = self.children.clone();
        // Nobody listens any more when this process ends.
        let take = move |line| drop(children.send(FromChild::Line(who, line)));
        let program = Program::start(who, &config, None, keep, &[], take)?;
        self.programs.insert(who, program);
        self.alive += 1;
        self.leave_shards();
        Ok(())
    }

    /// Leaves the CPUs to which a program has pinned its shards to them, as long as there is
    /// another one.
    fn make_room(&mut self, threads: &[i32]) {
        for thread in threads {
            // One that has ended needs no room.
            let tid = rustix::thread::Pid::from_raw(*thread);
            let Ok(set) = rustix::thread::sched_getaffinity(tid) else { continue };
            if set.count() == 1 {
                self.shards.extend((0..rustix::thread::CpuSet::MAX_CPU).find(|it| set.is_set(*it)));
            }
        }
        self.leave_shards();
    }

    fn leave_shards(&mut self) {
        let free = self.allowed.iter().filter(|cpu| !self.shards.contains(cpu));
        let free: Vec<usize> = free.copied().collect();
        self.stay_on(&free);
    }

    /// Keeps this process off other CPUs than these, if there are any: those of shards are theirs.
    fn stay_on(&mut self, cpus: &[usize]) {
        if cpus.is_empty() {
            return;
        }
        let mut set = rustix::thread::CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            self.warn(format!("the agent cannot stay on CPUs {cpus:?}: {error}"));
        }
    }

    /// The walk over a large table takes seconds, so the answer comes later.
    fn ask_kernel(&mut self, wanted: u64) {
        let Some(server) = self.server else {
            return self.warn("the kernel was asked for connections of a server elsewhere");
        };
        let children = self.children.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody listens any more when this process ends.
            let _ = children.send(FromChild::Kernel(sock_diag::established(server), wanted));
        });
    }

    fn kernel(&mut self, counts: std::io::Result<BTreeMap<IpAddr, u64>>, wanted: u64) {
        match counts {
            Ok(counts) => {
                let by_address =
                    counts.into_iter().map(|(address, count)| (address.to_string(), count));
                self.say(Said::Kernel { by_address: by_address.collect(), wanted });
            }
            Err(error) => self.warn(format!("sock_diag: {error}")),
        }
    }

    /// Ends all programs soon: clients first, so that the server sees every answer taken or
    /// refused.
    async fn stop(&mut self) {
        let now = Instant::now();
        if self.ending.is_some_and(|it| it.kill_at <= now + ALL_STOP) {
            return;
        }
        self.ending = Some(Ending { server_at: Some(now + CLIENTS_STOP), kill_at: now + ALL_STOP });
        for (who, program) in &mut self.programs {
            if matches!(who, Who::Client(_)) {
                let _ = program.tell(&workload::Command::Stop {}).await;
            }
        }
        self.end_if_over();
    }

    async fn stop_server(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.server_at = None;
        }
        if let Some(program) = self.programs.get_mut(&Who::Server) {
            let _ = program.tell(&service::Command::Stop {}).await;
        }
    }

    fn end_if_over(&mut self) {
        if self.ending.is_some() && self.alive == 0 && !self.over {
            self.over = true;
            self.stay_on(&self.allowed.clone());
            self.say(Said::Over {});
            self.flush_at = Some(Instant::now());
        }
    }
}
