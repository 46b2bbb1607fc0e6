//! What `lab check` prints.

use std::fmt::Write;

use crate::experiment::{After, Experiment, Seconds, Until};
use crate::plan::shakes_offered;
use crate::preflight::{Preflight, Verdict};
use crate::run::thousands;

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

/// The preflight as a table, with what would fit and the way there.
pub(crate) fn table(preflight: &Preflight) -> String {
    let mut out = String::new();
    let width = |text: fn(&crate::preflight::Item) -> &str| {
        preflight.items.iter().map(|item| text(item).chars().count()).max().unwrap_or(0)
    };
    let (what, needs) = (width(|item| &item.what), width(|item| &item.needs));
    for item in &preflight.items {
        let verdict = match item.verdict {
            Verdict::Fits => "fits",
            Verdict::Note => "note",
            Verdict::Refused { .. } => "REFUSED",
        };
        let line = format!(
            "{verdict:<8} {:what$}  needs {:needs$}  has {}",
            item.what, item.needs, item.has
        );
        out += line.trim_end();
        out.push('\n');
        if let Verdict::Refused { way_out } = &item.verdict {
            out += &format!("         way out: {way_out}\n");
        }
    }
    if preflight.is_refused() {
        out += &match preflight.most_users {
            Some(most) => format!(
                "this run does not fit; {} users would: --set users={most}\n",
                thousands(u64::from(most))
            ),
            None => "this run does not fit, with any number of users\n".to_owned(),
        };
    }
    out
}
