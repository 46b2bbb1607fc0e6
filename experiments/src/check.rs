//! What `lab check` prints.

use std::fmt::Write;

use spec::configure::shakes_offered;
use spec::preflight::{Preflight, table};
use spec::{After, Experiment, Seconds, Until};
use text::thousands;

/// The experiment with all defaults, its phases in order, and the preflight.
///
/// # Errors
/// Phases without an order, which reading the file has excluded.
pub(crate) fn show(experiment: &Experiment, preflight: &Preflight) -> anyhow::Result<String> {
    let mut out = experiment.to_ron();
    out += "\n\n";
    for phase in experiment.ordered_phases()? {
        let after = match &phase.after {
            None => "at the start".to_owned(),
            Some(After::Finished(name)) => format!("after {name} has finished"),
            Some(After::Terminated(name)) => format!("after {name} has finished and settled"),
        };
        let long = match (phase.seconds.map(Seconds::get), phase.until) {
            (Some(seconds), _) => format!("{seconds} s"),
            (None, Some(Until::Established) | None) => "until users are established".to_owned(),
        };
        let shakes = shakes_offered(&phase, experiment.users)
            .map_or_else(String::new, |shakes| format!(", {} shakes", thousands(shakes)));
        writeln!(out, "phase {}: {after}, {long}{shakes}", phase.name)?;
        for fault in &phase.faults {
            let (from, until) = fault.span();
            let until = until.map_or("its end".to_owned(), |until| format!("second {until}"));
            writeln!(out, "  fault {}: from second {from} until {until}", fault.kind())?;
        }
    }
    out.push('\n');
    out += &table(preflight);
    Ok(out)
}
