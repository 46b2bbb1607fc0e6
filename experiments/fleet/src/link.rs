//! The coordinator's end: orders to agents until they are carried out, what agents say merged once
//! and in order, and whether they are there.
//!
//! Owns: numbers of orders and batches. Must not know: what either means.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{self as js_stream, StorageType};
use async_nats::{Client, connection::State, jetstream};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::protocol::{
    ALL_BEATS, Answer, Ask, Batch, Beat, HostReport, Order, Pulse, Said, What, ask, from, pulse,
    stream,
};
use host::program::Who;

/// A host that is silent for this long is lost: four beats missed, and within the five seconds
/// that are promised.
const LOST: Duration = Duration::from_millis(4_200);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// An order is repeated when it is not answered in this time.
const ANSWER: Duration = Duration::from_secs(1);

/// Between two attempts of anything.
const RETRY: Duration = Duration::from_millis(100);

/// What is in the stream of a run goes by itself after this, whatever becomes of the run.
const STREAM_AGE: Duration = Duration::from_secs(7 * 86_400);

/// Results that a stream holds at most, in bytes: half a day of 18 hosts at 1 KiB/s is 0.8 GiB. The
/// oldest go first, which are merged and on the agents' disks until they are.
const STREAM_BYTES: i64 = 1 << 30;

/// An agent that says so often that it works for no run has given up this one. Its last batch takes
/// another way than its beats, and may come later than the first of them.
const GIVEN_UP: u32 = 4;

/// Something that a fleet says.
#[derive(Debug)]
pub enum FromFleet {
    /// A line of a program, as it is.
    Line(Who, String),
    /// The output of a program has ended.
    Silence(Who),
    /// Something about a host.
    Host(HostNews),
}

/// What a host says beside the lines of its programs, and what becomes of it.
#[derive(Debug)]
pub enum HostNews {
    /// A batch begins: what comes until its end belongs together.
    Batch,
    /// The batch is over.
    Merged {
        /// Of whom.
        host: String,
        /// Its number.
        number: u64,
        /// Its place in the stream.
        place: u64,
        /// Whether nothing is open that later batches will close.
        whole: bool,
    },
    /// A host reports something.
    Reported(String, HostReport),
    /// Nothing is heard of it.
    Lost(String),
    /// It is heard of again.
    Back(String),
    /// It does not work for this run any more, and why.
    Gone(String, String),
    /// It did not do what it was told, and why.
    Refused(String, String),
}

/// Called with everything that a fleet says.
pub type Listener = Arc<dyn Fn(FromFleet) + Send + Sync>;

/// Orders on their way to a host.
#[derive(Clone, Debug, Default)]
pub struct Orders(Arc<OrdersState>);

#[derive(Debug, Default)]
struct OrdersState {
    queue: Mutex<Queue>,
    news: Notify,
}

/// The orders of a host, as they are kept over the end of a coordinator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// The number of the last order given.
    pub number: u64,
    /// Those that it has not acknowledged.
    pub waiting: VecDeque<(u64, What)>,
    /// None are given any more.
    #[serde(skip)]
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Orders {
    /// Those that an earlier coordinator left.
    pub fn restore(queue: Queue) -> Self {
        Self(Arc::new(OrdersState { queue: Mutex::new(queue), news: Notify::new() }))
    }

    /// Gives one; it is repeated until it is carried out.
    pub fn give(&self, what: What) {
        let mut queue = lock(&self.0.queue);
        if queue.closed {
            return;
        }
        queue.number += 1;
        let number = queue.number;
        queue.waiting.push_back((number, what));
        self.0.news.notify_one();
    }

    /// What is on its way.
    pub fn queue(&self) -> Queue {
        lock(&self.0.queue).clone()
    }

    /// The next number is greater than this one.
    pub fn not_before(&self, number: u64) {
        let mut queue = lock(&self.0.queue);
        queue.number = queue.number.max(number);
    }

    /// None are given any more.
    pub fn close(&self) {
        let mut queue = lock(&self.0.queue);
        queue.closed = true;
        queue.waiting.clear();
    }
}

/// A question to an agent; `None` when it does not answer in time.
pub async fn question(client: &Client, agent: &str, question: &Ask) -> Option<Answer> {
    let body = serde_json::to_vec(question).ok()?;
    let asked = client.request(ask(agent), body.into());
    let answer = tokio::time::timeout(ANSWER, asked).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

async fn send_orders(client: Client, run: String, host: String, orders: Orders, heard: Listener) {
    loop {
        let next = lock(&orders.0.queue).waiting.front().cloned();
        let Some((number, what)) = next else {
            orders.0.news.notified().await;
            continue;
        };
        let order = Ask::Order(Box::new(Order { run: run.clone(), number, what }));
        match question(&client, &host, &order).await {
            Some(Answer::Done {}) => {}
            Some(Answer::Refused { why }) => {
                heard(FromFleet::Host(HostNews::Refused(host.clone(), why)));
            }
            _ => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        let mut queue = lock(&orders.0.queue);
        if queue.waiting.front().is_some_and(|(first, _)| *first == number) {
            queue.waiting.pop_front();
        }
    }
}

/// What is merged of each host, and where in the stream that was.
struct Merged {
    /// The number of the last batch, by host.
    batches: BTreeMap<String, u64>,
    /// The place of the last of them in the stream.
    place: u64,
}

/// Merges batches in order and once.
struct Merger {
    merged: Merged,
    pieces: BTreeMap<(String, Who), String>,
    heard: Listener,
}

impl Merger {
    /// Merges a batch at a place of the stream. One that was merged is left out, and so is one that
    /// comes before its predecessor: the agent sends both again.
    fn merge(&mut self, host: &str, batch: Batch, place: u64) {
        let Some(last) = self.merged.batches.get_mut(host) else { return };
        if batch.number != *last + 1 {
            return;
        }
        *last = batch.number;
        self.tell(FromFleet::Host(HostNews::Batch));
        for said in batch.said {
            let heard = match said {
                Said::Line { who, line } => FromFleet::Line(who, line),
                Said::Silence { who } => FromFleet::Silence(who),
                Said::Piece { who, piece, last } => {
                    let open = self.pieces.entry((host.to_owned(), who)).or_default();
                    open.push_str(&piece);
                    if !last {
                        continue;
                    }
                    let line = self.pieces.remove(&(host.to_owned(), who)).unwrap_or_default();
                    FromFleet::Line(who, line)
                }
                Said::Host(report) => FromFleet::Host(HostNews::Reported(host.to_owned(), report)),
            };
            self.tell(heard);
        }
        let whole = self.pieces.is_empty();
        let (host, number) = (host.to_owned(), batch.number);
        self.tell(FromFleet::Host(HostNews::Merged { host, number, place, whole }));
    }

    fn tell(&self, heard: FromFleet) {
        (self.heard)(heard);
    }
}

/// Makes the stream of a run, or finds it.
pub async fn open_stream(
    context: &jetstream::Context,
    run: &str,
) -> Result<js_stream::Stream, async_nats::Error> {
    let config = js_stream::Config {
        name: stream(run),
        subjects: vec![from(run, "*")],
        storage: StorageType::File,
        max_age: STREAM_AGE,
        max_bytes: STREAM_BYTES,
        ..js_stream::Config::default()
    };
    Ok(context.get_or_create_stream(config).await?)
}

/// Removes the stream of a run of which nothing is left that could be merged.
pub async fn drop_stream(context: &jetstream::Context, run: &str) {
    // One that stays is empty after some days.
    let _ = context.delete_stream(stream(run)).await;
}

/// Reads a stream from behind a place until something is wrong with it.
async fn read_from(
    context: &jetstream::Context,
    run: &str,
    merger: &mut Merger,
    place: &mut u64,
) -> Result<(), async_nats::Error> {
    let stream = open_stream(context, run).await?;
    if stream.cached_info().state.last_sequence < *place {
        // Another one than that which was read so far.
        *place = 0;
    }
    let consumer: jetstream::consumer::Consumer<pull::Config> = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: *place + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        })
        .await?;
    let builder = consumer.stream().max_messages_per_batch(1000);
    let builder = builder.heartbeat(Duration::from_secs(1)).expires(Duration::from_secs(10));
    let mut messages = builder.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        *place = message.info()?.stream_sequence;
        let host = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
        // What is no batch does not come from an agent.
        if let Ok(batch) = serde_json::from_slice(&message.payload) {
            merger.merge(&host, batch, *place);
        }
    }
    Ok(())
}

async fn read_all(context: jetstream::Context, run: String, mut merger: Merger) {
    let mut place = merger.merged.place;
    loop {
        // A server that was started again, or a consumer that is gone: once more from there.
        let _ = read_from(&context, &run, &mut merger, &mut place).await;
        tokio::time::sleep(RETRY).await;
    }
}

/// What is known of the presence of a host.
struct Seen {
    last: Instant,
    session: String,
    lost: bool,
    gone: bool,
    /// How many beats in a row were not for this run.
    idle: u32,
}

async fn watch(
    client: Client,
    run: String,
    sessions: BTreeMap<String, String>,
    heard: Listener,
) -> Result<(), async_nats::Error> {
    let mut beats = client.subscribe(ALL_BEATS).await?;
    let now = Instant::now();
    let seen = |session| Seen { last: now, session, lost: false, gone: false, idle: 0 };
    let mut hosts: BTreeMap<String, Seen> =
        sessions.into_iter().map(|(host, session)| (host, seen(session))).collect();
    let mut blind = false;
    let tell = |news| heard(FromFleet::Host(news));
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            Some(message) = beats.next() => {
                let name = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
                let Some(host) = hosts.get_mut(&name) else { continue };
                let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) else { continue };
                host.last = Instant::now();
                if host.gone {
                    continue;
                }
                let ours = beat.run.as_deref() == Some(run.as_str());
                host.idle = if ours { 0 } else { host.idle + 1 };
                let why = if beat.session != host.session {
                    "its agent was started again"
                } else if host.idle >= GIVEN_UP {
                    "its agent has given up the run"
                } else {
                    if ours && std::mem::take(&mut host.lost) {
                        tell(HostNews::Back(name));
                    }
                    continue;
                };
                host.gone = true;
                tell(HostNews::Gone(name, why.to_owned()));
            }
            _ = look.tick() => {
                let now = Instant::now();
                if client.connection_state() != State::Connected {
                    blind = true;
                    continue;
                }
                if std::mem::take(&mut blind) {
                    // No host could be heard: they, too, take a while to connect again.
                    hosts.values_mut().for_each(|host| host.last = now);
                }
                for (name, host) in &mut hosts {
                    if !host.lost && !host.gone && now - host.last > LOST {
                        host.lost = true;
                        tell(HostNews::Lost(name.clone()));
                    }
                }
            }
        }
    }
}

async fn beat(client: Client, run: String, merged: Arc<Mutex<BTreeMap<String, u64>>>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        let now = lock(&merged).clone();
        for (host, merged) in now {
            let pulse_now = Pulse { run: run.clone(), merged };
            let Ok(body) = serde_json::to_vec(&pulse_now) else { continue };
            // Without a connection agents do not hear it, and act on that.
            let _ = client.publish(pulse(&host), body.into()).await;
        }
    }
}

/// A connection to NATS, and its streams.
#[derive(Clone)]
pub struct Nats {
    /// The connection.
    pub client: Client,
    /// Its streams.
    pub context: jetstream::Context,
}

/// A host that a link is to listen to.
#[derive(Clone, Debug, Default)]
pub struct LinkedHost {
    /// Its agent's process.
    pub session: String,
    /// The number of its last batch that is merged.
    pub merged: u64,
    /// What is on its way to it.
    pub orders: Orders,
}

/// The coordinator's end of all connections to its hosts.
pub struct Link {
    /// The connection.
    pub nats: Nats,
    /// The name of the run among agents.
    pub run: String,
    orders: BTreeMap<String, Orders>,
    /// What hosts need not keep any more.
    safe: Arc<Mutex<BTreeMap<String, u64>>>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl Link {
    /// Begins to listen to hosts after a place of the stream, and to send them what is on its way.
    pub fn start(
        nats: Nats,
        run: &str,
        hosts: BTreeMap<String, LinkedHost>,
        place: u64,
        heard: &Listener,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let run = run.to_owned();
        let Nats { client, context } = nats.clone();
        let (mut sessions, mut batches) = (BTreeMap::new(), BTreeMap::new());
        let mut queues = BTreeMap::new();
        for (name, LinkedHost { session, merged, orders }) in hosts {
            let sending = send_orders(
                client.clone(),
                run.clone(),
                name.clone(),
                orders.clone(),
                heard.clone(),
            );
            tasks.spawn(sending);
            sessions.insert(name.clone(), session);
            batches.insert(name.clone(), merged);
            queues.insert(name, orders);
        }
        let safe = Arc::new(Mutex::new(batches.clone()));
        let merged = Merged { batches, place };
        let merger = Merger { merged, pieces: BTreeMap::new(), heard: heard.clone() };
        tasks.spawn(read_all(context, run.clone(), merger));
        tasks.spawn(beat(client.clone(), run.clone(), Arc::clone(&safe)));
        let watching = watch(client, run.clone(), sessions, heard.clone());
        tasks.spawn(async move { drop(watching.await) });
        Self { nats, run, orders: queues, safe, _tasks: tasks }
    }

    /// The orders of a host.
    pub fn orders(&self, host: &str) -> Orders {
        self.orders.get(host).cloned().unwrap_or_default()
    }

    /// The orders of all.
    pub fn all_orders(&self) -> &BTreeMap<String, Orders> {
        &self.orders
    }

    /// So much is safe: hosts need not keep it.
    pub fn is_safe(&self, batches: BTreeMap<String, u64>) {
        *lock(&self.safe) = batches;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64, said: Vec<Said>) -> Batch {
        Batch { number, said }
    }

    #[test]
    fn batches_are_merged_once_and_in_order() {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let heard: Listener = Arc::new(move |news| drop(tell.send(news)));
        let batches = BTreeMap::from([("a".to_owned(), 0)]);
        let merged = Merged { batches, place: 0 };
        let mut merger = Merger { merged, pieces: BTreeMap::new(), heard };
        let warning = |what: &str| vec![Said::Host(HostReport::Warning { what: what.to_owned() })];
        merger.merge("a", batch(1, warning("1")), 1);
        merger.merge("a", batch(1, warning("1 again")), 2);
        merger.merge("a", batch(3, warning("3 too early")), 3);
        merger.merge("stranger", batch(1, warning("of another run")), 4);
        merger.merge("a", batch(2, warning("2")), 5);
        merger.merge("a", batch(3, warning("3")), 6);
        let who = Who::Client(0);
        let piece = |text: &str, last| vec![Said::Piece { who, piece: text.to_owned(), last }];
        merger.merge("a", batch(4, piece("not ", false)), 7);
        merger.merge("a", batch(5, piece("JSON", true)), 8);
        let mut seen = Vec::new();
        while let Ok(heard) = told.try_recv() {
            seen.push(match heard {
                FromFleet::Host(HostNews::Batch) => continue,
                FromFleet::Host(HostNews::Reported(_, HostReport::Warning { what })) => what,
                FromFleet::Host(HostNews::Merged { number, place, whole, .. }) => {
                    format!("{number} at {place} {whole}")
                }
                FromFleet::Line(who, line) => format!("{who}: {line}"),
                other => panic!("{other:?}"),
            });
        }
        let expected = [
            "1",
            "1 at 1 true",
            "2",
            "2 at 5 true",
            "3",
            "3 at 6 true",
            "4 at 7 false",
            "client 0: not JSON",
            "5 at 8 true",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn orders_are_numbered_over_the_end_of_a_coordinator() {
        let orders = Orders::default();
        orders.give(What::Finish {});
        orders.give(What::Stop {});
        let queue = orders.queue();
        assert_eq!(queue.waiting, [(1, What::Finish {}), (2, What::Stop {})]);
        let text = serde_json::to_string(&queue).expect("JSON");
        let restored = Orders::restore(serde_json::from_str(&text).expect("the same"));
        assert_eq!(restored.queue(), queue);
        restored.not_before(7);
        restored.give(What::Stop {});
        assert_eq!(restored.queue().number, 8);
        restored.close();
        restored.give(What::Stop {});
        assert!(restored.queue().waiting.is_empty());
    }
}
