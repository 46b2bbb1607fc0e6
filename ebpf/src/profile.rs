//! A CPU profile of the watched programs: stacks at each tick of a clock, as raw addresses.

use std::io;

use aya::{
    maps::{HashMap, StackTraceMap},
    programs::{
        PerfEvent,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};
use events::StackKey;
use serde::Serialize;

use crate::{
    attach::{Probes, Raw, chain},
    catalog::PROFILE,
};

/// Samples of one stack of one thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// How often.
    pub count: u64,
    /// Addresses in the kernel, innermost first; `None` if there is no such stack or it was lost.
    pub kernel: Option<Vec<u64>>,
    /// Addresses in the program, innermost first. Follows frame pointers.
    pub user: Option<Vec<u64>>,
}

/// What a profile has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// The stacks.
    pub samples: Vec<Sample>,
}

impl Probes {
    /// Begins to sample the watched programs on every CPU, until the probes are dropped.
    /// [`crate::Options::profile_stacks`] must have made room.
    ///
    /// # Errors
    /// When there is no room, or the kernel refuses.
    pub fn start_profile(&mut self, samples_per_second: u64) -> io::Result<()> {
        if self.profile_stacks == 0 {
            return Err(io::Error::other("no room for stacks: set profile_stacks"));
        }
        let failed = |error: aya::programs::ProgramError| io::Error::other(chain(&error));
        let program: &mut PerfEvent = self
            .ebpf
            .program_mut(PROFILE)
            .ok_or_else(|| io::Error::other("the object has no profile: run ebpf/probes/build"))?
            .try_into()
            .map_err(failed)?;
        program.load().map_err(failed)?;
        for cpu in aya::util::online_cpus().map_err(|(_, error)| error)? {
            program
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::CpuClock),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    SamplePolicy::Frequency(samples_per_second),
                    false,
                )
                .map_err(failed)?;
        }
        Ok(())
    }

    /// All stacks so far, with counts; two readings subtracted give a phase.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn profile(&self) -> io::Result<Profile> {
        let missing = || io::Error::other("the object has no profile: run ebpf/probes/build");
        let failed = |error: aya::maps::MapError| io::Error::other(chain(&error));
        let samples = self.ebpf.map("SAMPLES").ok_or_else(missing)?;
        let samples: HashMap<_, Raw<StackKey>, u64> = HashMap::try_from(samples).map_err(failed)?;
        let stacks = self.ebpf.map("STACKS").ok_or_else(missing)?;
        let stacks = StackTraceMap::try_from(stacks).map_err(failed)?;
        let frames = |number: i32| {
            let stack = stacks.get(&u32::try_from(number).ok()?, 0).ok()?;
            Some(stack.frames().iter().map(|frame| frame.ip).collect())
        };
        let mut profile = Profile::default();
        for sample in samples.iter() {
            let (Raw(key), count) = sample.map_err(failed)?;
            profile.samples.push(Sample {
                tid: key.tid,
                pid: key.tgid,
                count,
                kernel: frames(key.kernel),
                user: frames(key.user),
            });
        }
        Ok(profile)
    }
}
