//! Dropping or diverting packets on purpose, for a run's own faults.
//!
//! Owns: the program of `ebpf/probes/src/faults.rs`, on one interface. Unlike the probes this does
//! influence a run; nothing else in this library does. Must not know: why.

use std::net::{Ipv4Addr, SocketAddrV4};

use aya::maps::{Array, MapError, RingBuf};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use events::{FaultConfig, FaultCounts, FaultRecord, FaultSpan, TO_CLIENT, TO_SERVER};

use crate::attach::{Raw, chain};

/// The compiled program.
static OBJECT: &[u8] = include_bytes_aligned!("../prebuilt/faults.o");

/// Why packets cannot be dropped or diverted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packets cannot be meddled with at interface {interface}: {why}")]
pub struct MeddleError {
    interface: String,
    why: String,
}

/// Which packets, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meddling {
    /// The server's port.
    pub port: u16,
    /// Packets that go to the server, not those that come from it.
    pub to_server: bool,
    /// Packets without data, too.
    pub all: bool,
    /// How many of a billion.
    pub per_billion: u32,
    /// What decides which.
    pub seed: u64,
    /// The number of the interface through which they leave instead; they are dropped when `None`.
    pub divert_to: Option<u32>,
}

/// What was done in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meddled {
    /// Packets out of which some were chosen.
    pub seen: u64,
    /// Packets chosen.
    pub hit: u64,
    /// Packets dropped whose record was lost.
    pub not_kept: u64,
}

/// A packet that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// The client's end of its connection.
    pub flow: SocketAddrV4,
    /// The first byte of its data.
    pub sequence: u32,
    /// Bytes of data.
    pub payload: u32,
}

/// The program at an interface. Dropping this ends it.
pub struct Meddler {
    ebpf: Ebpf,
}

impl Meddler {
    /// Puts the program where packets arrive at an interface of the calling thread's network
    /// namespace. It lets everything pass before it is told when ([`Self::during`]).
    ///
    /// # Errors
    /// No such interface, no permission, a kernel without a place for it.
    pub fn attach(interface: &str, meddling: &Meddling) -> Result<Self, MeddleError> {
        let failed = |why: String| MeddleError { interface: interface.to_owned(), why };
        let config = Raw(FaultConfig {
            seed: meddling.seed,
            port: meddling.port,
            direction: if meddling.to_server { TO_SERVER } else { TO_CLIENT },
            per_billion: meddling.per_billion,
            all: u32::from(meddling.all),
            divert_to: meddling.divert_to.unwrap_or(0),
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

    /// Says from when until when, CLOCK_MONOTONIC in nanoseconds.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn during(&mut self, from_ns: u64, until_ns: u64) -> Result<(), MapError> {
        let span = Raw(FaultSpan { from_ns, until_ns });
        let map = self.ebpf.map_mut("SPAN").ok_or_else(|| absent("SPAN"))?;
        Array::<_, Raw<FaultSpan>>::try_from(map)?.set(0, span, 0)
    }

    /// What was done so far.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counts(&self) -> Result<Meddled, MapError> {
        let map = self.ebpf.map("COUNTS").ok_or_else(|| absent("COUNTS"))?;
        let counts = Array::<_, Raw<FaultCounts>>::try_from(map)?.get(&0, 0)?.0;
        Ok(Meddled { seen: counts.seen, hit: counts.hit, not_kept: counts.not_kept })
    }

    /// Packets dropped since this was asked the last time.
    pub fn take_hits(&mut self) -> Vec<Hit> {
        let mut hits = Vec::new();
        if let Some(map) = self.ebpf.map_mut("HITS")
            && let Ok(mut ring) = RingBuf::try_from(map)
        {
            while let Some(item) = ring.next() {
                hits.extend(hit(&item));
            }
        }
        hits
    }
}

fn absent(name: &str) -> MapError {
    MapError::InvalidName { name: name.to_owned() }
}

fn hit(bytes: &[u8]) -> Option<Hit> {
    if bytes.len() < size_of::<FaultRecord>() {
        return None;
    }
    // SAFETY: long enough, and plain integers at whatever alignment.
    let record = unsafe { bytes.as_ptr().cast::<FaultRecord>().read_unaligned() };
    let address = Ipv4Addr::from(record.client_address);
    Some(Hit {
        at_ns: record.at_ns,
        flow: SocketAddrV4::new(address, record.client_port),
        sequence: record.sequence,
        payload: record.payload,
    })
}
