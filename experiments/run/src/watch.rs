//! The conditions that abort a run, and what a person sees while it goes on.

use std::io::{IsTerminal, Write};

use attribution::Tally;

use record::Second;
use spec::Abort;
use text::thousands;

/// Watches the seconds of one phase.
#[derive(Debug)]
pub(super) struct Watch {
    conditions: Vec<(Abort, u32)>,
    total: Tally,
}

impl Watch {
    /// Watches for these conditions.
    pub(super) fn new(conditions: &[Abort]) -> Self {
        Self {
            conditions: conditions.iter().map(|condition| (*condition, 0)).collect(),
            total: Tally::default(),
        }
    }

    /// Looks at a second of the phase; the sentence that says why the run must end, if it must.
    pub(super) fn see(&mut self, second: &Second) -> Option<String> {
        self.total.add(&second.clients);
        let total = self.total;
        let p99 = second.latency().map(|latency| latency.value_at_quantile(0.99));
        let mut broken = None;
        for (condition, seconds_on_end) in &mut self.conditions {
            let (holds, why) = match *condition {
                Abort::LostConnections(most) => (
                    total.connections_lost > most,
                    format!("{} connections lost, more than {most}", total.connections_lost),
                ),
                Abort::TimedOutShare(most) => {
                    let share = total.timed_out as f64 / total.sent.max(1) as f64;
                    let most = most.get();
                    (share > most, format!("{share:.4} of the shakes timed out, more than {most}"))
                }
                Abort::P99Above { us, seconds } => {
                    let above = p99.is_some_and(|p99| p99 > us);
                    *seconds_on_end = if above { *seconds_on_end + 1 } else { 0 };
                    let long = *seconds_on_end >= seconds.max(1);
                    (long, format!("p99 above {us} µs for {seconds_on_end} s"))
                }
                Abort::AnsweredBelow { share, seconds } => {
                    let wanted = second.clients.offered as f64 * share.get();
                    let below =
                        second.clients.offered > 0 && (second.clients.answered as f64) < wanted;
                    *seconds_on_end = if below { *seconds_on_end + 1 } else { 0 };
                    let long = *seconds_on_end >= seconds.max(1);
                    let share = share.get();
                    (long, format!("less than {share} answered for {seconds_on_end} s"))
                }
            };
            if holds && broken.is_none() {
                broken = Some(why);
            }
        }
        broken
    }
}

/// What a person sees: one line that changes on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    open_line: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), open_line: false }
    }
}

impl Progress {
    /// A second of a phase: its name, how far it is, how long the rest of the run will take.
    pub(super) fn second(
        &mut self,
        phase: &str,
        gone: u64,
        of: Option<u64>,
        left: Option<u64>,
        it: &Second,
    ) {
        let of = of.map_or_else(String::new, |of| format!("/{of}"));
        let mut line = format!("{phase} {gone}{of} s  {} connections", thousands(it.online));
        if it.clients.offered > 0 || it.clients.answered > 0 {
            let (answered, offered) = (it.clients.answered, it.clients.offered);
            line += &format!("  {} of {}/s", thousands(answered), thousands(offered));
        }
        if let Some(latency) = it.latency() {
            line += &format!("  p99 {:.1} ms", latency.value_at_quantile(0.99) as f64 / 1000.0);
        }
        if it.server.granted > 0 {
            line += &format!("  {} packets/s", thousands(it.server.granted));
        }
        let bad = it.clients.timed_out + it.clients.lost + it.clients.connections_lost;
        if bad > 0 {
            line += &format!("  {bad} timed out or lost");
        }
        if let Some(left) = left {
            line += &format!("  {}:{:02} left", left / 60, left % 60);
        }
        self.show(&line);
    }

    fn show(&mut self, line: &str) {
        let mut out = std::io::stderr();
        // Whoever closed the terminal does not want to see it.
        let _ = if self.terminal {
            self.open_line = true;
            write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    /// A message that stays.
    pub(super) fn say(&mut self, message: &str) {
        self.end_line();
        eprintln!("{message}");
    }

    /// Ends the line that changes.
    pub(super) fn end_line(&mut self) {
        if std::mem::take(&mut self.open_line) {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use attribution::{Segment, empty};

    use super::*;
    use spec::Share;

    fn second(offered: u64, answered: u64, timed_out: u64, lost: u64, p99_us: u64) -> Second {
        let mut values = empty();
        values.saturating_record(p99_us);
        let clients = Tally {
            offered,
            sent: offered,
            answered,
            timed_out,
            connections_lost: lost,
            ..Tally::default()
        };
        Second { clients, histograms: vec![(0, Segment::Latency, values)], ..Second::default() }
    }

    #[test]
    fn conditions_hold_when_they_should() {
        let share = |share| Share::try_from(share).expect("a share");
        let good = || second(100, 100, 0, 0, 10);
        let cases = [
            (Abort::LostConnections(5), vec![second(1, 1, 0, 5, 1), second(1, 1, 0, 1, 1)]),
            (Abort::TimedOutShare(share(0.1)), vec![good(), second(100, 70, 30, 0, 10)]),
            (
                Abort::P99Above { us: 50, seconds: 2 },
                vec![
                    second(1, 1, 0, 0, 60),
                    good(),
                    second(1, 1, 0, 0, 60),
                    second(1, 1, 0, 0, 60),
                ],
            ),
            (
                Abort::AnsweredBelow { share: share(0.9), seconds: 2 },
                vec![
                    second(100, 80, 0, 0, 1),
                    good(),
                    second(100, 80, 0, 0, 1),
                    second(100, 89, 0, 0, 1),
                ],
            ),
        ];
        for (condition, seconds) in cases {
            let mut watch = Watch::new(&[condition]);
            let last = seconds.len() - 1;
            for (place, second) in seconds.iter().enumerate() {
                let broken = watch.see(second);
                assert_eq!(broken.is_some(), place == last, "{condition:?} at {place}: {broken:?}");
            }
        }
    }

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
