//! What happened in a run: its phases, its faults on purpose, and what is worth a line.

use record::{EventKind, EventRow};
use serde_json::{Map, Value};

/// More lines than a person reads.
const MOST_NOTES: usize = 200;

/// A phase as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its name.
    pub(crate) name: String,
    /// Its first second.
    pub(crate) start: u64,
    /// Its exclusive end, once it is known.
    pub(crate) end: Option<u64>,
}

/// A fault on purpose.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Band {
    fault: u64,
    pub(super) kind: String,
    pub(super) phase: String,
    pub(super) start: u64,
    pub(super) end: Option<u64>,
    pub(super) text: String,
    pub(super) truth: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Note {
    pub(super) t: f64,
    pub(super) event: String,
    pub(super) text: String,
}

/// A flame graph of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flame {
    pub(super) phase: String,
    pub(super) svg: String,
    pub(super) samples: u64,
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    pub(crate) phases: Vec<Span>,
    pub(super) bands: Vec<Band>,
    pub(super) notes: Vec<Note>,
    pub(super) notes_left_out: u64,
    pub(super) flames: Vec<Flame>,
    /// Whether the run has ended.
    pub(crate) ended: bool,
    /// When the kernel was asked how many connections there are, and what it said.
    pub(super) kernel_connections: Option<(u64, u64)>,
}

fn plain(name: &str) -> String {
    name.replace('_', " ")
}

/// A value as a person reads it: `share 0.01, direction ToServer`.
fn in_words(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .filter(|(name, value)| {
                    !matches!(name.as_str(), "from_s" | "until_s" | "not_kept") && !value.is_null()
                })
                .map(|(name, value)| match (name.strip_suffix("_ns"), value.as_f64()) {
                    (Some(name), Some(ns)) => format!("{} {:.1} ms", plain(name), ns / 1e6),
                    _ => format!("{} {}", plain(name), in_words(value)),
                });
            fields.collect::<Vec<_>>().join(", ")
        }
        Value::Array(values) => values.iter().map(in_words).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Incidents {
    /// Adds what happened.
    pub(super) fn event(&mut self, event: EventRow) {
        let EventRow { t, name, kind, fields } = event;
        let second = t as u64;
        match kind {
            EventKind::PhaseStarts { phase, end } => {
                self.phases.push(Span { name: phase, start: second, end });
            }
            EventKind::PhaseEnds { phase } => {
                let span = self.phases.iter_mut().rev().find(|span| span.name == phase);
                if let Some(span) = span {
                    span.end = Some(second);
                }
            }
            EventKind::FaultStarts { fault, kind, phase, until, spec } => {
                let inner = spec.as_ref().and_then(|spec| spec.values().next());
                let text = inner.map(in_words).unwrap_or_default();
                let start = second;
                self.bands.push(Band { fault, kind, phase, start, end: until, text, truth: None });
            }
            EventKind::FaultEnds { fault, kind, truth } => {
                let is_it = |band: &&mut Band| band.fault == fault && band.kind == kind;
                if let Some(band) = self.bands.iter_mut().rev().find(is_it) {
                    band.end = Some(second);
                    band.truth = truth.map(|truth| in_words(&Value::Object(truth)));
                }
            }
            EventKind::KernelConnections { total, wanted } => {
                self.kernel_connections = total.zip(wanted);
            }
            EventKind::Profile { phase, svg: Some(svg), samples } => {
                self.flames.push(Flame { phase, svg, samples: samples.unwrap_or(0) });
            }
            EventKind::Ended { .. } => self.ended = true,
            EventKind::Profile { svg: None, .. }
            | EventKind::Established { .. }
            | EventKind::Settled { .. }
            | EventKind::Books(_) => {}
            EventKind::Other => self.note(t, name, fields),
        }
    }

    fn note(&mut self, t: f64, event: String, mut fields: Map<String, Value>) {
        if self.notes.len() == MOST_NOTES {
            self.notes_left_out += 1;
            return;
        }
        for known in ["t", "host", "event"] {
            fields.remove(known);
        }
        let text = match (fields.get("from"), fields.get("what")) {
            (Some(Value::String(from)), Some(Value::String(what))) => format!("{from}: {what}"),
            _ => in_words(&Value::Object(fields)),
        };
        self.notes.push(Note { t, event, text });
    }
}
