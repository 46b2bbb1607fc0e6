//! The coordinator of a run: it waits, takes in what programs, hosts and people say, and completes
//! seconds.
//!
//! Owns: the one loop that waits. What it carries out is in `phases`, how it ends in `ending`.
//! Must not know: where programs are; that is its [`Place`].

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use attribution::Segment;
use host::program::Who;
use interrupts::Interrupts;
use record::Second;
use report::live::{CommandResult, PendingCommand, RunCommand};
use service::Line as ServerLine;
use spec::Shake;
use tokio::time::Instant;
use workload::{Command as ClientCommand, Line as ClientLine};

use crate::books::Books;
use crate::events::PhaseEvent;
use crate::messages::{Inbox, Message};
use crate::place::{Place, Run};
use crate::records::CausesOf;
use crate::run_control::RunControl;
use crate::unreadable::Unreadable;
use crate::waiting::{Missed, Patience, Stalls};

/// So much time is between the pieces of what a tick leaves.
const PIECE: Duration = Duration::from_millis(20);

/// Carries out a run whose programs are at a place.
pub(crate) struct Coordinator<P: Place> {
    pub(crate) place: P,
    pub(crate) run: Run,
    pub(crate) control: RunControl,
    pub(crate) interrupts: Interrupts,
    pub(crate) messages: Inbox<P::News>,
    /// Lines of programs that cannot be read.
    pub(crate) unreadable: Unreadable,
    /// What the phases have not waited for yet.
    pub(crate) pending: VecDeque<PhaseEvent>,
    /// How long this process has stood still.
    pub(crate) stalls: Stalls,
    /// Until when all waits of an ending together last, once a person wants it to be over.
    pub(crate) ends: Option<Patience>,
    /// The second at whose start the one before it is recorded.
    next_tick: u64,
    /// When the next piece of what the last tick has left is due, if there is one.
    next_piece: Option<Instant>,
}

/// What a wait is over for.
enum Woke<News> {
    Message(Message<News>),
    Command(PendingCommand),
    Interrupt,
    Tick,
    Piece,
    Deadline,
}

impl<P: Place> Coordinator<P> {
    /// A run that has started nothing yet. The first second that is recorded is the one before
    /// `next_tick`.
    pub(crate) fn new(
        place: P,
        run: Run,
        control: RunControl,
        interrupts: Interrupts,
        messages: Inbox<P::News>,
        next_tick: u64,
    ) -> Self {
        let (pending, stalls, ends) = (VecDeque::new(), Stalls::start(), None);
        let unreadable = Unreadable::default();
        Self {
            place,
            run,
            control,
            interrupts,
            messages,
            unreadable,
            pending,
            stalls,
            ends,
            next_tick,
            next_piece: None,
        }
    }

    /// Whether something is so of all clients that are expected to speak. When none is, nothing is
    /// so before the end.
    pub(crate) fn all_clients(&self, so: impl Fn(&Books, u32) -> bool) -> bool {
        let clients = 0..self.run.programs.clients();
        let mut expected = clients.filter(|client| self.place.is_expected(Who::Client(*client)));
        let books = &self.run.records.books;
        let Some(first) = expected.next() else { return self.run.ending };
        so(books, first) && expected.all(|client| so(books, client))
    }

    /// Waits for something that phases react to, until a deadline. Every message that comes
    /// meanwhile is recorded.
    pub(crate) async fn next(&mut self, deadline: Instant) -> anyhow::Result<PhaseEvent> {
        loop {
            while let Some(second) = self.run.records.seconds.next(false) {
                if let Some(why) = self.complete(&second)? {
                    self.pending.push_back(PhaseEvent::Abort(why));
                }
            }
            if self.place.is_in_batch() {
                // The rest of it is there already.
                let message = self.messages.try_recv()?;
                self.on_message(message)?;
                continue;
            }
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let next_tick = self.run.schedule.instant_of(self.next_tick);
            let piece = self.next_piece;
            let slept_ns = self.stalls.sleep();
            let woke = tokio::select! {
                message = self.messages.recv() => {
                    Woke::Message(message.context("all programs have ended")?)
                }
                Some(command) = self.control.pending.recv() => Woke::Command(command),
                () = self.interrupts.next() => Woke::Interrupt,
                () = tokio::time::sleep_until(next_tick) => Woke::Tick,
                () = tokio::time::sleep_until(piece.unwrap_or(next_tick)), if piece.is_some() => {
                    Woke::Piece
                }
                () = tokio::time::sleep_until(deadline) => Woke::Deadline,
            };
            let due_ns = self.run.schedule.start_ns(self.next_tick);
            if let Some(missed) = self.stalls.woke(slept_ns, due_ns) {
                self.on_stall(missed).await?;
                self.stalls.resumed();
            }
            match woke {
                Woke::Message(Message::Ended(who)) => {
                    self.on_program_ended(who).await?;
                    self.stalls.resumed();
                }
                Woke::Message(message) => self.on_message(message)?,
                Woke::Command(command) => {
                    if let Some(event) = self.on_command(command).await? {
                        return Ok(event);
                    }
                }
                Woke::Interrupt => return Ok(PhaseEvent::Interrupt),
                Woke::Tick => self.tick()?,
                Woke::Piece => self.piece()?,
                Woke::Deadline => return Ok(PhaseEvent::Deadline),
            }
        }
    }

    /// This process itself stood still. Nothing that came meanwhile was taken in yet.
    async fn on_stall(&mut self, missed: Missed) -> anyhow::Result<()> {
        self.place.on_stall(missed, &mut self.run.schedule).await?;
        let Missed { stood_still, suspended } = missed;
        for (what, time) in
            [("this process stood still", stood_still), ("this machine was suspended", suspended)]
        {
            if time > Duration::ZERO {
                let seconds = time.as_secs_f64();
                let what = format!("{what} for {seconds:.1} s, which is nobody's silence");
                self.run.records.warn("lab", &what)?;
            }
        }
        Ok(())
    }

    /// Takes in a message.
    pub(crate) fn on_message(&mut self, message: Message<P::News>) -> anyhow::Result<()> {
        match message {
            Message::Server(line) => self.on_server(line),
            Message::Client(client, line) => self.on_client(client, line),
            Message::Unreadable(who, line) => {
                let warning = self.unreadable.said(who, &line);
                warning.map_or(Ok(()), |what| self.run.records.warn(&who.to_string(), &what))
            }
            // One of an agent, or one that never got ready: how it ended is not asked.
            Message::Ended(who) => self.program_ended(who, None),
            Message::Place(news) => {
                let event = self.place.on_news(news, &mut self.run)?;
                self.pending.extend(event);
                Ok(())
            }
        }
    }

    /// The output of a program has ended, and so has the program, or it is about to.
    async fn on_program_ended(&mut self, who: Who) -> anyhow::Result<()> {
        let mut ended = None;
        if !self.run.ending {
            // That may take half a minute, and nobody waits for it who wants the run to end.
            tokio::select! {
                how = self.run.programs.ended(who) => ended = how,
                () = self.interrupts.next() => self.pending.push_back(PhaseEvent::Interrupt),
            }
        }
        if self.run.programs.was_deaf(who) {
            let what = "did not read what it was told, and was ended";
            self.run.records.warn(&who.to_string(), what)?;
        }
        self.program_ended(who, ended)
    }

    fn program_ended(&mut self, who: Who, ended: Option<(u32, ExitStatus)>) -> anyhow::Result<()> {
        let event = self.place.on_program_ended(who, ended, &mut self.run)?;
        self.pending.extend(event);
        Ok(())
    }

    fn on_server(&mut self, line: ServerLine) -> anyhow::Result<()> {
        let records = &mut self.run.records;
        match line {
            ServerLine::Sample(sample) => {
                records.server_second(self.place.host_of(Who::Server), &sample)
            }
            ServerLine::Spun { shard, spins } => self.place.on_spins(None, shard, &spins),
            ServerLine::Ended(ledger) => {
                records.books.close_server(ledger);
                Ok(())
            }
            ServerLine::Error(error) => records.warn("server", &error),
            ServerLine::Ready(_) => Ok(()),
        }
    }

    fn on_client(&mut self, client: u32, line: ClientLine) -> anyhow::Result<()> {
        let host = self.place.host_of(Who::Client(client));
        let records = &mut self.run.records;
        match line {
            ClientLine::Sample(sample) => records.client_second(host, client, &sample),
            ClientLine::Histogram { t, phase, segment, values } => {
                if segment != Segment::Push || self.place.shares_clock_with_server(client) {
                    records.seconds.histogram(t, phase, segment, &values.0);
                }
                Ok(())
            }
            ClientLine::Causes { t, shard, phase, rows } => {
                records.causes(CausesOf { t, host, client, shard: Some(shard), phase }, &rows)
            }
            ClientLine::Sampled { t, requests } => {
                self.place.on_sampled(t, client, &requests, &self.run.schedule);
                Ok(())
            }
            ClientLine::Slow { t, requests } => {
                self.place.on_slow(t, client, requests, &mut self.run)
            }
            ClientLine::Spun { shard, spins } => self.place.on_spins(Some(client), shard, &spins),
            ClientLine::Established { phase, seconds } => {
                records.established(host, client, phase, seconds)?;
                self.pending.push_back(PhaseEvent::Established);
                Ok(())
            }
            ClientLine::Settled { phase, tally } => {
                records.settled(host, client, phase, &tally)?;
                self.pending.push_back(PhaseEvent::Settled);
                Ok(())
            }
            ClientLine::Ended(audit) => records.books.close_client(client, audit),
            ClientLine::Error(error) => records.warn(&format!("client {client}"), &error),
            ClientLine::Ready(_) => Ok(()),
        }
    }

    /// Records the second that has just ended.
    fn tick(&mut self) -> anyhow::Result<()> {
        let (t, now) = (self.next_tick - 1, self.run.schedule.now());
        // Nothing is due before its second, whatever a stall has made of the order of things.
        if now < self.next_tick {
            return Ok(());
        }
        self.next_tick = now + 1;
        self.finish_pieces()?;
        self.place.tick(t, now, &mut self.run)?;
        self.next_piece = Some(Instant::now() + PIECE);
        Ok(())
    }

    /// Does a piece of what the last tick has left.
    fn piece(&mut self) -> anyhow::Result<()> {
        let more = self.place.piece(&mut self.run)?;
        self.next_piece = more.then(|| Instant::now() + PIECE);
        Ok(())
    }

    /// Does all that the last tick has left.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish_pieces(&mut self) -> anyhow::Result<()> {
        while self.next_piece.is_some() {
            self.piece()?;
        }
        Ok(())
    }

    /// A second is complete: it is recorded, shown, and compared with what aborts its phase.
    /// Returns why the run must end, if it must.
    pub(crate) fn complete(&mut self, second: &Second) -> anyhow::Result<Option<String>> {
        let Run { schedule, records, .. } = &mut self.run;
        let Some(phase) = records.complete(second)? else { return Ok(None) };
        records.console.second(&phase.name, schedule.elapsed(&phase, second.t), second);
        Ok(schedule.watch(&phase, second))
    }

    /// Completes all that is left of seconds.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn complete_rest(&mut self) -> anyhow::Result<()> {
        self.finish_pieces()?;
        while let Some(second) = self.run.records.seconds.next(true) {
            self.complete(&second)?;
        }
        Ok(())
    }

    /// Carries out a command of a person. One that ends the phase is for the phase to carry out.
    async fn on_command(&mut self, pending: PendingCommand) -> anyhow::Result<Option<PhaseEvent>> {
        let PendingCommand { command, result: answer } = pending;
        let users = self.run.schedule.experiment.users.get();
        let checked = match self.run.ending {
            true => Err("the run is about to be over".to_owned()),
            false => command.check(users),
        };
        if let Err(why) = checked {
            // Dropped when the person does not wait any more, here and below.
            let _ = answer.send(Err(why));
            return Ok(None);
        }
        if command == (RunCommand::EndPhase {}) {
            return Ok(Some(PhaseEvent::EndPhase(answer)));
        }
        let done = match (&command, command.for_server()) {
            (RunCommand::Rate { qps }, _) => self.set_rate(*qps).await?,
            (_, Some(for_server)) => {
                self.run.programs.tell_server(&for_server).await?;
                Ok("the server was told; what it refuses stands among the warnings".to_owned())
            }
            (_, None) => Err("no program of the run can do that".to_owned()),
        };
        if done.is_ok() {
            self.run.records.command(&command)?;
        }
        let _ = answer.send(done);
        Ok(None)
    }

    async fn set_rate(&mut self, qps: u32) -> anyhow::Result<CommandResult> {
        let Run { schedule, records, programs, .. } = &mut self.run;
        let phase = records.files.phase_at(schedule.now()).map(|phase| usize::from(phase.index));
        let Some(spec) = phase.and_then(|index| schedule.phases.get(index)) else {
            return Ok(Err("not now: no phase is under way".to_owned()));
        };
        if !matches!(spec.shake, Some(Shake::Open { .. })) {
            return Ok(Err(format!("phase {} has no open load to change", spec.name)));
        }
        programs.tell_clients(&ClientCommand::Rate { qps }).await?;
        Ok(Ok(format!("{qps} shakes a second from the next second on")))
    }
}
