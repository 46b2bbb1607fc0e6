//! The clock on each CPU that shows when the CPU itself did not run.

use aya::{
    Ebpf,
    programs::{
        PerfEvent, ProgramError,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};

/// The program.
pub(crate) const TICK: &str = "tick";

/// Why there is no such clock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TickError {
    /// The compiled object is of another version.
    #[error("the object has no such program: rebuild it with ebpf/probes/build")]
    NoProgram,
    /// The system does not say which CPUs there are.
    #[error("{0}: {1}")]
    NoCpus(&'static str, #[source] std::io::Error),
    /// The kernel did not take it.
    #[error("{0}")]
    Refused(#[from] ProgramError),
}

/// Attaches the program to a clock on each CPU. Without it there are no stalls, and all else.
pub(crate) fn attach(ebpf: &mut Ebpf) -> Result<(), TickError> {
    let program: &mut PerfEvent = ebpf.program_mut(TICK).ok_or(TickError::NoProgram)?.try_into()?;
    program.load()?;
    let cpus = aya::util::online_cpus();
    for cpu in cpus.map_err(|(what, error)| TickError::NoCpus(what, error))? {
        program.attach(
            PerfEventConfig::Software(SoftwareEvent::CpuClock),
            PerfEventScope::AllProcessesOneCpu { cpu },
            SamplePolicy::Period(events::TICK_NS),
            false,
        )?;
    }
    Ok(())
}
