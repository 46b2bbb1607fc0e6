//! Types that cross the border between the probes in the kernel and user space.
//!
//! Owns: layouts, and the arithmetic that both sides must agree on. Everything is `repr(C)` with
//! fixed widths and explicit padding; sizes and offsets are asserted when this is compiled, so
//! that a rearranged field is a compile error and not a wrong figure. Must not know: aya, libc.

#![no_std]

mod clocks;
mod config;
mod counters;
mod fault;
mod flow;
mod histogram;
mod machine;
mod thread;
mod timeline;

pub use clocks::{Held, KINDS, kind};
pub use config::{ABSENT, Config, FLOW_DENSE, FLOW_HASHED, Learn, Offsets, dense_index};
pub use counters::{
    AddressKey, CounterBlock, DEVICE_SLOTS, DeviceEntry, DropCount, DropKey, LossRecord,
    NAME_LENGTH, NET_SOFTIRQ_SAMPLE, NET_SOFTIRQS, PeerLosses, RETRANSMIT_KINDS, Retransmit, SIDES,
    SOFTIRQS, ServerBlock, Side, SoftirqBlock, StackCount, StackKey, address_v4, loss,
    program_of_stack,
};
pub use fault::{FaultConfig, FaultCounts, FaultRecord, FaultSpan, TO_CLIENT, TO_SERVER};
pub use flow::{
    ClientPart, FlowEntry, JOINED_ONE_IN, KEPT_FROM_NS, Sampling, ServerPart, client, hashed_slot,
    in_sample, is_joined, kept_entries, kept_slot, key_v4, key_v6, request_hash, server,
};
pub use histogram::{BUCKETS, Histogram, Longest, bucket_of, lower_edge_ns};
pub use machine::{Transition, wait_parts};
pub use thread::{
    CpuEntry, PROGRAM_CLIENT_FIRST, PROGRAM_CLIENT_LAST, PROGRAM_IDLE, PROGRAM_INTERRUPTS,
    PROGRAM_OTHER, PROGRAM_SERVER, PROGRAMS, THREAD_SLOTS, TaskRef, ThreadEntry, ThreadHead,
    ThreadState,
};
pub use timeline::{
    COARSE, Checkpoint, CpuLog, FINE, HOLDERS, Holder, LONG_NS, Part, SPAN_NS, STALLS, STOPS,
    Stall, Stop, StopLog, TICK_NS, TIMELINES, TimelineEntry,
};

/// Size and field offsets of a type, asserted when it is compiled.
macro_rules! layout {
    ($type:ty, $size:expr, $($field:ident at $offset:expr),+ $(,)?) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        $(const _: () = assert!(core::mem::offset_of!($type, $field) == $offset);)+
    };
}
pub(crate) use layout;
