//! A client that works on its own: it connects, shakes, and prints what came of it.

use std::sync::{Arc, Mutex};

use attribution::{Latencies, Percentile, Sample, Segment, Tally, empty};
use control::{Lines, Output, Program, Shards, locked};
use workload::{Command, Connect, Line, Load, Phase, Rate};

use crate::message::Message;
use crate::panel::Hub;
use crate::report::Report;

/// More than this share of late sends makes a measurement worthless: one in a thousand.
const LATE_SHARE: f64 = 0.001;

/// What a solo client is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Users to be logged in.
    pub(crate) connect: Connect,
    /// What follows: no shakes, with [`Load::None`].
    pub(crate) load: Phase,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    established_s: Option<f64>,
    /// Tallies of the load; `None` when it did not get that far.
    pub(crate) tally: Option<Tally>,
    /// A signal ended the load before its time.
    cut_short: bool,
    /// Why the plan could not be carried out.
    pub(crate) failure: Option<String>,
    latency: Option<Latencies>,
    /// Those of them that are bounds: no answer came in time.
    bounds: Option<Latencies>,
    send_lag: Option<Latencies>,
}

/// Why a load was not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Invalid {
    /// It never began.
    #[error("the client was stopped before all users were logged in")]
    StoppedBeforeLogins,
    /// It never ended.
    #[error("the client was stopped before the load had ended and its answers had come")]
    StoppedBeforeAnswers,
    /// A signal ended it.
    #[error("the load was ended before its time")]
    CutShort,
    /// Too large a share of the sends was late.
    #[error(
        "{:.2}% of the shakes left late by the client's own doing (more than {}%)",
        .0 * 100.0,
        LATE_SHARE * 100.0
    )]
    Late(f64),
}

#[derive(Default)]
struct Progress {
    /// The second being put together.
    t: u64,
    samples: Vec<Sample>,
    latency: Option<Latencies>,
    bounds: Option<Latencies>,
    /// The second in which the load began.
    load_start: Option<u64>,
    outcome: Outcome,
}

/// A hub with a plan.
#[derive(Clone)]
pub(crate) struct Solo {
    hub: Hub,
    plan: Arc<Plan>,
    progress: Arc<Mutex<Progress>>,
    output: Output,
}

const CONNECT: u16 = 0;
const LOAD: u16 = 1;

impl Solo {
    /// A client that carries out a plan.
    pub(crate) fn new(hub: Hub, plan: Plan, output: Output) -> Self {
        Self { hub, plan: Arc::new(plan), progress: Arc::default(), output }
    }

    /// Starts the plan.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn start(&self) -> Result<(), String> {
        let start = self.hub.next_second();
        let connect = Phase {
            index: CONNECT,
            name: "connect".to_owned(),
            start,
            connect: Some(self.plan.connect),
            ..Phase::default()
        };
        self.plan.load.check().map_err(|error| error.to_string())?;
        if let Load::Open { rate: Rate::Fixed(rate), .. } = self.plan.load.load {
            self.hub.expect_load(rate);
        }
        self.hub.carry_out(Command::Phase(Box::new(connect)))
    }

    /// The load of the plan, to begin as soon as it can.
    fn load(&self) -> Phase {
        let mut load = Phase { start: self.hub.next_second(), ..self.plan.load.clone() };
        if let (Load::Open { rate, .. }, Some(now)) = (&mut load.load, self.hub.take_expected()) {
            *rate = Rate::Fixed(now);
        }
        load
    }

    /// What came of the plan; for when it has ended.
    pub(crate) fn outcome(&self) -> Outcome {
        let mut progress = locked(&self.progress);
        std::mem::take(&mut progress.outcome)
    }

    fn on_line(&self, progress: &mut Progress, line: &Line) {
        match line {
            Line::Ready(ready) => self.output.tell(&format!(
                "lab-client: users {} to {} on {} shards from {} addresses, control on http://{}",
                ready.users.0,
                ready.users.1 - 1,
                ready.threads.len(),
                ready.sources.len(),
                ready.control
            )),
            Line::Error(error) => self.tell(error),
            Line::Sample(sample) => {
                if sample.t != progress.t {
                    progress.print_second(&self.output);
                    progress.t = sample.t;
                }
                progress.samples.push(**sample);
            }
            Line::Histogram { phase, segment, values, .. } => {
                if *segment == Segment::Latency {
                    add(&mut progress.latency, &values.0);
                    if *phase == LOAD {
                        add(&mut progress.outcome.latency, &values.0);
                    }
                } else if *segment == Segment::LatencyAtLeast {
                    add(&mut progress.bounds, &values.0);
                    if *phase == LOAD {
                        add(&mut progress.outcome.bounds, &values.0);
                    }
                } else if *segment == Segment::SendLag && *phase == LOAD {
                    add(&mut progress.outcome.send_lag, &values.0);
                }
            }
            Line::Established { phase: CONNECT, seconds } => {
                self.output.say(&format!("all users logged in after {seconds:.1} s"));
                progress.outcome.established_s = Some(*seconds);
                let load = self.load();
                progress.load_start = Some(load.start);
                self.carry_out_or_stop(Command::Phase(Box::new(load)));
            }
            Line::Settled { phase: LOAD, tally } => {
                progress.outcome.tally = Some(**tally);
                self.carry_out_or_stop(Command::Stop {});
            }
            Line::Established { .. }
            | Line::Settled { .. }
            | Line::Slow { .. }
            | Line::Spun { .. }
            | Line::Causes { .. }
            | Line::Sampled { .. }
            | Line::Ended(_) => {}
        }
    }

    /// All connections have been tried, and so many users are not logged in.
    fn give_up(&self, users: u32) {
        let mut progress = locked(&self.progress);
        if progress.outcome.failure.is_some() {
            return;
        }
        progress.outcome.failure = Some(format!(
            "no user is left to connect, and {users} users are not logged in: the server refused \
             them for good (does it have so many users?), or others took their place"
        ));
        self.carry_out_or_stop(Command::Stop {});
    }

    fn carry_out_or_stop(&self, command: Command) {
        if let Err(error) = self.hub.carry_out(command) {
            self.tell(&error);
            self.hub.stop();
        }
    }

    fn tell(&self, what: &str) {
        self.output.tell(&format!("lab-client: {what}"));
    }
}

/// A percentile, or what it is at least where shakes without an answer decide it.
fn shown(values: &Latencies, bounds: Option<&Latencies>, quantile: f64) -> String {
    match Percentile::of(values, bounds, quantile) {
        Some(Percentile::Exactly(us)) => us.to_string(),
        Some(Percentile::AtLeast(us)) => format!("≥{us}"),
        None => "-".to_owned(),
    }
}

fn add(sum: &mut Option<Latencies>, values: &Latencies) {
    // Histograms of the same bounds always add up.
    let _ = sum.get_or_insert_with(empty).add(values);
}

impl Progress {
    fn print_second(&mut self, output: &Output) {
        let samples = std::mem::take(&mut self.samples);
        let (latency, bounds) = (self.latency.take(), self.bounds.take());
        if samples.is_empty() {
            return;
        }
        let mut tally = Tally::default();
        samples.iter().for_each(|sample| tally.add(&sample.tally));
        let online: u32 = samples.iter().map(|sample| sample.online).sum();
        let in_flight: u64 = samples.iter().map(|sample| sample.in_flight).sum();
        let mut line = format!(
            "{} online {online} offered {} answered {} in flight {in_flight}",
            self.t, tally.offered, tally.answered
        );
        if let Some(latency) = latency {
            let at = |quantile| shown(&latency, bounds.as_ref(), quantile);
            line += &format!(" p50 {} µs p99 {} µs max {} µs", at(0.5), at(0.99), at(1.0));
        }
        for (what, count) in [
            ("granted", tally.granted),
            ("skipped", tally.skipped()),
            ("timed out", tally.timed_out),
            ("lost", tally.lost + tally.connections_lost),
            ("late", tally.late_sends),
            ("failed", tally.connect_failed),
            ("refused", tally.login_refused),
        ] {
            if count > 0 {
                line += &format!(" {what} {count}");
            }
        }
        output.say(&line);
    }
}

impl Outcome {
    /// Whether the load was what was asked for.
    ///
    /// # Errors
    /// [`Invalid`] if it was not.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let Some(tally) = &self.tally else {
            return Err(match self.established_s {
                None => Invalid::StoppedBeforeLogins,
                Some(_) => Invalid::StoppedBeforeAnswers,
            });
        };
        if self.cut_short {
            return Err(Invalid::CutShort);
        }
        let late = tally.late_turns as f64 / tally.offered.max(1) as f64;
        if late > LATE_SHARE { Err(Invalid::Late(late)) } else { Ok(()) }
    }

    /// Prints a table, and whether the load was what was asked for.
    pub(crate) fn print(&self, output: &Output) {
        self.tally.iter().for_each(|tally| self.print_table(tally, output));
        match self.check() {
            Ok(()) => output.say("the load was what was asked for"),
            Err(invalid) => output.say(&format!("INVALID: {invalid}")),
        }
    }

    fn print_table(&self, tally: &Tally, output: &Output) {
        let rows = [
            ("offered", tally.offered),
            ("sent", tally.sent),
            ("skipped", tally.skipped()),
            ("answered", tally.answered),
            ("granted", tally.granted),
            ("empty", tally.empty),
            ("overloaded", tally.overloaded),
            ("timed out", tally.timed_out),
            ("lost", tally.lost),
            ("late answers", tally.late_answers),
            ("late sends", tally.late_sends),
        ];
        for (what, count) in rows {
            output.say(&format!("{what:>14} {count}"));
        }
        let latency = ("latency", &self.latency, self.bounds.as_ref());
        for (what, values, bounds) in [latency, ("send lag", &self.send_lag, None)] {
            let Some(values) = values else { continue };
            let [p50, p90, p99, p999, max] =
                [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| shown(values, bounds, quantile));
            output.say(&format!(
                "{what:>14} p50 {p50} p90 {p90} p99 {p99} p99.9 {p999} max {max} µs"
            ));
        }
    }
}

impl Program for Solo {
    type Message = Message;
    type Report = Report;
    type Command = Command;
    type Line = Line;

    fn shards(&self) -> &Shards<Message, Report> {
        self.hub.shards()
    }

    fn handle(&self, report: Report, lines: &Lines<Line>) {
        self.hub.handle(report, lines);
        if let Some(users) = self.hub.left_out(CONNECT) {
            self.give_up(users);
        }
    }

    fn carry_out(&self, command: Command) -> Result<(), String> {
        self.hub.carry_out(command)
    }

    fn stop_message() -> Message {
        Message::Stop
    }

    fn wind_down(&self) -> bool {
        let mut progress = locked(&self.progress);
        let Some(start) = progress.load_start else { return false };
        let end = self.hub.next_second();
        let planned = self.plan.load.seconds.map(|seconds| start.saturating_add(seconds));
        match self.hub.carry_out(Command::EndPhase { index: LOAD, end }) {
            Ok(()) => {
                progress.outcome.cut_short = planned.is_some_and(|planned| end < planned);
                self.tell("the load ends; interrupt again not to wait for answers");
                true
            }
            Err(error) => {
                self.tell(&error);
                false
            }
        }
    }

    fn error_line(&self, error: String) -> Line {
        Line::Error(error)
    }

    fn is_vital(line: &Line) -> bool {
        Hub::is_vital(line)
    }

    fn show(&self, line: &Line, _: &Output) {
        let mut progress = locked(&self.progress);
        self.on_line(&mut progress, line);
    }
}

/// The load of a plan.
pub(crate) fn load_phase(load: Load, seconds: Option<u64>) -> Phase {
    Phase { index: LOAD, name: "load".to_owned(), load, seconds, ..Phase::default() }
}
