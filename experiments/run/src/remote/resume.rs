//! A run on a fleet that is taken over: its coordinator is gone, or hosts still have something of a
//! run that is over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::Client;
use fleet::Leader;
use fleet::link::{HostNews, Nats, question};
use fleet::protocol::{Answer, Ask};
use interrupts::{Interrupted, Interrupts};
use record::{DirectoryLock, Files, Manifest, Seconds};
use serde_json::json;
use spec::Source;
use spec::UsageError;
use tokio::time::Instant;

use super::assemble::{Parts, assemble};
use super::checkpoint::Checkpoint;
use super::fleet::Fleet;
use super::roster::Roster;
use super::start::chance;
use super::state::HostState;
use crate::books::Books;
use crate::coordinator::Coordinator;
use crate::leadership::this_process;
use crate::messages::Message;
use crate::options::Options;
use crate::run_control::RunControl;

/// A coordinator that takes over asks a host for so long: the old one must be silent for a while.
const RESUME: Duration = Duration::from_secs(8);

/// Others may take the run over at the same time so often.
const OVERTAKES: usize = 8;

/// Between two attempts to ask.
const AGAIN: Duration = Duration::from_millis(200);

/// Takes a run over whose coordinator is gone, or merges what hosts still have of one that is over.
///
/// # Errors
/// [`UsageError`], or what keeps the files of the run from being read and written.
pub(crate) async fn resume(
    directory: PathBuf,
    options: Options,
) -> anyhow::Result<Coordinator<Fleet>> {
    let fleet = options.fleet.unwrap_or_default();
    // Before anything is read that another one may write.
    std::fs::metadata(&directory)
        .map_err(|error| UsageError::error(format!("{}: {error}", directory.display())))?;
    let who = this_process();
    let lock = DirectoryLock::take(&directory, &who).map_err(UsageError::of)?;
    let roster = Roster::read(&directory)?;
    let mut checkpoint = Checkpoint::read(&directory)?;
    let text = record::read_whole(&directory, "manifest.json")?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| UsageError::error(format!("manifest.json: {error}")))?;
    let mut control = RunControl::bind(options.live, &options.live_hosts)?;
    let mut access = fleet.access;
    access.nats.get_or_insert_with(|| roster.nats.clone());
    let client = access.connect("lab run --resume").await?;
    let context = access.jetstream(&client).await?;
    let mut leader = Leader { epoch: checkpoint.epoch.next(chance()?), who };
    // Up to here an interrupt ended this process.
    let mut interrupts = Interrupts::listen()?;
    let (hosts, gone) = tokio::select! {
        known = ask_hosts(&client, &roster, &checkpoint, &mut leader) => known?,
        // Hosts that follow this coordinator already follow the next one as well.
        () = interrupts.next() => return Err(Interrupted.into()),
    };
    let source = Source {
        file: PathBuf::from(&manifest.file),
        text: manifest.text.clone(),
        experiment: manifest.experiment.clone(),
    };
    let phases = source.experiment.ordered_phases()?;
    let (lengths, known) = (checkpoint.lengths, std::mem::take(&mut checkpoint.phases));
    let files = Files::restore(lock, "coordinator", manifest.started, lengths, known)?;
    let notices = control.open(&directory)?;
    let mut coordinator = assemble(Parts {
        source,
        phases,
        files,
        manifest,
        control,
        interrupts,
        nats: Nats { client, context },
        epoch: leader.epoch,
        roster,
        orders: checkpoint.orders(&hosts),
        hosts,
        place: checkpoint.place,
    })?;
    let Checkpoint { position, ending, lookups, books, open, newest, complete_until, .. } =
        checkpoint;
    let place = &mut coordinator.place;
    (place.position, place.ending, place.lookups) = (position, ending, lookups);
    let records = &mut coordinator.run.records;
    records.books = Books::restore(books)?;
    records.seconds = Seconds::restore(open, newest, complete_until);
    notices.iter().for_each(|line| records.say(line));
    records.event("resumed", json!({}))?;
    for (host, why) in gone {
        coordinator.on_message(Message::Place(HostNews::Gone(host, why.to_owned())))?;
    }
    Ok(coordinator)
}

/// Hosts that do not work for a run any more, and why.
type Gone = Vec<(String, &'static str)>;

/// What is known of each host of a run, and which do not work for it any more.
type Known = (BTreeMap<String, HostState>, Gone);

/// Asks all hosts what they have of a run, and to follow this coordinator. Where one follows a
/// later epoch, this coordinator comes after that, and asks all again.
async fn ask_hosts(
    client: &Client,
    roster: &Roster,
    checkpoint: &Checkpoint,
    leader: &mut Leader,
) -> anyhow::Result<Known> {
    for _ in 0..OVERTAKES {
        match ask_hosts_once(client, roster, checkpoint, leader).await? {
            Ok(known) => return Ok(known),
            Err(later) => leader.epoch = later.epoch.next(chance()?),
        }
    }
    Err(UsageError::error(format!("others take run {} over at the same time", roster.run)))
}

/// The same once; the inner error is who leads after this coordinator.
async fn ask_hosts_once(
    client: &Client,
    roster: &Roster,
    checkpoint: &Checkpoint,
    leader: &Leader,
) -> anyhow::Result<Result<Known, Leader>> {
    let (mut hosts, mut gone) = (BTreeMap::new(), Vec::new());
    for name in roster.hosts.keys() {
        let known = checkpoint.hosts.get(name).cloned().unwrap_or_default();
        let mut state = known.restore();
        let (run, leader) = (roster.run.clone(), leader.clone());
        let ask = Ask::Resume { run, leader, merged: state.merged };
        let why = match ask_again(client, name, &ask).await {
            Some(Answer::Kept { working: true, done, .. }) => {
                state.carried_out = done;
                None
            }
            Some(Answer::Kept { written, .. }) => {
                state.kept = Some(written);
                Some("its agent has ended the run by itself")
            }
            Some(Answer::StillLed { why }) => return Err(UsageError::error(why)),
            Some(Answer::TakenOver { leader }) => return Ok(Err(leader)),
            Some(_) => Some("it has nothing of the run any more"),
            None => Some("it does not answer"),
        };
        // All of a host that has finished was merged before.
        gone.extend(why.filter(|_| !state.has_finished()).map(|why| (name.clone(), why)));
        hosts.insert(name.clone(), state);
    }
    Ok(Ok((hosts, gone)))
}

async fn ask_again(client: &Client, host: &str, ask: &Ask) -> Option<Answer> {
    let deadline = Instant::now() + RESUME;
    loop {
        let answer = question(client, host, ask).await;
        // Another coordinator was heard a moment ago: it may be gone.
        let again = matches!(answer, None | Some(Answer::StillLed { .. }));
        if !again || Instant::now() >= deadline {
            return answer;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
