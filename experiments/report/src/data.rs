//! A digest as JSON for a page: everything, or what is new since a second.

use attribution::Cause;
use serde_json::{Value, json};

use super::columns::Cell;
use super::digest::Digest;
use super::slow::FIELDS;

impl Digest {
    /// The second up to which a page knows everything for certain: what is younger may still grow.
    pub(crate) fn last(&self) -> Option<u64> {
        self.columns.span().map(|(_, end)| end.saturating_sub(1))
    }

    /// Each column's name, with its sum and its last value.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (&str, Cell)> {
        self.columns.cells()
    }

    /// Makes what is worked out of the rest: columns of causes, and zeros where probes
    /// saw nothing.
    pub(crate) fn complete(&mut self, from: u64) {
        let slowest = self.excess.seconds(from, |phase| self.histograms.p99_us(phase));
        let over = self.excess.seconds(from, |_| None);
        for (name, seconds) in [("cause", slowest), ("over", over)] {
            for (t, second) in seconds {
                self.columns.set(t, &format!("{name}.requests"), second.requests as f64);
                for (cause, us) in second.us.iter() {
                    let column = format!("{name}.{}", cause.name());
                    // What takes nothing in a run has no column, but for what all runs have.
                    let is_there = cause.is_of_first_format() || self.columns.has(&column);
                    if *us > 0 || is_there {
                        self.columns.set(t, &column, *us as f64);
                    }
                }
            }
        }
        for beginning in ["drops.", "retransmits."] {
            self.columns.fill(beginning, "probe.seen");
        }
    }

    /// The causes by name, in the order of [`Cause::ALL`] as far as one took something.
    fn causes(&self) -> Vec<&'static str> {
        let occurs = |cause: &Cause| {
            cause.is_of_first_format()
                || ["cause", "over"]
                    .iter()
                    .any(|name| self.columns.has(&format!("{name}.{}", cause.name())))
        };
        let last = Cause::ALL.iter().rposition(occurs).map_or(0, |at| at + 1);
        Cause::ALL[..last.max(self.slow.causes())].iter().map(|cause| cause.name()).collect()
    }

    /// The run from a second on, as a page wants it.
    pub(crate) fn to_json(&self, from: u64) -> String {
        let (first, end) = self.columns.span().unwrap_or((0, 0));
        let first = first.max(from).min(end);
        let incidents = &self.incidents;
        let phases: Vec<Value> = incidents
            .phases
            .iter()
            .map(|it| json!({ "name": it.name, "start": it.start, "end": it.end }))
            .collect();
        let bands: Vec<Value> = incidents
            .bands
            .iter()
            .map(|it| {
                json!({
                    "kind": it.kind, "phase": it.phase, "start": it.start, "end": it.end,
                    "text": it.text, "truth": it.truth,
                })
            })
            .collect();
        let notes: Vec<Value> =
            incidents.notes.iter().map(|it| json!([it.t, it.event, it.text])).collect();
        let rows: Vec<Value> = self.rows().map(|it| json!([it.key, it.name])).collect();
        let rest = json!({
            "first": first,
            "length": end - first,
            "phases": phases,
            "bands": bands,
            "notes": notes,
            "notes_left_out": incidents.notes_left_out,
            "kernel_connections": incidents.kernel_connections,
            "explained": !self.excess.is_empty(),
            "causes": self.causes(),
            "slow_us": self.excess.slow_us,
            "rows": rows,
            "nics": self.nics,
            "slow_fields": FIELDS,
            "slow": self.slow.to_json(from),
        });
        let mut out = rest.to_string();
        // In the place of the closing brace.
        out.pop();
        out += ",\"curves\":{";
        let mut more = false;
        // A phase that was over before `from` has its curve already.
        for phase in incidents.phases.iter().filter(|it| it.end.is_none_or(|end| end + 5 >= from)) {
            let Some(curve) = self.histograms.curve(&phase.name) else { continue };
            if std::mem::replace(&mut more, true) {
                out.push(',');
            }
            out += &format!("{}:{curve}", Value::from(phase.name.as_str()));
        }
        out += "},\"columns\":";
        out += &self.columns.to_json(from);
        out.push('}');
        out
    }
}
