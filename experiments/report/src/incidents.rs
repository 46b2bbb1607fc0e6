//! What happened in a run: its phases, its faults on purpose, and what is worth a line.

use serde_json::{Map, Value};

/// More lines than a person reads.
const MOST_NOTES: usize = 200;

/// Events that are shown elsewhere, or say nothing to a person.
const SILENT: [&str; 10] = [
    "phase_starts",
    "phase_ends",
    "fault_starts",
    "fault_ends",
    "settled",
    "established",
    "kernel_connections",
    "books",
    "ended",
    "profile",
];

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
    /// How the run ended, once it has.
    pub(crate) outcome: Option<String>,
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
    /// Reads a line of `events.jsonl`.
    pub(super) fn event(&mut self, line: &Map<String, Value>) -> Result<(), String> {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        let Some(t) = line.get("t").and_then(Value::as_f64) else {
            return Err("has no instant (t)".to_owned());
        };
        let second = t as u64;
        let event = text("event");
        match event.as_str() {
            "phase_starts" => {
                let end = line.get("end").and_then(Value::as_u64);
                self.phases.push(Span { name: text("phase"), start: second, end });
            }
            "phase_ends" => {
                let name = text("phase");
                let phase = self.phases.iter_mut().rev().find(|it| it.name == name);
                if let Some(phase) = phase {
                    phase.end = Some(second);
                }
            }
            "fault_starts" => {
                let spec = line.get("spec").and_then(Value::as_object);
                let inner = spec.and_then(|spec| spec.values().next());
                self.bands.push(Band {
                    fault: line.get("fault").and_then(Value::as_u64).unwrap_or(0),
                    kind: text("kind"),
                    phase: text("phase"),
                    start: second,
                    end: line.get("until").and_then(Value::as_u64),
                    text: inner.map(in_words).unwrap_or_default(),
                    truth: None,
                });
            }
            "fault_ends" => {
                let fault = line.get("fault").and_then(Value::as_u64).unwrap_or(0);
                let kind = text("kind");
                let band =
                    self.bands.iter_mut().rev().find(|it| it.fault == fault && it.kind == kind);
                if let Some(band) = band {
                    band.end = Some(second);
                    band.truth = line.get("truth").map(in_words);
                }
            }
            "kernel_connections" => {
                let number = |name: &str| line.get(name).and_then(Value::as_u64);
                self.kernel_connections = number("total").zip(number("wanted"));
            }
            "profile" if line.get("svg").is_some_and(Value::is_string) => {
                let samples = line.get("samples").and_then(Value::as_u64).unwrap_or(0);
                self.flames.push(Flame { phase: text("phase"), svg: text("svg"), samples });
            }
            "ended" => self.outcome = Some(text("outcome")),
            _ => {}
        }
        if !SILENT.contains(&event.as_str()) {
            self.note(t, event, line);
        }
        Ok(())
    }

    fn note(&mut self, t: f64, event: String, line: &Map<String, Value>) {
        if self.notes.len() == MOST_NOTES {
            self.notes_left_out += 1;
            return;
        }
        let mut fields = line.clone();
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
