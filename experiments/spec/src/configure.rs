//! From an experiment to what the programs are told: configurations, phases, commands.

use std::net::SocketAddrV4;
use std::time::Duration;

use service::{Command as ServerCommand, Config as ServerConfig};
use workload::{Chat, Config as ClientConfig, Connect, Creates, Load, Phase};

use crate::experiment::Experiment;
use crate::hosts::Hosts;
use crate::phase::{ConnectUsers, PhaseSpec, SentBy, Shake};
use crate::places::{SERVER_ADDRESS, group_of, users_of_client};
use crate::values::{Count, PerSecond, Period, Seconds, Users, WholePerSecond};

fn counted(count: Option<Count>) -> Option<usize> {
    count.map(|count| count.get() as usize)
}

fn duration(period: Period) -> Duration {
    Duration::from_secs_f64(period.get())
}

/// The server of an experiment on one machine; it listens on any free port of 127.0.0.1, or of its
/// address on the links between namespaces.
pub fn server_config(experiment: &Experiment) -> ServerConfig {
    let server = &experiment.server;
    let address = match experiment.hosts {
        Hosts::Namespaces(_) => SERVER_ADDRESS,
        Hosts::Local | Hosts::Fleet { .. } => std::net::Ipv4Addr::LOCALHOST,
    };
    ServerConfig {
        listen: SocketAddrV4::new(address, 0),
        users: server.users.unwrap_or(experiment.users).get(),
        shards: counted(server.shards),
        cpus: server.cpus.clone(),
        sets: server.sets.get() as usize,
        overload: server.overload,
        notices: server.notices,
        packet_life: duration(server.packet_life_s),
        queue_bound: server.queue.get() as usize,
        seed: experiment.seed,
        steering: server.steering,
        ledger: server.ledger.clone(),
        // An audit of a run looks at every grant.
        ledger_history: server.ledger.is_some(),
        congestion: experiment.network.congestion.clone(),
        ..ServerConfig::default()
    }
}

/// One of the client processes of an experiment on one machine.
pub fn client_config(experiment: &Experiment, process: u32) -> ClientConfig {
    let client = &experiment.client;
    let users = experiment.users.get();
    let (first_user, end_user) = users_of_client(experiment, process);
    // A namespace is a machine of its own: addresses and ports are those of its users alone.
    let group = group_of(experiment, process).map(|(_, group)| group);
    let (first_flow, flows, sources) = match group {
        Some(group) => {
            (group.users.start, group.users.end - group.users.start, Some(group.sources))
        }
        None => (0, users, client.sources.clone()),
    };
    ClientConfig {
        total_users: users,
        first_user,
        end_user,
        first_flow,
        flows,
        shards: counted(client.shards),
        cpus: client.cpus.clone(),
        sources,
        seed: experiment.seed,
        notices: experiment.server.notices,
        timeout: duration(client.timeout_s),
        late: Duration::from_micros(u64::from(experiment.validity.late_us)),
        own_commands: client.own_commands.unwrap_or_else(|| needs_own_commands(experiment)),
        timer_slack: Duration::from_micros(u64::from(client.timer_slack_us)),
        congestion: experiment.network.congestion.clone(),
        reconnect: client.reconnect,
        slow_kept: client.slow_kept as usize,
        ..ClientConfig::default()
    }
}

/// Whether a phase does what the prototype's protocol cannot.
fn needs_own_commands(experiment: &Experiment) -> bool {
    experiment.phases.iter().any(|phase| {
        let by_users = phase.sends.is_some_and(|sends| sends.by == SentBy::Users);
        phase.push.is_some() || phase.chat.is_some() || by_users
    })
}

/// How many users are to be logged in in a phase, those of earlier phases included.
pub fn users_connected(experiment: &Experiment, phase: &PhaseSpec) -> Option<u32> {
    phase.connect.map(|connect| match connect.users {
        ConnectUsers::All => experiment.users.get(),
        ConnectUsers::First(users) => users.get().min(experiment.users.get()),
    })
}

/// A phase as clients are told it.
pub fn client_phase(experiment: &Experiment, spec: &PhaseSpec, index: u16, start: u64) -> Phase {
    let by_users = spec.sends.filter(|sends| sends.by == SentBy::Users);
    Phase {
        index,
        name: spec.name.to_string(),
        start,
        seconds: spec.seconds.map(Seconds::get),
        load: match spec.shake {
            None => Load::None,
            Some(Shake::Open { rate, pacing }) => Load::Open { rate, pacing },
            Some(Shake::Closed { in_flight }) => Load::Closed { in_flight },
        },
        connect: users_connected(experiment, spec).map(|users| Connect {
            users,
            rate: spec.connect.and_then(|connect| connect.rate).map(PerSecond::get),
        }),
        chat: spec.chat.map(|chat| Chat { rate: chat.rate.get(), bytes: chat.bytes }),
        creates: by_users.map(|sends| Creates { rate: f64::from(sends.rate.get()) }),
    }
}

/// What the server is told before a phase that starts at `start` and, if that is known, ends before
/// `end`.
pub fn server_commands(
    experiment: &Experiment,
    spec: &PhaseSpec,
    index: u16,
    start: u64,
    end: Option<u64>,
) -> Vec<ServerCommand> {
    let mut commands = Vec::new();
    let seed = |what: u64| Some(experiment.seed ^ (u64::from(index) << 8) ^ what);
    let mut generator = |rate: WholePerSecond, total, users, what| {
        commands.push(ServerCommand::StartGenerator {
            rate: rate.get(),
            total,
            users,
            seed: seed(what),
            from: Some(start),
            until: end,
        });
    };
    if let Some(packets) = spec.packets {
        generator(packets.rate, packets.total, None, 1);
    }
    if let Some(sends) = spec.sends.filter(|sends| sends.by == SentBy::Server) {
        generator(sends.rate, sends.total, Some((0, experiment.users.get())), 2);
    }
    if let Some(push) = spec.push {
        commands.push(ServerCommand::StartPushes {
            bytes: push.bytes,
            every_s: push.every_s.get(),
            from: Some(start),
            until: end,
        });
    }
    commands
}

/// What the server is told after a phase, unless it knew from the start when the phase ends.
pub fn server_commands_after(spec: &PhaseSpec, end_was_known: bool) -> Vec<ServerCommand> {
    let mut commands = Vec::new();
    if end_was_known {
        return commands;
    }
    if spec.packets.is_some() || spec.sends.is_some() {
        commands.push(ServerCommand::StopGenerator { id: None });
    }
    if spec.push.is_some() {
        commands.push(ServerCommand::StopPushes {});
    }
    commands
}

/// The shakes that a phase of known length offers; `None` for closed loads and open ends.
pub fn shakes_offered(spec: &PhaseSpec, users: Users) -> Option<u64> {
    let seconds = spec.seconds?.get();
    match spec.shake? {
        Shake::Open { rate, pacing: workload::Pacing::Prototype } => {
            let each = |second| {
                let rate = rate.at(second);
                let round = workload::Schedule::round_seconds(users.get(), rate);
                if rate == 0 { 0 } else { u64::from(users.get()) / u64::from(round) }
            };
            Some((0..seconds).map(each).sum())
        }
        Shake::Open { rate, .. } => Some(rate.total(seconds)),
        Shake::Closed { .. } => None,
    }
}
