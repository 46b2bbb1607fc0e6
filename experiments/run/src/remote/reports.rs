//! What a host may report of itself: rows of its own, and none that pass for another's.

use fleet::protocol::HostReport;
use serde_json::{Map, Value, json};

/// What samples of a host are of. What programs count is in their own lines.
const SOURCES: [&str; 4] = ["nic", "perf", "probe", "proc"];

/// What the recorder itself says of every row.
const RECORDERS: [&str; 3] = ["host", "phase", "source"];

/// A sample of a host as it is recorded.
pub(super) struct Sample<'a> {
    pub(super) source: &'a str,
    /// What tells it from others of its source; its host first.
    pub(super) who: Vec<(&'a str, Value)>,
    pub(super) values: Map<String, Value>,
}

/// Reads a sample that a host reports; `None` when it is none, or not for a host to tell.
pub(super) fn sample<'a>(host: &str, report: &'a HostReport) -> Option<Sample<'a>> {
    let HostReport::Sample { source, of, values } = report else { return None };
    if !SOURCES.contains(&source.as_str()) {
        return None;
    }
    let mut values = values.as_object()?.clone();
    RECORDERS.iter().for_each(|name| drop(values.shift_remove(*name)));
    let mut who = vec![("host", json!(host))];
    let of = of.iter().map(|(key, value)| (key.as_str(), value.clone()));
    who.extend(of.filter(|(key, _)| *key != "t" && !RECORDERS.contains(key)));
    Some(Sample { source, who, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(source: &str, of: &[(&str, Value)], values: Value) -> HostReport {
        let of = of.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        HostReport::Sample { source: source.to_owned(), of, values }
    }

    #[test]
    fn a_host_tells_of_itself_and_of_nobody_else() {
        let of = [("of", json!("client")), ("client", json!(3))];
        let good = report("proc", &of, json!({ "t": 7, "cpu_us": 9 }));
        let row = sample("c1", &good).expect("a sample");
        let who = [("host", json!("c1")), ("of", json!("client")), ("client", json!(3))];
        assert_eq!((row.source, &row.who[..]), ("proc", &who[..]));
        assert_eq!(Value::Object(row.values), json!({ "t": 7, "cpu_us": 9 }));

        let of = [("host", json!("c2")), ("source", json!("client")), ("t", json!(1))];
        let values = json!({ "t": 7, "source": "client", "host": "c2", "phase": "x", "drops": 1 });
        let forged = report("nic", &of, values);
        let row = sample("c1", &forged).expect("a sample");
        assert_eq!(row.who, [("host", json!("c1"))]);
        assert_eq!(Value::Object(row.values), json!({ "t": 7, "drops": 1 }));

        for source in ["client", "server", "causes", "", "x"] {
            assert!(sample("c1", &report(source, &[], json!({ "t": 7 }))).is_none(), "{source}");
        }
        assert!(sample("c1", &report("proc", &[], json!(7))).is_none());
        assert!(sample("c1", &HostReport::Over {}).is_none());
    }
}
