//! A running server: its shards, and the way to them.

use std::io;
use std::net::SocketAddrV4;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use platform::{Clock, DescriptorLimits, cpus_allowed, monotonic_ns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use service::{Config, ConfigError, DurableLedger, Resolved, ResolvedSteering};
use shard::{
    Inboxes, Limits, ListenOptions, Net, ShardContext, ShardThreads, SpawnError, bind_listener,
    drive,
};
use wire::MAX_FRAME;

use crate::keeping::Keepers;
use crate::logic::{Logic, Rules};
use crate::message::Message;
use crate::opened::{LedgerError, Shares, hand_out, open};
use crate::outbox::INBOX;
use crate::overload::Budget;
use crate::quiescence::Quiescence;
use crate::report::{Report, Snapshot};
use crate::seats::{Hall, Seats};
use crate::sets::new_online;
use crate::shard_loop::ShardLoop;
use crate::under_way::UnderWay;

/// Connections that wait to be accepted by one shard; the kernel caps it at `net.core.somaxconn`.
const ACCEPT_BACKLOG: i32 = 16_384;

/// Reports that wait for the control thread, for each shard: four seconds of samples and answers.
const REPORTS_PER_SHARD: usize = 8;

/// Why a server did not start. Nothing of it is running then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is impossible here.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddrV4,
        /// What the kernel says.
        source: io::Error,
    },
    /// The threads cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The durable ledger cannot be gone on with.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A shard cannot run.
    #[error("shard {shard} cannot run: {reason}")]
    Shard {
        /// Which one.
        shard: usize,
        /// Why.
        reason: String,
    },
    /// The machine refuses something basic.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A running server. It goes on when this is dropped: [`Server::stop`] ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddrV4,
    resolved: Resolved,
    inboxes: Inboxes<Message>,
    reports: Inboxes<Report>,
    budget: Arc<Budget>,
    threads: ShardThreads<Option<()>>,
    keepers: Option<Keepers>,
    ledger: Option<DurableLedger>,
}

/// What a shard needs to start, the same for all.
#[derive(Clone)]
struct ShardSetup {
    config: Config,
    address: SocketAddrV4,
    resolved: Resolved,
    inboxes: Inboxes<Message>,
    reports: Inboxes<Report>,
    rules: Arc<Rules>,
    online: crate::sets::Online,
    budget: Arc<Budget>,
    under_way: Arc<UnderWay>,
    clock: Clock,
    quiescence: Arc<Quiescence>,
    hall: Arc<Hall>,
    shares: Option<Arc<Shares>>,
}

impl Server {
    /// Starts the shards and returns when all of them listen.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let limits = DescriptorLimits::raise()
            .map_err(|errno| system("raise the limit on descriptors")(errno.into()))?;
        let allowed = cpus_allowed().map_err(system("ask which CPUs may be used"))?;
        let resolved = config.resolve(&allowed, limits)?;
        let listen_error = |source| StartError::Listen { address: config.listen, source };
        let (address, reserved) = reserve(config.listen).map_err(listen_error)?;
        let shards = resolved.shards;
        let eventfd = |errno: rustix::io::Errno| system("make event descriptors")(errno.into());
        let inboxes = Inboxes::new(shards, INBOX).map_err(eventfd)?;
        let reports = Inboxes::new(1, shards * REPORTS_PER_SHARD).map_err(eventfd)?;
        let budget = Budget::new(config.overload);
        let clock = Clock::read_ahead(config.clock_ahead_ns);
        let under_way = UnderWay::new(config.users);
        let (mut keepers, mut writers, mut shares, mut ledger) = (None, Vec::new(), None, None);
        if let Some(path) = &config.ledger {
            let opened = open(path, config.ledger_history, (shards, config.sets), clock)?;
            let new = Keepers::new(shards);
            opened.shares.iter().for_each(|share| under_way.count_open(share));
            shares = Some(Arc::new(hand_out(&new, opened.shares, clock)));
            (keepers, writers, ledger) = (Some(new), opened.writers, Some(opened.found));
        }
        let rules = Rules {
            users: config.users,
            notices: config.notices,
            packet_life_ns: u64::try_from(config.packet_life.as_nanos()).unwrap_or(u64::MAX),
            queue_bound: config.queue_bound,
            packets_bound: config.packets_bound.div_ceil(shards),
            budgets: config.budgets,
            seed: config.seed,
        };
        let setup = ShardSetup {
            config: config.clone(),
            address,
            resolved: resolved.clone(),
            inboxes: inboxes.clone(),
            reports: reports.clone(),
            rules: Arc::new(rules),
            online: new_online(config.sets),
            budget: Arc::clone(&budget),
            under_way,
            clock,
            quiescence: Arc::default(),
            hall: Hall::new(resolved.connections),
            shares,
        };
        let threads = shard::spawn("lab-server", shards, &resolved.placement, move |context| {
            let setup = setup.clone();
            let (reports, shard) = (setup.reports.clone(), context.shard);
            let lost = move |why| report(&reports, Report::Ended(shard, Err(why)));
            shard::watched(setup.run(context), lost)
        })?;
        let kept = keepers.as_mut().map_or(Ok(()), |it| it.start(writers, &inboxes, &reports));
        let kept = kept.map_err(system("start a thread for the durable ledger"));
        let server = Self { address, resolved, inboxes, reports, budget, threads, keepers, ledger };
        let started = kept.and_then(|()| server.await_start());
        drop(reserved);
        match started {
            Ok(()) => Ok(server),
            Err(error) => {
                server.tell_all(|| Message::Stop);
                // What the others say when they end adds nothing to the first error.
                let _ = server.join();
                Err(error)
            }
        }
    }

    fn await_start(&self) -> Result<(), StartError> {
        let mut waiting = self.shards();
        while waiting > 0 {
            match self.next_report(None) {
                Some(Report::Started(_, Ok(()))) => waiting -= 1,
                Some(Report::Started(shard, Err(reason)) | Report::Ended(shard, Err(reason))) => {
                    return Err(StartError::Shard { shard, reason });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.resolved.shards
    }

    /// What its configuration came to.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Its durable ledger, and what was found there.
    pub fn ledger(&self) -> Option<&DurableLedger> {
        self.ledger.as_ref()
    }

    /// The threads of its shards.
    pub fn threads(&self) -> &[rustix::thread::Pid] {
        self.threads.threads()
    }

    /// The inboxes of its shards.
    pub(crate) fn inboxes(&self) -> &Inboxes<Message> {
        &self.inboxes
    }

    /// What its shards report.
    pub fn reports(&self) -> &Inboxes<Report> {
        &self.reports
    }

    /// Its limit of shakes per second.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Posts a message to every shard, trying again while an inbox is full.
    pub(crate) fn tell_all(&self, message: impl Fn() -> Message) {
        for shard in 0..self.shards() {
            self.tell(shard, message());
        }
    }

    /// Posts a message to a shard, trying again while its inbox is full.
    pub fn tell(&self, shard: usize, mut message: Message) {
        while let Err(back) = self.inboxes.post(shard, message) {
            message = back;
            std::thread::yield_now();
        }
    }

    /// The next report; `None` when there is none within the time given.
    pub(crate) fn next_report(&self, timeout: Option<Duration>) -> Option<Report> {
        let deadline = timeout.map(|timeout| monotonic_ns() + timeout.as_nanos() as u64);
        loop {
            let mut report = None;
            self.reports.drain(0, 1, |one| report = Some(one));
            if report.is_some() {
                return report;
            }
            let left = deadline.map(|deadline| deadline.saturating_sub(monotonic_ns()));
            if left == Some(0) {
                return None;
            }
            let left = left.map(|ns| Timespec {
                tv_sec: (ns / 1_000_000_000).cast_signed(),
                tv_nsec: (ns % 1_000_000_000).cast_signed(),
            });
            let eventfd = self.reports.eventfd(0);
            let mut ready = [PollFd::from_borrowed_fd(eventfd, PollFlags::IN)];
            if poll(&mut ready, left.as_ref()).is_ok_and(|ready| ready > 0) {
                // Resets the eventfd, so that the next poll waits for the next notification.
                let _ = rustix::io::read(eventfd, &mut [0; 8]);
            }
        }
    }

    /// The state of every shard. Other reports, those from before too, are dropped: not for a
    /// server whose reports something else reads.
    ///
    /// # Errors
    /// The shard that did not answer in time.
    pub fn snapshots(&self, timeout: Duration) -> Result<Vec<Snapshot>, usize> {
        let ticket = monotonic_ns();
        let deadline_ns = ticket.saturating_add(timeout.as_nanos() as u64);
        // Samples that were not read fill the inbox, and an answer that finds no room is lost.
        while self.next_report(Some(Duration::ZERO)).is_some() {}
        self.tell_all(|| Message::Snapshot { ticket });
        let mut snapshots: Vec<Option<Snapshot>> = vec![None; self.shards()];
        while let Some(missing) = snapshots.iter().position(Option::is_none) {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
            match self.next_report(Some(left)) {
                Some(Report::Snapshot(answer, snapshot)) if answer == ticket => {
                    let shard = snapshot.shard;
                    snapshots[shard] = Some(*snapshot);
                }
                Some(_) => {}
                None => return Err(missing),
            }
        }
        Ok(snapshots.into_iter().flatten().collect())
    }

    /// Tells the shards to stop, waits until they have answered what was read, and returns the
    /// reports that were not read before.
    ///
    /// # Errors
    /// What a shard that could not end in order says.
    pub fn stop(self) -> anyhow::Result<Vec<Report>> {
        self.tell_all(|| Message::Stop);
        let mut reports = Vec::new();
        let mut running = self.shards();
        while running > 0 {
            if let Some(report) = self.next_report(None) {
                running -= usize::from(matches!(report, Report::Ended(..)));
                reports.push(report);
            }
        }
        self.join()?;
        let failed = reports.iter().find_map(|report| match report {
            Report::Ended(shard, Err(reason)) => Some(format!("shard {shard} ended: {reason}")),
            _ => None,
        });
        failed.map_or(Ok(reports), |failed| Err(anyhow::Error::msg(failed)))
    }

    /// Waits for the threads of the shards, which have been told to stop, and then for what they
    /// recorded to be durable.
    ///
    /// # Errors
    /// A shard that panicked, or what could not be written.
    pub fn join(self) -> anyhow::Result<()> {
        let joined = self.threads.join();
        let kept = self.keepers.map_or(Ok(()), Keepers::end);
        joined.map_err(|error| anyhow::anyhow!("a shard panicked: {error}"))?;
        kept.map_err(anyhow::Error::msg)
    }
}

/// Finds out whether an address can be listened on and keeps its port.
///
/// Shards share the address (SO_REUSEPORT), and so could a second server of the same user, which
/// would silently take half of the connections: a first bind without that option finds out.
fn reserve(address: SocketAddrV4) -> io::Result<(SocketAddrV4, socket2::Socket)> {
    use socket2::{Domain, Socket, Type};
    let bound = |reuse_port, address: SocketAddrV4| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    let probe = bound(false, address)?;
    let port = probe.local_addr()?.as_socket_ipv4().map_or(address.port(), |at| at.port());
    drop(probe);
    let address = SocketAddrV4::new(*address.ip(), port);
    Ok((address, bound(true, address)?))
}

impl ShardSetup {
    async fn run(self, context: ShardContext) {
        let shard = context.shard;
        let (reports, quiescence) = (self.reports.clone(), Arc::clone(&self.quiescence));
        let (mut net, mut handler) = match self.build(context) {
            Ok(built) => {
                report(&reports, Report::Started(shard, Ok(())));
                built
            }
            Err(error) => {
                quiescence.enter();
                report(&reports, Report::Started(shard, Err(error.to_string())));
                return;
            }
        };
        let ended = drive(&mut net, &mut handler).await;
        handler.end(&mut net);
        report(&reports, Report::Ended(shard, ended.map_err(|error| error.to_string())));
    }

    fn build(self, context: ShardContext) -> io::Result<(Net, ShardLoop)> {
        let Resolved { connections_per_shard, per_ring, steering, .. } = self.resolved;
        let limits = Limits::new(connections_per_shard, per_ring, MAX_FRAME);
        let mut net = Net::new(limits, Some(self.inboxes.eventfd(context.shard)))?;
        net.listen(bind_listener(&ListenOptions {
            address: self.address,
            backlog: ACCEPT_BACKLOG,
            cpu: context.cpu.filter(|_| steering == ResolvedSteering::Cpu),
            congestion: self.config.congestion.clone(),
        })?)?;
        let now_ns = net.read_clock();
        let mut logic = Logic::new(
            context.shard,
            context.shards,
            self.rules,
            self.online,
            self.budget,
            self.under_way,
            now_ns,
        );
        let taken = self.shares.as_ref().and_then(|shares| {
            shares[context.shard].lock().unwrap_or_else(PoisonError::into_inner).take()
        });
        let keeping = taken.map(|(keeping, share)| {
            logic.restore(share);
            keeping
        });
        let Self { inboxes, reports, clock, quiescence, hall, .. } = self;
        let (shard, seats) = (context.shard, Seats::new(hall));
        let handler = ShardLoop::new(shard, logic, inboxes, reports, clock, quiescence, seats)
            .with_ledger(keeping);
        Ok((net, handler))
    }
}

/// A report that must not be lost: waits while the control thread is behind.
fn report(reports: &Inboxes<Report>, mut report: Report) {
    while let Err(back) = reports.post(0, report) {
        report = back;
        std::thread::yield_now();
    }
}
