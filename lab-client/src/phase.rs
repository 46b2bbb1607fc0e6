//! What a client is to do in a phase.

use serde::{Deserialize, Serialize};

use crate::schedule::{Pacing, Rate};

/// What shakes a phase offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Load {
    /// None.
    #[default]
    None,
    /// Shakes at instants that a schedule fixes beforehand, whether answers come or not.
    Open {
        /// Shakes per second, over all clients.
        rate: Rate,
        /// How they are spread over a second.
        pacing: Pacing,
    },
    /// So many users shake at a time, over all clients; each answer brings the next shake. For
    /// saturation: latency counts from the send.
    Closed {
        /// Shakes under way.
        in_flight: u32,
    },
}

/// How users connect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// How many users of all clients are to be logged in.
    pub users: u32,
    /// Connections begun per second, over all clients; as fast as they complete when `None`.
    pub rate: Option<f64>,
}

/// Chat between users.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// Texts per second, over all clients; each is answered once by its recipient.
    pub rate: f64,
    /// Bytes of a text.
    pub bytes: u32,
}

/// Packets created by users for three others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Creates {
    /// Packets per second, over all clients.
    pub rate: f64,
}

/// A phase as clients know it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its place in the experiment, from 0.
    pub index: u16,
    /// Its name.
    pub name: String,
    /// The Unix second at which it starts.
    pub start: u64,
    /// How long it is, in seconds; until told to end when `None`.
    pub seconds: Option<u64>,
    /// What is offered.
    pub load: Load,
    /// Whether users connect.
    pub connect: Option<Connect>,
    /// Whether users chat.
    pub chat: Option<Chat>,
    /// Whether users create packets.
    pub creates: Option<Creates>,
}
