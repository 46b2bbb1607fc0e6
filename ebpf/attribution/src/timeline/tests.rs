//! Simulated schedulers: a thread's truth, the events that a kernel would have told of it, and what
//! the timeline that is made of those says.

use events::{
    CpuEntry, Held, PROGRAM_IDLE, PROGRAM_OTHER, PROGRAM_SERVER, SPAN_NS, ThreadHead, ThreadState,
    TimelineEntry, Transition, kind, wait_parts,
};

use super::*;

/// Numbers that look random (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ value >> 31) % bound
    }

    /// A duration: most are of microseconds, some of milliseconds.
    fn duration_ns(&mut self) -> u64 {
        let most = [8_000, 40_000, 200_000, 3_000_000, 30_000_000][self.below(5) as usize];
        500 + self.below(most)
    }
}

/// Tasks of the simulated CPU. The thread is the one that is looked at.
const IDLE: u32 = 0;
const THREAD: u32 = 10;
const SIBLING: u32 = 11;
const OTHER: u32 = 12;

fn program_of(task: u32) -> u8 {
    match task {
        IDLE => PROGRAM_IDLE,
        THREAD | SIBLING => PROGRAM_SERVER,
        _ => PROGRAM_OTHER,
    }
}

/// What a kernel tells.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The CPU goes from one task to another; the thread, when it leaves, sleeps like this.
    Switch { from: u32, to: u32, off: Option<usize> },
    /// The thread is woken.
    Wake,
    /// Interrupts had the CPU since then.
    Interrupt { since_ns: u64 },
}

/// When, what, and how often the thread has left its CPU by then.
type Told = (u64, Event, u64);

/// A thread's life on one CPU.
struct Life {
    events: Vec<Told>,
    /// From when to when it did what.
    truth: Vec<(u64, u64, Doing)>,
    now_ns: u64,
}

impl Life {
    /// `turns` times it runs, and waits or sleeps.
    fn new(random: &mut Random, turns: usize) -> Self {
        let mut life = Self { events: Vec::new(), truth: Vec::new(), now_ns: 1_000_000_000 };
        life.event(Event::Switch { from: IDLE, to: THREAD, off: None });
        for _ in 0..turns {
            life.run(random);
            let off = [
                None,
                Some(kind::ASLEEP),
                Some(kind::ASLEEP),
                Some(kind::STOPPED),
                Some(kind::BLOCKED),
                Some(kind::THROTTLED),
            ][random.below(6) as usize];
            let first = [IDLE, SIBLING, OTHER][random.below(3) as usize];
            let first = if off.is_none() && first == IDLE { OTHER } else { first };
            life.event(Event::Switch { from: THREAD, to: first, off });
            let last = life.off(random, off, first);
            life.event(Event::Switch { from: last, to: THREAD, off: None });
        }
        life.run(random);
        life
    }

    fn event(&mut self, event: Event) {
        let before = self.events.last().map_or(0, |it| it.2);
        let leaves = matches!(event, Event::Switch { from: THREAD, .. });
        self.events.push((self.now_ns, event, before + u64::from(leaves)));
    }

    fn pass(&mut self, ns: u64, doing: Doing) {
        self.truth.push((self.now_ns, self.now_ns + ns, doing));
        self.now_ns += ns;
    }

    fn run(&mut self, random: &mut Random) {
        self.pass(random.duration_ns(), Doing::Run);
        if random.below(4) == 0 {
            let since_ns = self.now_ns;
            self.pass(20_000 + random.duration_ns(), Doing::Interrupts);
            self.event(Event::Interrupt { since_ns });
            self.pass(random.duration_ns(), Doing::Run);
        }
    }

    /// Away from the CPU, which `holder` has at first. Returns who has it at last.
    fn off(&mut self, random: &mut Random, off: Option<usize>, holder: u32) -> u32 {
        let mut holder = holder;
        if let Some(off) = off {
            self.pass(random.duration_ns(), Doing::of_clock(off));
            if off == kind::THROTTLED {
                // It comes back without being woken.
                return holder;
            }
            self.event(Event::Wake);
        }
        for _ in 0..=random.below(3) {
            let doing = match holder {
                IDLE => Doing::WaitIdle,
                SIBLING => Doing::WaitOwn,
                _ => Doing::WaitOther,
            };
            self.pass(random.duration_ns(), doing);
            let next = [SIBLING, OTHER][random.below(2) as usize];
            if next != holder {
                self.event(Event::Switch { from: holder, to: next, off: None });
                holder = next;
                self.pass(
                    random.duration_ns(),
                    match next {
                        SIBLING => Doing::WaitOwn,
                        _ => Doing::WaitOther,
                    },
                );
            }
        }
        holder
    }

    /// What it did between two instants.
    fn truth(&self, from_ns: u64, to_ns: u64) -> Spent {
        let mut spent = Spent::default();
        let first = self.truth.partition_point(|(_, end, _)| *end <= from_ns);
        for (begin, end, doing) in self.truth[first..].iter().take_while(|it| it.0 < to_ns) {
            let ns = (*end).min(to_ns).saturating_sub((*begin).max(from_ns));
            spent += Spent::all(*doing, ns);
        }
        spent
    }
}

/// What the probes make of events.
struct Recorder {
    cpu: CpuEntry,
    thread: ThreadHead,
    timeline: Box<TimelineEntry>,
    now_ns: u64,
    stalls: Vec<Stall>,
}

impl Recorder {
    fn of(events: impl IntoIterator<Item = Told>, now_ns: u64) -> Self {
        let cpu = CpuEntry::default();
        let thread = ThreadHead { program: u32::from(PROGRAM_SERVER), ..ThreadHead::default() };
        let timeline = empty_timeline();
        let mut recorder = Self { cpu, thread, timeline, now_ns, stalls: Vec::new() };
        for (at_ns, event, switches) in events {
            recorder.enter(at_ns, event, switches);
        }
        recorder
    }

    fn held(&self, now_ns: u64) -> Held {
        self.cpu.held(self.thread.program, now_ns)
    }

    fn enter(&mut self, now_ns: u64, event: Event, switches: u64) {
        if let Event::Switch { to, .. } = event {
            self.cpu.switch(to, program_of(to), now_ns);
        }
        if let Event::Interrupt { since_ns } = event {
            self.cpu.interrupt(since_ns, now_ns);
        }
        let (held, state) = (self.held(now_ns), self.thread.state);
        let thread = &mut self.thread;
        let it = Transition { thread, timeline: Some(&mut self.timeline), now_ns, switches };
        match event {
            Event::Switch { from: THREAD, off: Some(off), .. } => it.goes(0, off),
            Event::Switch { from: THREAD, .. } => it.made_to_go(0, held),
            Event::Switch { to: THREAD, .. } => drop(it.comes(0, held)),
            Event::Wake if state == ThreadState::SLEEPING => it.wakes(held),
            Event::Interrupt { since_ns } if state == ThreadState::RUNNING => {
                it.was_interrupted(since_ns);
            }
            Event::Switch { .. } | Event::Wake | Event::Interrupt { .. } => {}
        }
    }
}

#[allow(clippy::large_stack_arrays, reason = "on its way to the heap, and only here")]
fn empty_timeline() -> Box<TimelineEntry> {
    Box::new(TimelineEntry {
        written: 0,
        coarse_written: 0,
        latest_ns: 0,
        coarse_latest_ns: 0,
        points: [Checkpoint::default(); FINE],
        coarse: [Checkpoint::default(); COARSE],
    })
}

impl Timeline for Recorder {
    fn present(&self) -> Option<[Checkpoint; 2]> {
        let thread = &self.thread;
        let clocks_ns = thread.clocks_ns;
        let begin = Checkpoint { at_ns: thread.since_ns, clocks_ns, ..Checkpoint::default() };
        let mut end = Checkpoint { at_ns: self.now_ns, ..begin };
        let lasting_ns = self.now_ns - thread.since_ns;
        match thread.state {
            ThreadState::RUNNING => end.clocks_ns[kind::RUN] += lasting_ns,
            ThreadState::SLEEPING => end.clocks_ns[thread.off_kind as usize] += lasting_ns,
            _ => {
                for (clock, ns) in wait_parts(thread, self.held(self.now_ns), self.now_ns) {
                    end.clocks_ns[clock] += ns;
                }
            }
        }
        Some([begin, end])
    }

    fn written(&self, ring: Ring) -> u64 {
        match ring {
            Ring::Fine => self.timeline.written,
            Ring::Coarse => self.timeline.coarse_written,
        }
    }

    fn checkpoint(&self, ring: Ring, number: u64) -> Checkpoint {
        match ring {
            Ring::Fine => self.timeline.points[number as usize % FINE],
            Ring::Coarse => self.timeline.coarse[number as usize % COARSE],
        }
    }

    fn stalls_written(&self, _: u32) -> u64 {
        self.stalls.len() as u64
    }

    fn stall(&self, _: u32, number: u64) -> Stall {
        self.stalls[number as usize]
    }
}

/// A time that no stretch of other kinds than its own takes part in, at either end.
const EDGE_NS: u64 = 2 * SPAN_NS;

/// Who held the CPU while it was waited for is told when a wait ends: an interval that cuts one has
/// its holders in proportion.
const WAITS: [Doing; 3] = [Doing::WaitOwn, Doing::WaitOther, Doing::WaitIdle];

fn check_no_more_than_truth(found: Spent, truth: Spent, edge_ns: u64, context: &str) {
    let waits = |spent: &Spent| WAITS.iter().map(|doing| spent[*doing]).sum::<u64>();
    let mut pairs = vec![("waits", waits(&found), waits(&truth))];
    for doing in Doing::ALL {
        if doing != Doing::Unknown && !WAITS.contains(&doing) {
            pairs.push((doing_name(doing), found[doing], truth[doing]));
        }
    }
    for (name, found_ns, true_ns) in pairs {
        let most_ns = true_ns + edge_ns;
        assert!(found_ns <= most_ns, "{context}: {name} {found:?} is more than {truth:?}");
    }
}

fn doing_name(doing: Doing) -> &'static str {
    match doing {
        Doing::Run => "run",
        Doing::Interrupts => "interrupts",
        Doing::Asleep => "asleep",
        _ => "off the CPU",
    }
}

#[test]
fn a_timeline_says_what_the_thread_did() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let life = Life::new(&mut random, 300);
        let recorder = Recorder::of(life.events.iter().copied(), life.now_ns);
        let began_ns = life.truth[0].0;
        let span_ns = life.now_ns - began_ns;
        for _ in 0..100 {
            let from_ns = began_ns + random.below(span_ns);
            let to_ns = (from_ns + random.duration_ns()).min(life.now_ns);
            let (found, truth) = (spent(&recorder, from_ns, to_ns), life.truth(from_ns, to_ns));
            let context = format!("seed {seed}, {from_ns} to {to_ns}");
            assert_eq!(found.total_ns(), to_ns - from_ns, "{context}");
            // The oldest time has no checkpoint before it.
            if from_ns > began_ns + SPAN_NS {
                assert_eq!(found[Doing::Unknown], 0, "{context}");
                check_no_more_than_truth(found, truth, EDGE_NS, &context);
            }
        }
    }
}

#[test]
fn long_stretches_are_exact() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let life = Life::new(&mut random, 200);
        let recorder = Recorder::of(life.events.iter().copied(), life.now_ns);
        let long = life
            .truth
            .iter()
            .skip(8)
            .filter(|(from, to, doing)| to - from >= 200_000 && !WAITS.contains(doing));
        for (from_ns, to_ns, doing) in long {
            let inner_ns = (to_ns - from_ns) / 4;
            let found = spent(&recorder, from_ns + inner_ns, to_ns - inner_ns);
            let expected = Spent::all(*doing, to_ns - from_ns - 2 * inner_ns);
            assert_eq!(found, expected, "seed {seed}: {from_ns} to {to_ns}");
        }
    }
}

#[test]
fn events_that_are_missing_only_make_time_unknown() {
    for seed in 0..50 {
        let mut random = Random(1_000 + seed);
        let life = Life::new(&mut random, 200);
        // One event in so many; never several in a row, which could make up a whole turn.
        let one_in = 3 + random.below(60);
        let mut since_last = 0;
        let mut missing = 0;
        let kept = life.events.iter().copied().filter(|(_, event, _)| {
            since_last += 1;
            // Time that interrupts took unseen is that of whoever had the CPU.
            let never = matches!(event, Event::Interrupt { .. });
            let lost = !never && since_last > 3 && random.below(one_in) == 0;
            if lost {
                (since_last, missing) = (0, missing + 1);
            }
            !lost
        });
        let kept: Vec<_> = kept.collect();
        let recorder = Recorder::of(kept, life.now_ns);
        let began_ns = life.truth[0].0;
        for _ in 0..100 {
            let from_ns = began_ns + random.below(life.now_ns - began_ns);
            let to_ns = (from_ns + 5 * random.duration_ns()).min(life.now_ns);
            let (found, truth) = (spent(&recorder, from_ns, to_ns), life.truth(from_ns, to_ns));
            let context = format!("seed {seed}, {missing} missing, {from_ns} to {to_ns}");
            assert_eq!(found.total_ns(), to_ns - from_ns, "{context}");
            check_no_more_than_truth(found, truth, EDGE_NS, &context);
        }
    }
}

#[test]
fn what_is_long_ago_is_coarse_and_longer_ago_unknown() {
    let mut random = Random(7);
    let life = Life::new(&mut random, 20_000);
    let recorder = Recorder::of(life.events.iter().copied(), life.now_ns);
    let began_ns = life.truth[0].0;
    assert!(recorder.timeline.coarse_written > COARSE as u64, "the life is too short");
    let oldest_ns = oldest(&recorder).expect("checkpoints");
    // Ten milliseconds at either end may be interpolated, and the stretch that they lie in.
    for _ in 0..100 {
        let from_ns = oldest_ns + random.below(life.now_ns - oldest_ns);
        let to_ns = (from_ns + 400_000_000).min(life.now_ns);
        let (found, truth) = (spent(&recorder, from_ns, to_ns), life.truth(from_ns, to_ns));
        assert_eq!((found.total_ns(), found[Doing::Unknown]), (to_ns - from_ns, 0));
        check_no_more_than_truth(found, truth, 100_000_000, "coarse");
    }
    let found = spent(&recorder, began_ns, oldest_ns + 1_000_000);
    assert_eq!(found[Doing::Unknown], oldest_ns - began_ns);
    assert_eq!(spent(&recorder, began_ns, oldest_ns - 5)[Doing::Unknown], oldest_ns - 5 - began_ns);
    // Later than now.
    let found = spent(&recorder, life.now_ns - 10, life.now_ns + 90);
    assert_eq!((found.total_ns(), found[Doing::Unknown]), (100, 90));
}

#[test]
fn a_stall_takes_what_needs_a_cpu() {
    let mut random = Random(3);
    let mut life = Life { events: Vec::new(), truth: Vec::new(), now_ns: 1_000_000_000 };
    life.event(Event::Switch { from: IDLE, to: THREAD, off: None });
    life.run(&mut random);
    let ran_from_ns = life.now_ns;
    life.pass(10_000_000, Doing::Run);
    life.event(Event::Switch { from: THREAD, to: IDLE, off: Some(kind::STOPPED) });
    let stopped_from_ns = life.now_ns;
    life.pass(10_000_000, Doing::Stopped);
    let mut recorder = Recorder::of(life.events.iter().copied(), life.now_ns);
    recorder.stalls = vec![
        Stall { from_ns: ran_from_ns + 1_000_000, until_ns: ran_from_ns + 4_000_000 },
        Stall { from_ns: stopped_from_ns - 1_000_000, until_ns: stopped_from_ns + 2_000_000 },
    ];
    let found = spent(&recorder, ran_from_ns, life.now_ns);
    assert_eq!(found[Doing::Stalled], 4_000_000, "{found:?}");
    assert_eq!((found[Doing::Run], found[Doing::Stopped]), (6_000_000, 10_000_000));
    let found = spent(&recorder, ran_from_ns + 2_000_000, ran_from_ns + 5_000_000);
    assert_eq!((found[Doing::Stalled], found[Doing::Run]), (2_000_000, 1_000_000));
}
