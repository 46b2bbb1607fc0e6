//! Packets that the kernel threw away, by reason and place; queue disciplines are among the
//! reasons. A SYN that finds the accept queue full is not seen: the kernel frees it as if it had
//! been used.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};
use events::{DropCount, DropKey, LossRecord, Side, loss};

use crate::{
    count::{atomic_add, count},
    kernel::{Object, Socket, config},
    packets::Segment,
    peers,
};

/// Drops by reason and place.
///
/// A hash map: places are addresses of the kernel's code. A kernel has a few hundred of them, and
/// a run sees a handful.
#[map]
static DROPS: HashMap<DropKey, DropCount> = HashMap::with_max_entries(2048, 0);

/// `BPF_NOEXIST`
const NO_EXIST: u64 = 1;

/// A packet is dropped.
#[btf_tracepoint(function = "kfree_skb")]
pub(crate) fn packet_dropped(ctx: BtfTracePointContext) -> i32 {
    try_packet_dropped(Object::new(ctx.arg(0)), ctx.arg(1), ctx.arg(2));
    0
}

#[inline(always)]
fn try_packet_dropped(skb: Object, location: u64, reason: u32) -> Option<()> {
    count(|block| &mut block.drops_all);
    let segment = Segment::of(skb);
    by_place(DropKey { location, reason, padding: 0 }, segment.found);
    if !segment.found {
        return None;
    }
    count(|block| &mut block.drops);
    if harmless(reason) {
        return None;
    }
    peers::lost(
        segment.peer,
        LossRecord {
            at_ns: 0,
            location,
            kind: loss::DROP,
            detail: reason,
            client_address: 0,
            client_port: 0,
            side: segment.sender as u16,
            sequence: segment.sequence,
            count: 1,
        },
    );
    Some(())
}

/// Whether a drop for this reason loses nothing.
#[inline(always)]
fn harmless(reason: u32) -> bool {
    // One constant per word: an index into the global would hide the constants from the verifier.
    let word = match reason >> 5 {
        0 => config!(harmless_reasons[0]),
        1 => config!(harmless_reasons[1]),
        2 => config!(harmless_reasons[2]),
        3 => config!(harmless_reasons[3]),
        4 => config!(harmless_reasons[4]),
        5 => config!(harmless_reasons[5]),
        6 => config!(harmless_reasons[6]),
        7 => config!(harmless_reasons[7]),
        _ => 0,
    };
    word >> (reason & 31) & 1 != 0
}

#[inline(always)]
fn by_place(key: DropKey, of_the_port: bool) {
    if DROPS.get_ptr(key).is_none() {
        // Somebody else may insert it first: then it is there.
        let _ = DROPS.insert(key, DropCount { all: 0, port: 0 }, NO_EXIST);
    }
    let Some(entry) = DROPS.get_ptr_mut(key) else {
        count(|block| &mut block.drop_places_lost);
        return;
    };
    // SAFETY: a value of the map.
    unsafe {
        atomic_add(&raw mut (*entry).all, 1);
        if of_the_port {
            atomic_add(&raw mut (*entry).port, 1);
        }
    }
}

/// A datagram finds the receive queue full.
#[btf_tracepoint(function = "sock_rcvqueue_full")]
pub(crate) fn receive_queue_full(_ctx: BtfTracePointContext) -> i32 {
    count(|block| &mut block.receive_queue_full);
    0
}

/// A socket runs into a memory limit.
#[btf_tracepoint(function = "sock_exceed_buf_limit")]
pub(crate) fn buffer_limit(ctx: BtfTracePointContext) -> i32 {
    if let Some(Side::Server | Side::Client) = Socket(Object::new(ctx.arg(0))).side() {
        count(|block| &mut block.buffer_limit);
    }
    0
}
