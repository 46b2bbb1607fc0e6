//! Who is there: `lab hosts`, and what a run must know of its hosts before anything starts.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;

use crate::access::Access;
use crate::clock::{EXCHANGES, MOST, Offset, measure};
use crate::protocol::{Card, PROTOCOL, Role, WHO};
use spec::UsageError;
use text::{Align, Table, age};

/// No more answers come after so long without one.
const QUIET: Duration = Duration::from_millis(700);

/// Answers are waited for no longer than this.
const LONGEST: Duration = Duration::from_secs(15);

/// Clocks measured at a time: more would wait for each other and look uncertain.
const AT_A_TIME: usize = 16;

/// Arguments of `lab hosts`.
#[derive(Clone, Debug, clap::Args)]
pub struct HostsArgs {
    #[command(flatten)]
    access: Access,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A host, and its clock beside ours.
#[derive(Clone, Debug, Serialize)]
struct Host {
    #[serde(flatten)]
    card: Card,
    /// How far its clock is ahead of this machine's, in nanoseconds; null when it did not answer.
    ahead_ns: Option<i64>,
    /// By how much that may be wrong.
    ahead_error_ns: Option<u64>,
}

/// The cards of all agents of this account.
///
/// # Errors
/// When NATS does not take the question.
pub async fn gather(client: &Client) -> anyhow::Result<Vec<Card>> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(WHO, inbox, bytes::Bytes::new()).await?;
    client.flush().await?;
    let deadline = tokio::time::Instant::now() + LONGEST;
    let mut cards = Vec::new();
    loop {
        let quiet = (tokio::time::Instant::now() + QUIET).min(deadline);
        match tokio::time::timeout_at(quiet, answers.next()).await {
            // What is no card says that there is no agent, or comes from one of another version.
            Ok(Some(message)) => {
                cards.extend(serde_json::from_slice::<Card>(&message.payload).ok());
            }
            Ok(None) | Err(_) => break,
        }
    }
    cards.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(cards)
}

/// Whether these agents can be used together.
///
/// # Errors
/// [`UsageError`]: two of one name, or another version than ours.
pub fn check(cards: &[Card]) -> anyhow::Result<()> {
    for pair in cards.windows(2) {
        let [one, other] = pair else { continue };
        if one.name == other.name {
            return Err(UsageError::error(format!(
                "two agents are named {}, on {} and on {}: end one of them, or give it another \
                 --name",
                one.name, one.machine.host, other.machine.host
            )));
        }
    }
    for card in cards {
        if (card.version.as_str(), card.protocol) != (host::VERSION, PROTOCOL) {
            return Err(UsageError::error(format!(
                "{} is lab {} (protocol {}), and this is lab {} (protocol {PROTOCOL}): install \
                 the same version on all hosts",
                card.name,
                card.version,
                card.protocol,
                host::VERSION
            )));
        }
    }
    Ok(())
}

/// The clocks of agents, by name; those that do not answer are left out.
pub async fn clocks(client: &Client, agents: &[&str]) -> BTreeMap<String, Offset> {
    stream::iter(agents.iter().map(|agent| async move {
        Some(((*agent).to_owned(), measure(client, agent, EXCHANGES).await?))
    }))
    .buffer_unordered(AT_A_TIME)
    .filter_map(|it| async move { it })
    .collect()
    .await
}

/// Whether clocks are near enough to each other.
///
/// # Errors
/// [`UsageError`]: an agent that does not answer, or whose clock is off.
pub fn check_clocks(
    agents: &[&str],
    clocks: &BTreeMap<String, Offset>,
    allow: bool,
) -> anyhow::Result<()> {
    for agent in agents {
        let Some(offset) = clocks.get(*agent) else {
            return Err(UsageError::error(format!(
                "{agent} does not answer when asked for its clock"
            )));
        };
        if !allow && offset.may_exceed(MOST) {
            return Err(UsageError::error(format!(
                "the clock of {agent} is off by {offset}, and {} ms are allowed: let NTP set it, \
                 or give --allow-clock-offset (seconds are agreed on by the measured offset)",
                MOST.as_millis()
            )));
        }
    }
    Ok(())
}

/// Carries out `lab hosts`.
///
/// # Errors
/// [`UsageError`] when NATS cannot be reached.
pub async fn run(args: &HostsArgs) -> anyhow::Result<()> {
    let client = args.access.connect("lab hosts").await?;
    let cards = gather(&client).await?;
    let names: Vec<&str> = cards.iter().map(|card| card.name.as_str()).collect();
    let clocks = clocks(&client, &names).await;
    let hosts: Vec<Host> = cards
        .iter()
        .map(|card| {
            let offset = clocks.get(&card.name);
            Host {
                card: card.clone(),
                ahead_ns: offset.map(|it| it.ahead_ns),
                ahead_error_ns: offset.map(|it| it.error_ns),
            }
        })
        .collect();
    if args.json {
        text::tell!("{}", serde_json::to_string_pretty(&hosts)?);
    } else {
        text::tell_words!(
            "{}",
            table(&hosts, platform::realtime_ns() / platform::NANOS_PER_SECOND)
        );
    }
    Ok(())
}

/// What the doctor found that is not as it should be.
fn findings(card: &Card) -> String {
    let Some(all) = card.findings.as_array() else { return "not asked".to_owned() };
    let of = |state: &str| all.iter().filter(|it| it["state"] == state).count();
    match (of("missing"), of("less")) {
        (0, 0) => "well".to_owned(),
        (missing, less) => format!("{missing} missing, {less} less"),
    }
}

/// The columns of `lab hosts`.
const COLUMNS: [&str; 12] = [
    "name",
    "roles",
    "cpus",
    "memory",
    "kernel",
    "addresses",
    "there for",
    "load",
    "clock",
    "doctor",
    "labels",
    "works for",
];

fn table(hosts: &[Host], now: u64) -> Table {
    let mut table = Table::new([Align::Left; COLUMNS.len()]);
    table.row(COLUMNS);
    let list = |words: Vec<String>| match &words[..] {
        [] => "-".to_owned(),
        words => words.join(","),
    };
    for Host { card, ahead_ns, ahead_error_ns } in hosts {
        let offset = ahead_ns.zip(*ahead_error_ns);
        let row: [String; COLUMNS.len()] = [
            card.name.clone(),
            list(card.roles.iter().map(Role::to_string).collect()),
            card.machine.cpus.len().to_string(),
            format!("{} GiB", card.machine.memory_bytes >> 30),
            card.machine.kernel.clone(),
            list(card.addresses.iter().map(ToString::to_string).collect()),
            age(now.saturating_sub(card.since)),
            card.beat.load.map_or_else(|| "-".to_owned(), |load| format!("{load:.2}")),
            offset.map_or_else(
                || "no answer".to_owned(),
                |(ahead_ns, error_ns)| Offset { ahead_ns, error_ns }.to_string(),
            ),
            findings(card),
            list(card.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()),
            card.beat.run.clone().unwrap_or_else(|| "-".to_owned()),
        ];
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_off_are_refused_unless_allowed() {
        let clocks = BTreeMap::from([
            ("good".to_owned(), Offset { ahead_ns: 1_000_000, error_ns: 100_000 }),
            ("bad".to_owned(), Offset { ahead_ns: -70_000_000, error_ns: 100_000 }),
        ]);
        assert!(check_clocks(&["good"], &clocks, false).is_ok());
        let error = check_clocks(&["good", "bad"], &clocks, false).expect_err("refused");
        assert!(error.to_string().contains("the clock of bad is off by -70.000 ms ± 0.100"));
        assert!(check_clocks(&["good", "bad"], &clocks, true).is_ok());
        assert!(check_clocks(&["gone"], &clocks, true).is_err());
    }

    #[test]
    fn how_long_for_people() {
        for (seconds, text) in [(59, "59 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
