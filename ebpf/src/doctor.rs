//! What this machine can do for the lab: one finding for each thing that a run or its probes
//! need, with the consequence and the way out.
//!
//! Owns: the checks. Must not know: experiments, exit codes, how findings are asked for.
//!
//! What is read lies below two folders, `/proc` and `/sys`, and what must be tried is tried once
//! (`LiveChecks`); both can be given, so that a machine that lacks something can be simulated.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

mod bpf;
mod devices;
mod live;
mod system;

use live::{Card, LiveChecks, RingError};

/// How well a machine does in one respect; in the order from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything is there.
    Ok,
    /// A run goes on with less.
    Less,
    /// It is not there at all.
    Missing,
}

/// What was found in one respect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was examined.
    pub name: String,
    /// How well the machine does in it.
    pub state: State,
    /// What there is.
    pub found: String,
    /// What follows from it; `None` where nothing does.
    pub consequence: Option<String>,
    /// What would change it; `None` where nothing need.
    pub way_out: Option<String>,
}

impl Finding {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: State::Ok,
            found: found.into(),
            consequence: None,
            way_out: None,
        }
    }

    fn less(
        name: impl Into<String>,
        found: impl Into<String>,
        consequence: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Less,
            consequence: Some(consequence.into()),
            way_out: Some(way_out.into()),
            ..Self::ok(name, found)
        }
    }

    fn missing(
        name: impl Into<String>,
        found: impl Into<String>,
        consequence: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self { state: State::Missing, ..Self::less(name, found, consequence, way_out) }
    }

    /// With a consequence, though nothing is wrong.
    fn with_consequence(self, consequence: impl Into<String>) -> Self {
        Self { consequence: Some(consequence.into()), ..self }
    }
}

/// Examines a machine.
#[derive(Clone, Debug)]
struct Doctor {
    proc: PathBuf,
    sys: PathBuf,
    live: LiveChecks,
}

/// Examines this machine, as the calling thread sees it: its namespaces, its capabilities.
pub fn examine() -> Vec<Finding> {
    Doctor::at("/proc", "/sys", LiveChecks::of_this_machine()).examine()
}

impl Doctor {
    /// Examines a machine with these files, on which this came of what was tried.
    fn at(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>, live: LiveChecks) -> Self {
        Self { proc: proc.into(), sys: sys.into(), live }
    }

    /// One finding for each thing, in the order a reader would ask.
    fn examine(&self) -> Vec<Finding> {
        let mut findings = vec![self.kernel(), self.io_uring()];
        findings.extend(self.capabilities());
        findings.push(self.btf());
        findings.push(self.tracefs());
        findings.extend(self.probes());
        findings.push(self.perf_events());
        findings.push(self.hardware_counters());
        findings.push(self.kernel_names());
        findings.push(self.descriptors());
        findings.push(self.descriptors_at_most());
        findings.push(self.files());
        findings.push(self.memory());
        findings.push(self.cpus());
        findings.extend(self.threads());
        findings.push(self.pressure());
        findings.push(self.clock_source());
        findings.push(self.clock_synchronised());
        findings.extend(self.cards());
        findings.extend(self.qdiscs());
        findings
    }

    /// A file below `/proc`, trimmed.
    fn of_proc(&self, name: &str) -> Result<String, String> {
        text(&self.proc.join(name))
    }

    /// A file below `/sys`, trimmed.
    fn of_sys(&self, name: &str) -> Result<String, String> {
        text(&self.sys.join(name))
    }

    /// A number in a file of `/proc/sys`.
    fn sysctl(&self, name: &str) -> Result<i64, String> {
        let found = self.of_proc(&format!("sys/{}", name.replace('.', "/")))?;
        found.parse().map_err(|_| format!("{name} is {found:?}"))
    }
}

fn text(path: &Path) -> Result<String, String> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no {}", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    };
    Ok(fs::read_to_string(path).map_err(unreadable)?.trim().to_owned())
}

/// The worst state among findings; [`State::Ok`] when there are none.
pub fn worst(findings: &[Finding]) -> State {
    findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
}

/// Findings for a person: a line each, with the consequence and the way out.
pub fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { name, state, found, consequence, way_out } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Less => "less",
            State::Missing => "missing",
        };
        // Writing to a string cannot fail.
        let _ = write!(out, "{state:<7}  {name:<width$}  {found}");
        if let Some(consequence) = consequence {
            let _ = write!(out, " | so: {consequence}");
        }
        if let Some(way_out) = way_out {
            let _ = write!(out, " | way out: {way_out}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests;
