//! Why a probe is not attached, and whether the kernel has what it needs. Must not know: how probes
//! are loaded, and what is not measured without one.

use attribution::NOT_NEEDED;
use serde::{Serialize, Serializer};

use crate::btf::Btf;
use crate::catalog::{PACKET_PROBES, SOFTIRQ_PROBES, Spec};
use crate::offsets::Resolved;
use crate::options::Options;

/// Why a probe is not attached. Files have it as the sentence that it displays as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absence {
    /// [`Options::absent`] names it.
    #[error("left out on request")]
    OnRequest,
    /// It measures softirqs, which were not asked for.
    #[error("left out: only with softirqs: true in the experiment file")]
    NoSoftirqs,
    /// It counts packets, which were not asked for.
    #[error("left out: Options::packets is not set")]
    NoPackets,
    /// The better probe of the two is attached: nothing is missed.
    #[error("{}: {better} is attached", NOT_NEEDED)]
    NotNeeded {
        /// The other probe.
        better: &'static str,
    },
    /// The kernel does not have the tracepoint.
    #[error("no tracepoint {tracepoint} in this kernel; Linux {since} has it")]
    NoTracepoint {
        /// The tracepoint: `group:name`.
        tracepoint: String,
        /// The first Linux that has it.
        since: &'static str,
    },
    /// The kernel has an older form of the tracepoint.
    #[error(
        "tracepoint {tracepoint} has {arguments} arguments here; Linux {since} has the {needed} \
         needed"
    )]
    TooFewArguments {
        /// The tracepoint: `group:name`.
        tracepoint: String,
        /// The arguments that it has.
        arguments: u32,
        /// The arguments that the probe reads.
        needed: u32,
        /// The first Linux that has them.
        since: &'static str,
    },
    /// The kernel does not have a field that the probe reads.
    #[error("{0}")]
    NoField(String),
    /// The compiled object is of another version.
    #[error("the object has no such program: rebuild it with ebpf/probes/build")]
    NoProgram,
    /// The compiled object has a program of another kind under its name.
    #[error("{0}")]
    WrongProgram(String),
    /// There is no clock on each CPU that could be looked at.
    #[error("cannot look at the clock of each CPU: {0}")]
    NoClock(String),
    /// The kernel did not take it.
    #[error("cannot attach to tracepoint {tracepoint}: {error}")]
    Refused {
        /// The tracepoint: `group:name`.
        tracepoint: String,
        /// Whether this process may not do it, rather than the kernel cannot.
        not_permitted: bool,
        /// The kernel's error, and the verifier's complaint if it was that.
        error: String,
    },
}

impl Serialize for Absence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The options that leave a probe out.
pub(crate) fn by_options(spec: &Spec, options: &Options) -> Result<(), Absence> {
    if options.absent.iter().any(|name| name == spec.name) {
        Err(Absence::OnRequest)
    } else if !options.softirqs && SOFTIRQ_PROBES.contains(&spec.name) {
        Err(Absence::NoSoftirqs)
    } else if !options.packets && PACKET_PROBES.contains(&spec.name) {
        Err(Absence::NoPackets)
    } else {
        Ok(())
    }
}

/// Whether the kernel has the tracepoint and the fields that a probe needs.
pub(crate) fn by_kernel(spec: &Spec, btf: &Btf, resolved: &Resolved) -> Result<(), Absence> {
    let tracepoint = || spec.place();
    match btf.tracepoint_arguments(spec.tracepoint) {
        None => Err(Absence::NoTracepoint { tracepoint: tracepoint(), since: spec.since }),
        Some(arguments) if arguments < spec.arguments => Err(Absence::TooFewArguments {
            tracepoint: tracepoint(),
            arguments,
            needed: spec.arguments,
            since: spec.since,
        }),
        Some(_) => match spec.needs.iter().find_map(|needs| resolved.lacking(needs)) {
            Some(field) => Err(Absence::NoField(field.to_owned())),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_sentences_that_they_had() {
        let tracepoint = || "net:x".to_owned();
        for (absence, sentence) in [
            (Absence::OnRequest, "left out on request"),
            (Absence::NotNeeded { better: "send_begins" }, "not needed: send_begins is attached"),
            (
                Absence::NoTracepoint { tracepoint: tracepoint(), since: "5.5" },
                "no tracepoint net:x in this kernel; Linux 5.5 has it",
            ),
            (
                Absence::TooFewArguments {
                    tracepoint: tracepoint(),
                    arguments: 1,
                    needed: 2,
                    since: "5.5",
                },
                "tracepoint net:x has 1 arguments here; Linux 5.5 has the 2 needed",
            ),
            (
                Absence::Refused {
                    tracepoint: tracepoint(),
                    not_permitted: false,
                    error: "no".to_owned(),
                },
                "cannot attach to tracepoint net:x: no",
            ),
        ] {
            assert_eq!(serde_json::to_value(&absence).expect("JSON"), sentence);
        }
    }
}
