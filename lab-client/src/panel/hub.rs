//! Between the shards and everybody who asks or records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::{Lines, Program, Shards, locked};
use serde::{Deserialize, Serialize};
use shard::{Clock, NANOS_PER_SECOND, Spins, monotonic_ns};

use super::commands::{Command, CommandError};
use crate::books::Books;
use crate::causes::CauseRows;
use crate::client::Client;
use crate::joined::Sampled;
use crate::latency::{Encoded, Segment};
use crate::load::Event;
use crate::message::Message;
use crate::phase::{Load, Phase};
use crate::report::{Report, Sample};
use crate::slow::SlowRequest;
use crate::tally::Tally;

/// A changed rate must reach all shards before the second in which it counts, and before they work
/// that second out.
const RATE_MARGIN_NS: u64 = NANOS_PER_SECOND / 5;

/// What a client says about itself when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where its own control interface listens.
    pub control: String,
    /// Its process.
    pub pid: u32,
    /// The threads of its shards.
    pub threads: Vec<i32>,
    /// Its users: the first, and the first behind them.
    pub users: (u32, u32),
    /// The addresses that they come from.
    pub sources: Vec<String>,
}

/// What the users received, for whoever compares it with the server's books.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// The sums.
    pub books: Books,
    /// A bit for each packet granted, little-endian words in base64.
    pub seen: String,
}

impl Audit {
    /// The books of all users of a client.
    pub fn of(books: &Books) -> Self {
        let bytes: Vec<u8> = books.seen().iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { books: books.clone(), seen: STANDARD.encode(bytes) }
    }

    /// The books, packets included.
    ///
    /// # Errors
    /// When the packets are no base64.
    pub fn into_books(self) -> Result<Books, base64::DecodeError> {
        let bytes = STANDARD.decode(&self.seen)?;
        let words: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let mut books = self.books;
        books.add_seen(&words);
        Ok(books)
    }
}

/// A line of JSON for a recorder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The client is ready for phases.
    Ready(Ready),
    /// A second of a shard.
    Sample(Box<Sample>),
    /// A histogram of a second of a shard.
    Histogram {
        /// The Unix second.
        t: u64,
        /// The phase whose shakes it has.
        phase: u16,
        /// What was measured.
        segment: Segment,
        /// The values in microseconds.
        values: Encoded,
    },
    /// Why the requests of a second of a shard took their time.
    Causes {
        /// The Unix second.
        t: u64,
        /// The shard.
        shard: usize,
        /// The phase in which they were due.
        phase: u16,
        /// Their sums.
        #[serde(flatten)]
        rows: Box<CauseRows>,
    },
    /// The slowest requests of a second of a shard.
    Slow {
        /// The Unix second.
        t: u64,
        /// The requests.
        requests: Vec<SlowRequest>,
    },
    /// The requests of a second of a shard that are to be joined with the server's ends.
    Sampled {
        /// The Unix second.
        t: u64,
        /// The requests.
        requests: Vec<Sampled>,
    },
    /// All users that a phase was to log in are logged in.
    Established {
        /// The phase.
        phase: u16,
        /// Seconds since the phase began.
        seconds: f64,
    },
    /// A phase has ended and nothing of it is under way any more.
    Settled {
        /// The phase.
        phase: u16,
        /// What became of its shakes.
        tally: Box<Tally>,
    },
    /// What a fault on purpose did in a second of a shard.
    Spun {
        /// The shard.
        shard: usize,
        /// What it did.
        #[serde(flatten)]
        spins: Spins,
    },
    /// A command failed, or a shard could not go on.
    Error(String),
    /// The client has ended.
    Ended(Audit),
}

/// What the shards said so far about a phase.
#[derive(Debug, Default)]
struct Gathered {
    start_ns: u64,
    established: usize,
    established_ns: u64,
    settled: usize,
    tally: Tally,
    /// Shards of which nobody is left to connect, and their users who are not logged in.
    left_out: (usize, u32),
    /// The Unix seconds in which it offers an open load: the first, and the first behind them.
    open: (u64, u64),
}

struct State {
    shards: Shards<Message, Report>,
    clock: Clock,
    phases: Mutex<HashMap<u16, Gathered>>,
    /// The rate of an open load that will begin at a time that nobody knows yet.
    expected: Mutex<Option<u32>>,
    /// What the shards counted since they began, and their last samples.
    totals: Mutex<Vec<(Tally, Option<Sample>)>>,
    books: Mutex<Books>,
}

/// The control thread's view of a client. A clone is another handle to the same.
#[derive(Clone)]
pub struct Hub(Arc<State>);

impl Hub {
    /// A view of a running client.
    pub fn new(client: &Client) -> Self {
        let shards = client.mail().shards();
        Self(Arc::new(State {
            shards: Shards::new(client.mail().clone(), client.reports().clone()),
            clock: client.clock(),
            phases: Mutex::default(),
            expected: Mutex::default(),
            totals: Mutex::new(vec![(Tally::default(), None); shards]),
            books: Mutex::default(),
        }))
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.0.shards.count()
    }

    /// The first Unix second from which a changed rate can count on all shards.
    pub fn next_second(&self) -> u64 {
        self.0.clock.unix_second(monotonic_ns() + RATE_MARGIN_NS) + 1
    }

    pub(super) fn begin(&self, phase: &Phase) {
        let start_ns = self.0.clock.start_of(phase.start);
        let end = phase.seconds.map_or(u64::MAX, |seconds| phase.start.saturating_add(seconds));
        let open = match phase.load {
            Load::Open { .. } => (phase.start, end),
            Load::None | Load::Closed { .. } => (0, 0),
        };
        let mut phases = locked(&self.0.phases);
        // The one before ends at the latest when this one starts.
        phases.values_mut().for_each(|before| before.open.1 = before.open.1.min(phase.start));
        phases.insert(phase.index, Gathered { start_ns, open, ..Gathered::default() });
    }

    pub(super) fn end(&self, index: u16, end: u64) {
        let mut phases = locked(&self.0.phases);
        phases.get_mut(&index).into_iter().for_each(|it| it.open.1 = it.open.1.min(end));
    }

    /// An open load will begin: until then its rate can be changed like that of one under way.
    pub fn expect_load(&self, rate: u32) {
        *locked(&self.0.expected) = Some(rate);
    }

    /// The load that was expected begins now: its rate, as it may have been changed.
    pub fn take_expected(&self) -> Option<u32> {
        locked(&self.0.expected).take()
    }

    /// Changes the rate of the open load from the next second on.
    pub(super) fn change_rate(&self, qps: u32) -> Result<(), CommandError> {
        if let Some(rate) = &mut *locked(&self.0.expected) {
            *rate = qps;
            return Ok(());
        }
        let from = self.next_second();
        let is_open = |it: &Gathered| it.open.0 <= from && from < it.open.1;
        if !locked(&self.0.phases).values().any(is_open) {
            return Err(CommandError::NoOpenLoad);
        }
        self.post_all(|| Message::Rate { from, rate: qps })
    }

    /// How many users that a phase was to log in cannot be, once nobody is left to connect.
    pub fn left_out(&self, phase: u16) -> Option<u32> {
        let phases = locked(&self.0.phases);
        let Gathered { established, left_out: (shards, users), .. } = phases.get(&phase)?;
        (*shards > 0 && established + shards == self.shard_count()).then_some(*users)
    }

    /// Posts a message to every shard.
    ///
    /// # Errors
    /// [`CommandError::InboxFull`] for the first whose inbox is full.
    pub fn post_all(&self, message: impl Fn() -> Message) -> Result<(), CommandError> {
        Ok(self.0.shards.post_all(message)?)
    }

    /// What each shard counted since it began, with its last sample.
    pub fn totals(&self) -> Vec<(Tally, Option<Sample>)> {
        locked(&self.0.totals).clone()
    }

    /// The books of the shards that have ended.
    pub fn audit(&self) -> Audit {
        Audit::of(&locked(&self.0.books))
    }

    /// What shards that could not go on said.
    pub fn failures(&self) -> Vec<String> {
        self.0.shards.take_failures()
    }

    fn happened(&self, event: Event) -> Option<Line> {
        let mut phases = locked(&self.0.phases);
        match event {
            Event::Established { phase, at_ns } => {
                let gathered = phases.entry(phase).or_default();
                gathered.established += 1;
                gathered.established_ns = gathered.established_ns.max(at_ns);
                let took_ns = gathered.established_ns.saturating_sub(gathered.start_ns);
                let seconds = took_ns as f64 / NANOS_PER_SECOND as f64;
                (gathered.established == self.shard_count())
                    .then_some(Line::Established { phase, seconds })
            }
            Event::LeftOut { phase, users } => {
                let left_out = &mut phases.entry(phase).or_default().left_out;
                *left_out = (left_out.0 + 1, left_out.1 + users);
                None
            }
            Event::Settled { phase, tally } => {
                let gathered = phases.entry(phase).or_default();
                gathered.settled += 1;
                gathered.tally.add(&tally);
                let tally = Box::new(gathered.tally);
                (gathered.settled == self.shard_count()).then_some(Line::Settled { phase, tally })
            }
        }
    }
}

impl Program for Hub {
    type Message = Message;
    type Report = Report;
    type Command = Command;
    type Line = Line;

    fn shards(&self) -> &Shards<Message, Report> {
        &self.0.shards
    }

    fn handle(&self, report: Report, lines: &Lines<Line>) {
        // Nobody may be listening to the lines; the books are kept all the same.
        let line = match report {
            Report::Started(_, Ok(())) => None,
            Report::Started(shard, Err(reason)) => {
                self.shard_ended(shard, Err(reason), lines);
                None
            }
            Report::Second(sample) => {
                let total = &mut locked(&self.0.totals)[sample.shard];
                total.0.add(&sample.tally);
                total.1 = Some(sample);
                Some(Line::Sample(Box::new(sample)))
            }
            Report::Filled(t, shard, filled) => {
                let values = Encoded(filled.values.clone());
                // An inbox that is full gets its histogram back another time, made anew.
                let _ = self.0.shards.post(shard, Message::Spare(filled.values));
                Some(Line::Histogram { t, phase: filled.phase, segment: filled.segment, values })
            }
            Report::Causes(t, shard, phase, rows) => Some(Line::Causes { t, shard, phase, rows }),
            Report::Spun(shard, spins) => Some(Line::Spun { shard, spins }),
            Report::Sampled(t, requests) => Some(Line::Sampled { t, requests }),
            Report::Slow(t, requests) => Some(Line::Slow { t, requests }),
            Report::Event(_, event) => self.happened(event),
            Report::Ended(shard, books, ended) => {
                locked(&self.0.books).add(&books);
                self.shard_ended(shard, ended, lines);
                None
            }
        };
        if let Some(line) = line {
            let _ = lines.send(line);
        }
    }

    fn carry_out(&self, command: Command) -> Result<(), String> {
        command.carry_out(self).map_err(|error| error.to_string())
    }

    fn stop_message() -> Message {
        Message::Stop
    }

    fn error_line(&self, error: String) -> Line {
        Line::Error(error)
    }

    fn show(&self, _: &Line) {}
}
