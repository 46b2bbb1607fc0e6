//! Where the money of a run is: the server's and the clients' accounts side by side.

use accounting::{LastAnswers, Ledger, Losses, Money};
use record::{ClosingBooks, Raw};
use serde::{Deserialize, Serialize};

/// The server's and the clients' accounts of the money side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerSummary {
    /// Everything that ever came in.
    pub created: Option<Money>,
    /// Packets given to users who shook.
    pub granted: Option<Money>,
    /// Shares given to users who claimed.
    pub claimed: Option<Money>,
    /// What went back to creators.
    pub refunded: Option<Money>,
    /// What waits.
    pub remaining: Option<Money>,
    /// What clients received, by their own books.
    pub received_by_clients: Option<Money>,
    /// What was granted or claimed and no client received.
    pub undelivered: Option<Money>,
    /// Requests that were under way on connections when these were lost, or at clients that were
    /// told to end: no more than that can be missing, beside what the server itself could not
    /// deliver.
    #[serde(default)]
    pub unanswered: Option<u64>,
    /// Packets that two users received.
    pub double_grants: Option<u64>,
    /// Whether every share and every cent is somewhere, and only once.
    pub balanced: Option<bool>,
    /// Why that is not so, or not known.
    #[serde(default)]
    pub because: Option<String>,
}

/// Both sides have closed their books.
struct Closed {
    server: Ledger,
    received: Money,
    double_grants: u64,
}

impl LedgerSummary {
    /// The accounts of a run that has lost so many connections.
    pub(super) fn of(raw: &Raw, lost: u64) -> Self {
        let books = raw.books();
        let ClosingBooks { server, received, clients } = books;
        let double_grants = clients.and_then(|clients| clients.double_grants);
        let closed = server.zip(received).zip(double_grants);
        let verdict = match closed {
            None => Verdict::Unknown(NOT_CLOSED.to_owned()),
            Some(((server, received), double_grants)) => {
                let closed = Closed { server, received, double_grants };
                verdict(&closed, losses(raw, &books).as_ref(), lost)
            }
        };
        let (balanced, because) = match verdict {
            Verdict::Balanced => (Some(true), None),
            Verdict::Not(why) => (Some(false), Some(why)),
            Verdict::Unknown(why) => (None, Some(why)),
        };
        Self {
            created: server.map(|it| it.created),
            granted: server.map(|it| it.granted),
            claimed: server.map(|it| it.claimed),
            refunded: server.map(|it| it.refunded),
            remaining: server.map(|it| it.remaining),
            received_by_clients: received,
            undelivered: server.zip(received).and_then(|(server, it)| server.undelivered(it)),
            unanswered: clients.and_then(|clients| clients.unanswered()),
            double_grants,
            balanced,
            because,
        }
    }
}

/// Without the books of both sides nothing is known.
const NOT_CLOSED: &str = "the run did not end in order: a side has not closed its books";

/// Whether the books balance.
enum Verdict {
    Balanced,
    Not(String),
    Unknown(String),
}

/// What was counted of answers that can have been lost; `None` in the records of a version that did
/// not count it.
fn losses(raw: &Raw, books: &ClosingBooks) -> Option<Losses> {
    let sum = |counter: fn(&record::ServerRow) -> u64| {
        raw.servers.iter().map(counter).fold(0, u64::saturating_add)
    };
    let undelivered = Money {
        count: sum(|row| row.counters.undelivered_shares),
        amount: sum(|row| row.counters.undelivered_cents),
    };
    let clients = books.clients?;
    let written = Money {
        count: sum(|row| row.counters.unconfirmed_shares),
        amount: sum(|row| row.counters.unconfirmed_cents),
    };
    let last_answers = clients.last_answers.zip(clients.overtaken);
    Some(Losses {
        unanswered: clients.unanswered()?,
        undelivered,
        overflows: sum(|row| {
            row.counters.mail_overflow.saturating_add(row.counters.local_overflow)
        }),
        largest_share: books.server?.largest_share.unwrap_or(0),
        last_answers: last_answers.map(|(read, overtaken)| LastAnswers {
            written,
            read,
            overtaken,
        }),
    })
}

fn verdict(closed: &Closed, losses: Option<&Losses>, lost: u64) -> Verdict {
    let Closed { server, received, double_grants } = closed;
    if !server.is_balanced() {
        let why = "the server's own books do not add up: what came in is not what was granted, \
                   claimed, refunded or remains";
        return Verdict::Not(why.to_owned());
    }
    if *double_grants > 0 {
        return Verdict::Not(format!("packets that two users received: {double_grants}"));
    }
    let Some(missing) = server.undelivered(*received) else {
        return Verdict::Not("clients received more than the server gave out".to_owned());
    };
    match losses {
        Some(losses) => match losses.explain(missing) {
            Ok(()) => Verdict::Balanced,
            Err(why) => Verdict::Not(why.to_string()),
        },
        None if missing == Money::default() => Verdict::Balanced,
        None if missing.count == 0 || lost == 0 => Verdict::Not(format!(
            "missing shares: {} of {} cents, and no connection was lost",
            missing.count, missing.amount
        )),
        None => Verdict::Unknown(format!(
            "missing shares: {} of {} cents. Connections were lost, and this record is of a \
             version that did not count what was under way on them",
            missing.count, missing.amount
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(count: u64, amount: u64) -> Money {
        Money { count, amount }
    }

    /// The server has granted 200 shares of 1,000 cents in all.
    fn closed(received: Money) -> Closed {
        let (created, largest_share) = (money(200, 1_000), Some(9));
        let server = Ledger { created, granted: created, largest_share, ..Ledger::default() };
        Closed { server, received, double_grants: 0 }
    }

    fn balanced(closed: &Closed, losses: Option<Losses>, lost: u64) -> Option<bool> {
        match verdict(closed, losses.as_ref(), lost) {
            Verdict::Balanced => Some(true),
            Verdict::Not(_) => Some(false),
            Verdict::Unknown(_) => None,
        }
    }

    #[test]
    fn one_lost_connection_explains_one_share_and_not_156() {
        let counted =
            |unanswered| Some(Losses { unanswered, largest_share: 9, ..Losses::default() });
        let missing = |count: u64, amount: u64| closed(money(200 - count, 1_000 - amount));
        for (case, books, losses, lost, right) in [
            ("all is there", missing(0, 0), counted(0), 0, Some(true)),
            ("one under way", missing(1, 5), counted(1), 1, Some(true)),
            ("one under way, 156 missing", missing(156, 780), counted(1), 1, Some(false)),
            ("lost without a request", missing(1, 5), counted(0), 1, Some(false)),
            ("not worth that", missing(1, 10), counted(1), 1, Some(false)),
            ("an old record, all there", missing(0, 0), None, 3, Some(true)),
            ("an old record", missing(156, 780), None, 1, None),
            ("an old record, none lost", missing(1, 5), None, 0, Some(false)),
            ("an old record, cents alone", missing(0, 5), None, 1, Some(false)),
            ("more than was given", closed(money(201, 1_001)), counted(9), 9, Some(false)),
        ] {
            assert_eq!(balanced(&books, losses, lost), right, "{case}");
        }
        let double = Closed { double_grants: 1, ..missing(0, 0) };
        assert_eq!(balanced(&double, counted(0), 0), Some(false));
        let mut torn = missing(0, 0);
        torn.server.created = money(201, 1_009);
        assert_eq!(balanced(&torn, counted(0), 0), Some(false));
    }
}
