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
mod observed;
mod outbox;
mod programs;
mod sender;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, Message, Subscriber, jetstream};
use futures_util::StreamExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::protocol::{
    Answer, Ask, Beat, Card, Lease, Order, PROTOCOL, Pulse, WHO, ask, beat, pulse,
};
use crate::spool::Spool;
pub use args::AgentArgs;
use args::check_name;
pub use control::{Milestone, PipeProtocol};
use events::LocalEvent;
use host::privileges::Privileges;
pub use sender::Sending;
use spec::UsageError;
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
    kept: BTreeMap<String, Sending>,
    events: UnboundedSender<LocalEvent>,
    /// The run that it works for, for its beats.
    run: watch::Sender<Option<String>>,
}

/// What an agent hears from NATS.
struct Subscriptions {
    asks: Subscriber,
    whos: Subscriber,
    pulses: Subscriber,
}

/// Carries out `lab agent`, until it is interrupted. Programs are controlled as `protocol` says.
///
/// # Errors
/// [`UsageError`], or what keeps it from going on.
pub async fn run(args: &AgentArgs, protocol: PipeProtocol) -> anyhow::Result<()> {
    check_name(&args.name)?;
    let privileges = Privileges::choose(args.user.as_deref())?;
    let interrupts = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let client = args.access.connect(&format!("lab agent {}", args.name)).await?;
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
    std::fs::create_dir_all(&state).with_context(|| format!("--state {}", state.display()))?;
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
    let agent = Agent {
        client,
        context,
        card,
        wait: Duration::from_secs(args.wait),
        state,
        protocol,
        privileges,
        work: None,
        kept: BTreeMap::new(),
        events,
        run,
    };
    let done = agent.serve(subscriptions, local, interrupts).await;
    beating.abort();
    // Children die with this process.
    done
}

/// Whether another agent has this name: its beat would be heard.
async fn is_taken(client: &Client, name: &str) -> anyhow::Result<bool> {
    let mut beats = client.subscribe(beat(name)).await?;
    client.flush().await?;
    Ok(tokio::time::timeout(NAME_TAKEN, beats.next()).await.is_ok())
}

/// Tells every second that the agent is there, also while it waits for something that takes long.
async fn beat_on(client: Client, card: Card, run: watch::Receiver<Option<String>>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        let (session, run) = (card.session.clone(), run.borrow().clone());
        let beat_now = Beat { session, run, load: card::load() };
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
        [mut interrupt, mut terminate]: [Signal; 2],
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
                        work.heard(event, sending).await?;
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    if let Some(work) = &mut self.work {
                        let sending = self.kept.get(work.run());
                        work.tick(sending, self.wait).await?;
                    }
                }
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                else => anyhow::bail!("the connection to NATS is closed"),
            }
            if self.work.as_ref().is_some_and(Work::is_over) {
                self.work = None;
            }
            self.tell_beats();
        }
    }

    /// Beats name the run that this agent works for.
    fn tell_beats(&self) {
        let works_for = self.work.as_ref().map(Work::run);
        self.run.send_if_modified(|run| {
            let other = run.as_deref() != works_for;
            if other {
                *run = works_for.map(str::to_owned);
            }
            other
        });
    }

    async fn on_ask(&mut self, message: Message) -> anyhow::Result<()> {
        let came_ns = platform::realtime_ns();
        let Some(reply) = message.reply else { return Ok(()) };
        let answer = match serde_json::from_slice(&message.payload) {
            Ok(Ask::Clock {}) => Answer::Clock { came_ns, left_ns: platform::realtime_ns() },
            Ok(Ask::Lease(lease)) => self.lease(*lease),
            Ok(Ask::Order(order)) => self.order(*order).await?,
            Ok(Ask::Resume { run, merged }) => self.resume(&run, merged),
            Ok(Ask::Forget { run }) => self.forget(&run),
            Err(error) => refused(format!("this agent does not understand that: {error}")),
        };
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
        if let Some(work) = &self.work {
            if work.run() == lease.run {
                return Answer::Done {};
            }
            return refused(format!("it works for run {}", work.run()));
        }
        let name = &self.card.name;
        match Sending::of_new(&self.context, &self.state, &lease.run, name) {
            Ok(kept) => {
                self.kept.insert(lease.run.clone(), kept);
                let privileges = self.privileges.clone();
                self.work =
                    Some(Work::new(lease, name, self.protocol, privileges, self.events.clone()));
                Answer::Done {}
            }
            Err(error) => refused(format!("{}: {error}", self.state.display())),
        }
    }

    async fn order(&mut self, order: Order) -> anyhow::Result<Answer> {
        match &mut self.work {
            Some(work) if work.run() == order.run => {
                let sending = self.kept.get(&order.run);
                work.order(order.number, order.what, sending).await
            }
            // It was carried out, and the answer was lost.
            _ if self.kept.contains_key(&order.run) => Ok(Answer::Done {}),
            _ => Ok(refused(format!("it does not work for run {}", order.run))),
        }
    }

    fn resume(&mut self, run: &str, merged: u64) -> Answer {
        if let Some(work) = self.work.as_mut().filter(|work| work.run() == run)
            && let Err(answer) = work.resume()
        {
            return answer;
        }
        if !self.kept.contains_key(run) {
            let (state, name) = (&self.state, &self.card.name);
            match Sending::of_kept(&self.context, state, run, name, merged) {
                Ok(kept) => drop(self.kept.insert(run.to_owned(), kept)),
                Err(_) => return refused(format!("it has nothing of run {run}")),
            }
        }
        let written = self.kept.get(run).map_or(0, |kept| {
            kept.merged(merged);
            kept.written()
        });
        let work = self.work.as_ref().filter(|work| work.run() == run);
        Answer::Kept { working: work.is_some(), done: work.map_or(0, Work::done), written }
    }

    fn forget(&mut self, run: &str) -> Answer {
        if self.work.as_ref().is_some_and(|work| work.run() == run) {
            return refused(format!("it still works for run {run}"));
        }
        // One that cannot be removed is offered again; it has nothing that is not merged.
        let _ = self.kept.remove(run).map(Sending::forget);
        Answer::Done {}
    }

    /// The coordinator is there, and has merged so much.
    fn on_pulse(&mut self, message: &Message) {
        let Ok(Pulse { run, merged }) = serde_json::from_slice(&message.payload) else { return };
        if let Some(kept) = self.kept.get(&run) {
            kept.merged(merged);
        }
        if let Some(work) = self.work.as_mut().filter(|work| work.run() == run) {
            work.pulse();
        }
    }

    fn now(&self) -> Beat {
        let run = self.work.as_ref().map(|work| work.run().to_owned());
        Beat { session: self.card.session.clone(), run, load: card::load() }
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
