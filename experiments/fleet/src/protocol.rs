//! Subjects and messages. All are JSON; all but the results are of core NATS, which answers at once
//! whether a subject has subscribers. Orders are repeated until they are acknowledged and carried
//! out once.
//!
//! | subject | from and to | what |
//! | --- | --- | --- |
//! | `lab.who` | a command to all agents | a request; each answers with its [`Card`] |
//! | `lab.beat.AGENT` | agent to all, every second | a [`Beat`] |
//! | `lab.ask.AGENT` | coordinator to an agent | a request: [`Ask`], answered by [`Answer`] |
//! | `lab.pulse.AGENT` | coordinator to an agent, every second | a [`Pulse`] |
//! | `lab.from.RUN.AGENT` | agent to a stream of JetStream | a [`Batch`] |
//! | `_INBOX.lab-agent-AGENT.>` | JetStream to an agent | that it has a batch |

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use attribution::ServerSide;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::epoch::{Epoch, Leader};
use crate::names::{self, RunName};
use host::probing::ProbeSpec;
use host::program::Who;
use spec::machine::Machine;

/// Version of what is said here: both ends must have the same.
pub const PROTOCOL: u32 = 5;

/// Where agents are asked for their cards.
pub const WHO: &str = "lab.who";

/// Where the beats of all agents are.
pub(crate) const ALL_BEATS: &str = "lab.beat.*";

/// Where an agent's beats are.
pub fn beat(agent: &str) -> String {
    format!("lab.beat.{agent}")
}

/// Where an agent is asked.
pub fn ask(agent: &str) -> String {
    format!("lab.ask.{agent}")
}

/// Where an agent hears that its coordinator is there.
pub fn pulse(agent: &str) -> String {
    format!("lab.pulse.{agent}")
}

/// Where an agent's results of a run go; with `*` for the agent those of all.
pub fn from(run: &RunName, agent: &str) -> String {
    format!("lab.from.{run}.{agent}")
}

/// What the subjects begin with at which an agent is answered.
pub(crate) fn inbox(agent: &str) -> String {
    format!("_INBOX.lab-agent-{agent}")
}

/// The stream of a run.
pub fn stream(run: &RunName) -> String {
    format!("lab-{run}")
}

/// What an agent may be used for.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The server.
    Server,
    /// Clients.
    Client,
    /// eBPF probes beside them, and being watched without either.
    Probe,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Server => "server",
            Role::Client => "client",
            Role::Probe => "probe",
        })
    }
}

/// What an agent is and what its machine has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Its name.
    #[serde(deserialize_with = "names::agent")]
    pub name: String,
    /// Of this process: another one has another.
    pub session: String,
    /// The program's version.
    pub version: String,
    /// That of the protocol.
    pub protocol: u32,
    /// What it may be used for.
    pub roles: Vec<Role>,
    /// What it was labelled with.
    pub labels: BTreeMap<String, String>,
    /// Its addresses, the one towards NATS first.
    pub addresses: Vec<Ipv4Addr>,
    /// Its machine.
    pub machine: Machine,
    /// The boot of its kernel: agents that share one share a machine.
    pub boot: String,
    /// Its network namespace, by inode.
    pub netns: u64,
    /// The Unix second since when it is there.
    pub since: u64,
    /// What its doctor found.
    pub findings: Value,
    /// As whom it runs programs.
    #[serde(default)]
    pub privileges: Value,
    /// Runs with results that are not acknowledged yet.
    pub kept: Vec<RunName>,
    /// Its latest beat.
    pub beat: Beat,
}

/// That an agent is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Of this process.
    pub session: String,
    /// The run that it works for.
    pub run: Option<RunName>,
    /// Who leads that run.
    pub leader: Option<Leader>,
    /// The load average of the last minute.
    pub load: Option<f64>,
}

/// What a coordinator asks of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// What its clock says.
    Clock {},
    /// To work for a run, and no other.
    Lease(Box<Lease>),
    /// To do something for the run.
    Order(Box<Order>),
    /// To listen to another coordinator of the same run, or to send what it keeps of it.
    Resume {
        /// The run.
        run: RunName,
        /// The coordinator.
        leader: Leader,
        /// The number of its last batch that is merged.
        merged: u64,
    },
    /// Who leads the run.
    Leader {
        /// The run.
        run: RunName,
    },
    /// To forget the run: all of it is merged.
    Forget {
        /// The run.
        run: RunName,
        /// That of the coordinator.
        epoch: Epoch,
    },
}

/// What a run needs an agent to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The run.
    pub run: RunName,
    /// The coordinator.
    pub leader: Leader,
    /// The coordinator's version.
    pub version: String,
    /// That of its protocol.
    pub protocol: u32,
    /// How far the agent's wall clock is ahead of the coordinator's, in nanoseconds.
    pub ahead_ns: i64,
    /// Whether this agent tells of the machine, which it may share.
    pub machine: bool,
    /// Whether it tells of the network namespace, which it may share.
    pub network: bool,
}

/// Something to do, with its number: one that was done already is not done again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The run.
    pub run: RunName,
    /// That of the coordinator: an agent follows the latest alone.
    pub epoch: Epoch,
    /// From 1, without gaps.
    pub number: u64,
    /// What.
    pub what: What,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Start a program.
    Start {
        /// Which.
        who: Who,
        /// Its configuration.
        config: Value,
        /// The probes to attach beside it, unless they are attached.
        probes: Option<Box<ProbeSpec>>,
    },
    /// Tell a program a line.
    Tell {
        /// Which.
        who: Who,
        /// The line.
        line: String,
    },
    /// Know when a phase is, in Unix seconds of the coordinator.
    Phase {
        /// Its first second.
        start: u64,
        /// Its exclusive end, if that is known.
        end: Option<u64>,
    },
    /// Ask the kernel for the connections of the server.
    Kernel {
        /// How many there should be.
        wanted: u64,
    },
    /// Look for the server's end of some requests.
    Look {
        /// Comes back with the answer.
        number: u64,
        /// The client's end of each connection, and the first byte of the request.
        requests: Vec<(SocketAddrV4, u32)>,
    },
    /// Close the input of a program, which ends it.
    Close {
        /// Which.
        who: Who,
    },
    /// End everything within two seconds.
    Stop {},
    /// Nothing more comes: programs end, and the last batch says so.
    Finish {},
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Its wall clock in Unix nanoseconds, when the question came and when the answer left.
    Clock {
        /// When the question came.
        came_ns: u64,
        /// When the answer left.
        left_ns: u64,
    },
    /// It is done, or was already.
    Done {},
    /// What there is of a run.
    Kept {
        /// Whether it still works for it.
        working: bool,
        /// The number of the last order it carried out.
        done: u64,
        /// The number of the last batch it has written.
        written: u64,
    },
    /// Another coordinator leads the run: it was heard a moment ago.
    StillLed {
        /// The same as a sentence.
        why: String,
    },
    /// Another coordinator has taken the run over.
    TakenOver {
        /// Which.
        leader: Leader,
    },
    /// Who leads the run, or led it last; null when nothing is known of it.
    Led {
        /// Which coordinator.
        leader: Option<Leader>,
    },
    /// It will not, and why.
    Refused {
        /// Why.
        why: String,
    },
}

/// That the coordinator of a run is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pulse {
    /// The run.
    pub run: RunName,
    /// That of the coordinator.
    pub epoch: Epoch,
    /// The number of the agent's last batch that is merged.
    pub merged: u64,
}

/// What an agent tells of a run, once: `number` counts without gaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// From 1.
    pub number: u64,
    /// What it tells.
    pub said: Vec<Said>,
}

/// Something that an agent tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A line of a program.
    Line {
        /// Which.
        who: Who,
        /// The line.
        line: String,
    },
    /// A piece of a line that is too long for one message; the last one has its end.
    Piece {
        /// Which program.
        who: Who,
        /// The piece.
        piece: String,
        /// Which piece of the line, from 0.
        place: u32,
        /// Whether it is the last.
        last: bool,
    },
    /// A program has ended.
    Silence {
        /// Which.
        who: Who,
    },
    /// A report of the host.
    #[serde(untagged)]
    Host(HostReport),
}

impl From<HostReport> for Said {
    fn from(report: HostReport) -> Self {
        Self::Host(report)
    }
}

/// What a host tells of itself, beside the lines of its programs. On the wire it stands among
/// [`Said`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostReport {
    /// A sample of the host.
    Sample {
        /// What kind.
        source: String,
        /// What it is of.
        of: Vec<(String, Value)>,
        /// Its values.
        values: Value,
    },
    /// The settings that matter, as the host has them.
    Settings {
        /// Sysctls.
        sysctls: BTreeMap<String, String>,
    },
    /// The probes of the host, or why there are none.
    Probes {
        /// As the manifest has them.
        probes: Value,
    },
    /// As whom the host runs programs, and what those that were started have kept.
    Privileges {
        /// As the manifest has them.
        privileges: Value,
    },
    /// The connections that the kernel has.
    Kernel {
        /// By address of the client.
        by_address: BTreeMap<String, u64>,
        /// How many there should be.
        wanted: u64,
    },
    /// The server's end of requests that were asked for, in their order.
    Looked {
        /// The number of the question.
        number: u64,
        /// What was seen of each.
        sides: Vec<Option<ServerSide>>,
    },
    /// Something that a person should know.
    Warning {
        /// What.
        what: String,
    },
    /// Something that the run cannot do without, and is not to be had here.
    Failed {
        /// Why.
        why: String,
    },
    /// The last of the run.
    Over {},
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_that_arrives_stays_one_part_of_a_path_and_of_a_subject(text in texts()) {
            let message = serde_json::json!({ "forget": { "run": text, "epoch": 1 } });
            let read = serde_json::from_value::<Ask>(message);
            let plain = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
            let good = (1..=80).contains(&text.len()) && text.chars().all(plain);
            prop_assert_eq!(read.is_ok(), good, "{:?}", text);
            if let Ok(Ask::Forget { run, .. }) = read {
                let file = Path::new("/state").join(format!("{run}.spool"));
                prop_assert_eq!(file.parent(), Some(Path::new("/state")));
                prop_assert_eq!(file.components().count(), 3);
                prop_assert_eq!(from(&run, "a").split('.').count(), 4);
                prop_assert!(!stream(&run).contains(['.', '*', '>', ' ', '/']));
            }
        }
    }

    /// Any text, and such that are nearly names or nearly ways out of a directory.
    fn texts() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "..",
            ".",
            "/",
            "/x/y",
            "../y",
            "a/../../y",
            "a\0b",
            "*",
            ">",
            "a.b",
            "ü",
            "-",
            "",
        ]);
        prop_oneof![
            any::<String>(),
            "[a-z0-9_./*> \\-]{0,12}",
            known.prop_map(str::to_owned),
            "[A-Za-z0-9_-]{1,100}",
        ]
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let order = Ask::Order(Box::new(Order {
            run: "r".to_owned().try_into().expect("a name"),
            epoch: Epoch::default().next(7),
            number: 3,
            what: What::Tell { who: Who::Client(7), line: "{\"stop\":{}}".to_owned() },
        }));
        let text = serde_json::to_string(&order).expect("JSON");
        assert_eq!(serde_json::from_str::<Ask>(&text).expect("the same"), order);
        let kernel = HostReport::Kernel {
            by_address: BTreeMap::from([("10.0.0.1".to_owned(), 3)]),
            wanted: 4,
        };
        let said = vec![
            Said::Silence { who: Who::Server },
            kernel.into(),
            Said::Host(HostReport::Over {}),
        ];
        let batch = Batch { number: 1, said };
        let text = serde_json::to_string(&batch).expect("JSON");
        assert!(text.contains(r#"{"kernel":{"by_address":{"10.0.0.1":3},"wanted":4}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Batch>(&text).expect("the same"), batch);
    }
}
