//! What a phase of an experiment file can say.

use serde::{Deserialize, Serialize};

use crate::fault::FaultSpec;
use crate::values::{Name, PerSecond, Period, Seconds, Share, Users, WholePerSecond};
use workload::{Pacing, Rate};

/// A phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Unchecked")]
pub struct PhaseSpec {
    /// Its name.
    pub name: Name,
    /// What it starts after; after the phase before it has finished when `None`.
    pub after: Option<After>,
    /// How long it is.
    pub seconds: Option<Seconds>,
    /// What ends it, instead of time.
    pub until: Option<Until>,
    /// When it has not ended by itself after this time, the run is aborted.
    pub longest_s: Option<Seconds>,
    /// Users connect and log in.
    pub connect: Option<ConnectSpec>,
    /// Users shake.
    pub shake: Option<Shake>,
    /// Red packets are made for users who shake.
    pub packets: Option<PacketsSpec>,
    /// Red packets are sent to three users each.
    pub sends: Option<SendsSpec>,
    /// Users chat.
    pub chat: Option<ChatSpec>,
    /// The server pushes a payload to every connection.
    pub push: Option<PushSpec>,
    /// What ends the run at once.
    pub abort: Vec<Abort>,
    /// What is made to go wrong on purpose.
    pub faults: Vec<FaultSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    name: Name,
    #[serde(default)]
    after: Option<After>,
    #[serde(default)]
    seconds: Option<Seconds>,
    #[serde(default)]
    until: Option<Until>,
    #[serde(default)]
    longest_s: Option<Seconds>,
    #[serde(default)]
    connect: Option<ConnectSpec>,
    #[serde(default)]
    shake: Option<Shake>,
    #[serde(default)]
    packets: Option<PacketsSpec>,
    #[serde(default)]
    sends: Option<SendsSpec>,
    #[serde(default)]
    chat: Option<ChatSpec>,
    #[serde(default)]
    push: Option<PushSpec>,
    #[serde(default)]
    abort: Vec<Abort>,
    #[serde(default)]
    faults: Vec<FaultSpec>,
}

impl TryFrom<Unchecked> for PhaseSpec {
    type Error = String;

    fn try_from(unchecked: Unchecked) -> Result<Self, String> {
        let Unchecked { name, after, seconds, until, longest_s, connect, shake, packets, .. } =
            unchecked;
        let (sends, chat, push, abort, faults) =
            (unchecked.sends, unchecked.chat, unchecked.push, unchecked.abort, unchecked.faults);
        match (seconds, until) {
            (None, None) => {
                return Err(format!(
                    "phase \"{name}\" needs an end: seconds: N, or until: Established"
                ));
            }
            (Some(_), Some(_)) => {
                return Err(format!(
                    "phase \"{name}\" has two ends: give seconds or until, not both"
                ));
            }
            (None, Some(Until::Established)) if connect.is_none() => {
                return Err(format!(
                    "phase \"{name}\" lasts until users are established and connects none: give \
                     connect, or seconds"
                ));
            }
            _ => {}
        }
        if let Some(Shake::Open { rate: Rate::Ramp { seconds: 0, .. }, .. }) = shake {
            return Err(format!("phase \"{name}\" has a ramp of 0 seconds: at least 1"));
        }
        if let Some(Shake::Open { rate: Rate::Staircase { every: 0, .. }, .. }) = shake {
            return Err(format!("phase \"{name}\" has steps of 0 seconds: at least 1"));
        }
        if let Some(Shake::Open { rate, .. }) = shake
            && rate.highest() == 0
        {
            return Err(format!("phase \"{name}\" shakes at a rate of 0: leave shake out"));
        }
        if let Some(Shake::Closed { in_flight: 0 }) = shake {
            return Err(format!("phase \"{name}\" keeps 0 shakes in flight: at least 1"));
        }
        for fault in &faults {
            fault
                .check(seconds.map(Seconds::get))
                .map_err(|what| format!("phase \"{name}\": {what}"))?;
        }
        Ok(Self {
            name,
            after,
            seconds,
            until,
            longest_s,
            connect,
            shake,
            packets,
            sends,
            chat,
            push,
            abort,
            faults,
        })
    }
}

/// What a phase starts after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum After {
    /// That phase offers nothing any more.
    Finished(Name),
    /// And nothing of it is under way any more either.
    Terminated(Name),
}

impl After {
    /// The phase.
    pub fn name(&self) -> &Name {
        match self {
            After::Finished(name) | After::Terminated(name) => name,
        }
    }
}

/// What ends a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// All users that it connects are logged in.
    Established,
}

/// Which users connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum ConnectUsers {
    /// All.
    #[default]
    All,
    /// The first so many.
    First(Users),
}

/// Users connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectSpec {
    /// Which users are to be logged in in the end.
    pub users: ConnectUsers,
    /// Connections begun per second; as fast as they complete when `None`.
    pub rate: Option<PerSecond>,
}

/// Users shake.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Shake {
    /// At instants fixed beforehand, whether answers come or not.
    Open {
        /// Shakes per second: `Fixed(n)`, `Ramp(from, to, seconds)`, `Staircase(from, step, every,
        /// to)`.
        rate: Rate,
        /// `Even`, `Poisson` or `Prototype`.
        #[serde(default)]
        pacing: Pacing,
    },
    /// So many at a time, each answer bringing the next: for saturation.
    Closed {
        /// Shakes under way.
        in_flight: u32,
    },
}

impl Shake {
    /// Shakes due in a second of the phase, from 0, where the schedule fixes their number.
    pub fn due_in(&self, second: u64) -> Option<u64> {
        match self {
            Self::Open { rate, pacing: Pacing::Even } => Some(rate.at(second).into()),
            _ => None,
        }
    }

    /// Whether all shakes of a second are due at one instant, so that they wait for each other.
    pub fn is_at_one_instant(&self) -> bool {
        matches!(self, Self::Open { pacing: Pacing::Prototype, .. })
    }
}

/// Packets for users who shake.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketsSpec {
    /// Packets per second.
    pub rate: WholePerSecond,
    /// How many in all; as long as the phase lasts when `None`.
    #[serde(default)]
    pub total: Option<u64>,
}

/// Who sends packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SentBy {
    /// The server, as the prototype's `/fahongbao`.
    #[default]
    Server,
    /// Users, who create them for three others.
    Users,
}

/// Packets sent to three users each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendsSpec {
    /// Packets per second.
    pub rate: WholePerSecond,
    /// How many in all, when the server sends; as long as the phase lasts when `None`.
    #[serde(default)]
    pub total: Option<u64>,
    /// Who sends them.
    #[serde(default)]
    pub by: SentBy,
}

/// Users chat.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatSpec {
    /// Texts per second, each answered once.
    pub rate: PerSecond,
    /// Bytes of a text.
    #[serde(default = "default_text")]
    pub bytes: u32,
}

fn default_text() -> u32 {
    32
}

/// The server pushes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushSpec {
    /// Bytes of payload.
    pub bytes: u32,
    /// Each connection gets one in every such period.
    pub every_s: Period,
}

/// What ends a run at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Abort {
    /// More connections than this are lost in the phase.
    LostConnections(u64),
    /// More than this share of the phase's shakes has timed out.
    TimedOutShare(Share),
    /// The 99th percentile of the latency is above this for so many seconds on end.
    P99Above {
        /// Microseconds.
        us: u64,
        /// Seconds on end.
        seconds: u32,
    },
    /// Fewer than this share of the shakes offered are answered for so many seconds on end.
    AnsweredBelow {
        /// The share.
        share: Share,
        /// Seconds on end.
        seconds: u32,
    },
}
