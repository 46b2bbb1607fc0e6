//! Commands, checked and carried out.

use platform::{LAST_SECOND, NANOS_PER_SECOND, monotonic_ns};
use service::{Command, Done, LATEST_START_S, MAX_AMOUNT, MAX_PACKET_RATE};
use wire::{MAX_PUSH_PAYLOAD, MAX_RECIPIENTS};

use crate::generator::{GeneratorSpec, PacketKind};
use crate::message::{Message, PushSpec};
use crate::packets::{Draft, NO_CREATOR};
use crate::panel::error::CommandError;
use crate::panel::hub::Hub;

fn invalid<T>(why: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::Invalid(why.into()))
}

impl Hub {
    /// Checks a command and carries it out.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was done then, except that of a broadcast some shards may know.
    pub fn execute(&self, command: Command) -> Result<Done, CommandError> {
        match command {
            Command::StartGenerator { rate, total, users, seed, from, until } => {
                let kind = match users {
                    None => PacketKind::Shaken,
                    Some((first, end)) => sent_to(self, first, end)?,
                };
                if rate == 0 || rate > MAX_PACKET_RATE {
                    return invalid(format!("rate {rate}: between 1 and {MAX_PACKET_RATE}"));
                }
                let from_ns = begin_of(self, from)?;
                let until_ns = start_of(self, "until", until)?;
                self.begin_generator(rate, |id| {
                    let seed = seed.unwrap_or(self.seed() ^ id);
                    GeneratorSpec { id, kind, rate, total, seed, from_ns, until_ns }
                })
            }
            Command::StopGenerator { id } => {
                self.post(0, Message::StopGenerator(id))?;
                Ok(Done::default())
            }
            Command::SendPacket { amount, count, recipients } => {
                send_packet(self, amount, count, recipients)
            }
            Command::StartPushes { bytes, every_s, from, until } => {
                start_pushes(self, bytes, every_s, [from, until])
            }
            Command::StopPushes {} => self.post_all(|| Message::Push(None)),
            Command::Overload { limit } => {
                self.set_overload(limit);
                Ok(Done::default())
            }
            Command::Slow(order) => {
                self.slow_orders().admit(&order, monotonic_ns())?;
                // One that reached some of the shards counts as well, until its end.
                self.post_all(|| Message::Slow(Box::new(order)))
            }
            Command::EndSlow { id, until_ns } => {
                self.slow_orders().end_at(id, until_ns);
                self.post_all(|| Message::EndSlow { id, until_ns })
            }
            Command::Stop {} => self.post_all(|| Message::Stop),
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

/// The instant at which something is to begin, if one is given: not long ago, for all that has been
/// due since then would be due at once.
fn begin_of(hub: &Hub, from: Option<u64>) -> Result<Option<u64>, CommandError> {
    let now = hub.unix_second();
    if let Some(from) = from.filter(|from| from.saturating_add(LATEST_START_S) < now) {
        return invalid(format!("from {from}: a Unix second that is over; it is {now} now"));
    }
    start_of(hub, "from", from)
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
    if amount > MAX_AMOUNT {
        return invalid(format!("amount {amount}: at most {MAX_AMOUNT} cents"));
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
    let from_ns = begin_of(hub, from)?;
    let until_ns = start_of(hub, "until", until)?;
    let spec = PushSpec { bytes, every_ns, from_ns, until_ns };
    hub.post_all(|| Message::Push(Some(spec)))
}
