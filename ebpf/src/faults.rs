//! The packet fault injector: drops or diverts packets on purpose, for a run's own faults.
//!
//! Owns: the program of `ebpf/probes/src/faults.rs`, on one interface. It is the only part of this
//! library that changes what a run does. Must not know: which fault of an experiment it is for.

use std::net::{Ipv4Addr, SocketAddrV4};

use aya::maps::{Array, MapError, RingBuf};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use events::{FaultConfig, FaultCounts, FaultRecord, FaultSpan, TO_CLIENT, TO_SERVER};

use crate::attach::{KernelData, chain};

/// The compiled program.
pub(crate) static OBJECT: &[u8] = include_bytes_aligned!("../prebuilt/faults.o");

/// Why faults cannot be injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot inject packet faults at interface {interface}: {reason}")]
pub struct PacketFaultError {
    interface: String,
    reason: String,
}

/// Which packets are dropped or diverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketFaultSpec {
    /// The server's port.
    pub port: u16,
    /// Packets that go to the server, not those that come from it.
    pub to_server: bool,
    /// Packets without data, too.
    pub all: bool,
    /// How many of a billion.
    pub per_billion: u32,
    /// The seed that chooses the packets.
    pub seed: u64,
    /// The number of the interface through which they leave instead; they are dropped when `None`.
    pub divert_to: Option<u32>,
}

/// How many packets were chosen in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketFaultCounts {
    /// Packets out of which some were chosen.
    pub seen: u64,
    /// Packets chosen.
    pub chosen: u64,
    /// Packets dropped whose record was lost.
    pub not_kept: u64,
}

/// A packet that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedPacket {
    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// The client's end of its connection.
    pub flow: SocketAddrV4,
    /// The first byte of its data.
    pub sequence: u32,
    /// Bytes of data.
    pub payload: u32,
}

/// The program at an interface. Dropping this detaches it.
pub struct PacketFaultInjector {
    ebpf: Ebpf,
}

impl PacketFaultInjector {
    /// Attaches the program where packets arrive at an interface of the calling thread's network
    /// namespace. It lets all packets pass until [`Self::during`] sets a span.
    ///
    /// # Errors
    /// No such interface, no permission, a kernel without a place for it.
    pub fn attach(interface: &str, spec: &PacketFaultSpec) -> Result<Self, PacketFaultError> {
        let failed = |reason: String| PacketFaultError { interface: interface.to_owned(), reason };
        let config = KernelData(FaultConfig {
            seed: spec.seed,
            port: spec.port,
            direction: if spec.to_server { TO_SERVER } else { TO_CLIENT },
            per_billion: spec.per_billion,
            all: u32::from(spec.all),
            divert_to: spec.divert_to.unwrap_or(0),
        });
        let mut ebpf = EbpfLoader::new()
            .override_global("FAULT", &config, true)
            .load(OBJECT)
            .map_err(|error| failed(chain(&error)))?;
        // Kernels from 6.6 on need none, and older ones may have it already.
        let _ = tc::qdisc_add_clsact(interface);
        let program: &mut SchedClassifier = ebpf
            .program_mut("meddle")
            .ok_or_else(|| failed("the object has no such program: run ebpf/probes/build".into()))?
            .try_into()
            .map_err(|error| failed(chain(&error)))?;
        program.load().map_err(|error| failed(chain(&error)))?;
        program.attach(interface, TcAttachType::Ingress).map_err(|error| failed(chain(&error)))?;
        Ok(Self { ebpf })
    }

    /// Sets the span of the fault, CLOCK_MONOTONIC in nanoseconds; `until_ns` is its exclusive end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn during(&mut self, from_ns: u64, until_ns: u64) -> Result<(), MapError> {
        let span = KernelData(FaultSpan { from_ns, until_ns });
        let map = self.ebpf.map_mut("SPAN").ok_or_else(|| absent("SPAN"))?;
        Array::<_, KernelData<FaultSpan>>::try_from(map)?.set(0, span, 0)
    }

    /// The counts so far.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counts(&self) -> Result<PacketFaultCounts, MapError> {
        let map = self.ebpf.map("COUNTS").ok_or_else(|| absent("COUNTS"))?;
        let counts = Array::<_, KernelData<FaultCounts>>::try_from(map)?.get(&0, 0)?.0;
        Ok(PacketFaultCounts { seen: counts.seen, chosen: counts.hit, not_kept: counts.not_kept })
    }

    /// Packets dropped since this was asked the last time.
    pub fn take_dropped(&mut self) -> Vec<DroppedPacket> {
        let mut dropped = Vec::new();
        if let Some(map) = self.ebpf.map_mut("HITS")
            && let Ok(mut ring) = RingBuf::try_from(map)
        {
            while let Some(item) = ring.next() {
                dropped.extend(packet(&item));
            }
        }
        dropped
    }
}

fn absent(name: &str) -> MapError {
    MapError::InvalidName { name: name.to_owned() }
}

fn packet(bytes: &[u8]) -> Option<DroppedPacket> {
    if bytes.len() < size_of::<FaultRecord>() {
        return None;
    }
    // SAFETY: long enough, and plain integers at whatever alignment.
    let record = unsafe { bytes.as_ptr().cast::<FaultRecord>().read_unaligned() };
    let address = Ipv4Addr::from(record.client_address);
    Some(DroppedPacket {
        at_ns: record.at_ns,
        flow: SocketAddrV4::new(address, record.client_port),
        sequence: record.sequence,
        payload: record.payload,
    })
}
