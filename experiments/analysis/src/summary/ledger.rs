//! Where the money of a run is: the server's and the clients' accounts side by side.

use accounting::{Ledger, Money};
use serde::{Deserialize, Serialize};

/// The server's and the clients' accounts of the money side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Packets that two users received.
    pub double_grants: Option<u64>,
    /// Whether every share and every cent is somewhere, and only once.
    pub balanced: Option<bool>,
}

impl LedgerSummary {
    pub(super) fn of(
        ledger: Option<Ledger>,
        received: Option<Money>,
        doubles: Option<u64>,
        lost: u64,
    ) -> Self {
        let undelivered =
            ledger.zip(received).map(|(ledger, received)| ledger.undelivered(received));
        let balanced =
            ledger.zip(doubles).zip(undelivered).map(|((ledger, doubles), undelivered)| {
                // Answers disappear with connections, and in no other way.
                let explained = undelivered.is_some_and(|it| it.count == 0 || lost > 0);
                ledger.is_balanced() && explained && doubles == 0
            });
        Self {
            created: ledger.map(|it| it.created),
            granted: ledger.map(|it| it.granted),
            claimed: ledger.map(|it| it.claimed),
            refunded: ledger.map(|it| it.refunded),
            remaining: ledger.map(|it| it.remaining),
            received_by_clients: received,
            undelivered: undelivered.flatten(),
            double_grants: doubles,
            balanced,
        }
    }
}
