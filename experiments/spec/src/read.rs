//! From a file to an experiment, and every way in which that can fail, with line and column.

use std::path::{Path, PathBuf};

use ron::Options;
use ron::extensions::Extensions;
use serde_json::Value;

use crate::experiment::Experiment;
use crate::hints;
use crate::order::OrderError;
use crate::ron_value;

/// The longest text of an experiment, in bytes: a thousand phases with all that they can have.
const MOST_TEXT: u64 = 1 << 20;

/// Why there is no experiment. The message has file, line and column where there are any.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("{}: cannot read it{hint}", file.display())]
    File {
        /// The file beside it that may be meant, as part of the sentence; or empty.
        hint: String,
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The text is no experiment.
    #[error("{}:{line}:{column}: {what}", file.display())]
    Text {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// A `--set` that does not fit.
    #[error("--set {setting}: {what}")]
    Set {
        /// What was asked.
        setting: String,
        /// What is wrong with it.
        what: String,
    },
}

/// An experiment and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// What it says, with settings of the command line.
    pub experiment: Experiment,
}

fn options() -> Options {
    // `Some(…)` need not be written: a field that is there is meant.
    Options::default().with_default_extension(Extensions::IMPLICIT_SOME)
}

impl Source {
    /// Reads a file and changes what `settings` (`key=value`) say.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(file: &Path, settings: &[String]) -> Result<Self, ReadError> {
        let text = platform::read_text_within(file, MOST_TEXT).map_err(|source| {
            let hint = hints::of_file(file);
            ReadError::File { hint, file: file.to_owned(), source }
        })?;
        Self::parse(file, text, settings)
    }

    /// Reads a text as if it stood in `file`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn parse(file: &Path, text: String, settings: &[String]) -> Result<Self, ReadError> {
        let at = |line, column, what| ReadError::Text { file: file.to_owned(), line, column, what };
        let mut experiment: Experiment = options().from_str(&text).map_err(|error| {
            at(error.span.start.line, error.span.start.col, hints::added(error.code.to_string()))
        })?;
        for setting in settings {
            experiment = set(&experiment, setting)
                .map_err(|what| ReadError::Set { setting: setting.clone(), what })?;
        }
        experiment.ordered_phases().map_err(|error| {
            let (line, column) = place_of(&text, &error);
            at(line, column, error.to_string())
        })?;
        Ok(Self { file: file.to_owned(), text, experiment })
    }
}

impl Experiment {
    /// The experiment as a file with every default written out.
    pub fn to_ron(&self) -> String {
        let pretty = ron::ser::PrettyConfig::new().extensions(Extensions::IMPLICIT_SOME);
        ron::ser::to_string_pretty(self, pretty)
            .unwrap_or_else(|error| format!("// cannot be written as RON: {error}"))
    }
}

/// Where the phase at fault has its name, the last time that it is given.
fn place_of(text: &str, error: &OrderError) -> (usize, usize) {
    let name = format!("\"{}\"", error.phase());
    let named =
        |line: &str| line.trim_start().trim_start_matches('(').trim_start().starts_with("name");
    text.lines()
        .enumerate()
        .filter(|(_, line)| named(line))
        .filter_map(|(number, line)| Some((number + 1, line.find(&name)? + 1)))
        .last()
        .unwrap_or((1, 1))
}

/// Changes one value: `key` is a path of fields, phases by their name or number.
fn set(experiment: &Experiment, setting: &str) -> Result<Experiment, String> {
    let (key, text) = setting.split_once('=').ok_or("expected key=value")?;
    let mut tree = serde_json::to_value(experiment).map_err(|error| error.to_string())?;
    let mut at = &mut tree;
    for part in key.split('.') {
        at = step(at, part)?;
    }
    // JSON, or as the file writes it, or else a word: the first one that fits counts.
    let readings = [serde_json::from_str(text).ok(), ron_value::parse(text)];
    let word = Value::String(text.to_owned());
    let mut refused = None;
    for value in readings.into_iter().flatten().chain([word]) {
        *at = value;
        match serde_json::from_value(tree.clone()) {
            Ok(experiment) => return Ok(experiment),
            Err(error) => refused = refused.or(Some(hints::added(error.to_string()))),
        }
        at = &mut tree;
        for part in key.split('.') {
            at = step(at, part)?;
        }
    }
    Err(refused.unwrap_or_default())
}

fn step<'a>(at: &'a mut Value, part: &str) -> Result<&'a mut Value, String> {
    match at {
        Value::Object(fields) => {
            let known: Vec<String> = fields.keys().cloned().collect();
            let none = || hints::none_of(part, known.iter().map(String::as_str));
            fields.get_mut(part).ok_or_else(none)
        }
        Value::Array(items) => {
            let is_named = |item: &Value| item.get("name").and_then(Value::as_str) == Some(part);
            let place = part
                .parse()
                .ok()
                .filter(|index| *index < items.len())
                .or_else(|| items.iter().position(is_named));
            let names = items.iter().filter_map(|item| item.get("name")?.as_str());
            match place.ok_or_else(|| hints::none_of(part, names)) {
                Ok(place) => Ok(&mut items[place]),
                Err(none) => Err(none),
            }
        }
        other => Err(format!("'{part}' is looked for in {other}, which has no fields")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use workload::Rate;

    use crate::phase::{After, Shake};
    use crate::values::Seconds;

    const SMALL: &str = r#"(
    name: "small",
    users: 100,
    phases: [
        (name: "connect", connect: (rate: 50), until: Established),
        (name: "load", seconds: 5, shake: Open(rate: Fixed(10))),
    ],
)"#;

    fn parse(text: &str, settings: &[&str]) -> Result<Source, ReadError> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        Source::parse(Path::new("x.ron"), text.to_owned(), &settings)
    }

    #[test]
    fn defaults_are_filled_in_and_written_out() {
        let small = parse(SMALL, &[]).expect("valid").experiment;
        assert_eq!(small.seed, 2015);
        let phases = small.ordered_phases().expect("ordered");
        assert_eq!(
            phases[1].after,
            Some(After::Finished("connect".to_owned().try_into().unwrap()))
        );
        let written = small.to_ron();
        for default in ["sets: 256", "timeout_s: 5.0", "late_share: 0.001", "pacing: Even"] {
            assert!(written.contains(default), "{default} in {written}");
        }
        assert_eq!(parse(&written, &[]).expect("reads back").experiment, small);
    }

    #[test]
    fn settings_change_what_they_name() {
        let settings = [
            "users=7",
            "phases.load.seconds=9",
            "phases.1.shake.Open.rate={\"Ramp\":{\"from\":1,\"to\":5,\"seconds\":3}}",
            "about=in words",
            "server.steering=Hash",
        ];
        let changed = parse(SMALL, &settings).expect("valid").experiment;
        assert_eq!(changed.users.get(), 7);
        assert_eq!(changed.about, "in words");
        assert_eq!(changed.phases[1].seconds.map(Seconds::get), Some(9));
        let Some(Shake::Open { rate, .. }) = changed.phases[1].shake else { panic!("open") };
        assert_eq!(rate, Rate::Ramp { from: 1, to: 5, seconds: 3 });
        let settings = [
            "phases.load.shake=Open(rate: Ramp(from: 1, to: 5, seconds: 3))",
            "about=in(words)",
            "phases.load.faults=[Hog(cpus: [0], busy: 0.25)]",
        ];
        let again = parse(SMALL, &settings).expect("valid").experiment;
        assert_eq!(again.phases[1].shake, changed.phases[1].shake);
        assert_eq!(again.about, "in(words)");
        assert_eq!(again.phases[1].faults.len(), 1);
        for (setting, words) in [
            ("phases.load.shake=Open(rate: Steady(1))", "unknown variant `Steady`"),
            ("phases.load.shake=Open(rate: Fixed(1)", "unknown variant"),
            ("users", "expected key=value"),
            ("users=0", "0 is not a number of users"),
            ("user=1", "there is no 'user', only: name, about, users"),
            ("phases.lod.seconds=1", "there is no 'lod', only: connect, load"),
            ("phases.load.seconds.x=1", "has no fields"),
            ("server.steering=Sideways", "unknown variant `Sideways`"),
            ("phases.load.until=Established", "two ends"),
        ] {
            let error = parse(SMALL, &[setting]).expect_err(setting).to_string();
            assert!(error.contains(words) && error.contains(setting), "{error}");
        }
    }

    const FIVE: &str = "seconds: 5, ";

    #[test]
    fn faults_are_written_out_with_their_defaults() {
        let text = SMALL.replacen(
            FIVE,
            "seconds: 5, faults: [
                Hog(cpus: [0]),
                SlowHandler(us: 500, share: 0.01, from_s: 1, until_s: 3),
                SlowClient(us: 500, share: 0.01),
                Loss(share: 0.001, direction: ToServer),
                Delay(us: 5000, direction: ToClient),
            ], ",
            1,
        );
        let text = text.replacen("users: 100", "users: 100, hosts: Namespaces(1)", 1);
        let read = parse(&text, &["phases.load.faults.0.Hog.busy=0.25"]).expect("valid");
        let written = read.experiment.to_ron();
        for part in ["busy: 0.25", "period_us: 20000", "nice: 0", "until_s: 3", "all: false"] {
            assert!(written.contains(part), "{part} in {written}");
        }
        assert_eq!(parse(&written, &[]).expect("reads back").experiment, read.experiment);
        let spans: Vec<_> =
            read.experiment.phases[1].faults.iter().map(crate::fault::FaultSpec::span).collect();
        assert_eq!(spans, [(0, None), (1, Some(3)), (0, None), (0, None), (0, None)]);
    }

    /// Every mistake is told with file, line, column and what was expected.
    #[test]
    fn mistakes_have_a_place() {
        for (wrong, right, place, words) in [
            ("users: 100", "users: 0", "x.ron:3:", "at least 1"),
            ("users: 100", "users: \"many\"", "x.ron:3:", ""),
            ("users: 100", "usrs: 100", "x.ron:3:", "users"),
            ("name: \"small\"", "name: \"a b\"", "x.ron:2:", "letters, digits"),
            ("until: Established", "until: Later", "x.ron:5:", "Established"),
            ("connect: (rate: 50), ", "", "x.ron:5:", "connects none"),
            ("seconds: 5, ", "", "x.ron:6:", "needs an end"),
            ("seconds: 5, ", "seconds: 5, until: Established, ", "x.ron:6:", "two ends"),
            ("Fixed(10)", "Fixed(0)", "x.ron:6:", "rate of 0"),
            ("Fixed(10)", "Steady(10)", "x.ron:6:", "Fixed"),
            ("rate: 50", "rate: -5", "x.ron:5:", "a rate"),
            ("name: \"load\"", "name: \"connect\"", "x.ron:6:", "two phases are named"),
            ("name: \"load\"", "name: \"load\", after: Finished(\"start\")", "x.ron:6:", "none of"),
            (
                "name: \"load\"",
                "name: \"load\", after: Finished(\"load\")",
                "x.ron:6:",
                "never start",
            ),
            ("users: 100,", "users: 100, validity: (late_share: 0.5),", "x.ron:3:", "because"),
            (
                "users: 100,",
                "users: 100, client: (processes: 101),",
                "x.ron:",
                "more than the users",
            ),
            ("phases: [", "phases: ", "x.ron:4:", "["),
            (FIVE, "seconds: 5, faults: [Hog(cpus: [])], ", "x.ron:6:", "names no CPU"),
            (FIVE, "seconds: 5, faults: [Hog(cpu: 0)], ", "x.ron:6:", "cpus"),
            (FIVE, "seconds: 5, faults: [Fire(us: 1)], ", "x.ron:6:", "SlowHandler"),
            (FIVE, "seconds: 5, faults: [Hog(cpus: [0], nice: 20)], ", "x.ron:6:", "-20 and 19"),
            (
                FIVE,
                "seconds: 5, faults: [SlowClient(us: 0, share: 1)], ",
                "x.ron:6:",
                "microseconds",
            ),
            (
                FIVE,
                "seconds: 5, faults: [SlowHandler(us: 9, share: 1, from_s: 5)], ",
                "x.ron:6:",
                "starts in second 5 of a phase of 5",
            ),
            (
                FIVE,
                "seconds: 5, faults: [SlowHandler(us: 9, share: 1, from_s: 3, until_s: 3)], ",
                "x.ron:6:",
                "until 3",
            ),
            (
                FIVE,
                "seconds: 5, faults: [Loss(share: 0.1, direction: ToServer)], ",
                "x.ron:",
                "hosts: Namespaces(1)",
            ),
            ("users: 100,", "users: 100, hosts: Namespaces(2),", "x.ron:", "a client process in"),
        ] {
            assert!(SMALL.contains(wrong), "{wrong}");
            let text = SMALL.replacen(wrong, right, 1);
            let error = parse(&text, &[]).expect_err(right).to_string();
            assert!(error.starts_with(place) && error.contains(words), "{right}: {error}");
        }
    }

    #[test]
    fn phases_that_start_together_are_refused() {
        let both = SMALL.replace(
            "],\n)",
            "    (name: \"more\", after: Finished(\"connect\"), seconds: 1),\n    ],\n)",
        );
        let error = parse(&both, &[]).expect_err("both").to_string();
        assert!(error.contains("one at a time") && error.starts_with("x.ron:7:"), "{error}");
    }

    #[test]
    fn phases_run_in_the_order_that_they_say() {
        let phases = |first: &str, second: &str| {
            let text = format!(
                "(name: \"x\", users: 1, phases: [
                    (name: \"a\", seconds: 1),
                    (name: \"b\", after: {first}, seconds: 1),
                    (name: \"c\", after: {second}, seconds: 1),
                ])"
            );
            let source = parse(&text, &[])?;
            let ordered = source.experiment.ordered_phases().expect("checked when it was read");
            Ok::<_, ReadError>(
                ordered.iter().map(|phase| phase.name.to_string()).collect::<String>(),
            )
        };
        assert_eq!(phases("Finished(\"a\")", "Terminated(\"b\")").expect("fine"), "abc");
        assert_eq!(phases("Finished(\"c\")", "Finished(\"a\")").expect("fine"), "acb");
        let error = phases("Finished(\"c\")", "Finished(\"b\")").expect_err("a circle");
        assert!(error.to_string().contains("never start"), "{error}");
    }
}
