//! Orders on their way to a host, repeated until they are carried out.
//!
//! Owns: their numbers. Must not know: what they mean.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::epoch::Epoch;
use crate::names::RunName;
use crate::news::{FromFleet, HostNews, Listener};
use crate::protocol::{Answer, Ask, Order, What, ask};

/// An order is repeated when it is not answered in this time.
const ANSWER: Duration = Duration::from_secs(1);

/// Orders that wait for a host that does not answer: beyond this none is given that the run can do
/// without. Four seconds of all lookups of a fleet of 17 clients are 1,000.
const MOST_WAITING: usize = 4096;

/// Between two attempts of anything.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Orders {
    /// Those that an earlier coordinator left.
    pub fn restore(queue: Queue) -> Self {
        Self(Arc::new(OrdersState { queue: Mutex::new(queue), news: Notify::new() }))
    }

    /// Gives one; it is repeated until it is carried out. Requests are not looked for when too much
    /// waits: they are recorded without the server's end then.
    pub fn give(&self, what: What) {
        let mut queue = lock(&self.0.queue);
        let look = matches!(what, What::Look { .. });
        if queue.closed || (look && queue.waiting.len() >= MOST_WAITING) {
            return;
        }
        queue.number = queue.number.saturating_add(1);
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

/// What every message of a coordinator to its hosts says of it.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// The run.
    pub(crate) run: RunName,
    /// The coordinator's epoch.
    pub(crate) epoch: Epoch,
}

/// Sends a host its orders, one after the other, each until it is carried out. Ends when another
/// coordinator leads the run.
pub(crate) async fn send_orders(
    client: Client,
    sender: Sender,
    host: String,
    orders: Orders,
    heard: Listener,
) {
    loop {
        let next = lock(&orders.0.queue).waiting.front().cloned();
        let Some((number, what)) = next else {
            orders.0.news.notified().await;
            continue;
        };
        let Sender { run, epoch } = sender.clone();
        let order = Ask::Order(Box::new(Order { run, epoch, number, what }));
        match question(&client, &host, &order).await {
            Some(Answer::Done {}) => {}
            Some(Answer::Refused { why }) => {
                heard(FromFleet::Host(HostNews::Refused(host.clone(), why)));
            }
            Some(Answer::TakenOver { leader }) => {
                orders.close();
                return heard(FromFleet::Host(HostNews::TakenOver(leader)));
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let look = || What::Look { number: 1, requests: Vec::new() };
        (0..=MOST_WAITING).for_each(|_| restored.give(look()));
        restored.give(What::Stop {});
        let queue = restored.queue();
        assert_eq!(queue.waiting.len(), MOST_WAITING + 1, "lookups have a bound, others have none");
        assert_eq!(queue.waiting.back().map(|(number, _)| *number), Some(queue.number));
        restored.close();
        restored.give(What::Stop {});
        assert!(restored.queue().waiting.is_empty());
    }
}
