//! A coordinator of a run on a fleet, put together: for a run that begins, and for one that is
//! taken over.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::Arc;

use anyhow::Context;
use fleet::Epoch;
use fleet::link::{FromFleet, HostNews, Link, LinkedHost, Listener, Nats, Orders};
use host::program::Who;
use host::usage::own_cpu_us;
use interrupts::Interrupts;
use record::{Files, Manifest, Seconds};
use spec::{PhaseSpec, Source};

use super::fleet::{Fleet, Stream};
use super::lookups::Lookups;
use super::roster::Roster;
use super::state::HostState;
use crate::coordinator::Coordinator;
use crate::messages::{Message, inbox};
use crate::place::Run;
use crate::programs::{Program, Programs};
use crate::records::Records;
use crate::run_control::RunControl;
use crate::schedule::Schedule;

/// What a coordinator of a run on a fleet is made of.
pub(super) struct Parts {
    pub(super) source: Source,
    pub(super) phases: Vec<PhaseSpec>,
    pub(super) files: Files,
    pub(super) manifest: Manifest,
    pub(super) control: RunControl,
    pub(super) interrupts: Interrupts,
    pub(super) nats: Nats,
    /// Of this coordinator.
    pub(super) epoch: Epoch,
    pub(super) roster: Roster,
    /// What is known of each host.
    pub(super) hosts: BTreeMap<String, HostState>,
    /// What is on its way to each host.
    pub(super) orders: BTreeMap<String, Orders>,
    /// The place in the stream of the last batch that is merged.
    pub(super) place: u64,
}

/// A message of a run on a fleet.
fn message(said: FromFleet) -> Message<HostNews> {
    match said {
        FromFleet::Line(who, line) => Message::of_program(who, Some(&line)),
        FromFleet::Silence(who) => Message::Ended(who),
        FromFleet::Host(news) => Message::Place(news),
    }
}

/// Connects a coordinator with its hosts.
///
/// # Errors
/// An assignment that does not name a host for every client.
pub(super) fn assemble(parts: Parts) -> anyhow::Result<Coordinator<Fleet>> {
    let Parts { source, phases, files, manifest, control, interrupts, .. } = parts;
    let Parts { nats, epoch, roster, hosts, orders, place, .. } = parts;
    let (messages, received) = inbox();
    let listener: Listener = Arc::new(move |said| messages.send(message(said)));
    let linked = roster.hosts.iter().map(|(name, host)| {
        let linked = LinkedHost {
            session: host.session.clone(),
            merged: hosts.get(name).map_or(0, |state| state.merged),
            programs: roster.programs_of(name),
            orders: orders.get(name).cloned().unwrap_or_default(),
        };
        (name.clone(), linked)
    });
    let link = Link::start(nats, (&roster.run, epoch), linked.collect(), place, &listener);
    let assignment = &roster.assignment;
    let server = Program::There { who: Who::Server, orders: link.orders(&assignment.server) };
    let client = |process| {
        let host = assignment.host_of(process).context("a process without a host")?;
        let orders = link.orders(&host.agent);
        anyhow::Ok(Program::There { who: Who::Client(process), orders })
    };
    let clients: anyhow::Result<Vec<Program>> = (0..assignment.processes()).map(client).collect();
    let programs = Programs::new(server, clients?, SocketAddrV4::new(assignment.address, 0));
    let mut records = Records::new(files, manifest, &phases);
    records.seconds = Seconds::of_fleet();
    let schedule = Schedule::new(source.experiment, phases);
    let next_tick = schedule.now() + 1;
    let fleet = Fleet {
        link,
        roster,
        hosts,
        stream: Stream { place, in_batch: false },
        position: None,
        ending: None,
        lookups: Lookups::default(),
        trouble: None,
        cpu_us: own_cpu_us(),
    };
    let run = Run { schedule, records, programs, ending: false };
    Ok(Coordinator::new(fleet, run, control, interrupts, received, next_tick))
}
