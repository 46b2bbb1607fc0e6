//! What the control thread does with reports and commands.

use control::{Lines, Output, Program, Shards};
use service::{Command, Line};

use crate::message::Message;
use crate::panel::hub::Hub;
use crate::report::Report;

impl Program for Hub {
    type Message = Message;
    type Report = Report;
    type Command = Command;
    type Line = Line;

    fn shards(&self) -> &Shards<Message, Report> {
        self.shards()
    }

    fn handle(&self, report: Report, lines: &Lines<Line>) {
        // A recorder that has gone misses the lines; the books are kept all the same.
        match report {
            Report::Started(..) => {}
            Report::Second(sample) => {
                self.record(&sample);
                let _ = lines.send(Line::Sample(Box::new(sample)));
            }
            Report::Spun(shard, spins) => {
                let _ = lines.send(Line::Spun { shard, spins });
            }
            Report::Snapshot(ticket, snapshot) => self.answered(ticket, *snapshot),
            Report::Ended(shard, ended) => self.shard_ended(shard, ended, lines),
        }
    }

    fn carry_out(&self, command: Command) -> Result<(), String> {
        self.execute(command).map(|_| ()).map_err(|error| error.to_string())
    }

    fn stop_message() -> Message {
        Message::Stop
    }

    fn error_line(&self, error: String) -> Line {
        Line::Error(error)
    }

    fn is_vital(line: &Line) -> bool {
        match line {
            Line::Ready(_) | Line::Error(_) | Line::Ended(_) => true,
            Line::Sample(_) | Line::Spun { .. } => false,
        }
    }

    fn show(&self, line: &Line, output: &Output) {
        match line {
            Line::Ready(ready) => output.tell(&format!(
                "lab-server: {} shards and {} SETs listen on {}, control on http://{}",
                ready.threads.len(),
                ready.sets,
                ready.listen,
                ready.control
            )),
            Line::Error(error) => output.tell(&format!("lab-server: {error}")),
            Line::Sample(_) | Line::Spun { .. } | Line::Ended(_) => {}
        }
    }
}
