//! What a line of `events.jsonl` says.
//!
//! Owns: the names and types of the fields of events that anything reads back. Must not know: what
//! is worked out from them. Events that are only shown have their fields as JSON.

use accounting::{Ledger, Money};
use attribution::Tally;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::outcome::Outcome;
use crate::rows;

/// What every event has.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// When, in Unix seconds.
    pub t: f64,
    /// What happened, as the file names it.
    pub name: String,
    /// What happened, as far as anything works with it.
    pub kind: EventKind,
    /// All its fields.
    pub fields: Map<String, Value>,
}

/// What happened. Fields that are missing are empty, 0 or `None`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A phase starts.
    PhaseStarts {
        /// Its name.
        #[serde(default)]
        phase: String,
        /// The second at which it will end, if that is known.
        end: Option<u64>,
    },
    /// A phase ends.
    PhaseEnds {
        /// Its name.
        #[serde(default)]
        phase: String,
    },
    /// A client has all its users logged in.
    Established {
        /// The phase.
        #[serde(default)]
        phase: String,
        /// How long it took.
        seconds: Option<f64>,
    },
    /// Nothing of a phase is under way at a client any more.
    Settled {
        /// The phase.
        #[serde(default)]
        phase: String,
        /// What became of its shakes.
        tally: Option<Box<Tally>>,
    },
    /// A fault on purpose starts.
    FaultStarts {
        /// Its number in the phase.
        #[serde(default)]
        fault: u64,
        /// Its kind.
        #[serde(default)]
        kind: String,
        /// The phase.
        #[serde(default)]
        phase: String,
        /// The second at which it will end, if that is known.
        until: Option<u64>,
        /// What the experiment says of it: an object with one field, its kind.
        spec: Option<Map<String, Value>>,
    },
    /// A fault on purpose has ended.
    FaultEnds {
        /// Its number in the phase.
        #[serde(default)]
        fault: u64,
        /// Its kind.
        #[serde(default)]
        kind: String,
        /// What it came to, in the words of its kind.
        truth: Option<Map<String, Value>>,
    },
    /// The kernel was asked how many connections are established.
    KernelConnections {
        /// How many there are.
        total: Option<u64>,
        /// How many there should be.
        wanted: Option<u64>,
    },
    /// A profile of a phase was made.
    Profile {
        /// The phase.
        #[serde(default)]
        phase: String,
        /// The file of its flame graph.
        svg: Option<String>,
        /// Samples in it.
        samples: Option<u64>,
    },
    /// The books are closed.
    Books(Box<ClosingBooks>),
    /// The run has ended.
    Ended {
        /// How.
        outcome: Option<Outcome>,
    },
    /// Something that is only shown.
    #[serde(other)]
    Other,
}

/// The books of a run as its last event has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct ClosingBooks {
    /// The server's.
    pub server: Option<Ledger>,
    /// What clients received.
    #[serde(rename = "received_by_clients")]
    pub received: Option<Money>,
    /// The clients'.
    pub clients: Option<ClientBooks>,
}

/// The clients' books, as far as they are looked at again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ClientBooks {
    /// Packets that two users received.
    pub double_grants: Option<u64>,
    /// Requests under way on connections when these were lost; `None` in the records of a version
    /// that did not count them, here and below.
    pub in_flight_lost: Option<u64>,
    /// Requests under way when clients were told to end.
    pub in_flight_at_end: Option<u64>,
    /// Requests under way on lost connections that another shake of their users followed.
    pub overtaken: Option<u64>,
    /// Money of the last answers that came over connections.
    pub last_answers: Option<Money>,
}

impl ClientBooks {
    /// Requests that can have been answered without the answer arriving.
    pub fn unanswered(&self) -> Option<u64> {
        Some(self.in_flight_lost? + self.in_flight_at_end?)
    }
}

impl EventRow {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head {
            t: f64,
            event: String,
        }
        let fields: Map<String, Value> = serde_json::from_slice(line)?;
        let Head { t, event: name } = serde_json::from_slice(line)?;
        let kind = rows::row(fields.clone())?;
        Ok(Self { t, name, kind, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let parse = |line: &str| EventRow::parse(line.as_bytes()).expect(line);
        let row = parse(r#"{"t":5.5,"host":"a","event":"phase_starts","phase":"b","end":null}"#);
        let starts = EventKind::PhaseStarts { phase: "b".to_owned(), end: None };
        assert_eq!((row.t, row.kind), (5.5, starts));
        let row = parse(
            r#"{"t":6,"event":"books","server":null,"clients":{"double_grants":0,"unaudited":0},
            "received_by_clients":{"count":1,"amount":5}}"#,
        );
        let EventKind::Books(books) = row.kind else { panic!("books: {row:?}") };
        assert_eq!((books.server, books.received.map(|it| it.amount)), (None, Some(5)));
        assert_eq!(books.clients.and_then(|it| it.double_grants), Some(0));
        let row = parse(r#"{"t":6,"host":"a","event":"warning","from":"x","what":"y"}"#);
        assert_eq!((row.name.as_str(), row.kind), ("warning", EventKind::Other));
        let names: Vec<&String> = row.fields.keys().collect();
        assert_eq!(names, ["t", "host", "event", "from", "what"]);
        for line in ["{}", r#"{"t":5}"#, r#"{"event":"ended"}"#, "[5, \"ended\"]"] {
            assert!(EventRow::parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
