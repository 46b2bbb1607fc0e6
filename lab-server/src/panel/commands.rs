//! What can be asked of a server. The same commands come over HTTP and as lines of JSON over a
//! pipe.

use platform::{LAST_SECOND, NANOS_PER_SECOND, SlowOrder};
use serde::{Deserialize, Serialize};
use wire::{MAX_PUSH_PAYLOAD, MAX_RECIPIENTS};

use crate::generator::{GeneratorSpec, PacketKind};
use crate::message::{Message, PushSpec};
use crate::packets::{Draft, NO_CREATOR};
use crate::panel::error::{CommandError, Done};
use crate::panel::hub::Hub;

/// The most packets a second that a generator makes: beyond that, spreading them over the SETs one
/// by one would take a core.
pub const MAX_PACKET_RATE: u32 = 1_000_000;

/// A command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Start a generator of red packets.
    StartGenerator {
        /// Packets per second.
        rate: u32,
        /// How many in all; no end without it.
        #[serde(default)]
        total: Option<u64>,
        /// With users `[first, end)`: packets sent to three of them instead of packets to be
        /// shaken.
        #[serde(default)]
        users: Option<(u32, u32)>,
        /// What the amounts come from; the server's seed and the generator's number without it.
        #[serde(default)]
        seed: Option<u64>,
        /// The Unix second at which the first packet is due; at once without it.
        #[serde(default)]
        from: Option<u64>,
        /// Exclusive end, a Unix second; no end without it.
        #[serde(default)]
        until: Option<u64>,
    },
    /// Stop a generator, or all of them.
    StopGenerator {
        /// Which one; all without it.
        #[serde(default)]
        id: Option<u64>,
    },
    /// Send a packet to named users.
    SendPacket {
        /// Cents.
        amount: u32,
        /// Into how many shares it is split; one a recipient without it.
        #[serde(default)]
        count: Option<u32>,
        /// Who may claim a share.
        recipients: Vec<u32>,
    },
    /// Push a payload to every connection once in every interval.
    StartPushes {
        /// Bytes of payload.
        bytes: u32,
        /// The interval in seconds.
        every_s: f64,
        /// The Unix second at which the first interval begins; at once without it.
        #[serde(default)]
        from: Option<u64>,
        /// Exclusive end, a Unix second; goes on without it.
        #[serde(default)]
        until: Option<u64>,
    },
    /// Stop pushing.
    StopPushes {},
    /// Change the limit of shakes per second; none without a limit.
    Overload {
        /// Shakes per second.
        #[serde(default)]
        limit: Option<u64>,
    },
    /// Spend time on a share of the shakes: a fault on purpose.
    Slow(SlowOrder),
    /// End that at an instant of the monotonic clock at the latest.
    EndSlow {
        /// The order's own number.
        id: u32,
        /// The instant in nanoseconds.
        until_ns: u64,
    },
    /// Stop accepting, answer what was read, write the last counters, and end.
    Stop {},
}

fn invalid<T>(why: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::Invalid(why.into()))
}

impl Command {
    /// A generator that starts at once and never ends.
    pub fn generator(rate: u32) -> Self {
        let (total, users, seed, from, until) = (None, None, None, None, None);
        Command::StartGenerator { rate, total, users, seed, from, until }
    }

    /// Checks a command and carries it out.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was done then, except that of a broadcast some shards may know.
    pub fn carry_out(self, hub: &Hub) -> Result<Done, CommandError> {
        match self {
            Command::StartGenerator { rate, total, users, seed, from, until } => {
                let id = hub.new_generator_id();
                let kind = match users {
                    None => PacketKind::Shaken,
                    Some((first, end)) => sent_to(hub, first, end)?,
                };
                if rate == 0 || rate > MAX_PACKET_RATE {
                    return invalid(format!("rate {rate}: between 1 and {MAX_PACKET_RATE}"));
                }
                let seed = seed.unwrap_or(hub.seed() ^ id);
                let from_ns = start_of(hub, "from", from)?;
                let until_ns = start_of(hub, "until", until)?;
                let spec = GeneratorSpec { id, kind, rate, total, seed, from_ns, until_ns };
                hub.post(0, Message::Start(spec))?;
                Ok(Done { generator: Some(id) })
            }
            Command::StopGenerator { id } => {
                hub.post(0, Message::StopGenerator(id))?;
                Ok(Done::default())
            }
            Command::SendPacket { amount, count, recipients } => {
                send_packet(hub, amount, count, recipients)
            }
            Command::StartPushes { bytes, every_s, from, until } => {
                start_pushes(hub, bytes, every_s, [from, until])
            }
            Command::StopPushes {} => hub.post_all(|| Message::Push(None)),
            Command::Overload { limit } => {
                hub.set_overload(limit);
                Ok(Done::default())
            }
            Command::Slow(order) => hub.post_all(|| Message::Slow(Box::new(order))),
            Command::EndSlow { id, until_ns } => hub.post_all(|| Message::EndSlow { id, until_ns }),
            Command::Stop {} => hub.post_all(|| Message::Stop),
        }
    }
}

/// The instant at which a Unix second begins, if one is given.
fn start_of(hub: &Hub, what: &str, second: Option<u64>) -> Result<Option<u64>, CommandError> {
    if let Some(second) = second.filter(|second| *second > LAST_SECOND) {
        return invalid(format!("{what} {second}: a Unix second, at most {LAST_SECOND}"));
    }
    Ok(second.map(|second| hub.start_of(second)))
}

fn sent_to(hub: &Hub, first: u32, end: u32) -> Result<PacketKind, CommandError> {
    if first >= end || end > hub.users() {
        let users = hub.users();
        return invalid(format!("users {first}..{end}: an ascending range within 0..{users}"));
    }
    if end - first < 3 {
        return invalid(format!("users {first}..{end}: a sent packet names three different users"));
    }
    Ok(PacketKind::Sent { first_user: first, end_user: end })
}

fn send_packet(
    hub: &Hub,
    amount: u32,
    count: Option<u32>,
    recipients: Vec<u32>,
) -> Result<Done, CommandError> {
    if recipients.is_empty() || recipients.len() > MAX_RECIPIENTS {
        let named = recipients.len();
        return invalid(format!("{named} recipients: between 1 and {MAX_RECIPIENTS}"));
    }
    if let Some(user) = recipients.iter().find(|user| **user >= hub.users()) {
        return invalid(format!("recipient {user}: users are below {}", hub.users()));
    }
    let mut different = recipients.clone();
    different.sort_unstable();
    different.dedup();
    let most = u32::try_from(different.len()).unwrap_or(u32::MAX);
    let count = count.unwrap_or(most);
    if count == 0 || count > most {
        return invalid(format!("count {count}: between 1 and the {most} different recipients"));
    }
    if amount < count {
        return invalid(format!("amount {amount}: at least a cent for each of {count} shares"));
    }
    let draft = Draft { amount, count, recipients, creator: NO_CREATOR, set: 0 };
    hub.post(hub.next_shard(), Message::Send(Box::new(draft)))?;
    Ok(Done::default())
}

fn start_pushes(
    hub: &Hub,
    bytes: u32,
    every_s: f64,
    [from, until]: [Option<u64>; 2],
) -> Result<Done, CommandError> {
    if bytes as usize > MAX_PUSH_PAYLOAD {
        return invalid(format!("bytes {bytes}: at most {MAX_PUSH_PAYLOAD}"));
    }
    if !(0.001..=86_400.0).contains(&every_s) {
        return invalid(format!("every_s {every_s}: between 0.001 and 86400 seconds"));
    }
    let every_ns = (every_s * NANOS_PER_SECOND as f64) as u64;
    let from_ns = start_of(hub, "from", from)?;
    let until_ns = start_of(hub, "until", until)?;
    let spec = PushSpec { bytes, every_ns, from_ns, until_ns };
    hub.post_all(|| Message::Push(Some(spec)))
}
