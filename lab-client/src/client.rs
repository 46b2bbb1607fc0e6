//! A running client: its shards, and the way to them.

use std::io;
use std::sync::Arc;

use platform::{Clock, DescriptorLimits, cpus_allowed, port_range};

use shard::{Inboxes, Limits, Net, ShardContext, ShardThreads, SpawnError, drive};
use wire::MAX_FRAME;
use workload::{Config, ConfigError, Resolved, Share};

use crate::load::{LoadGenerator, Rules};
use crate::message::Message;
use crate::report::Report;
use crate::shard_loop::{ShardLoop, report};
use crate::traces::{KernelTraces, TraceReader};

/// Messages in a shard's inbox: commands are few; histograms come back a few a second.
const INBOX: usize = 256;

/// Reports that wait for the control thread, for each shard: a few seconds' worth.
const REPORTS_PER_SHARD: usize = 64;

/// Why a client did not start. Nothing of it is running then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The configuration is impossible here.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The threads cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The machine refuses something basic.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A running client. It goes on when this is dropped, until its shards are told to stop.
#[derive(Debug)]
pub(crate) struct Client {
    resolved: Resolved,
    mail: Inboxes<Message>,
    reports: Inboxes<Report>,
    threads: ShardThreads<Option<()>>,
    clock: Clock,
}

/// What a shard needs to start, the same for all.
#[derive(Clone)]
struct ShardSetup {
    config: Config,
    per_ring: u32,
    rules: Arc<Rules>,
    mail: Inboxes<Message>,
    reports: Inboxes<Report>,
    clock: Clock,
    traces: Option<Arc<dyn TraceReader>>,
}

impl Client {
    /// Starts the shards; users connect when a phase says so.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) fn start(config: &Config) -> Result<Self, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let limits = DescriptorLimits::raise()
            .map_err(|errno| system("raise the limit on descriptors")(errno.into()))?;
        let allowed = cpus_allowed().map_err(system("ask which CPUs may be used"))?;
        let ports = port_range().map_err(system("ask which ports may be used"))?;
        let resolved = config.resolve(&allowed, limits, ports)?;
        let shards = resolved.shards;
        let traces = config.probes.as_ref().map(KernelTraces::map).transpose();
        let traces = traces.map_err(system("map the arrays of the probes"))?;
        let eventfd = |errno: rustix::io::Errno| system("make event descriptors")(errno.into());
        let mail = Inboxes::new(shards, INBOX).map_err(eventfd)?;
        let reports = Inboxes::new(1, shards * REPORTS_PER_SHARD).map_err(eventfd)?;
        let nanos = |duration: std::time::Duration| {
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
        };
        let rules = Rules {
            seed: config.seed,
            timeout_ns: nanos(config.timeout),
            late_ns: nanos(config.late),
            notices: config.notices,
            own_commands: config.own_commands,
            flows: resolved.flows.clone(),
            first_flow: config.first_flow,
            reconnect: config.reconnect,
            slow_kept: config.slow_kept,
            join: config.join,
        };
        let clock = Clock::read_ahead(config.clock_ahead_ns);
        let setup = ShardSetup {
            config: config.clone(),
            per_ring: resolved.per_ring,
            rules: Arc::new(rules),
            mail: mail.clone(),
            reports: reports.clone(),
            clock,
            traces,
        };
        let threads = shard::spawn("lab-client", shards, &resolved.placement, move |context| {
            let setup = setup.clone();
            let (reports, shard) = (setup.reports.clone(), context.shard);
            let lost = move |why| report(&reports, Report::Ended(shard, Box::default(), Err(why)));
            shard::watched(setup.run(context), lost)
        })?;
        Ok(Self { resolved, mail, reports, threads, clock })
    }

    /// What its configuration came to.
    pub(crate) fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// The clock that its seconds are named by.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// The threads of its shards.
    pub(crate) fn threads(&self) -> &[rustix::thread::Pid] {
        self.threads.threads()
    }

    /// The way to its shards.
    pub(crate) fn mail(&self) -> &Inboxes<Message> {
        &self.mail
    }

    /// What its shards report.
    pub(crate) fn reports(&self) -> &Inboxes<Report> {
        &self.reports
    }

    /// Waits for the threads of the shards, which have been told to stop.
    ///
    /// # Errors
    /// A shard that panicked.
    pub(crate) fn join(self) -> anyhow::Result<()> {
        self.threads.join().map_err(|error| anyhow::anyhow!("a shard panicked: {error}"))?;
        Ok(())
    }
}

impl ShardSetup {
    async fn run(self, context: ShardContext) {
        let (shard, reports) = (context.shard, self.reports.clone());
        let share = Share {
            total_users: self.config.total_users,
            first: self.config.first_user,
            end: self.config.end_user,
            shard,
            shards: context.shards,
        };
        let mut limits = Limits::new(share.len().max(1), self.per_ring, MAX_FRAME);
        limits.timer_slack_ns =
            u64::try_from(self.config.timer_slack.as_nanos()).unwrap_or(u64::MAX);
        let mut net = match Net::new(limits, Some(self.mail.eventfd(shard))) {
            Ok(net) => net,
            Err(error) => {
                report(&reports, Report::Started(shard, Err(error.to_string())));
                return;
            }
        };
        report(&reports, Report::Started(shard, Ok(())));
        let mut generator = LoadGenerator::new(share, self.rules, self.clock, net.read_clock());
        generator.set_traces(self.traces);
        let Config { server, congestion, .. } = self.config;
        let mut handler = ShardLoop::new(
            shard,
            generator,
            server,
            congestion,
            self.mail,
            self.reports,
            self.clock,
        );
        let ended = drive(&mut net, &mut handler).await;
        handler.end(&mut net, ended);
    }
}
