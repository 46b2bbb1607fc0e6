//! Where the programs of a run are: on this machine or on the hosts of a fleet. A run has one
//! place, chosen when it starts.
//!
//! Owns: the interface between the coordinator and a place. Must not know: either of the two.

use std::fmt::Debug;
use std::path::Path;
use std::process::ExitStatus;

use attribution::{Sampled, SlowRequest};
use host::program::Who;
use platform::Spins;
use serde::{Deserialize, Serialize};
use spec::PhaseSpec;

use crate::events::PhaseEvent;
use crate::outcome::Ending;
use crate::programs::Programs;
use crate::records::Records;
use crate::schedule::{PhaseUnderWay, Schedule};
use crate::waiting::Missed;

/// A run, wherever its programs are: what a place may look at and write to.
pub(crate) struct Run {
    pub(crate) schedule: Schedule,
    pub(crate) records: Records,
    pub(crate) programs: Programs,
    /// Programs were told to end, or are about to be.
    pub(crate) ending: bool,
}

/// Where in its phases a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    #[serde(flatten)]
    pub(crate) phase: PhaseUnderWay,
    /// Whether all commands for the phase were given.
    pub(crate) begun: bool,
}

/// Where a coordinator starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartsAt {
    /// With the first phase.
    FirstPhase,
    /// Where an earlier coordinator was.
    Within(Position),
}

/// What the coordinator asks of the place where the programs are.
pub(crate) trait Place {
    /// What a place tells the coordinator, beside the lines of programs.
    type News: Debug + Send + 'static;

    /// The host of a program, when it is not the one that records.
    fn host_of(&self, who: Who) -> Option<&str>;

    /// Whether a client's monotonic clock is that of the server.
    fn shares_clock_with_server(&self, client: u32) -> bool;

    /// Whether a program may be expected to say anything.
    fn is_expected(&self, who: Who) -> bool;

    /// Whether messages have begun that belong together, and the last of them is yet to come.
    fn is_in_batch(&self) -> bool;

    /// Takes in news of its own.
    fn on_news(&mut self, news: Self::News, run: &mut Run) -> anyhow::Result<Option<PhaseEvent>>;

    /// The server or a client has ended: its process and how, where that is known.
    fn on_program_ended(
        &mut self,
        who: Who,
        ended: Option<(u32, ExitStatus)>,
        run: &mut Run,
    ) -> anyhow::Result<Option<PhaseEvent>>;

    /// Requests were delayed on purpose, by a shard of a client or of the server.
    fn on_spins(&mut self, client: Option<u32>, shard: usize, spins: &Spins) -> anyhow::Result<()>;

    /// A client tells of slow requests.
    fn on_slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
        run: &mut Run,
    ) -> anyhow::Result<()>;

    /// A client tells of a sample of requests of which its kernel saw one end.
    fn on_sampled(&mut self, t: u64, client: u32, requests: &[Sampled], schedule: &Schedule);

    /// Records the second `t` that has ended; `now` is the second that has begun. What need not be
    /// done at its turn, when shards have a second to close as well, is left for [`Self::piece`].
    fn tick(&mut self, t: u64, now: u64, run: &mut Run) -> anyhow::Result<()>;

    /// Does a piece of what the last tick has left. Returns whether there is another one.
    fn piece(&mut self, run: &mut Run) -> anyhow::Result<bool>;

    /// This process stood still for so long, and has not done anything since.
    ///
    /// # Errors
    /// [`TakenOver`](crate::TakenOver) when the run is led by another one now.
    async fn on_stall(&mut self, missed: Missed, schedule: &mut Schedule) -> anyhow::Result<()>;

    /// How the run ends, when an earlier coordinator knew that.
    fn known_ending(&self) -> Option<Ending>;

    /// Where this coordinator starts.
    fn starts_at(&self) -> StartsAt;

    /// Commands that may have been given before were given again: new ones get later numbers.
    fn skip_repeated_commands(&self);

    /// The run stands there now, or will: a coordinator that takes over goes on from there.
    fn mark(&mut self, position: Position, run: &mut Run) -> anyhow::Result<()>;

    /// The run ends, and how.
    fn mark_ending(&mut self, ending: &Ending, run: &mut Run) -> anyhow::Result<()>;

    /// Brings about the faults of a phase that begins.
    async fn begin_faults(
        &mut self,
        spec: &PhaseSpec,
        phase: PhaseUnderWay,
        run: &mut Run,
    ) -> anyhow::Result<()>;

    /// Ends the faults of a phase before its exclusive end, now that it is known.
    async fn end_faults(&mut self, phase: u16, end: u64, run: &mut Run) -> anyhow::Result<()>;

    /// Whether every fault injector has reported that it ended.
    fn faults_are_over(&self) -> bool;

    /// Records what is known of faults that are not over.
    fn record_last_faults(&mut self, run: &mut Run) -> anyhow::Result<()>;

    /// Hands what it writes beside the records to the system, as far as there is room. Returns
    /// whether nothing waits.
    fn flush(&mut self, records: &mut Records) -> anyhow::Result<bool>;

    /// Asks the server's kernel for its connections, of which there should be so many. The answer
    /// comes as news.
    fn ask_for_connections(&mut self, wanted: u64, programs: &Programs);

    /// Whether the next phase waits for that answer.
    fn awaits_connections(&self) -> bool;

    /// Makes the profile of the last phase, and samples no more.
    fn end_profiles(&mut self, records: &mut Records) -> anyhow::Result<()>;

    /// Waits until all profiles are written, and records them.
    async fn record_profiles(&mut self, records: &mut Records) -> anyhow::Result<()>;

    /// What became of each profile, for a person.
    fn profile_lines(&mut self) -> Vec<String>;

    /// A person interrupts the run: stops all programs where a place has a way of its own. Returns
    /// whether it has; nothing is waited for then.
    fn interrupt(&mut self) -> bool;

    /// Nothing more is asked of the hosts.
    fn finish(&mut self);

    /// Whether nothing more is to come from any host.
    fn is_finished(&self) -> bool;

    /// Records what still waits for something.
    fn record_rest(&mut self, run: &mut Run) -> anyhow::Result<()>;

    /// Everything is recorded: hosts may forget the run.
    async fn forget(&mut self, records: &mut Records) -> anyhow::Result<()>;

    /// What becomes of the part of the record for which a directory had no room, for a person.
    fn rest_is(&self, directory: &Path) -> String;

    /// An error ends the run: hosts are told, if they can be.
    async fn leave(&mut self);
}
