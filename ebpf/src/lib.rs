//! What the kernel saw of an experiment: its requests, its threads, its packets and its losses.
//!
//! Owns: loading, attaching and reading the probes of `ebpf/probes`, whose compiled object is part
//! of this library. Must not know: latencies, phases, causes. Nothing is pinned: programs, maps and
//! links are held by descriptors of this process and vanish with it, also after SIGKILL.
//!
//! A kernel may be built to run no tracing program while certain tasks are current, and then a
//! softirq on top of such a task goes unseen: no probe can know. Where it matters, compare with the
//! kernel's own counters (`RetransSegs`) and with packets that were received but not seen to be
//! sent.
//!
//! What cannot be attached is named with the reason and the kernel that has it
//! ([`Probes::report`]); what it would have measured is `None`, and the rest goes on.

mod absence;
mod attach;
mod btf;
mod catalog;
mod counters;
pub mod doctor;
mod faults;
mod flows;
mod handover;
mod histogram;
mod join;
mod kernel;
mod listening;
mod losses;
mod mapping;
mod namespaces;
pub mod nic;
mod offsets;
mod options;
pub mod perf;
pub mod proc;
mod profile;
mod read;
mod reasons;
mod sampling;
mod symbols;
mod threads;
mod ticks;
mod timelines;

/// What is loaded into the kernel: the objects of the probes, and of faults on purpose.
pub fn objects() -> [&'static [u8]; 2] {
    [attach::OBJECT, faults::OBJECT]
}

pub use absence::Absence;
pub use attach::{AttachError, ProbeState, Probes};
pub use btf::BtfError;
pub use counters::{
    BySide, Counters, DropPlace, Lost, NapiCounters, PeerCounters, PortPackets, RetransmitKinds,
    SoftirqCounters, Stopped,
};
pub use events::JOINED_ONE_IN;
pub use faults::{
    DroppedPacket, PacketFaultCounts, PacketFaultError, PacketFaultInjector, PacketFaultSpec,
};
pub use flows::FlowTable;
pub use handover::{keep_on_exec, map_inherited};
pub use histogram::Durations;
pub use losses::{Loss, LossKind, RetransmitKind, Side};
pub use namespaces::NamespaceError;
pub use options::Options;
pub use profile::{Profile, Profiler, Sample, Stack, program_now};
pub use sampling::SampleTable;
pub use symbols::Symbols;
pub use threads::{CpuHeld, Program, Thread, ThreadTable};
pub use timelines::Timelines;
