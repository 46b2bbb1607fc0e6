//! What an agent must know of the lines of server and clients, which it hands on unread.

use std::net::SocketAddrV4;
use std::str::FromStr;

use fleet::agent::{Milestone, PipeProtocol};
use host::program::Who;
use serde::Deserialize;
use serde_json::Value;
use service::{Command as ServerCommand, Line as ServerLine};
use workload::{Command as ClientCommand, Config as ClientConfig, Line as ClientLine};

/// How server and clients are controlled over their pipes.
pub const PIPE_PROTOCOL: PipeProtocol = PipeProtocol { milestone, target, stop_line };

/// Nearly all lines are told apart by how they begin, so that long ones are not parsed.
fn milestone(who: Who, line: &str) -> Option<Milestone> {
    if line.starts_with("{\"ended\"") {
        return Some(Milestone::Ended);
    }
    if !line.starts_with("{\"ready\"") {
        return None;
    }
    match who {
        Who::Server => {
            let ServerLine::Ready(ready) = serde_json::from_str(line).ok()? else { return None };
            let listens = FromStr::from_str(&ready.listen).ok();
            Some(Milestone::Ready { threads: ready.threads, listens })
        }
        Who::Client(_) => {
            let ClientLine::Ready(ready) = serde_json::from_str(line).ok()? else { return None };
            Some(Milestone::Ready { threads: ready.threads, listens: None })
        }
        Who::Hog(_) => None,
    }
}

/// Servers are loaded, and hogs load the machine that they are on.
fn target(who: Who, config: &Value) -> Result<Option<SocketAddrV4>, String> {
    match who {
        Who::Client(_) => match ClientConfig::deserialize(config) {
            Ok(config) => Ok(Some(config.server)),
            Err(error) => Err(format!("{who}: no configuration of a client: {error}")),
        },
        // It would write wherever a message says.
        Who::Server if !config["ledger"].is_null() => {
            Err("the server: agents keep no durable ledger".to_owned())
        }
        Who::Server | Who::Hog(_) => Ok(None),
    }
}

fn stop_line(who: Who) -> Option<String> {
    match who {
        Who::Server => serde_json::to_string(&ServerCommand::Stop {}).ok(),
        Who::Client(_) => serde_json::to_string(&ClientCommand::Stop {}).ok(),
        Who::Hog(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_starts_no_server_that_writes_where_a_message_says() {
        let server = json!(service::Config::default());
        assert_eq!(target(Who::Server, &server), Ok(None));
        let mut writing = server;
        writing["ledger"] = json!("/etc");
        let refused = target(Who::Server, &writing).expect_err("it would write there");
        assert!(refused.contains("durable ledger"), "{refused}");
    }
}
