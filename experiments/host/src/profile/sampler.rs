//! Sampling of processes, and everything about them that is needed to name their stacks later.

use std::collections::{BTreeMap, HashMap};
use std::io;

use ebpf::proc::{ProcReader, interrupt_threads};
use ebpf::{AttachError, Profile, Profiler, Stack, program_now};

use super::costs::{End, EndSamples, PartsOfTime};
use super::fold::{Frame, Kind, Stacks};
use super::parts::{LOST, Rules};
use super::svg::{Heading, draw};
use super::symbols::{CodeMap, Symboliser};
use text::thousands;

/// Frames of a stack that cannot reach back to the beginning of a thread: its start routine, what
/// it was told to run, and what that called are three.
const SHALLOW: usize = 2;

/// The number of all idle tasks, one for each CPU.
const IDLE: u32 = 0;

/// As what a process is sampled.
#[derive(Clone, Debug)]
pub struct SampledAs {
    /// Whose CPU time it uses.
    pub end: End,
    /// Whether it is in the graph.
    pub drawn: bool,
    /// What it is called there; `None` when it is the only one.
    pub label: Option<String>,
}

/// A process that is sampled.
#[derive(Clone, Debug)]
struct SampledProcess {
    pid: u32,
    what: SampledAs,
    /// Its CPU time when samples were taken the last time.
    cpu_ns: Option<u64>,
    /// The programs that it was, one after the other.
    programs: Vec<SampledProgram>,
}

/// A program that a process is until it begins another (`exec`).
#[derive(Clone, Debug, Default)]
struct SampledProgram {
    /// As samples have it.
    number: u32,
    /// The name of its file.
    name: String,
    code: CodeMap,
    /// Names of its threads, also of those that have ended.
    threads: HashMap<u32, String>,
}

impl SampledProcess {
    /// Looks at it again. What cannot be seen any more stays as it was.
    fn look(&mut self) {
        let Some(number) = program_now(self.pid) else { return };
        if self.programs.last().is_none_or(|it| it.number != number) {
            let file = std::fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.programs.push(SampledProgram { number, name, ..SampledProgram::default() });
        }
        if let Some(program) = self.programs.last_mut() {
            program.look(self.pid);
        }
    }

    /// The program of a sample; `None` when it was gone before anybody looked.
    fn program(&self, number: u32) -> Option<&SampledProgram> {
        match number {
            // The kernel does not tell.
            0 => self.programs.last(),
            _ => self.programs.iter().rev().find(|it| it.number == number),
        }
    }
}

impl SampledProgram {
    fn look(&mut self, pid: u32) {
        // It has ended: what is known of it is all there will be.
        let _ = self.code.look(pid);
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
        for thread in threads.flatten() {
            let Ok(tid) = thread.file_name().to_string_lossy().parse() else { continue };
            // A thread may end meanwhile, and a name need not be UTF-8.
            let Ok(name) = std::fs::read(thread.path().join("comm")) else { continue };
            let name = String::from_utf8_lossy(&name).trim_end().to_owned();
            self.threads.insert(tid, name);
        }
    }

    /// The addresses of a stack as far as they lead through code, innermost first, and whether that
    /// is all of them. Without frame pointers a stack leads anywhere.
    fn within_code<'a>(&self, addresses: &'a [u64]) -> (&'a [u64], bool) {
        let callers = addresses.iter().skip(1);
        let good = callers.take_while(|it| self.code.has(it.saturating_sub(1))).count();
        let kept = addresses.len().min(good + 1);
        (&addresses[..kept], kept == addresses.len())
    }
}

/// Takes samples.
pub struct Sampler {
    profiler: Profiler,
    hertz: u32,
    processes: Vec<SampledProcess>,
    before: Profile,
}

/// What was sampled in some time, still without names.
#[derive(Clone, Debug)]
pub struct Recording {
    hertz: u32,
    profile: Profile,
    processes: Vec<SampledProcess>,
    /// CPU time of the processes of each end, in nanoseconds.
    cpu_ns: BTreeMap<End, Option<u64>>,
}

/// CPU time of a process; `None` when it has none, or has ended.
fn cpu_ns(pid: u32) -> Option<u64> {
    ProcReader::default().threads(pid).cpu_ns
}

impl Sampler {
    /// Begins to sample.
    ///
    /// # Errors
    /// When it is not allowed, or the kernel cannot.
    pub fn start(hertz: u32) -> Result<Self, AttachError> {
        let profiler = Profiler::start(u64::from(hertz))?;
        Ok(Self { profiler, hertz, processes: Vec::new(), before: Profile::default() })
    }

    /// Samples a process, too.
    pub fn watch(&mut self, pid: u32, what: SampledAs) {
        let cpu_ns = cpu_ns(pid);
        let mut process = SampledProcess { pid, what, cpu_ns, programs: Vec::new() };
        process.look();
        self.processes.push(process);
        self.profiler.watch(pid);
    }

    /// Samples what runs for no program, too: the idle task of each CPU, and the kernel's threads
    /// for interrupts. No graph has them.
    pub fn watch_beside(&mut self) {
        for pid in interrupt_threads().into_iter().chain([IDLE]) {
            self.watch(pid, SampledAs { end: End::Beside, drawn: false, label: None });
        }
    }

    /// CPU time of each end since this was asked before.
    fn cpu_times(&mut self) -> BTreeMap<End, Option<u64>> {
        let mut ends = BTreeMap::new();
        for process in &mut self.processes {
            let now = match process.what.end {
                // An idle task has no clock, and a thread of the kernel's is one of many.
                End::Beside => None,
                End::Server | End::Clients => cpu_ns(process.pid),
            };
            let before = std::mem::replace(&mut process.cpu_ns, now);
            let grown = now.zip(before).map(|(now, before)| now.saturating_sub(before));
            let sum = ends.entry(process.what.end).or_insert(Some(0));
            *sum = sum.zip(grown).map(|(sum, grown)| sum + grown);
        }
        ends
    }

    /// Looks at the processes again: they may have started threads and loaded libraries.
    pub fn look(&mut self) {
        self.processes.iter_mut().for_each(SampledProcess::look);
    }

    /// What was sampled since this was asked the last time.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read.
    pub fn take(&mut self) -> io::Result<Recording> {
        self.look();
        let cpu_ns = self.cpu_times();
        let now = self.profiler.read()?;
        let profile = now.since(&self.before);
        self.before = now;
        Ok(Recording { hertz: self.hertz, profile, processes: self.processes.clone(), cpu_ns })
    }
}

/// A profile with names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The flame graph.
    pub svg: String,
    /// The same as lines for other tools.
    pub folded: String,
    /// Samples in it.
    pub samples: u64,
    /// Samples that are not in it, for want of room.
    pub lost: u64,
    /// Samples in it of whose stack a part is missing, for want of room.
    pub cut: u64,
    /// Samples in it whose stack led out of the program's code, and ends there.
    pub astray: u64,
}

impl Graph {
    /// What it has, in words.
    pub fn counts(&self) -> String {
        format!(
            "{} samples, {} lost, {} without their whole stack, {} whose stack left the code",
            thousands(self.samples),
            thousands(self.lost),
            thousands(self.cut),
            thousands(self.astray)
        )
    }
}

impl Recording {
    /// Names all frames and draws them, `title` above.
    pub fn draw(&self, title: &str, symbols: &mut Symboliser) -> Graph {
        let mut stacks = Stacks::default();
        let (mut cut, mut astray, mut user, mut shallow) = (0, 0, 0, 0);
        for sample in self.profile.samples.iter().filter(|sample| self.is_drawn(sample)) {
            let parts = [&sample.kernel, &sample.user];
            if parts.iter().any(|part| matches!(part, Stack::Lost)) {
                cut += sample.count;
            }
            if let Stack::Known(addresses) = &sample.user {
                user += sample.count;
                let (kept, whole) = self
                    .program(sample)
                    .map_or((&addresses[..], true), |program| program.within_code(addresses));
                astray += if whole { 0 } else { sample.count };
                shallow += if kept.len() <= SHALLOW { sample.count } else { 0 };
            }
            stacks.add(self.stack(sample, symbols), sample.count);
        }
        let (samples, lost) = (stacks.samples(), self.profile.lost);
        let folded = stacks.folded();
        let mut graph = Graph { svg: String::new(), folded, samples, lost, cut, astray };
        let seconds = samples as f64 / f64::from(self.hertz);
        let counts = graph.counts();
        let mut lines =
            vec![format!("{} Hz on each CPU: {counts}; {seconds:.2} s of CPU time", self.hertz)];
        if samples == 0 {
            lines.push("it did not run at any tick of the clock".to_owned());
        }
        if shallow * 2 > user {
            lines.push(
                "most stacks end after a frame or two: the program was perhaps built without \
                 frame pointers"
                    .to_owned(),
            );
        }
        if symbols.kernel_is_hidden() {
            lines.push(
                "kernel frames have no names: the kernel hides its addresses \
                 (sysctl kernel.kptr_restrict=1 shows them to root)"
                    .to_owned(),
            );
        }
        graph.svg = draw(&stacks, &Heading { title: title.to_owned(), lines });
        graph
    }

    /// All samples, those that are not drawn included, by end and part.
    pub fn parts(&self, symbols: &Symboliser) -> PartsOfTime {
        let mut rules = Rules::default();
        let of = |(end, ns): (&End, &Option<u64>)| {
            let cpu_us = ns.map(|ns| ns / 1000);
            (*end, EndSamples { cpu_us, ..EndSamples::default() })
        };
        let mut ends: BTreeMap<End, EndSamples> = self.cpu_ns.iter().map(of).collect();
        for sample in &self.profile.samples {
            let Some(process) = self.process(sample) else { continue };
            let stack: Vec<String> = match &sample.kernel {
                Stack::Known(addresses) => {
                    call_sites(addresses).map(|address| symbols.kernel(address).name).collect()
                }
                Stack::Lost => vec![LOST.to_owned()],
                Stack::None => Vec::new(),
            };
            let part = rules.part(&stack);
            let function = stack.last().map_or("", String::as_str);
            let end = ends.entry(process.what.end).or_default();
            end.samples.add(part, function, sample.count);
        }
        PartsOfTime { hertz: self.hertz, lost: self.profile.lost, ends }
    }

    fn is_drawn(&self, sample: &ebpf::Sample) -> bool {
        self.process(sample).is_none_or(|process| process.what.drawn)
    }

    fn process(&self, sample: &ebpf::Sample) -> Option<&SampledProcess> {
        self.processes.iter().find(|process| process.pid == sample.pid)
    }

    fn program(&self, sample: &ebpf::Sample) -> Option<&SampledProgram> {
        self.process(sample)?.program(sample.program)
    }

    /// The frames of a sample, outermost first: process, program where it was several, thread, its
    /// functions, the kernel's.
    fn stack(&self, sample: &ebpf::Sample, symbols: &mut Symboliser) -> Vec<Frame> {
        let (process, program) = (self.process(sample), self.program(sample));
        let mut frames = Vec::new();
        let label = process.and_then(|process| process.what.label.clone());
        frames.extend(label.map(|label| Frame::new(label, Kind::Thread)));
        match program {
            Some(program) if process.is_some_and(|it| it.programs.len() > 1) => {
                frames.push(Frame::new(program.name.clone(), Kind::Thread));
            }
            None => frames.push(Frame::new("[a program that was gone at once]", Kind::Unknown)),
            Some(_) => {}
        }
        let thread = program.and_then(|program| program.threads.get(&sample.tid));
        let thread = thread.cloned().unwrap_or_else(|| format!("thread {}", sample.tid));
        frames.push(Frame::new(thread, Kind::Thread));
        let lost = |of: &str| Frame::new(format!("[{of} stack lost]"), Kind::Unknown);
        match (&sample.user, program) {
            (Stack::Known(addresses), Some(program)) => {
                let (kept, whole) = program.within_code(addresses);
                if !whole {
                    frames.push(Frame::new("[callers not known]", Kind::Unknown));
                }
                for address in call_sites(kept) {
                    frames.extend(symbols.user(&program.code, address).iter().cloned());
                }
            }
            (Stack::Known(_) | Stack::Lost, _) => frames.push(lost("user")),
            (Stack::None, _) => {}
        }
        match &sample.kernel {
            Stack::Known(addresses) => {
                frames.extend(call_sites(addresses).map(|address| symbols.kernel(address)));
            }
            Stack::Lost => frames.push(lost("kernel")),
            Stack::None => {}
        }
        frames
    }
}

/// Where each frame was, outermost first: the innermost at its address, the others at the call
/// before the address to which it returns, which may already belong to the next function or line.
fn call_sites(addresses: &[u64]) -> impl Iterator<Item = u64> {
    let before = |(place, address): (usize, &u64)| match place {
        0 => *address,
        _ => address.saturating_sub(1),
    };
    addresses.iter().enumerate().map(before).rev()
}

#[cfg(test)]
mod tests {
    use ebpf::Sample;

    use super::*;

    fn recording(samples: Vec<Sample>, lost: u64) -> Recording {
        let program = SampledProgram {
            threads: HashMap::from([(2, "shard".to_owned())]),
            ..SampledProgram::default()
        };
        let process = |pid, end, drawn| SampledProcess {
            pid,
            what: SampledAs { end, drawn, label: None },
            cpu_ns: None,
            programs: vec![program.clone()],
        };
        let processes = vec![
            process(1, End::Server, true),
            process(7, End::Clients, false),
            process(IDLE, End::Beside, false),
        ];
        let profile = Profile { samples, lost };
        let cpu_ns = BTreeMap::from([(End::Server, Some(5_000_000)), (End::Clients, None)]);
        Recording { hertz: 99, profile, processes, cpu_ns }
    }

    #[test]
    fn what_is_not_drawn_is_counted_for_its_end() {
        let sample = |pid, kernel, count| {
            let user = Stack::Known(vec![0x20]);
            Sample { tid: pid, pid, program: 0, count, kernel, user }
        };
        let recording = recording(
            vec![
                sample(1, Stack::None, 3),
                sample(7, Stack::None, 4),
                sample(7, Stack::Lost, 2),
                sample(IDLE, Stack::Known(vec![0x4]), 5),
            ],
            6,
        );
        let symbols = &mut Symboliser::default();
        assert_eq!(recording.draw("a phase", symbols).samples, 3);
        let time = recording.parts(symbols);
        assert_eq!((time.lost, time.hertz), (6, 99));
        let of = |end| {
            let end = &time.ends[&end];
            (end.samples.work(), end.cpu_us)
        };
        assert_eq!(of(End::Server), (3, Some(5_000)));
        assert_eq!(of(End::Clients), (6, None));
        assert_eq!(of(End::Beside), (5, None));
    }

    #[test]
    fn nothing_of_a_sample_is_dropped() {
        let user = || Stack::Known(vec![0x20, 0x11]);
        let kernel = Stack::Known(vec![0x4, 0x3]);
        let sample =
            |tid, kernel, user, count| Sample { tid, pid: 1, program: 0, count, kernel, user };
        let recording = recording(
            vec![
                sample(2, kernel, user(), 1),
                sample(2, Stack::None, user(), 2),
                sample(3, Stack::Lost, user(), 3),
                sample(2, Stack::None, Stack::Lost, 4),
                sample(2, Stack::None, Stack::None, 5),
            ],
            6,
        );
        let graph = recording.draw("a phase", &mut Symboliser::default());
        let expected = "shard 5\n\
             shard;[user stack lost] 4\n\
             shard;[callers not known];[unmapped+0x20] 2\n\
             shard;[callers not known];[unmapped+0x20];[kernel+0x2]_[k];[kernel+0x4]_[k] 1\n\
             thread 3;[callers not known];[unmapped+0x20];[kernel stack lost] 3\n";
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&graph.folded), sorted(expected));
        assert_eq!((graph.samples, graph.lost, graph.cut, graph.astray), (15, 6, 7, 6));
        assert!(graph.svg.contains("15 samples, 6 lost, 7 without their whole stack, 6 whose"));
        assert!(graph.svg.contains("without frame pointers"));
    }

    #[test]
    fn a_phase_without_samples_says_so() {
        let graph = recording(Vec::new(), 0).draw("quiet", &mut Symboliser::default());
        assert_eq!((graph.samples, graph.folded.as_str()), (0, ""));
        assert!(graph.svg.contains("it did not run at any tick of the clock"));
    }
}
