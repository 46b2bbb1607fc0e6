//! `lab agent`: registers what its host is, waits for work, and does it as `lab run` does on one
//! machine. One run at a time.
//!
//! Owns: the conversation with coordinators. What a run needs done is in `work`.

mod host;
mod sender;
mod work;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, Message, Subscriber, jetstream};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;

use crate::protocol::{
    Answer, Ask, Beat, Card, Lease, Order, PROTOCOL, Pulse, Role, WHO, ask, beat, pulse,
};
use crate::spool::Spool;
use crate::{Access, Mistake};
pub use sender::Sending;
use work::{FromChild, Work};

/// An agent that is there is heard within this time: it beats every second.
const TAKEN: Duration = Duration::from_millis(1500);

/// Arguments of `lab agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// The name of this host in experiments
    #[arg(long)]
    name: String,
    /// What the host may be used for; may be given again [default: all of them]
    #[arg(long = "role", value_name = "ROLE", value_enum)]
    roles: Vec<Role>,
    /// Labels that experiments can ask for; may be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = label, num_args = 1..)]
    labels: Vec<(String, String)>,
    /// An IPv4 address for the server to listen on and for clients to come from; may be given
    /// again [default: the one towards NATS first, then the host's others]
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<Ipv4Addr>,
    /// How many seconds to wait for `lab run --resume` when the coordinator of a run is gone,
    /// counted from the end of the phase
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Where results are kept until they are acknowledged [default: $STATE_DIRECTORY, or
    /// lab-agent-NAME here]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Names are part of subjects and of file names.
fn check_name(name: &str) -> anyhow::Result<()> {
    let good = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        let what = format!("--name {name}: 1 to 64 letters, digits, - and _");
        return Err(Mistake::error(what));
    }
    Ok(())
}

/// An agent.
struct Agent {
    client: Client,
    context: jetstream::Context,
    card: Card,
    wait: Duration,
    state: PathBuf,
    work: Option<Work>,
    /// What is kept of runs, the one under way included.
    kept: BTreeMap<String, Sending>,
    children: tokio::sync::mpsc::UnboundedSender<FromChild>,
    /// The run that it works for, for its beats.
    run: tokio::sync::watch::Sender<Option<String>>,
}

/// Where an agent hears what.
struct Ears {
    asks: Subscriber,
    whos: Subscriber,
    pulses: Subscriber,
}

/// Carries out `lab agent`, until it is interrupted.
///
/// # Errors
/// [`Mistake`], or what keeps it from going on.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    check_name(&args.name)?;
    let mut interrupts = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let client = args.access.connect(&format!("lab agent {}", args.name)).await?;
    let context =
        jetstream::ContextBuilder::new().ack_timeout(Duration::from_secs(2)).build(client.clone());
    if is_taken(&client, &args.name).await? {
        return Err(Mistake::error(format!(
            "an agent named {} is there already: end it, or give another --name",
            args.name
        )));
    }
    let state = args.state.clone().or_else(|| std::env::var_os("STATE_DIRECTORY").map(Into::into));
    let state = state.unwrap_or_else(|| PathBuf::from(format!("lab-agent-{}", args.name)));
    std::fs::create_dir_all(&state).with_context(|| format!("--state {}", state.display()))?;
    let card = host::card(args, &client)?;
    let mut ears = Ears {
        asks: client.subscribe(ask(&args.name)).await?,
        whos: client.subscribe(WHO).await?,
        pulses: client.subscribe(pulse(&args.name)).await?,
    };
    client.flush().await?;
    let (children, mut said) = unbounded_channel();
    eprintln!("lab agent {}: waiting for work from {}", args.name, args.access.url()?);
    let wait = Duration::from_secs(args.wait);
    let (work, kept) = (None, BTreeMap::new());
    let run = tokio::sync::watch::Sender::new(None);
    let beating = tokio::spawn(beat_on(client.clone(), card.clone(), run.subscribe()));
    let mut agent = Agent { client, context, card, wait, state, work, kept, children, run };
    let [interrupt, terminate] = &mut interrupts;
    loop {
        let next = agent.work.as_ref().map_or_else(far, Work::next);
        tokio::select! {
            Some(message) = ears.asks.next() => agent.asked(message).await?,
            Some(message) = ears.whos.next() => agent.show(message).await,
            Some(message) = ears.pulses.next() => agent.pulse(&message),
            Some(said) = said.recv() => {
                if let Some(work) = &mut agent.work {
                    work.heard(said, &agent.kept).await?;
                }
            }
            () = tokio::time::sleep_until(next) => {
                if let Some(work) = &mut agent.work {
                    work.turn(&agent.kept, agent.wait).await?;
                }
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            else => anyhow::bail!("the connection to NATS is closed"),
        }
        if agent.work.as_ref().is_some_and(Work::is_over) {
            agent.work = None;
        }
        let works_for = agent.work.as_ref().map(Work::run);
        agent.run.send_if_modified(|run| {
            let other = run.as_deref() != works_for;
            if other {
                *run = works_for.map(str::to_owned);
            }
            other
        });
    }
    beating.abort();
    // Children die with this process.
    Ok(())
}

/// Whether another agent has this name: its beat would be heard.
async fn is_taken(client: &Client, name: &str) -> anyhow::Result<bool> {
    let mut beats = client.subscribe(beat(name)).await?;
    client.flush().await?;
    Ok(tokio::time::timeout(TAKEN, beats.next()).await.is_ok())
}

/// Tells every second that the agent is there, also while it waits for something that takes long.
async fn beat_on(client: Client, card: Card, run: tokio::sync::watch::Receiver<Option<String>>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        let (session, run) = (card.session.clone(), run.borrow().clone());
        let beat_now = Beat { session, run, load: host::load() };
        if let Ok(body) = serde_json::to_vec(&beat_now) {
            // Without a connection nobody hears it, and that is what it is for.
            let _ = client.publish(beat(&card.name), body.into()).await;
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

impl Agent {
    async fn asked(&mut self, message: Message) -> anyhow::Result<()> {
        let came_ns = shard::realtime_ns();
        let Some(reply) = message.reply else { return Ok(()) };
        let answer = match serde_json::from_slice(&message.payload) {
            Ok(Ask::Clock {}) => Answer::Clock { came_ns, left_ns: shard::realtime_ns() },
            Ok(Ask::Lease(lease)) => self.lease(*lease),
            Ok(Ask::Order(order)) => self.order(*order).await?,
            Ok(Ask::Resume { run, merged }) => self.resume(&run, merged),
            Ok(Ask::Forget { run }) => self.forget(&run),
            Err(error) => refused(format!("this agent does not understand that: {error}")),
        };
        let body = serde_json::to_vec(&answer)?;
        // One that is not heard is asked for again.
        let _ = self.client.publish(reply, body.into()).await;
        Ok(())
    }

    fn lease(&mut self, lease: Lease) -> Answer {
        if (lease.version.as_str(), lease.protocol) != (::host::VERSION, PROTOCOL) {
            return refused(format!(
                "this agent is lab {} (protocol {PROTOCOL}), the coordinator {} (protocol {})",
                ::host::VERSION,
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
        let kept = Sending::of_new(&self.context, &self.state, &lease.run, &self.card.name);
        match kept {
            Ok(kept) => {
                self.kept.insert(lease.run.clone(), kept);
                self.work = Some(Work::new(lease, &self.card.name, self.children.clone()));
                Answer::Done {}
            }
            Err(error) => refused(format!("{}: {error}", self.state.display())),
        }
    }

    async fn order(&mut self, order: Order) -> anyhow::Result<Answer> {
        match &mut self.work {
            Some(work) if work.run() == order.run => {
                work.order(order.number, order.what, &self.kept).await
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
    fn pulse(&mut self, message: &Message) {
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
        Beat { session: self.card.session.clone(), run, load: host::load() }
    }

    async fn show(&self, message: Message) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_part_of_a_subject_are_refused() {
        for name in ["vm1", "R2950", "a-b_c"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a.b", "a b", "*", ">", "ü", &"x".repeat(65)] {
            let error = check_name(name).expect_err(name);
            assert!(error.is::<Mistake>(), "{error}");
        }
    }
}
