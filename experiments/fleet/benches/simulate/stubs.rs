//! Stub agents: the protocol of agents without programs.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, jetstream};
use futures_util::StreamExt;
use platform::{Clock, monotonic_ns};
use serde_json::json;
use tokio::time::Instant;

use fleet::Access;
use fleet::agent::Sending;
use fleet::protocol::{
    Answer, Ask, Beat, Card, HostReport, PROTOCOL, Pulse, Role, WHO, What, ask, beat, pulse,
};
use spec::machine::Machine;

/// Stubs that connect at a time.
const AT_A_TIME: u64 = 50;

/// A stub.
struct Stub {
    client: Client,
    context: jetstream::Context,
    card: Card,
    state: PathBuf,
    clock: Clock,
    run: Option<(String, Sending)>,
    /// The seconds of the phase that are left, from the first on.
    phase: Option<std::ops::Range<u64>>,
    /// Whether the phase has begun, and when, until that was told.
    begun: bool,
    started_ns: Option<u64>,
    done: u64,
}

/// Runs stubs until this process is killed.
pub(super) async fn run(numbers: &[u32], state: &Path) -> anyhow::Result<()> {
    let [port, first, end, servers] = numbers else { anyhow::bail!("--stubs takes four numbers") };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    super::raise_descriptors()?;
    let access = Access { nats: Some(format!("nats://127.0.0.1:{port}")), ..Access::default() };
    let machine = Machine::this();
    let clock = Clock::read();
    let mut stubs = tokio::task::JoinSet::new();
    for number in *first..*end {
        let card = card(number, *servers, &machine);
        let (access, state) = (access.clone(), state.join(number.to_string()));
        // Not all at once: a listening socket has room for some hundreds.
        let wait = Duration::from_millis(u64::from(number - first) * 1000 / (AT_A_TIME * 10));
        stubs.spawn(async move {
            tokio::time::sleep(wait).await;
            stub(&access, card, state, clock).await
        });
    }
    while let Some(ended) = stubs.join_next().await {
        ended??;
    }
    Ok(())
}

fn card(number: u32, servers: u32, machine: &Machine) -> Card {
    let server = number < servers;
    Card {
        name: if server { format!("s{number}") } else { format!("c{}", number - servers) },
        session: format!("session-{number}"),
        version: host::VERSION.to_owned(),
        protocol: PROTOCOL,
        roles: vec![if server { Role::Server } else { Role::Client }],
        labels: std::collections::BTreeMap::new(),
        addresses: vec![Ipv4Addr::from(0x0a00_0000 + number)],
        machine: machine.clone(),
        boot: number.to_string(),
        netns: 0,
        since: platform::realtime_ns() / platform::NANOS_PER_SECOND,
        findings: json!(null),
        privileges: json!(null),
        kept: Vec::new(),
        beat: Beat::default(),
    }
}

async fn stub(access: &Access, card: Card, state: PathBuf, clock: Clock) -> anyhow::Result<()> {
    let client = access.connect(&card.name).await?;
    let context =
        jetstream::ContextBuilder::new().ack_timeout(Duration::from_secs(2)).build(client.clone());
    let mut asks = client.subscribe(ask(&card.name)).await?;
    let mut whos = client.subscribe(WHO).await?;
    let mut pulses = client.subscribe(pulse(&card.name)).await?;
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut stub = Stub {
        client,
        context,
        card,
        state,
        clock,
        run: None,
        phase: None,
        begun: false,
        started_ns: None,
        done: 0,
    };
    loop {
        let next = stub.next();
        tokio::select! {
            Some(message) = asks.next() => {
                let came_ns = platform::realtime_ns();
                let Some(reply) = message.reply else { continue };
                let answer = stub.answer(serde_json::from_slice(&message.payload)?, came_ns)?;
                stub.client.publish(reply, serde_json::to_vec(&answer)?.into()).await?;
            }
            Some(message) = whos.next() => {
                let Some(reply) = message.reply else { continue };
                let card = Card { beat: stub.beat(), ..stub.card.clone() };
                stub.client.publish(reply, serde_json::to_vec(&card)?.into()).await?;
            }
            Some(message) = pulses.next() => {
                let pulse: Pulse = serde_json::from_slice(&message.payload)?;
                if let Some((_, kept)) = &stub.run {
                    kept.merged(pulse.merged);
                }
            }
            _ = every.tick() => {
                let body = serde_json::to_vec(&stub.beat())?;
                stub.client.publish(beat(&stub.card.name), body.into()).await?;
            }
            () = tokio::time::sleep_until(next) => stub.second()?,
        }
    }
}

impl Stub {
    fn beat(&self) -> Beat {
        let run = self.run.as_ref().map(|(run, _)| run.clone());
        Beat { session: self.card.session.clone(), run, load: None }
    }

    fn instant_of(&self, second: u64) -> Instant {
        let ahead = self.clock.start_of(second).saturating_sub(monotonic_ns());
        Instant::now() + Duration::from_nanos(ahead)
    }

    /// When something is due: the start of the phase, then the end of each of its seconds.
    fn next(&self) -> Instant {
        match &self.phase {
            Some(left) => self.instant_of(left.start + u64::from(self.begun)),
            None => Instant::now() + Duration::from_secs(3600),
        }
    }

    /// The phase starts, or a second of it is over.
    fn second(&mut self) -> anyhow::Result<()> {
        let now = monotonic_ns();
        let (Some(left), Some((_, kept))) = (&mut self.phase, &self.run) else { return Ok(()) };
        if !self.begun {
            self.begun = true;
            self.started_ns = Some(now);
            return Ok(());
        }
        let t = left.start;
        let mut values = json!({ "t": t, "answered": 58, "offered": 58, "cpu_us": 700 });
        if let Some(started_ns) = self.started_ns.take() {
            values["started_ns"] = started_ns.into();
        }
        let source = "stub".to_owned();
        kept.push(vec![HostReport::Sample { source, of: Vec::new(), values }.into()])?;
        left.start += 1;
        if left.is_empty() {
            self.phase = None;
        }
        Ok(())
    }

    fn answer(&mut self, asked: Ask, came_ns: u64) -> anyhow::Result<Answer> {
        Ok(match asked {
            Ask::Clock {} => Answer::Clock { came_ns, left_ns: platform::realtime_ns() },
            Ask::Lease(lease) => {
                let kept =
                    Sending::of_new(&self.context, &self.state, &lease.run, &self.card.name)?;
                self.run = Some((lease.run, kept));
                Answer::Done {}
            }
            Ask::Order(order) if order.number > self.done => {
                self.done = order.number;
                if let What::Phase { start, end: Some(end) } = order.what {
                    self.phase = Some(start..end);
                }
                Answer::Done {}
            }
            Ask::Order(_) | Ask::Resume { .. } | Ask::Forget { .. } => Answer::Done {},
        })
    }
}
