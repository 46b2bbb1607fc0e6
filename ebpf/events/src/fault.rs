//! Packets dropped or diverted on purpose: what the program is told, and what it tells.

use crate::layout;

/// [`FaultConfig::direction`]: packets to the server's port.
pub const TO_SERVER: u16 = 0;
/// [`FaultConfig::direction`]: packets from the server's port.
pub const TO_CLIENT: u16 = 1;

/// Settings, as one read-only global.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FaultConfig {
    /// What decides which packets.
    pub seed: u64,
    /// The server's port, host byte order.
    pub port: u16,
    /// [`TO_SERVER`] or [`TO_CLIENT`].
    pub direction: u16,
    /// How many of a billion packets.
    pub per_billion: u32,
    /// Whether packets without data count, too.
    pub all: u32,
    /// The interface to which packets are diverted; 0 to drop them.
    pub divert_to: u32,
}

layout!(FaultConfig, 24, seed at 0, port at 8, direction at 10, per_billion at 12, all at 16,
    divert_to at 20);

impl FaultConfig {
    /// No packets.
    pub const EMPTY: Self =
        Self { seed: 0, port: 0, direction: TO_SERVER, per_billion: 0, all: 0, divert_to: 0 };
}

/// When; may still change while the program runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultSpan {
    /// From this instant on, CLOCK_MONOTONIC in nanoseconds.
    pub from_ns: u64,
    /// Until this one.
    pub until_ns: u64,
}

layout!(FaultSpan, 16, from_ns at 0, until_ns at 8);

/// What was done.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Packets out of which some were chosen.
    pub seen: u64,
    /// Packets chosen.
    pub hit: u64,
    /// Those of them that found no room for their record.
    pub not_kept: u64,
}

layout!(FaultCounts, 24, seen at 0, hit at 8, not_kept at 16);

/// A packet chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// When.
    pub at_ns: u64,
    /// The first byte of its data.
    pub sequence: u32,
    /// Bytes of data.
    pub payload: u32,
    /// The client's address, host byte order.
    pub client_address: u32,
    /// The client's port, host byte order.
    pub client_port: u16,
    /// The TCP flags.
    pub flags: u16,
}

layout!(FaultRecord, 24, at_ns at 0, sequence at 8, payload at 12, client_address at 16,
    client_port at 20, flags at 22);
