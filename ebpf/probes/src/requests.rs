//! The seven instants of a request, less T0, which only the client knows.
//!
//! Each end keeps its latest request in the flow's entry. Whether an instant belongs to it is told
//! by sequence numbers: data is ready when `rcv_nxt` has passed the request's first byte, read
//! when `copied_seq` has. Sends are stamped where they begin, for on loopback the whole receive
//! path of the other end runs inside them.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::{Array, PerCpuArray},
    programs::BtfTracePointContext,
};
use events::{
    ClientPart, KEPT_FROM_NS, ServerBlock, ServerPart, Side, client, is_joined, kept_slot,
    request_hash, server,
};

use crate::{
    flow::{MMAPABLE, Peer},
    kernel::{Object, Socket, after, config},
    threads::{self, Waited},
};

/// Waits and services of the server's ends, for who watches a server alone.
///
/// A per-CPU array of one: counted on every request, read once a second.
#[map]
static SERVER: PerCpuArray<ServerBlock> = PerCpuArray::with_max_entries(1, 0);

/// The server's ends of the requests that are joined with ends that another kernel has seen: the
/// sample, and those that took long.
///
/// An array in which the hash is the place: the latest takes it, and with room for a minute's worth
/// of the sample nothing of it is taken before it is asked for. Sized by the loader.
#[map]
static ANSWERS: Array<ServerPart> = Array::with_max_entries(1, MMAPABLE);

/// `MSG_PEEK`: such a read takes nothing.
const PEEK: i32 = 2;

/// Beyond this the lower 32 bits of two totals cannot be told apart.
const SPLIT_LIMIT_NS: u64 = 1 << 32;

/// Says which instants there are. Volatile, so that "none" is stored too before they change, for a
/// reader in user space that comes in between.
#[inline(always)]
fn publish(flags: &mut u16, bits: u16) {
    // SAFETY: a valid reference.
    unsafe { core::ptr::write_volatile(flags, bits) };
}

/// The client of a connection whose requests are stamped.
#[inline(always)]
fn sampled(socket: Socket, side: Side) -> Option<Peer> {
    let peer = Peer::of_socket(socket, side)?;
    if peer.sampled() { Some(peer) } else { None }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// T1 and T4.
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
pub(crate) fn send_begins(ctx: BtfTracePointContext) -> i32 {
    try_send_begins(Socket(Object::new(ctx.arg(0))), Object::new(ctx.arg(1)));
    0
}

#[inline(always)]
fn try_send_begins(socket: Socket, message: Object) -> Option<()> {
    let side = socket.side()?;
    let peer = sampled(socket, side)?;
    match side {
        Side::Server => {
            let entry = peer.existing()?;
            // SAFETY: the map's value; this end's line is written under its socket's lock.
            let part = unsafe { &mut (*entry).server };
            if part.flags & (server::READ | server::ANSWERED) != server::READ {
                // Not an answer: a notice, or the rest of a long one.
                return None;
            }
            let tcp = socket.tcp();
            if tcp.is_null() {
                return None;
            }
            answer_begins(part, tcp.field(config!(offsets.write_seq)), now_ns());
            keep(peer, part);
        }
        Side::Client => {
            let entry = peer.entry(now_ns)?;
            let tcp = socket.tcp();
            if tcp.is_null() {
                return None;
            }
            let length: u64 = message.field(config!(offsets.msg_count));
            // SAFETY: as above.
            request_begins(unsafe { &mut (*entry).client }, tcp, length as u32);
        }
    }
    Some(())
}

/// T1 where `tcp_sendmsg_locked` is absent: when the segment leaves TCP and IP. Later than the
/// beginning of the send by what those take, under 2 µs.
#[btf_tracepoint(function = "net_dev_queue")]
pub(crate) fn send_queued(ctx: BtfTracePointContext) -> i32 {
    try_send_queued(Object::new(ctx.arg(0)));
    0
}

#[inline(always)]
fn try_send_queued(skb: Object) -> Option<()> {
    let socket = Socket(skb.object(config!(offsets.skb_sk)));
    if socket.0.is_null() {
        return None;
    }
    let side = socket.side()?;
    let segment = crate::packets::Segment::of(skb);
    if !segment.found || segment.payload == 0 {
        return None;
    }
    let peer = sampled(socket, side)?;
    match side {
        Side::Server => {
            let entry = peer.existing()?;
            // SAFETY: the map's value; this end's line is written under its socket's lock.
            let part = unsafe { &mut (*entry).server };
            if part.flags & (server::READ | server::ANSWERED) != server::READ {
                return None;
            }
            answer_begins(part, segment.sequence, now_ns());
            keep(peer, part);
        }
        Side::Client => {
            let entry = peer.entry(now_ns)?;
            // SAFETY: as above.
            let part = unsafe { &mut (*entry).client };
            if part.flags & client::SENT != 0 && !after(segment.sequence, part.sequence) {
                // Sent again.
                return None;
            }
            // A packet's socket is not one that the helper takes; a segment with data has a TCP
            // socket that is whole.
            let copied = socket.0.copy(config!(offsets.copied_seq))?;
            let received = socket.0.copy(config!(offsets.rcv_nxt))?;
            let stretch = (segment.sequence, segment.payload);
            request_stamped(part, stretch, (copied, received));
        }
    }
    Some(())
}

#[inline(always)]
fn answer_begins(part: &mut ServerPart, write_seq: u32, now: u64) {
    part.answer = write_seq;
    part.answered_ns = now;
    let service_ns = now.wrapping_sub(part.read_ns);
    let mut flags = part.flags | server::ANSWERED;
    if flags & server::SERVICE_BEGUN != 0 {
        if service_ns < SPLIT_LIMIT_NS
            && let Some(waited) = own_wait(part.slot)
        {
            let delta = waited.since((part.service_foreign, part.service_own));
            (part.service_foreign, part.service_own) = (delta.foreign, delta.own);
            flags |= server::SERVICE_SPLIT;
        }
        flags &= !server::SERVICE_BEGUN;
    }
    publish(&mut part.flags, flags);
    if config!(server_histograms) != 0
        && let Some(block) = SERVER.get_ptr_mut(0)
    {
        // SAFETY: a value of the map of this CPU.
        unsafe { threads::record(&raw mut (*block).service, service_ns) };
    }
}

/// Keeps the server's end of a request that will, or may be asked for.
#[inline(always)]
fn keep(peer: Peer, part: &ServerPart) {
    let capacity = config!(kept_answers);
    if capacity == 0 {
        return;
    }
    let key = peer.join_key();
    let hash = request_hash(key, part.sequence);
    let took_ns = part.answered_ns.wrapping_sub(part.ready_ns);
    if (is_joined(hash) || took_ns >= KEPT_FROM_NS)
        && let Some(kept) = ANSWERS.get_ptr_mut(kept_slot(hash, capacity))
    {
        // SAFETY: a value of the map. Two at once on one place would be two requests of the same
        // microsecond out of a minute's; key and sequence number tell most of such.
        let kept = unsafe { &mut *kept };
        publish(&mut kept.flags, 0);
        *kept = ServerPart { key, flags: 0, ..*part };
        publish(&mut kept.flags, part.flags);
    }
}

/// The totals of the thread of a slot, if that is the one running now.
#[inline(always)]
fn own_wait(slot: u16) -> Option<Waited> {
    if slot == 0 || slot != threads::current() { None } else { threads::waited_by_current(slot) }
}

#[inline(always)]
fn request_begins(part: &mut ClientPart, tcp: Object, length: u32) {
    let write_seq: u32 = tcp.field(config!(offsets.write_seq));
    let unanswered = part.flags & (client::SENT | client::READY) == client::SENT;
    if unanswered && write_seq.wrapping_sub(part.sequence) < part.length {
        // The rest of the same send.
        return;
    }
    let copied: u32 = tcp.field(config!(offsets.copied_seq));
    let received: u32 = tcp.field(config!(offsets.rcv_nxt));
    request_stamped(part, (write_seq, length), (copied, received));
}

#[inline(always)]
fn request_stamped(
    part: &mut ClientPart,
    (write_seq, length): (u32, u32),
    (copied, received): (u32, u32),
) {
    // Only within one connection: after a new connect the old request cannot be answered. An answer
    // that is there and has not been read shows in the stream.
    let unanswered = part.flags & (client::SENT | client::READY) == client::SENT
        && write_seq == part.sequence.wrapping_add(part.length);
    let mut flags = client::SENT;
    if unanswered || copied != received {
        flags |= client::SHARED;
    }
    let now = now_ns();
    let slot = threads::current();
    publish(&mut part.flags, 0);
    part.sequence = write_seq;
    part.length = length;
    part.answer = copied;
    part.losses_at_send = part.losses as u16;
    part.sent_ns = now;
    part.ready_ns = 0;
    part.read_ns = 0;
    part.slot = slot;
    if let Some(waited) = if slot == 0 { None } else { threads::waited_by_current(slot) } {
        (part.sent_foreign, part.sent_own) = (waited.foreign, waited.own);
        flags |= client::SENT_SPLIT;
    }
    publish(&mut part.flags, flags);
}

/// T2 and T5.
#[btf_tracepoint(function = "sk_data_ready")]
pub(crate) fn data_ready(ctx: BtfTracePointContext) -> i32 {
    try_data_ready(Socket(Object::new(ctx.arg(0))));
    0
}

#[inline(always)]
fn try_data_ready(socket: Socket) -> Option<()> {
    let side = socket.side()?;
    if matches!(side, Side::Server) {
        threads::count_request();
    }
    let peer = sampled(socket, side)?;
    match side {
        Side::Server => {
            let entry = peer.entry(now_ns)?;
            // SAFETY: the map's value; this end's line is written under its socket's lock.
            let part = unsafe { &mut (*entry).server };
            let tcp = socket.tcp();
            if tcp.is_null() {
                return None;
            }
            request_ready(part, tcp);
        }
        Side::Client => {
            let entry = peer.existing()?;
            // SAFETY: as above.
            let part = unsafe { &mut (*entry).client };
            if part.flags & (client::SENT | client::READY) != client::SENT {
                return None;
            }
            let tcp = socket.tcp();
            if tcp.is_null() {
                return None;
            }
            answer_ready(part, tcp);
        }
    }
    Some(())
}

#[inline(always)]
fn request_ready(part: &mut ServerPart, tcp: Object) {
    let copied: u32 = tcp.field(config!(offsets.copied_seq));
    let received: u32 = tcp.field(config!(offsets.rcv_nxt));
    let unread = part.flags & (server::READY | server::READ) == server::READY;
    if received == copied || (unread && part.sequence == copied) {
        // Nothing, or more behind what has been ready for a while.
        return;
    }
    let now = now_ns();
    let slot = part.slot;
    let mut flags = server::READY;
    publish(&mut part.flags, 0);
    part.sequence = copied;
    part.ready_ns = now;
    part.read_ns = 0;
    part.answered_ns = 0;
    if let Some(waited) = if slot == 0 { None } else { threads::waited(slot, now) } {
        (part.wait_foreign, part.wait_own) = (waited.foreign, waited.own);
        flags |= server::WAIT_BEGUN;
    }
    publish(&mut part.flags, flags);
}

#[inline(always)]
fn answer_ready(part: &mut ClientPart, tcp: Object) {
    let received: u32 = tcp.field(config!(offsets.rcv_nxt));
    if !after(received, part.answer) {
        return;
    }
    let now = now_ns();
    part.ready_ns = now;
    part.losses_at_ready = part.losses as u16;
    let mut flags = part.flags | client::READY;
    if let Some(waited) = if part.slot == 0 { None } else { threads::waited(part.slot, now) } {
        (part.receive_foreign, part.receive_own) = (waited.foreign, waited.own);
        flags |= client::RECEIVE_BEGUN;
    }
    publish(&mut part.flags, flags);
}

/// T3 and T6.
#[btf_tracepoint(function = "sock_recv_length")]
pub(crate) fn data_read(ctx: BtfTracePointContext) -> i32 {
    let (length, flags): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if length > 0 && flags & PEEK == 0 {
        try_data_read(Socket(Object::new(ctx.arg(0))));
    }
    0
}

#[inline(always)]
fn try_data_read(socket: Socket) -> Option<()> {
    let side = socket.side()?;
    threads::learn(side);
    if matches!(side, Side::Client) && config!(stamp_reads) == 0 {
        return None;
    }
    let peer = sampled(socket, side)?;
    let entry = peer.existing()?;
    match side {
        Side::Server => {
            // SAFETY: the map's value; this end's line is written by its reader from here on.
            let part = unsafe { &mut (*entry).server };
            if part.flags & (server::READY | server::READ) != server::READY {
                return None;
            }
            let tcp = socket.tcp();
            if tcp.is_null() {
                return None;
            }
            request_read(part, tcp);
        }
        Side::Client => {
            // SAFETY: as above.
            let part = unsafe { &mut (*entry).client };
            if part.flags & (client::READY | client::READ) != client::READY {
                return None;
            }
            let tcp = socket.tcp();
            if tcp.is_null() {
                return None;
            }
            answer_read(part, tcp);
        }
    }
    Some(())
}

#[inline(always)]
fn request_read(part: &mut ServerPart, tcp: Object) {
    let copied: u32 = tcp.field(config!(offsets.copied_seq));
    if !after(copied, part.sequence) {
        return;
    }
    let now = now_ns();
    let slot = threads::current();
    part.end = copied;
    part.read_ns = now;
    let wait_ns = now.wrapping_sub(part.ready_ns);
    let mut flags = part.flags | server::READ;
    if let Some(waited) = if slot == 0 { None } else { threads::waited_by_current(slot) } {
        if flags & server::WAIT_BEGUN != 0 && slot == part.slot && wait_ns < SPLIT_LIMIT_NS {
            let delta = waited.since((part.wait_foreign, part.wait_own));
            (part.wait_foreign, part.wait_own) = (delta.foreign, delta.own);
            flags |= server::WAIT_SPLIT;
        }
        (part.service_foreign, part.service_own) = (waited.foreign, waited.own);
        flags |= server::SERVICE_BEGUN;
    }
    part.slot = slot;
    publish(&mut part.flags, flags & !server::WAIT_BEGUN);
    if config!(server_histograms) != 0
        && let Some(block) = SERVER.get_ptr_mut(0)
    {
        // SAFETY: a value of the map of this CPU.
        unsafe { threads::record(&raw mut (*block).wait, wait_ns) };
    }
}

#[inline(always)]
fn answer_read(part: &mut ClientPart, tcp: Object) {
    let copied: u32 = tcp.field(config!(offsets.copied_seq));
    if !after(copied, part.answer) {
        return;
    }
    let now = now_ns();
    part.read_ns = now;
    let mut flags = part.flags | client::READ;
    if flags & client::RECEIVE_BEGUN != 0 {
        if now.wrapping_sub(part.ready_ns) < SPLIT_LIMIT_NS
            && let Some(waited) = own_wait(part.slot)
        {
            let delta = waited.since((part.receive_foreign, part.receive_own));
            (part.receive_foreign, part.receive_own) = (delta.foreign, delta.own);
            flags |= client::RECEIVE_SPLIT;
        }
        flags &= !client::RECEIVE_BEGUN;
    }
    publish(&mut part.flags, flags);
}
