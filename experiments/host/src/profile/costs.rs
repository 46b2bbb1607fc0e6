//! What samples come to: CPU time of an answered request by part, for each end and for both.
//!
//! Owns: the sums, the table and the file beside the picture. Must not know: where stacks come
//! from, how a run counts its answers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use text::{Align, Table, thousands};

use super::parts::Part;

/// Functions of a part that are named in the file, the most frequent first.
const NAMED: usize = 12;
/// The same of what no rule knows, in the table.
const TOLD: usize = 5;

/// Whose CPU time a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The server's.
    Server,
    /// A client's.
    Clients,
    /// Of no program: the idle task and the kernel's threads for interrupts.
    Beside,
}

/// Samples of an end by part, and in it by innermost function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartSamples {
    parts: BTreeMap<Part, BTreeMap<String, u64>>,
}

impl PartSamples {
    /// Adds samples of a part whose innermost function was this one.
    pub(crate) fn add(&mut self, part: Part, function: &str, count: u64) {
        let functions = self.parts.entry(part).or_default();
        match functions.get_mut(function) {
            Some(known) => *known += count,
            None => drop(functions.insert(function.to_owned(), count)),
        }
    }

    fn of(&self, part: Part) -> u64 {
        self.parts.get(&part).map_or(0, |functions| functions.values().sum())
    }

    /// All that are work.
    pub(crate) fn work(&self) -> u64 {
        Part::WORK.iter().map(|part| self.of(*part)).sum()
    }

    fn and(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (part, functions) in &other.parts {
            functions.iter().for_each(|(function, count)| sum.add(*part, function, *count));
        }
        sum
    }

    /// The most frequent functions of a part.
    fn functions(&self, part: Part, most: usize) -> Vec<(String, u64)> {
        let functions = self.parts.get(&part).into_iter().flatten();
        let mut sorted: Vec<_> = functions.map(|(name, count)| (name.clone(), *count)).collect();
        sorted.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        sorted.truncate(most);
        sorted
    }
}

/// What was sampled of an end in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndSamples {
    /// The samples.
    pub samples: PartSamples,
    /// CPU time of its processes in the same time, by their own clocks; `None` when a process has
    /// ended or has none.
    pub cpu_us: Option<u64>,
}

/// What was sampled in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartsOfTime {
    /// Samples a second of each CPU.
    pub hertz: u32,
    /// Samples of which nothing is known, for want of room.
    pub lost: u64,
    /// By end.
    pub ends: BTreeMap<End, EndSamples>,
}

/// What perf counted of an end. What is absent in one second is absent in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PerfCounts {
    /// `None` before the first second.
    values: Option<[Option<u64>; COUNTERS.len()]>,
    missing: BTreeMap<&'static str, String>,
}

/// What is counted, by the names of source `perf` in `samples.jsonl`.
const COUNTERS: [&str; 4] = ["task_clock_ns", "cycles", "instructions", "cache_misses"];

impl PerfCounts {
    /// Adds a second, as source `perf` has it.
    pub fn add(&mut self, second: &Value) {
        let counted = COUNTERS.map(|name| second[name].as_u64());
        let before = self.values.unwrap_or([Some(0); COUNTERS.len()]);
        let mut sums = [None; COUNTERS.len()];
        for (place, name) in COUNTERS.into_iter().enumerate() {
            sums[place] = before[place].zip(counted[place]).map(|(sum, more)| sum + more);
            // Of one counter, or of all.
            let missing = &second["missing"];
            let why = missing[name].as_str().or_else(|| missing.as_str());
            if let Some(why) = why.filter(|_| counted[place].is_none()) {
                self.missing.entry(name).or_insert_with(|| why.to_owned());
            }
        }
        self.values = Some(sums);
    }

    fn of(&self, place: usize) -> Option<u64> {
        self.values.and_then(|values| values[place])
    }

    fn and(&self, other: &Self) -> Self {
        let sum = |place: usize| Some(self.of(place)? + other.of(place)?);
        let missing = self.missing.iter().chain(&other.missing);
        Self {
            values: Some([sum(0), sum(1), sum(2), sum(3)]),
            missing: missing.map(|(name, why)| (*name, why.clone())).collect(),
        }
    }

    /// Why each of them is absent that is.
    fn reasons(&self) -> BTreeMap<&'static str, String> {
        let absent =
            COUNTERS.into_iter().enumerate().filter(|(place, _)| self.of(*place).is_none());
        let why = |name| self.missing.get(name).map_or("not read in this time", String::as_str);
        absent.map(|(_, name)| (name, why(name).to_owned())).collect()
    }
}

/// What samples of a part come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartCost {
    /// Samples.
    pub samples: u64,
    /// Of all samples of this end that are work; `None` without any.
    pub share: Option<f64>,
    /// CPU time of a request; `None` where nothing was answered.
    pub us_per_request: Option<f64>,
    /// The innermost functions that were met most, and how often.
    pub functions: Vec<(String, u64)>,
}

/// What a request costs an end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndCosts {
    /// Samples that are work.
    pub samples: u64,
    /// Samples of a CPU that stood still.
    pub halted_samples: u64,
    /// CPU time of these samples, in all.
    pub sampled_us: f64,
    /// CPU time by the clocks of the processes; `None` for what is no process.
    pub cpu_us: Option<u64>,
    /// By how much the samples say more than the clocks, as a part of the latter.
    pub differs_share: Option<f64>,
    /// CPU time of a request by the samples.
    pub sampled_us_per_request: Option<f64>,
    /// The same by the clocks.
    pub cpu_us_per_request: Option<f64>,
    /// The same by perf's clock of tasks, which also runs while the hypervisor has the CPU.
    pub task_clock_us_per_request: Option<f64>,
    /// By part.
    pub parts: BTreeMap<Part, PartCost>,
    /// Cycles of a request, where the machine counts them.
    pub cycles_per_request: Option<f64>,
    /// Instructions, likewise.
    pub instructions_per_request: Option<f64>,
    /// Misses of the last cache, likewise.
    pub cache_misses_per_request: Option<f64>,
}

/// What a request of a phase costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// The phase.
    pub phase: String,
    /// Samples a second of each CPU.
    pub hertz: u32,
    /// Shakes answered in its seconds; `None` when no client told of any.
    pub answered: Option<u64>,
    /// Samples of which nothing is known: the difference to the clocks has them.
    pub lost: u64,
    /// The server.
    pub server: EndCosts,
    /// The clients.
    pub clients: EndCosts,
    /// Both of them.
    pub both: EndCosts,
    /// The idle tasks and the kernel's threads for interrupts.
    pub beside: EndCosts,
    /// Why something is absent.
    pub missing: BTreeMap<&'static str, String>,
}

/// What a phase answered, and what perf counted meanwhile.
#[derive(Clone, Debug, Default)]
pub struct CountedInPhase {
    /// Shakes answered.
    pub answered: Option<u64>,
    /// Of the server and of the clients.
    pub perf: [PerfCounts; 2],
}

impl EndCosts {
    fn of(end: &EndSamples, hertz: u32, answered: Option<u64>, perf: &PerfCounts) -> Self {
        let tick_us = 1e6 / f64::from(hertz.max(1));
        let answers = answered.filter(|answers| *answers > 0).map(|answers| answers as f64);
        let by_request = |value: f64| answers.map(|answers| value / answers);
        let samples = end.samples.work();
        let part = |part: Part| {
            let count = end.samples.of(part);
            let cost = PartCost {
                samples: count,
                share: (samples > 0).then(|| count as f64 / samples as f64),
                us_per_request: by_request(count as f64 * tick_us),
                functions: end.samples.functions(part, NAMED),
            };
            (part, cost)
        };
        let sampled_us = samples as f64 * tick_us;
        let cpu_us = end.cpu_us.map(|us| us as f64);
        let counted = |place: usize| perf.of(place).and_then(|count| by_request(count as f64));
        Self {
            samples,
            halted_samples: end.samples.of(Part::Halted),
            sampled_us,
            cpu_us: end.cpu_us,
            differs_share: cpu_us.filter(|us| *us > 0.0).map(|us| sampled_us / us - 1.0),
            sampled_us_per_request: by_request(sampled_us),
            cpu_us_per_request: cpu_us.and_then(by_request),
            task_clock_us_per_request: counted(0).map(|ns| ns / 1000.0),
            parts: Part::WORK.into_iter().map(part).collect(),
            cycles_per_request: counted(1),
            instructions_per_request: counted(2),
            cache_misses_per_request: counted(3),
        }
    }

    /// What a process that nobody counts the answers of spends its time on.
    pub(crate) fn of_process(end: &EndSamples, hertz: u32) -> Self {
        Self::of(end, hertz, None, &PerfCounts::default())
    }

    /// Its parts as shares, for a person.
    pub(crate) fn shares(&self) -> String {
        let mut table = Table::new([Align::Left, Align::Right, Align::Right]);
        table.row(["share of CPU time", "", "±"]);
        for part in Part::WORK.into_iter().filter(|part| self.cell(*part) != "-") {
            table.row([part.words().to_owned(), self.cell(part), self.error(part)]);
        }
        table.to_string()
    }

    fn cell(&self, part: Part) -> String {
        match self.parts.get(&part) {
            Some(PartCost { samples: 0, .. }) | None => "-".to_owned(),
            Some(cost) => figure(cost.us_per_request, cost.share),
        }
    }
}

/// Microseconds where they are known, else a share.
fn figure(us: Option<f64>, share: Option<f64>) -> String {
    let share = || share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0));
    us.map_or_else(share, |us| format!("{us:.2}"))
}

impl Costs {
    /// The costs of a phase.
    pub fn of(phase: &str, time: &PartsOfTime, counted: &CountedInPhase) -> Self {
        let of = |end: End| time.ends.get(&end).cloned().unwrap_or_default();
        let (server, clients, beside) = (of(End::Server), of(End::Clients), of(End::Beside));
        let both = EndSamples {
            samples: server.samples.and(&clients.samples),
            cpu_us: server.cpu_us.zip(clients.cpu_us).map(|(one, other)| one + other),
        };
        let [of_server, of_clients] = &counted.perf;
        let of_both = of_server.and(of_clients);
        let cost = |end: &EndSamples, perf: &PerfCounts| {
            EndCosts::of(end, time.hertz, counted.answered, perf)
        };
        Self {
            phase: phase.to_owned(),
            hertz: time.hertz,
            answered: counted.answered,
            lost: time.lost,
            server: cost(&server, of_server),
            clients: cost(&clients, of_clients),
            both: cost(&both, &of_both),
            beside: cost(&beside, &PerfCounts::default()),
            missing: of_both.reasons(),
        }
    }

    /// How many requests were answered, if any were.
    fn answers(&self) -> Option<u64> {
        self.answered.filter(|answers| *answers > 0)
    }

    /// The table of the phase, for a person.
    pub fn table(&self) -> String {
        let mut table = Table::new([
            Align::Left,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Right,
        ]);
        table.line(match self.answers() {
            Some(answers) => format!(
                "phase {}: µs of CPU an answered request ({} answered, {} Hz)",
                self.phase,
                thousands(answers),
                self.hertz
            ),
            None => format!("phase {}: shares of CPU time ({} Hz)", self.phase, self.hertz),
        });
        table.row(["", "server", "clients", "both", "±", "beside"]);
        let ends = [&self.server, &self.clients, &self.both];
        for part in Part::WORK {
            if ends.into_iter().chain([&self.beside]).all(|end| end.cell(part) == "-") {
                continue;
            }
            let mut row = vec![part.words().to_owned()];
            row.extend(ends.map(|end| end.cell(part)));
            row.extend([self.both.error(part), self.beside.cell(part)]);
            table.row(row);
        }
        let total =
            |end: &EndCosts| figure(end.sampled_us_per_request, (end.samples > 0).then_some(1.0));
        let mut row = vec!["together".to_owned()];
        row.extend(ends.map(total));
        row.extend([String::new(), total(&self.beside)]);
        table.row(row);
        if self.answers().is_some() {
            let mut clock = |name: &str, us: fn(&EndCosts) -> Option<f64>| {
                let cells = ends.map(|end| figure(us(end), None));
                table.row([name.to_owned()].into_iter().chain(cells));
            };
            clock("by /proc", |end| end.cpu_us_per_request);
            clock("by perf's task clock", |end| end.task_clock_us_per_request);
        }
        let differs = |end: &EndCosts| {
            end.differs_share.map_or_else(|| "-".to_owned(), |it| format!("{:+.1}%", it * 100.0))
        };
        let mut row = vec!["together − by /proc".to_owned()];
        row.extend(ends.map(differs));
        table.row(row);
        self.notes().into_iter().for_each(|note| table.line(note));
        table.to_string()
    }

    /// What a table cannot show.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let beside = self.beside.samples + self.beside.halted_samples;
        let all = beside + self.both.samples;
        if all > 0 {
            let halted = self.beside.halted_samples as f64 / all as f64;
            notes
                .push(format!("the CPUs stood halted for {:.1}% of these samples", 100.0 * halted));
        }
        let other = self.both.parts.get(&Part::Other).map(|part| &part.functions);
        if let Some(functions) = other.filter(|functions| !functions.is_empty()) {
            let named: Vec<String> = functions
                .iter()
                .take(TOLD)
                .map(|(name, count)| format!("{name} ({})", thousands(*count)))
                .collect();
            notes.push(format!("other, by samples: {}", named.join(", ")));
        }
        if self.lost > 0 {
            notes.push(format!("{} samples are lost, for want of room", thousands(self.lost)));
        }
        let counted =
            |what: &str, value: Option<f64>| value.map(|value| format!("{what} {value:.0}"));
        let both = &self.both;
        let hardware: Vec<String> = [
            counted("cycles", both.cycles_per_request),
            counted("instructions", both.instructions_per_request),
            counted("cache misses", both.cache_misses_per_request),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !hardware.is_empty() {
            notes.push(format!("a request, both ends: {}", hardware.join(", ")));
        }
        let mut why: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, reason) in &self.missing {
            why.entry(reason).or_default().push(name);
        }
        notes.extend(why.iter().map(|(why, names)| format!("{}: {why}", names.join(", "))));
        notes
    }
}

impl EndCosts {
    /// How far chance alone may move the figure of a part: 1.96 standard errors of its count.
    fn error(&self, part: Part) -> String {
        let Some(cost) = self.parts.get(&part).filter(|cost| cost.samples > 0) else {
            return String::new();
        };
        let relative = 1.96 / (cost.samples as f64).sqrt();
        figure(cost.us_per_request.map(|us| us * relative), cost.share.map(|it| it * relative))
    }
}

/// What several phases cost both ends, side by side; `None` where fewer than two were answered.
pub fn side_by_side(phases: &[Costs]) -> Option<String> {
    let answered: Vec<&Costs> = phases.iter().filter(|costs| costs.answers().is_some()).collect();
    if answered.len() < 2 {
        return None;
    }
    let columns = [Align::Left].into_iter().chain(answered.iter().map(|_| Align::Right));
    let mut table = Table::new(columns.collect::<Vec<_>>());
    table.line("both ends, µs of CPU an answered request");
    let mut row = |name: &str, cell: &dyn Fn(&Costs) -> String| {
        let cells: Vec<String> = answered.iter().map(|costs| cell(costs)).collect();
        if cells.iter().any(|cell| cell != "-") {
            table.row([name.to_owned()].into_iter().chain(cells));
        }
    };
    row("", &|costs| costs.phase.clone());
    for part in Part::WORK {
        row(part.words(), &|costs| costs.both.cell(part));
    }
    row("together", &|costs| figure(costs.both.sampled_us_per_request, None));
    row("by /proc", &|costs| figure(costs.both.cpu_us_per_request, None));
    row("by perf's task clock", &|costs| figure(costs.both.task_clock_us_per_request, None));
    row("beside", &|costs| figure(costs.beside.sampled_us_per_request, None));
    Some(table.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn end(parts: &[(Part, &str, u64)], cpu_us: Option<u64>) -> EndSamples {
        let mut samples = PartSamples::default();
        parts.iter().for_each(|(part, function, count)| samples.add(*part, function, *count));
        EndSamples { samples, cpu_us }
    }

    /// 1,000 Hz: a sample is a millisecond.
    fn a_phase() -> PartsOfTime {
        let server =
            [(Part::User, "", 300), (Part::TcpOut, "tcp_ack", 500), (Part::TcpOut, "b", 200)];
        let clients = [(Part::User, "", 900), (Part::Other, "strange", 100)];
        let beside = [(Part::IdleExit, "menu_select", 50), (Part::Halted, "default_idle", 950)];
        let ends = BTreeMap::from([
            (End::Server, end(&server, Some(1_000_000))),
            (End::Clients, end(&clients, Some(1_250_000))),
            (End::Beside, end(&beside, None)),
        ]);
        PartsOfTime { hertz: 1_000, lost: 3, ends }
    }

    fn counted(answered: Option<u64>) -> CountedInPhase {
        let mut perf = [PerfCounts::default(), PerfCounts::default()];
        let of_vm = json!({ "cycles": null, "missing": { "cycles": "not supported" } });
        // Two seconds.
        for _ in 0..2 {
            perf[0].add(&json!({ "task_clock_ns": 450_000_000, "cycles": 5000,
                "instructions": 150, "cache_misses": 20 }));
            perf[1].add(&of_vm);
        }
        CountedInPhase { answered, perf }
    }

    #[test]
    fn parts_add_up_to_all_samples_and_are_compared_with_the_clocks() {
        let costs = Costs::of("60k", &a_phase(), &counted(Some(100_000)));
        for (end, us, by_clock, differs) in [
            (&costs.server, 10.0, Some(10.0), Some(0.0)),
            (&costs.clients, 10.0, Some(12.5), Some(-0.2)),
            (&costs.both, 20.0, Some(22.5), Some(20.0 / 22.5 - 1.0)),
            (&costs.beside, 0.5, None, None),
        ] {
            let sum: f64 = end.parts.values().filter_map(|part| part.us_per_request).sum();
            assert!((sum - us).abs() < 1e-9, "{sum}");
            assert_eq!(end.sampled_us_per_request, Some(us));
            assert_eq!(end.cpu_us_per_request, by_clock);
            let off = end.differs_share.zip(differs).map(|(one, other)| (one - other).abs());
            assert_eq!(end.differs_share.is_some(), differs.is_some());
            assert!(off.is_none_or(|off| off < 1e-9), "{end:?}");
            let shares: f64 = end.parts.values().filter_map(|part| part.share).sum();
            assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        }
        assert_eq!(costs.beside.halted_samples, 950);
        let out = &costs.server.parts[&Part::TcpOut];
        assert_eq!((out.samples, out.us_per_request), (700, Some(7.0)));
        assert_eq!(out.functions, [("tcp_ack".to_owned(), 500), ("b".to_owned(), 200)]);
        // What one end was not counted of is not known of both.
        assert_eq!(costs.server.instructions_per_request, Some(0.003));
        assert_eq!(costs.both.instructions_per_request, None);
        assert_eq!(costs.missing["cycles"], "not supported");
        assert_eq!(costs.missing["instructions"], "not read in this time");
    }

    #[test]
    fn the_table_names_what_no_rule_knows_and_what_was_not_counted() {
        let table = Costs::of("60k", &a_phase(), &counted(Some(100_000))).table();
        for line in [
            "phase 60k: µs of CPU an answered request (100,000 answered, 1000 Hz)",
            "                   server  clients   both     ±  beside",
            "own code (user)      3.00     9.00  12.00  0.68       -",
            "idle exit               -        -      -          0.50",
            "together            10.00    10.00  20.00          0.50",
            "by /proc            10.00    12.50  22.50",
            "by perf's task clock 9.00 - -",
            "together − by /proc   +0.0%   -20.0%  -11.1%",
            "the CPUs stood halted for 31.7% of these samples",
            "other, by samples: strange (100)",
            "3 samples are lost, for want of room",
            "cycles: not supported",
        ] {
            let same = |it: &str| it.split_whitespace().eq(line.split_whitespace());
            assert!(table.lines().any(same), "{line}\n{table}");
        }
        assert!(!table.contains("epoll"), "{table}");
    }

    #[test]
    fn a_phase_without_answers_has_shares_and_no_figures_of_a_request() {
        for answered in [None, Some(0)] {
            let costs = Costs::of("connect", &a_phase(), &counted(answered));
            let json = serde_json::to_value(&costs).expect("JSON");
            assert_eq!(json["server"]["cpu_us_per_request"], Value::Null);
            assert_eq!(json["both"]["parts"]["tcp_out"]["us_per_request"], Value::Null);
            assert_eq!(json["both"]["parts"]["tcp_out"]["share"], json!(0.35));
            assert_eq!(json["answered"], json!(answered));
            let table = costs.table();
            assert!(table.contains("phase connect: shares of CPU time"), "{table}");
            assert!(table.contains("35.0%") && !table.contains("task clock"), "{table}");
        }
        let nothing = Costs::of("none", &PartsOfTime::default(), &CountedInPhase::default());
        assert_eq!((nothing.both.cpu_us, nothing.both.samples), (None, 0));
        assert!(nothing.table().contains("together"));
    }

    #[test]
    fn regimes_stand_side_by_side() {
        let costs = |name: &str, answered| Costs::of(name, &a_phase(), &counted(answered));
        let phases =
            [costs("connect", None), costs("40k", Some(50_000)), costs("60k", Some(100_000))];
        let table = side_by_side(&phases).expect("two regimes");
        let has =
            |line: &str| table.lines().any(|it| it.split_whitespace().eq(line.split_whitespace()));
        assert!(
            has("40k 60k") && has("together 40.00 20.00") && has("beside 1.00 0.50"),
            "{table}"
        );
        assert!(has("TCP out 14.00 7.00") && !table.contains("epoll"), "{table}");
        assert_eq!(side_by_side(&phases[..2]), None);
    }
}
