//! Packets that the kernel threw away, by reason and place; queue disciplines are among the
//! reasons. A SYN that finds the accept queue full is not seen: the kernel frees it as if it had
//! been used.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};
use events::{ABSENT, DropCount, DropKey, LossRecord, Side, loss};

use crate::{
    count::{atomic_add, count},
    kernel::{Object, Socket, config, in_namespace},
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
    let ours = segment.found && is_watched(skb);
    let lost = ours && !harmless(reason) && !no_loss_at(location, segment.payload);
    by_place(DropKey { location, reason, padding: 0 }, ours, lost);
    if !ours {
        return None;
    }
    count(|block| &mut block.drops);
    if !lost {
        return None;
    }
    count(|block| &mut block.drops_losing);
    peers::lost(
        segment.peer,
        LossRecord {
            at_ns: 0,
            location,
            kind: loss::DROP,
            detail: reason,
            client: [0; 4],
            padding: 0,
            client_port: 0,
            side: segment.sender as u16,
            sequence: segment.sequence,
            count: 1,
        },
    );
    Some(())
}

/// Whether a packet is one of the network namespace that is watched: its socket's, or without one
/// its interface's.
#[inline(always)]
pub(crate) fn is_watched(skb: Object) -> bool {
    if config!(netns) == 0 {
        return true;
    }
    let socket = Socket(skb.object(config!(offsets.skb_sk)));
    if !socket.0.is_null() {
        return socket.in_namespace();
    }
    let device = skb.object(config!(offsets.skb_dev));
    if !device.is_null() {
        return in_namespace(device.object(config!(offsets.dev_net)));
    }
    // TCP takes the interface away from what it receives, and leaves the route. Without either it
    // cannot be told apart, and counts.
    route_is_watched(skb).unwrap_or(true)
}

#[inline(always)]
fn route_is_watched(skb: Object) -> Option<bool> {
    if config!(offsets.skb_refdst) == ABSENT || config!(offsets.dst_dev) == ABSENT {
        return None;
    }
    let route: u64 = skb.field(config!(offsets.skb_refdst));
    if route & !7 == 0 {
        return None;
    }
    let at = |address: u64| Object::new(address as *const core::ffi::c_void);
    let device: u64 = at(route & !7).copy(config!(offsets.dst_dev))?;
    let namespace: u64 = at(device).copy(config!(offsets.dev_net))?;
    let inode: u32 = at(namespace).copy(config!(offsets.net_inum))?;
    Some(inode == config!(netns))
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

/// Whether a drop at this place loses nothing on the way: an acknowledgement has been taken, or the
/// server's accept queue is full.
#[inline(always)]
fn no_loss_at(location: u64, payload: u32) -> bool {
    let within = |from: u64, behind: u64| from <= location && location < behind;
    (payload == 0 && within(config!(takes[0]), config!(takes[1])))
        || within(config!(turns_away[0][0]), config!(turns_away[0][1]))
        || within(config!(turns_away[1][0]), config!(turns_away[1][1]))
}

#[inline(always)]
fn by_place(key: DropKey, of_the_port: bool, lost: bool) {
    if DROPS.get_ptr(key).is_none() {
        // Somebody else may insert it first: then it is there.
        let _ = DROPS.insert(key, DropCount { all: 0, port: 0, lost: 0 }, NO_EXIST);
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
        if lost {
            atomic_add(&raw mut (*entry).lost, 1);
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
