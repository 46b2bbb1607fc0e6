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
    ABSENT, ClientPart, KEPT_FROM_NS, ServerBlock, ServerPart, Side, client, is_joined, kept_slot,
    request_hash, server,
};

use crate::{
    count::atomic_add,
    flow::{MMAPABLE, Peer},
    kernel::{Object, Socket, after, config},
    threads,
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
            let received = socket.0.copy(config!(offsets.rcv_nxt))?;
            let stretch = (segment.sequence, segment.payload);
            request_stamped(part, stretch, received);
        }
    }
    Some(())
}

#[inline(always)]
fn answer_begins(part: &mut ServerPart, write_seq: u32, now: u64) {
    part.answer = write_seq;
    part.answered_ns = now;
    let service_ns = now.wrapping_sub(part.read_ns);
    let flags = part.flags | server::ANSWERED;
    publish(&mut part.flags, flags);
    threads::begin_own_send(now);
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
        *kept = ServerPart { key, flags: 0, padding: [0; 4], ..*part };
        publish(&mut kept.flags, part.flags);
    }
}

#[inline(always)]
fn request_begins(part: &mut ClientPart, tcp: Object, length: u32) {
    let write_seq: u32 = tcp.field(config!(offsets.write_seq));
    let unanswered = part.flags & (client::SENT | client::READY) == client::SENT;
    if unanswered && write_seq.wrapping_sub(part.sequence) < part.length {
        // The rest of the same send.
        return;
    }
    let received: u32 = tcp.field(config!(offsets.rcv_nxt));
    request_stamped(part, (write_seq, length), received);
}

#[inline(always)]
fn request_stamped(part: &mut ClientPart, (write_seq, length): (u32, u32), received: u32) {
    // Only within one connection: after a new connect the old request cannot be answered. What is
    // there and has not been read shows in the stream.
    let unanswered = part.flags & (client::SENT | client::READY) == client::SENT
        && write_seq == part.sequence.wrapping_add(part.length);
    let flags = client::SENT | if unanswered { client::SHARED } else { 0 };
    let now = now_ns();
    let slot = threads::current();
    publish(&mut part.flags, 0);
    part.sequence = write_seq;
    part.length = length;
    part.answer = received;
    part.losses_at_send = part.losses as u16;
    part.resends_at_send = part.resends as u16;
    part.resent_stamp = 0;
    part.answer_resent_stamp = 0;
    part.sent_ns = now;
    part.ready_ns = 0;
    part.read_ns = 0;
    part.slot = slot;
    publish(&mut part.flags, flags);
    threads::begin_own_send(now);
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
            // SAFETY: as above; the server's line is only read.
            let (part, theirs) = unsafe { (&mut (*entry).client, &(*entry).server) };
            let is_ready = part.flags & (client::READY | client::EARLY) == client::READY;
            if part.flags & client::SENT == 0 || is_ready {
                return None;
            }
            let tcp = socket.tcp();
            if tcp.is_null() {
                return None;
            }
            answer_ready(part, theirs, tcp);
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
    publish(&mut part.flags, 0);
    part.sequence = copied;
    part.ready_ns = now;
    part.read_ns = 0;
    part.answered_ns = 0;
    publish(&mut part.flags, server::READY);
}

#[inline(always)]
fn answer_ready(part: &mut ClientPart, theirs: &ServerPart, tcp: Object) {
    let received: u32 = tcp.field(config!(offsets.rcv_nxt));
    if !after(received, part.answer) {
        return;
    }
    // What else the server sends may come before the answer. Where it is not seen, the first that
    // comes is taken for the answer.
    let is_answer = theirs.has_answered(part.sequence) && after(received, theirs.answer);
    if part.flags & client::READY != 0 && !is_answer {
        return;
    }
    part.ready_ns = now_ns();
    part.losses_at_ready = part.losses as u16;
    part.resends_at_ready = part.resends as u16;
    let in_time = if part.resent_stamp | part.answer_resent_stamp == 0 {
        0
    } else {
        transmissions_in_time(part, tcp)
    };
    let early = if is_answer { 0 } else { client::EARLY };
    let flags = part.flags & !(client::READ | client::EARLY);
    publish(&mut part.flags, flags | client::READY | in_time | early);
}

/// Something was sent again before the answer came: what of it was not needed, by the timestamps of
/// the segment that brought the answer. It echoes the stamp of the request's transmission that came
/// first, and has that of the answer's own.
#[inline(always)]
fn transmissions_in_time(part: &ClientPart, tcp: Object) -> u16 {
    if config!(offsets.rcv_tsecr) == ABSENT || config!(offsets.rcv_tsval) == ABSENT {
        return 0;
    }
    let earlier = |stamp: u32, resent: u32| stamp != 0 && after(resent, stamp);
    let mut flags = 0;
    if earlier(tcp.field(config!(offsets.rcv_tsecr)), part.resent_stamp) {
        flags |= client::REQUEST_IN_TIME;
    }
    if earlier(tcp.field(config!(offsets.rcv_tsval)), part.answer_resent_stamp) {
        flags |= client::ANSWER_IN_TIME;
    }
    flags
}

/// TCP's clock for timestamps: milliseconds.
#[inline(always)]
fn stamp_now() -> u32 {
    (now_ns() / 1_000_000) as u32
}

/// A segment of a connection is sent again: notes when that came first of the request under way, or
/// of its answer, and counts it there. What the server sends again before it has answered is the
/// answer to a request before, which has come: its acknowledgement is late.
#[inline(always)]
pub(crate) fn sent_again(socket: Socket, side: Side) -> Option<()> {
    let entry = Peer::of_socket(socket, side)?.existing()?;
    // SAFETY: the map's value; only what belongs to a request under way is written.
    let (part, theirs) = unsafe { (&mut (*entry).client, &(*entry).server) };
    if matches!(side, Side::Server) {
        let answered = theirs.flags & server::ANSWERED != 0 && theirs.sequence == part.sequence;
        if !answered {
            return None;
        }
    }
    // SAFETY: an aligned field of a map's value; both ends may add to it.
    unsafe { atomic_add(&raw mut part.resends, 1) };
    if part.flags & (client::SENT | client::READY) != client::SENT {
        return None;
    }
    match side {
        Side::Client if part.resent_stamp == 0 => part.resent_stamp = stamp_now().max(1),
        Side::Server if part.answer_resent_stamp == 0 => {
            let tcp = socket.tcp();
            if tcp.is_null() || config!(offsets.tsoffset) == ABSENT {
                return None;
            }
            let offset: u32 = tcp.field(config!(offsets.tsoffset));
            part.answer_resent_stamp = stamp_now().wrapping_add(offset).max(1);
        }
        _ => {}
    }
    Some(())
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
    if matches!(side, Side::Server) && config!(owned) != 0 && !threads::is_server() {
        // Another process has the port, too.
        return None;
    }
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
    part.end = copied;
    part.read_ns = now;
    part.slot = threads::current();
    let wait_ns = now.wrapping_sub(part.ready_ns);
    let flags = part.flags | server::READ;
    publish(&mut part.flags, flags);
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
    part.read_ns = now_ns();
    let flags = part.flags | client::READ;
    publish(&mut part.flags, flags);
}
