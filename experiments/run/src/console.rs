//! What a person is told while a run goes on, on the terminal.

use std::io::{IsTerminal, Write};

use record::Second;
use text::thousands;

/// How far a phase and the run are, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed {
    /// Of the phase.
    pub(crate) elapsed_s: u64,
    /// How long the phase takes, if it ends by itself.
    pub(crate) of_s: Option<u64>,
    /// How long the rest of the run takes, if that is known.
    pub(crate) left_s: Option<u64>,
}

/// What is said to a person: one line that changes on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Console {
    terminal: bool,
    open_line: bool,
}

impl Default for Console {
    fn default() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), open_line: false }
    }
}

impl Console {
    /// A second of a phase.
    pub(crate) fn second(&mut self, phase: &str, elapsed: Elapsed, second: &Second) {
        let Elapsed { elapsed_s, of_s, left_s } = elapsed;
        let of = of_s.map_or_else(String::new, |of| format!("/{of}"));
        let mut line =
            format!("{phase} {elapsed_s}{of} s  {} connections", thousands(second.online));
        if second.clients.offered > 0 || second.clients.answered > 0 {
            let (answered, offered) = (second.clients.answered, second.clients.offered);
            line += &format!("  {} of {}/s", thousands(answered), thousands(offered));
        }
        if let Some(p99) = second.p99() {
            let bound = if p99.exactly().is_some() { "" } else { "≥" };
            line += &format!("  p99 {bound}{:.1} ms", p99.least() as f64 / 1000.0);
        }
        if second.server.granted > 0 {
            line += &format!("  {} packets/s", thousands(second.server.granted));
        }
        let bad = second.clients.timed_out + second.clients.lost + second.clients.connections_lost;
        if bad > 0 {
            line += &format!("  {bad} timed out or lost");
        }
        if let Some(left) = left_s {
            line += &format!("  {}:{:02} left", left / 60, left % 60);
        }
        self.show(&line);
    }

    fn show(&mut self, line: &str) {
        let mut out = std::io::stderr();
        // A terminal that was closed shows nothing.
        let _ = if self.terminal {
            self.open_line = true;
            write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    /// A message that stays.
    pub(crate) fn say(&mut self, message: &str) {
        self.end_line();
        text::say!("{message}");
    }

    /// Ends the line that changes.
    pub(crate) fn end_line(&mut self) {
        if std::mem::take(&mut self.open_line) {
            text::say_words("\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
