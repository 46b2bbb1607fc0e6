//! Records of losses, in the order they happened on each CPU.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::RingBuf;
use events::{AddressKey, LossRecord, loss};
use serde::Serialize;

use crate::attach::Probes;

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Whose port is the experiment's.
    Server,
    /// The other one.
    Client,
}

/// Why a segment was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetransmitKind {
    /// Acknowledgements showed a loss.
    Fast,
    /// The retransmission timer ran out.
    Timeout,
    /// A tail loss probe.
    TailLoss,
    /// A SYN.
    Syn,
    /// A SYN-ACK.
    SynAck,
    /// Anything else.
    Other,
}

/// A loss, or a sign of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LossKind {
    /// A packet was dropped on this host.
    Drop {
        /// The kernel's reason.
        reason: String,
        /// The function that dropped it.
        place: String,
        /// Its first byte in the stream.
        sequence: u32,
    },
    /// Segments were sent again.
    Retransmit {
        /// Why.
        why: RetransmitKind,
        /// How many.
        segments: u32,
    },
    /// A reset was sent.
    ResetSent,
    /// A reset was received.
    ResetReceived,
}

/// A loss on a connection of the experiment's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The client's address; absent where the packet did not tell it.
    pub client_address: Option<IpAddr>,
    /// The client's port.
    pub client_port: u16,
    /// The end that sent the packet, or sent or received the reset.
    pub side: Side,
    /// What.
    #[serde(flatten)]
    pub what: LossKind,
}

const KINDS: [RetransmitKind; events::RETRANSMIT_KINDS] = [
    RetransmitKind::Fast,
    RetransmitKind::Timeout,
    RetransmitKind::TailLoss,
    RetransmitKind::Syn,
    RetransmitKind::SynAck,
    RetransmitKind::Other,
];

impl Probes {
    /// Takes the records of losses that have come since the last call. What found the ring full is
    /// counted in [`crate::Lost::records`].
    pub fn take_losses(&mut self) -> Vec<Loss> {
        let mut records: Vec<LossRecord> = Vec::new();
        if let Some(map) = self.ebpf.map_mut("LOSSES")
            && let Ok(mut ring) = RingBuf::try_from(map)
        {
            while let Some(item) = ring.next() {
                records.extend(record(&item));
            }
        }
        records.iter().filter_map(|record| self.loss(record)).collect()
    }

    fn loss(&self, record: &LossRecord) -> Option<Loss> {
        let what = match record.kind {
            loss::DROP => LossKind::Drop {
                reason: self.reasons.name(record.detail),
                place: self.symbols.name(record.location),
                sequence: record.sequence,
            },
            loss::RETRANSMIT => LossKind::Retransmit {
                why: *KINDS.get(record.detail as usize)?,
                segments: record.count,
            },
            loss::RESET_SENT => LossKind::ResetSent,
            loss::RESET_RECEIVED => LossKind::ResetReceived,
            _ => return None,
        };
        Some(Loss {
            at_ns: record.at_ns,
            client_address: Some(address(record.client)).filter(|it| !it.is_unspecified()),
            client_port: record.client_port,
            side: if record.side == 0 { Side::Server } else { Side::Client },
            what,
        })
    }
}

/// An address of the kernel side.
pub(crate) fn address(key: AddressKey) -> IpAddr {
    let mut octets = [0; 16];
    for (into, word) in octets.chunks_exact_mut(4).zip(key) {
        into.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

fn record(bytes: &[u8]) -> Option<LossRecord> {
    // SAFETY: as many bytes as the type has, and any bytes are a value of it.
    (bytes.len() >= size_of::<LossRecord>())
        .then(|| unsafe { bytes.as_ptr().cast::<LossRecord>().read_unaligned() })
}
