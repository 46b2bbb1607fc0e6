//! What a person may tell a run to do, as the articles did over HTTP. Must not know: how commands
//! travel.

use serde::{Deserialize, Serialize};
use service::{Command as ServerCommand, MAX_PACKET_RATE};

/// The highest rate that can be set, in shakes a second: beyond what one run has ever carried by
/// far, and small enough for every counter.
const MAX_RATE: u32 = 10_000_000;

/// A command to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RunCommand {
    /// Change the rate of the open load from the next second on.
    Rate {
        /// Shakes per second, over all clients.
        qps: u32,
    },
    /// Start a generator of red packets.
    StartGenerator {
        /// Packets per second.
        rate: u32,
        /// How many in all; as long as the run lasts without it.
        #[serde(default)]
        total: Option<u64>,
        /// With users `[first, end)`: packets sent to three of them instead of packets to be
        /// shaken.
        #[serde(default)]
        users: Option<(u32, u32)>,
    },
    /// Stop all generators.
    StopGenerators {},
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
    /// End the phase under way.
    EndPhase {},
}

impl RunCommand {
    /// Compares it with what a run of so many users can do.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn check(&self, users: u32) -> Result<(), String> {
        match self {
            RunCommand::Rate { qps } if *qps == 0 || *qps > MAX_RATE => {
                Err(format!("rate {qps}: between 1 and {MAX_RATE} shakes a second"))
            }
            RunCommand::StartGenerator { rate, .. } if *rate == 0 || *rate > MAX_PACKET_RATE => {
                Err(format!("rate {rate}: between 1 and {MAX_PACKET_RATE} packets a second"))
            }
            RunCommand::StartGenerator { total: Some(0), .. } => {
                Err("total 0: at least 1 packet, or none given for no end".to_owned())
            }
            RunCommand::StartGenerator { users: Some((first, end)), .. }
                if *end > users || end.saturating_sub(*first) < 3 =>
            {
                Err(format!("users {first} to {end}: at least three of the {users} users"))
            }
            RunCommand::SendPacket { amount, count, recipients } => {
                let most = wire::MAX_RECIPIENTS;
                if recipients.is_empty() || recipients.len() > most {
                    return Err(format!("{} recipients: between 1 and {most}", recipients.len()));
                }
                if let Some(user) = recipients.iter().find(|user| **user >= users) {
                    return Err(format!("recipient {user}: users are below {users}"));
                }
                let mut different = recipients.clone();
                different.sort_unstable();
                different.dedup();
                let different = different.len() as u32;
                let count = count.unwrap_or(different);
                if count == 0 || count > different {
                    return Err(format!("{count} shares: between 1 and {different}, one each"));
                }
                if *amount < count {
                    return Err(format!("{amount} cents: at least a cent for each share"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What the server is told, if the command is for the server.
    pub fn for_server(&self) -> Option<ServerCommand> {
        match self.clone() {
            RunCommand::StartGenerator { rate, total, users } => {
                let (seed, from, until) = (None, None, None);
                Some(ServerCommand::StartGenerator { rate, total, users, seed, from, until })
            }
            RunCommand::StopGenerators {} => Some(ServerCommand::StopGenerator { id: None }),
            RunCommand::SendPacket { amount, count, recipients } => {
                Some(ServerCommand::SendPacket { amount, count, recipients })
            }
            RunCommand::Rate { .. } | RunCommand::EndPhase {} => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_checked_before_they_are_sent() {
        let command = |text: &str| serde_json::from_str::<RunCommand>(text).expect("a command");
        for (text, wrong) in [
            (r#"{"rate": {"qps": 60000}}"#, None),
            (r#"{"rate": {"qps": 0}}"#, Some("rate 0")),
            (r#"{"rate": {"qps": 4000000000}}"#, Some("rate 4000000000")),
            (r#"{"start_generator": {"rate": 200, "total": 40000}}"#, None),
            (r#"{"start_generator": {"rate": 0}}"#, Some("rate 0")),
            (r#"{"start_generator": {"rate": 5, "total": 0}}"#, Some("total 0")),
            (r#"{"start_generator": {"rate": 5, "users": [0, 100]}}"#, None),
            (r#"{"start_generator": {"rate": 5, "users": [0, 101]}}"#, Some("users 0 to 101")),
            (r#"{"start_generator": {"rate": 5, "users": [9, 3]}}"#, Some("users 9 to 3")),
            (r#"{"send_packet": {"amount": 300, "recipients": [1, 2, 3]}}"#, None),
            (r#"{"send_packet": {"amount": 2, "recipients": [1, 2, 3]}}"#, Some("2 cents")),
            (r#"{"send_packet": {"amount": 9, "recipients": [100]}}"#, Some("recipient 100")),
            (r#"{"send_packet": {"amount": 9, "recipients": []}}"#, Some("0 recipients")),
            (r#"{"send_packet": {"amount": 9, "count": 2, "recipients": [1]}}"#, Some("2 shares")),
            (r#"{"end_phase": {}}"#, None),
        ] {
            let said = command(text).check(100);
            match wrong {
                None => assert_eq!(said, Ok(()), "{text}"),
                Some(begins) => {
                    let said = said.expect_err(text);
                    assert!(said.starts_with(begins), "{text}: {said}");
                }
            }
        }
        assert!(serde_json::from_str::<RunCommand>(r#"{"stop": {}}"#).is_err());
    }
}
