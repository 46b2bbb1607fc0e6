//! The coordinator's end: orders to agents until they are carried out, what agents say merged once
//! and in order, and whether they are there.
//!
//! Owns: the stream of a run, and what of it agents need not keep. Must not know: what orders and
//! batches mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{self as js_stream, StorageType};
use async_nats::{Client, jetstream};
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::epoch::Epoch;
use crate::merge::{MergedHost, Merger};
use crate::names::RunName;
pub use crate::news::{FromFleet, HostNews, Listener};
pub use crate::orders::{Orders, Queue, question};
use crate::orders::{RETRY, Sender, lock, send_orders};
use crate::presence::watch;
use crate::protocol::{Pulse, from, pulse, stream};
use host::Backlog;
use host::program::Who;

/// What is in the stream of a run goes by itself after this, whatever becomes of the run.
const STREAM_AGE: Duration = Duration::from_secs(7 * 86_400);

/// Results that a stream holds at most, in bytes: half a day of 18 hosts at 1 KiB/s is 0.8 GiB. The
/// oldest go first, which are merged and on the agents' disks until they are.
const STREAM_BYTES: i64 = 1 << 30;

/// What waits for the coordinator of all hosts, in bytes of batches: a few hundred of them. The
/// rest waits in the stream.
const WAITING: u32 = 64 << 20;

/// Makes the stream of a run, or finds it.
pub async fn open_stream(
    context: &jetstream::Context,
    run: &RunName,
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
pub async fn drop_stream(context: &jetstream::Context, run: &RunName) {
    // One that stays is empty after some days.
    let _ = context.delete_stream(stream(run)).await;
}

/// Reads a stream from behind a place until something is wrong with it.
async fn read_from(
    context: &jetstream::Context,
    run: &RunName,
    (merger, waiting): (&mut Merger, &Backlog),
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
            let room = waiting.room(message.payload.len()).await;
            merger.merge(&host, batch, *place, room);
        }
    }
    Ok(())
}

async fn read_all(context: jetstream::Context, run: RunName, mut place: u64, mut merger: Merger) {
    let waiting = Backlog::new(WAITING);
    loop {
        // A server that was started again, or a consumer that is gone: once more from there.
        let _ = read_from(&context, &run, (&mut merger, &waiting), &mut place).await;
        tokio::time::sleep(RETRY).await;
    }
}

async fn beat(client: Client, sender: Sender, merged: Arc<Mutex<BTreeMap<String, u64>>>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let now = lock(&merged).clone();
        for (host, merged) in now {
            let Sender { run, epoch } = sender.clone();
            let pulse_now = Pulse { run, epoch, merged };
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
    /// Its programs: it may speak for no others.
    pub programs: BTreeSet<Who>,
    /// What is on its way to it.
    pub orders: Orders,
}

/// The coordinator's end of all connections to its hosts.
pub struct Link {
    /// The connection.
    pub nats: Nats,
    /// The name of the run among agents.
    pub run: RunName,
    /// The epoch of this coordinator.
    pub epoch: Epoch,
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
        (run, epoch): (&RunName, Epoch),
        hosts: BTreeMap<String, LinkedHost>,
        place: u64,
        heard: &Listener,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let sender = Sender { run: run.clone(), epoch };
        let Nats { client, context } = nats.clone();
        let (mut sessions, mut batches) = (BTreeMap::new(), BTreeMap::new());
        let (mut queues, mut to_merge) = (BTreeMap::new(), BTreeMap::new());
        for (name, LinkedHost { session, merged, programs, orders }) in hosts {
            let sending = send_orders(
                client.clone(),
                sender.clone(),
                name.clone(),
                orders.clone(),
                heard.clone(),
            );
            tasks.spawn(sending);
            sessions.insert(name.clone(), session);
            batches.insert(name.clone(), merged);
            to_merge.insert(name.clone(), MergedHost::new(merged, programs));
            queues.insert(name, orders);
        }
        let safe = Arc::new(Mutex::new(batches));
        let merger = Merger::new(to_merge, heard.clone());
        tasks.spawn(read_all(context, run.clone(), place, merger));
        tasks.spawn(beat(client.clone(), sender.clone(), Arc::clone(&safe)));
        let watching = watch(client, sender, sessions, heard.clone());
        tasks.spawn(async move { drop(watching.await) });
        Self { nats, run: run.clone(), epoch, orders: queues, safe, _tasks: tasks }
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
