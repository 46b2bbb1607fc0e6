//! What the control thread does with reports and commands.

use control::{Lines, Output, Program, Shards};
use service::{Command, DurableLedger, Line};

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
            Report::Said(what) => {
                let _ = lines.send(Line::Error(what));
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
            Line::Ready(ready) => {
                output.tell(&format!(
                    "lab-server: {} shards and {} SETs listen on {}, control on http://{}",
                    ready.threads.len(),
                    ready.sets,
                    ready.listen,
                    ready.control
                ));
                let ledger = ready.ledger.iter();
                ledger.for_each(|ledger| output.tell(&format!("lab-server: {}", found(ledger))));
            }
            Line::Error(error) => output.tell(&format!("lab-server: {error}")),
            Line::Sample(_) | Line::Spun { .. } | Line::Ended(_) => {}
        }
    }
}

/// What a restart found in a durable ledger, as a sentence.
fn found(ledger: &DurableLedger) -> String {
    let DurableLedger { directory, epoch, segments, records, torn_bytes, .. } = ledger;
    if *epoch == 0 {
        return format!("a new durable ledger in {directory}");
    }
    let DurableLedger { packets_open, queued, cents_remaining, .. } = ledger;
    let (whole, cents) = (cents_remaining / 100, cents_remaining % 100);
    format!(
        "the durable ledger in {directory} goes on after epoch {epoch}: {records} records in \
         {segments} segments, {torn_bytes} torn bytes; {queued} packets wait in queues, \
         {packets_open} are open, {whole}.{cents:02} remain"
    )
}
