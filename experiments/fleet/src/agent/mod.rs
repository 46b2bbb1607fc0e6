//! `lab agent`: registers what its host is, waits for work, and does it as `lab run` does on one
//! machine. One run at a time.
//!
//! Owns: the conversation with coordinators. What a run needs done is in `work`.

mod args;
mod card;
mod control;
mod cpus;
mod ending;
mod events;
mod leads;
mod observed;
mod outbox;
mod programs;
mod sender;
mod status;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use async_nats::{Client, Message, Subscriber, jetstream};
use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::epoch::{Epoch, Leader};
use crate::names::RunName;
use crate::protocol::{
    Answer, Ask, Beat, Card, Lease, Order, PROTOCOL, Pulse, WHO, ask, beat, pulse,
};
use crate::spool::Spool;
use crate::state::StateLock;
use crate::target::Targets;
pub use args::AgentArgs;
use args::check_name;
pub use control::{Milestone, PipeProtocol};
use events::LocalEvent;
use host::privileges::Privileges;
use interrupts::Interrupts;
use leads::Leads;
pub use sender::Sending;
use spec::UsageError;
pub use status::{Figures, Status};
use work::Work;

/// Another agent of the same name is heard within this time: it beats every second.
const NAME_TAKEN: Duration = Duration::from_millis(1500);

/// An agent.
struct Agent {
    client: Client,
    context: jetstream::Context,
    card: Card,
    wait: Duration,
    state: PathBuf,
    protocol: PipeProtocol,
    /// As whom programs run.
    privileges: Privileges,
    work: Option<Work>,
    /// What is kept of runs, the one under way included.
    kept: BTreeMap<RunName, Sending>,
    leads: Leads,
    targets: Targets,
    status: Arc<Status>,
    events: UnboundedSender<LocalEvent>,
    /// The run that it works for and who leads it, for its beats.
    run: watch::Sender<Option<(RunName, Leader)>>,
}

/// What an agent hears from NATS.
struct Subscriptions {
    asks: Subscriber,
    whos: Subscriber,
    pulses: Subscriber,
}

/// Carries out `lab agent`, until it is interrupted. Programs are controlled as `protocol` says.
/// `looked_on` is given the figures of the agent when it is ready for work.
///
/// # Errors
/// [`UsageError`], or what keeps it from going on.
pub async fn run(
    args: &AgentArgs,
    protocol: PipeProtocol,
    looked_on: impl FnOnce(Arc<Status>),
) -> anyhow::Result<()> {
    check_name(&args.name)?;
    let privileges = Privileges::choose(args.user.as_deref())?;
    let interrupts = Interrupts::listen()?;
    let client = args.access.connect_agent(&args.name).await?;
    let context =
        jetstream::ContextBuilder::new().ack_timeout(Duration::from_secs(2)).build(client.clone());
    if is_taken(&client, &args.name).await? {
        return Err(UsageError::error(format!(
            "an agent named {} is there already: end it, or give another --name",
            args.name
        )));
    }
    let state = args.state.clone().or_else(|| std::env::var_os("STATE_DIRECTORY").map(Into::into));
    let state = state.unwrap_or_else(|| PathBuf::from(format!("lab-agent-{}", args.name)));
    let _lock = take(&state, &args.name)?;
    let mut card = card::card(args, &client)?;
    card.privileges = privileges.to_json();
    let subscriptions = Subscriptions {
        asks: client.subscribe(ask(&args.name)).await?,
        whos: client.subscribe(WHO).await?,
        pulses: client.subscribe(pulse(&args.name)).await?,
    };
    client.flush().await?;
    let (events, local) = unbounded_channel();
    text::say!("lab agent {}: waiting for work from {}", args.name, args.access.url()?);
    let run = watch::Sender::new(None);
    let beating = tokio::spawn(beat_on(client.clone(), card.clone(), run.subscribe()));
    let leads = Leads::of_kept(&state, &Spool::kept(&state));
    let status = Arc::new(Status::new(client.clone(), card.since));
    looked_on(Arc::clone(&status));
    let mut agent = Agent {
        client,
        context,
        card,
        wait: Duration::from_secs(args.wait),
        state,
        protocol,
        privileges,
        work: None,
        kept: BTreeMap::new(),
        leads,
        targets: Targets::new(&args.targets),
        status,
        events,
        run,
    };
    agent.expire();
    let done = agent.serve(subscriptions, local, interrupts).await;
    beating.abort();
    // Children die with this process.
    done
}

/// Makes the directory of an agent's state, and takes the right to it.
fn take(state: &Path, name: &str) -> anyhow::Result<StateLock> {
    let place = || format!("--state {}", state.display());
    std::fs::create_dir_all(state).with_context(place)?;
    let by = format!("lab agent {name}, process {}", std::process::id());
    let taken = StateLock::take(state, &by).with_context(place)?;
    taken.map_err(|by| {
        let place = place();
        UsageError::error(format!("{place}: {by} has it: give each agent a --state of its own"))
    })
}

/// Whether another agent has this name: its beat would be heard.
async fn is_taken(client: &Client, name: &str) -> anyhow::Result<bool> {
    let mut beats = client.subscribe(beat(name)).await?;
    client.flush().await?;
    Ok(tokio::time::timeout(NAME_TAKEN, beats.next()).await.is_ok())
}

/// Tells every second that the agent is there, also while it waits for something that takes long.
async fn beat_on(client: Client, card: Card, run: watch::Receiver<Option<(RunName, Leader)>>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let (session, (run, leader)) = (card.session.clone(), run.borrow().clone().unzip());
        let beat_now = Beat { session, run, leader, load: card::load() };
        if let Ok(body) = serde_json::to_vec(&beat_now) {
            // Without a connection it is not heard, and that is what it is for.
            let _ = client.publish(beat(&card.name), body.into()).await;
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

impl Agent {
    /// Hears coordinators and programs, until it is interrupted.
    async fn serve(
        mut self,
        mut subscriptions: Subscriptions,
        mut local: UnboundedReceiver<LocalEvent>,
        mut interrupts: Interrupts,
    ) -> anyhow::Result<()> {
        loop {
            let next = self.work.as_ref().map_or_else(far, Work::next);
            tokio::select! {
                Some(message) = subscriptions.asks.next() => self.on_ask(message).await?,
                Some(message) = subscriptions.whos.next() => self.on_who(message).await,
                Some(message) = subscriptions.pulses.next() => self.on_pulse(&message),
                Some(event) = local.recv() => {
                    if let Some(work) = &mut self.work {
                        let sending = self.kept.get(work.run());
                        work.heard(event, sending).await;
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    if let Some(work) = &mut self.work {
                        let sending = self.kept.get(work.run());
                        work.tick(sending, self.wait).await;
                    }
                }
                () = interrupts.next() => return Ok(()),
                else => anyhow::bail!("the connection to NATS is closed"),
            }
            if self.work.as_ref().is_some_and(Work::is_over) {
                self.work = None;
            }
            self.tell_beats();
        }
    }

    /// The run that this agent works for, and who leads it.
    fn works_for(&self) -> Option<(&RunName, &Leader)> {
        let run = self.work.as_ref()?.run();
        Some((run, self.leads.of(run)?))
    }

    /// Beats name the run that this agent works for, and who leads it; its status has the rest.
    fn tell_beats(&self) {
        self.status.tell(self.work.is_some(), self.kept.len());
        let works_for = self.works_for();
        self.run.send_if_modified(|told| {
            let other = told.as_ref().map(|(run, leader)| (run, leader)) != works_for;
            if other {
                *told = works_for.map(|(run, leader)| (run.clone(), leader.clone()));
            }
            other
        });
    }

    /// Removes what nobody has asked for in a long time.
    fn expire(&mut self) {
        let working = self.work.as_ref().map(Work::run);
        let gone = Spool::expire(&self.state, |run| Some(run) == working, SystemTime::now());
        for (run, what) in gone {
            text::say!("{what}");
            self.kept.remove(&run);
            self.leads.forget(&run);
        }
    }

    async fn on_ask(&mut self, message: Message) -> anyhow::Result<()> {
        let came_ns = platform::realtime_ns();
        let Some(reply) = message.reply else { return Ok(()) };
        let answer = match serde_json::from_slice(&message.payload) {
            Ok(Ask::Clock {}) => Answer::Clock { came_ns, left_ns: platform::realtime_ns() },
            Ok(Ask::Lease(lease)) => self.lease(*lease),
            Ok(Ask::Order(order)) => self.order(*order).await,
            Ok(Ask::Resume { run, leader, merged }) => self.resume(&run, leader, merged),
            Ok(Ask::Leader { run }) => Answer::Led { leader: self.leads.of(&run).cloned() },
            Ok(Ask::Forget { run, epoch }) => self.forget(&run, epoch),
            Err(error) => refused(format!("this agent does not understand that: {error}")),
        };
        if let Answer::Refused { .. } | Answer::TakenOver { .. } = answer {
            self.status.refuse();
        }
        let body = serde_json::to_vec(&answer)?;
        // A coordinator that does not hear it asks again.
        let _ = self.client.publish(reply, body.into()).await;
        Ok(())
    }

    fn lease(&mut self, lease: Lease) -> Answer {
        if (lease.version.as_str(), lease.protocol) != (host::VERSION, PROTOCOL) {
            return refused(format!(
                "this agent is lab {} (protocol {PROTOCOL}), the coordinator {} (protocol {})",
                host::VERSION,
                lease.version,
                lease.protocol
            ));
        }
        if self.leads.of_over(&lease.run).is_some() {
            return refused(format!("run {} is over", lease.run));
        }
        if let Some(work) = &self.work {
            return match self.leads.of(&lease.run).cloned() {
                Some(leader) if leader.epoch == lease.leader.epoch => Answer::Done {},
                Some(leader) if *work.run() == lease.run => Answer::TakenOver { leader },
                _ => refused(format!("it works for run {}", work.run())),
            };
        }
        self.expire();
        match self.begin(lease) {
            Ok(()) => Answer::Done {},
            Err(error) => refused(format!("{}: {error}", self.state.display())),
        }
    }

    /// Begins to work for a run.
    ///
    /// # Errors
    /// When there is no place for what it will have to tell.
    fn begin(&mut self, lease: Lease) -> std::io::Result<()> {
        let (run, name) = (lease.run.clone(), &self.card.name);
        let kept = Sending::of_new(&self.context, &self.state, &run, name)?;
        if let Err(error) = self.leads.lead(&run, lease.leader.clone()) {
            self.leads.forget(&run);
            kept.forget()?;
            return Err(error);
        }
        self.status.begin();
        self.status.watch(kept.backlog());
        self.kept.insert(run, kept);
        let (targets, privileges) = (self.targets.clone(), self.privileges.clone());
        let events = self.events.clone();
        self.work = Some(Work::new(lease, name, self.protocol, targets, privileges, events));
        Ok(())
    }

    async fn order(&mut self, order: Order) -> Answer {
        if let Err(leader) = self.leads.heard(&order.run, order.epoch) {
            return Answer::TakenOver { leader };
        }
        match &mut self.work {
            Some(work) if *work.run() == order.run => {
                let sending = self.kept.get(&order.run);
                self.status.order();
                work.order(order.number, order.what, sending).await
            }
            // It was carried out, and the answer was lost.
            _ if self.kept.contains_key(&order.run) => Answer::Done {},
            _ => refused(format!("it does not work for run {}", order.run)),
        }
    }

    fn resume(&mut self, run: &RunName, leader: Leader, merged: u64) -> Answer {
        let known = self.leads.of(run).cloned().unwrap_or_default();
        let work = self.work.as_mut().filter(|work| work.run() == run);
        if leader.epoch < known.epoch {
            let led = work.map_or(Ok(()), |work| work.check_led());
            return led.err().unwrap_or(Answer::TakenOver { leader: known });
        }
        if leader.epoch != known.epoch
            && let Some(work) = work
            && let Err(answer) = work.resume()
        {
            return answer;
        }
        if !self.kept.contains_key(run) {
            let (state, name) = (&self.state, &self.card.name);
            match Sending::of_kept(&self.context, state, run, name, merged) {
                Ok(kept) => {
                    self.status.watch(kept.backlog());
                    self.kept.insert(run.clone(), kept);
                }
                Err(_) => return refused(format!("it has nothing of run {run}")),
            }
        }
        if let Err(error) = self.leads.lead(run, leader) {
            text::say!("{}: {error}; who leads {run} is kept in memory", self.state.display());
        }
        let written = self.kept.get(run).map_or(0, |kept| {
            kept.merged(merged);
            kept.written()
        });
        let work = self.work.as_ref().filter(|work| work.run() == run);
        Answer::Kept { working: work.is_some(), done: work.map_or(0, Work::done), written }
    }

    fn forget(&mut self, run: &RunName, epoch: Epoch) -> Answer {
        if let Err(leader) = self.leads.heard(run, epoch) {
            return Answer::TakenOver { leader };
        }
        if self.work.as_ref().is_some_and(|work| work.run() == run) {
            return refused(format!("it still works for run {run}"));
        }
        // One that cannot be removed is offered again; it has nothing that is not merged.
        let _ = self.kept.remove(run).map(Sending::forget);
        self.leads.forget(run);
        Answer::Done {}
    }

    /// The coordinator is there, and has merged so much.
    fn on_pulse(&mut self, message: &Message) {
        let Ok(Pulse { run, epoch, merged }) = serde_json::from_slice(&message.payload) else {
            return;
        };
        if self.leads.heard(&run, epoch).is_err() {
            // An earlier one, which learns from the beats who leads.
            return;
        }
        if let Some(kept) = self.kept.get(&run) {
            kept.merged(merged);
        }
        if let Some(work) = self.work.as_mut().filter(|work| *work.run() == run) {
            work.pulse();
        }
    }

    fn now(&self) -> Beat {
        let works_for = self.works_for();
        let (run, leader) = works_for.map(|(run, by)| (run.clone(), by.clone())).unzip();
        Beat { session: self.card.session.clone(), run, leader, load: card::load() }
    }

    async fn on_who(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let kept = Spool::kept(&self.state);
        let card = Card { beat: self.now(), kept, ..self.card.clone() };
        if let Ok(body) = serde_json::to_vec(&card) {
            let _ = self.client.publish(reply, body.into()).await;
        }
    }
}

fn refused(why: String) -> Answer {
    Answer::Refused { why }
}
