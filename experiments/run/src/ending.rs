//! The end of a run: what is under way settles, programs end, books are closed, files are
//! completed.

use std::time::Duration;

use host::program::Who;
use interrupts::Interrupted;
use serde_json::json;
use service::Command as ServerCommand;
use tokio::time::Instant;
use workload::Command as ClientCommand;

use crate::coordinator::Coordinator;
use crate::events::PhaseEvent;
use crate::leadership::TakenOver;
use crate::outcome::{Ended, Ending, Unwritten};
use crate::place::Place;
use crate::waiting::Patience;

/// Programs end within this time, or they are killed: closing a million sockets takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// Profiles are drawn within this time: symbols of a large program take some of it.
const PROFILES: Duration = Duration::from_secs(600);

/// A program that has ended says nothing more: whether all is there is looked at so often.
const LOOK: Duration = Duration::from_millis(50);

impl<P: Place> Coordinator<P> {
    /// Ends all programs at once.
    pub(crate) fn kill(&mut self) {
        self.run.records.console.end_line();
        self.run.programs.kill();
    }

    /// An error ended the run: its record says so, as far as it can still be written.
    pub(crate) fn close_failed(&mut self, error: &anyhow::Error) {
        let ending = match error.is::<Interrupted>() {
            true => Ending::Interrupted,
            false => Ending::Aborted(format!("{error:#}")),
        };
        if error.is::<TakenOver>() {
            // Another one records the run.
            return;
        }
        // What has no room by now has none.
        let _ = self.place.flush(&mut self.run.records);
        self.run.records.files.flush();
        self.run.records.close(&ending);
    }

    /// Ends a run in order.
    pub(crate) async fn finish(mut self, ending: Ending) -> anyhow::Result<Ended> {
        self.run.records.console.end_line();
        let finished = self.finish_files(&ending).await;
        self.kill();
        let unwritten = finished?;
        let profiles = self.place.profile_lines();
        let live = self.control.close();
        let files = &self.run.records.files;
        let (directory, lock) = (files.directory().to_owned(), files.lock());
        Ok(Ended { directory, ending, profiles, unwritten, live, _lock: lock })
    }

    /// Completes the files. Returns what of them could not be written.
    async fn finish_files(&mut self, ending: &Ending) -> anyhow::Result<Option<Unwritten>> {
        // An earlier coordinator that knew the ending has waited for what was under way.
        let known = self.place.known_ending().is_some();
        self.place.mark_ending(ending, &mut self.run)?;
        let stopped = *ending == Ending::Interrupted && !known && self.place.interrupt();
        if !known && !stopped && self.wait_until_all_settled().await? == Some(Ending::Interrupted) {
            self.give_up()?;
        }
        self.run.ending = true;
        self.place.end_profiles(&mut self.run.records)?;
        // Clients first, so that the server sees every answer taken or refused.
        self.run.programs.tell_clients(&ClientCommand::Stop {}).await?;
        self.wait_until(|it| it.all_clients(|books, client| books.is_closed(client))).await?;
        self.run.programs.tell_server(&ServerCommand::Stop {}).await?;
        self.wait_until(|it| {
            it.run.records.books.is_server_closed() || !it.place.is_expected(Who::Server)
        })
        .await?;
        self.wait_until(|it| it.place.faults_are_over()).await?;
        self.place.record_last_faults(&mut self.run)?;
        for (who, what) in self.unreadable.rest() {
            self.run.records.warn(&who.to_string(), &what)?;
        }
        self.complete_rest()?;
        self.record_profiles().await?;
        let records = &mut self.run.records;
        let books = records.books.to_json(self.run.programs.clients());
        records.event("books", books)?;
        let fields = json!({ "outcome": ending.outcome(), "because": ending.because() });
        records.event("ended", fields)?;
        records.flush()?;
        self.run.programs.end();
        self.place.finish();
        self.wait_until(|it| it.place.is_finished()).await?;
        self.complete_rest()?;
        self.place.record_rest(&mut self.run)?;
        let bound = self.bounded(self.stalls.patience(Instant::now() + PATIENCE));
        let failed = tokio::select! {
            biased;
            failed = self.run.programs.wait(bound) => Some(failed?),
            // They are killed right after.
            () = self.interrupts.next() => None,
        };
        if failed.is_none() {
            self.give_up()?;
        }
        for status in failed.unwrap_or_default() {
            self.run.records.say(&format!("a program ended with {status}"));
        }
        self.run.records.close(ending);
        let unwritten = self.wait_until_written().await?;
        if unwritten.is_some() {
            // Hosts must not forget what is nowhere else.
            return Ok(unwritten);
        }
        let bound = self.bounded(self.stalls.patience(Instant::now() + PATIENCE));
        tokio::select! {
            biased;
            forgotten = self.place.forget(&mut self.run.records) => forgotten?,
            // Hosts keep files of what is merged, until they are as old as that may be.
            () = self.interrupts.next() => {}
            () = tokio::time::sleep_until(bound) => {}
        }
        Ok(None)
    }

    /// The profiles, as far as they come before an interrupt and their time is over.
    async fn record_profiles(&mut self) -> anyhow::Result<()> {
        let bound = self.bounded(self.stalls.patience(Instant::now() + PROFILES));
        let interrupted = tokio::select! {
            // What needs no wait is done, however late it is.
            biased;
            recorded = self.place.record_profiles(&mut self.run.records) => {
                recorded?;
                None
            }
            () = self.interrupts.next() => Some(true),
            () = tokio::time::sleep_until(bound) => Some(false),
        };
        if let Some(interrupted) = interrupted {
            self.run.records.warn("lab", "the profiles are not complete")?;
            if interrupted {
                self.give_up()?;
            }
        }
        Ok(())
    }

    /// The end of a wait: that of the ending as a whole, where that comes before its own.
    pub(crate) fn bounded(&self, own: Patience) -> Instant {
        let own = self.stalls.end_of(own);
        self.ends.map_or(own, |all| own.min(self.stalls.end_of(all)))
    }

    /// A person does not want to wait: from here on the ending waits for nothing.
    fn give_up(&mut self) -> anyhow::Result<()> {
        self.ends = Some(self.stalls.patience(Instant::now()));
        let what = "interrupted again: nothing is waited for any more, and the books may not be \
                    complete";
        self.run.records.warn("lab", what)
    }

    /// Waits until all is on disk. A person may make room meanwhile, or give it up: then it is
    /// tried once more. Returns what is not on disk.
    async fn wait_until_written(&mut self) -> anyhow::Result<Option<Unwritten>> {
        let bound = self.bounded(self.stalls.patience(Instant::now() + PATIENCE));
        let (mut told, mut given_up) = (false, false);
        while let Some(why) = self.unwritten()? {
            let left = bound.saturating_duration_since(Instant::now());
            if given_up || left == Duration::ZERO {
                let what = self.what_is_where(&why);
                return Ok(Some(Unwritten { what, given_up }));
            }
            if !told {
                told = true;
                self.run.records.say(&format!(
                    "{why}; this waits up to {} s for room, or for another interrupt",
                    left.as_secs().max(1)
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.interrupts.next() => given_up = true,
            }
        }
        // That there is room again is an event, too.
        let why = self.unwritten()?;
        Ok(why.map(|why| Unwritten { what: self.what_is_where(&why), given_up }))
    }

    /// Why not all is on disk, after trying that.
    fn unwritten(&mut self) -> anyhow::Result<Option<String>> {
        let whole = self.place.flush(&mut self.run.records)?;
        self.run.records.flush()?;
        let files = &mut self.run.records.files;
        Ok(match files.check_written() {
            Err(error) => Some(format!("{:#}", anyhow::Error::from(error))),
            Ok(()) if whole => None,
            Ok(()) => {
                let directory = files.directory().display();
                Some(format!("{directory}/truth.jsonl: not all of it could be written"))
            }
        })
    }

    /// What of the record is on disk and what is not, for a person.
    fn what_is_where(&self, why: &str) -> String {
        let files = &self.run.records.files;
        let mut missing = files.in_memory().join(", ");
        if missing.is_empty() {
            missing = "the end of truth.jsonl".to_owned();
        }
        let rest = self.place.rest_is(files.directory());
        format!("{why}; what came before is there, and missing is {missing}: {rest}")
    }

    /// Records what comes until something is so, or patience ends.
    async fn wait_until(&mut self, so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let patience = self.stalls.patience(Instant::now() + PATIENCE);
        while !so(self) {
            let deadline = self.bounded(patience);
            match self.next(deadline.min(Instant::now() + LOOK)).await? {
                PhaseEvent::Interrupt => return self.give_up(),
                PhaseEvent::Deadline if Instant::now() >= self.bounded(patience) => {
                    let what = "a program does not end: the books are not complete";
                    return self.run.records.warn("lab", what);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
