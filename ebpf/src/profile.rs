//! A CPU profile of the watched programs: stacks at each tick of a clock, as raw addresses.
//!
//! Owns: the sampling program and its maps, apart from the other probes, so that a profile neither
//! needs them nor changes what they count. Must not know: names of functions.

use std::{collections::HashMap, io, os::fd::AsFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap as KernelMap, PerCpuArray, StackTraceMap},
    programs::{
        PerfEvent, ProgramError,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};
use events::{Config, CounterBlock, Offsets, StackKey, TaskRef, program_of_stack};
use serde::Serialize;

use crate::{
    attach::{AttachError, KernelData, OBJECT, array, chain, not_permitted, pid_max},
    btf::Btf,
    catalog::PROFILE,
    mapping::{SharedArray, cpu_count},
    namespaces, offsets,
    threads::Program,
};

/// Different stacks a profile has room for. The kernel keeps them in a hash table without chains: a
/// stack whose place is taken is lost. A server under load shows 1,000 to 3,000 different ones, of
/// which 3% then lose their place, the rarest, since the others came first; with both ends and at
/// 1,000 Hz there are more. 1 KiB each: 64 MiB.
const STACKS: u32 = 1 << 16;
/// Threads and pairs of stacks: the same stack runs on several threads.
const SAMPLES: u32 = STACKS * 4;

/// What the kernel says instead of a stack's number when there is no such stack: the thread was in
/// user space, or it has none. Any other error is a loss.
const NO_STACK: i32 = -libc::EFAULT;

/// Addresses of a stack, innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stack {
    /// These.
    Known(Vec<u64>),
    /// There was none.
    None,
    /// There was one, and no room for it.
    Lost,
}

/// Samples of one stack of one thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// Which of the programs that its process was, one after the other ([`program_now`]); 0 where
    /// the kernel does not tell.
    pub program: u32,
    /// How often.
    pub count: u64,
    /// Addresses in the kernel.
    pub kernel: Stack,
    /// Addresses in the program. Follows frame pointers.
    pub user: Stack,
}

/// What a profile has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// The stacks.
    pub samples: Vec<Sample>,
    /// Samples that were not counted at all, for want of room.
    pub lost: u64,
}

impl Profile {
    /// What came since an earlier reading of the same profile.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        fn key(sample: &Sample) -> (u32, u32, &Stack, &Stack) {
            (sample.tid, sample.program, &sample.kernel, &sample.user)
        }
        let mut earlier: HashMap<_, u64> = HashMap::new();
        for sample in &before.samples {
            *earlier.entry(key(sample)).or_default() += sample.count;
        }
        let mut grown = Vec::new();
        for sample in &self.samples {
            let before = earlier.get_mut(&key(sample));
            let known = before.map_or(0, |left| {
                // Of several samples that read alike, the first takes what there was.
                let taken = sample.count.min(*left);
                *left -= taken;
                taken
            });
            if sample.count > known {
                grown.push(Sample { count: sample.count - known, ..sample.clone() });
            }
        }
        Self { samples: grown, lost: self.lost.saturating_sub(before.lost) }
    }
}

/// Which program a process is now, as [`Sample::program`] has it.
pub fn program_now(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 28th field; the name in parentheses, the second, may have spaces of its own.
    let start_stack = stat.rsplit_once(") ")?.1.split(' ').nth(25)?.parse().ok()?;
    Some(program_of_stack(start_stack))
}

/// A clock on every CPU that takes the stack of each watched thread. Dropping this ends it.
pub struct Profiler {
    ebpf: Ebpf,
    processes: SharedArray<TaskRef>,
}

impl Profiler {
    /// Begins to sample on every CPU that is online; no thread is watched yet.
    ///
    /// # Errors
    /// When it is not allowed, or the kernel cannot.
    pub fn start(samples_per_second: u64) -> Result<Self, AttachError> {
        namespaces::check_numbers()?;
        let offsets = Btf::of_kernel().map(|btf| offsets::resolve(&btf).offsets);
        let offsets = offsets.unwrap_or(Offsets::UNKNOWN);
        let config = KernelData(Config { offsets, ..Config::EMPTY });
        let mut ebpf = EbpfLoader::new()
            .override_global("CONFIG", &config, true)
            .map_max_entries("PROCESSES", u32::try_from(pid_max()).unwrap_or(u32::MAX))
            .map_max_entries("CPUS", u32::try_from(cpu_count()).unwrap_or(1))
            .map_max_entries("STACKS", STACKS)
            .map_max_entries("SAMPLES", SAMPLES)
            .load(OBJECT)
            .map_err(|error| match not_permitted(&error) {
                true => AttachError::NotPermitted,
                false => AttachError::Load(Box::new(error)),
            })?;
        sample(&mut ebpf, samples_per_second)?;
        let processes = array(&ebpf, "PROCESSES")?;
        let processes = SharedArray::map(processes.as_fd(), pid_max(), true)
            .map_err(|source| AttachError::Unmapped { name: "PROCESSES", source })?;
        Ok(Self { ebpf, processes })
    }

    /// Samples the threads of a process: those it has and those it will have.
    pub fn watch(&self, pid: u32) {
        // The profile tells processes apart by their number: all count as servers.
        let program = Program::Server.number();
        self.processes.write(pid as usize, TaskRef { slot: 0, program, padding: 0, tgid: pid });
    }

    /// All stacks so far, with counts.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn read(&self) -> io::Result<Profile> {
        let map = |name: &str| {
            self.ebpf.map(name).ok_or_else(|| io::Error::other("the object has no profile"))
        };
        let failed = |error: aya::maps::MapError| io::Error::other(chain(&error));
        let counters: PerCpuArray<_, KernelData<CounterBlock>> =
            PerCpuArray::try_from(map("COUNTERS")?).map_err(failed)?;
        let lost = counters.get(&0, 0).map_err(failed)?;
        let stacks = StackTraceMap::try_from(map("STACKS")?).map_err(failed)?;
        let frames = |number: i32| match u32::try_from(number) {
            Ok(number) => match stacks.get(&number, 0) {
                Ok(stack) => Stack::Known(stack.frames().iter().map(|frame| frame.ip).collect()),
                Err(_) => Stack::Lost,
            },
            Err(_) if number == NO_STACK => Stack::None,
            Err(_) => Stack::Lost,
        };
        let samples: KernelMap<_, KernelData<StackKey>, u64> =
            KernelMap::try_from(map("SAMPLES")?).map_err(failed)?;
        let (mut profile, mut bare) = (Profile::default(), 0);
        for sample in samples.iter() {
            let (KernelData(key), count) = sample.map_err(failed)?;
            if key.kernel < 0 && key.user < 0 {
                bare += count;
            }
            let (kernel, user) = (frames(key.kernel), frames(key.user));
            profile.samples.push(Sample {
                tid: key.tid,
                pid: key.tgid,
                program: key.program,
                count,
                kernel,
                user,
            });
        }
        // The kernel side counts those without any stack as lost, too; they are in the samples.
        let lost: u64 = lost.iter().map(|KernelData(block)| block.samples_lost).sum();
        profile.lost = lost.saturating_sub(bare);
        Ok(profile)
    }
}

/// Attaches the sampling program to a clock on each CPU.
fn sample(ebpf: &mut Ebpf, samples_per_second: u64) -> Result<(), AttachError> {
    let failed = |error: ProgramError| AttachError::NoClock(chain(&error));
    let program = ebpf.program_mut(PROFILE);
    let program = program.ok_or_else(|| AttachError::NoClock("the object has none".to_owned()))?;
    let program: &mut PerfEvent = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    let cpus = aya::util::online_cpus();
    for cpu in cpus.map_err(|(what, error)| AttachError::NoClock(format!("{what}: {error}")))? {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tid: u32, count: u64, user: &[u64]) -> Sample {
        Sample {
            tid,
            pid: 1,
            program: 1,
            count,
            kernel: Stack::None,
            user: Stack::Known(user.to_vec()),
        }
    }

    #[test]
    fn a_phase_is_what_two_readings_differ_by() {
        let before = Profile { samples: vec![sample(1, 5, &[1]), sample(2, 3, &[2])], lost: 1 };
        let after = Profile {
            samples: vec![sample(1, 7, &[1]), sample(2, 3, &[2]), sample(2, 4, &[1])],
            lost: 4,
        };
        let grown = Profile { samples: vec![sample(1, 2, &[1]), sample(2, 4, &[1])], lost: 3 };
        assert_eq!(after.since(&before), grown);
        assert_eq!(after.since(&Profile::default()), after);
        assert_eq!(after.since(&after), Profile::default());
    }
}
