//! Resets of the experiment's connections.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use events::{LossRecord, Side, loss};

use crate::{
    count::count,
    drops,
    flow::Peer,
    kernel::{Object, Socket},
    packets::Segment,
    peers,
};

/// A reset is sent.
#[btf_tracepoint(function = "tcp_send_reset")]
pub(crate) fn reset_sent(ctx: BtfTracePointContext) -> i32 {
    try_reset_sent(Socket(Object::new(ctx.arg(0))), Object::new(ctx.arg(1)));
    0
}

#[inline(always)]
fn try_reset_sent(socket: Socket, answered: Object) -> Option<()> {
    if !socket.0.is_null() {
        // Closed with bytes unread, it has lost its number before the reset is sent.
        let side = socket.side_of_closed()?;
        let port = match side {
            Side::Server => socket.peer_port(),
            Side::Client if socket.own_port() != 0 => socket.own_port(),
            Side::Client => socket.port_before(),
        };
        counted(side, loss::RESET_SENT);
        note(Peer::at_port(socket, side, port)?, side, loss::RESET_SENT);
        return Some(());
    }
    // No socket: in answer to a segment that nobody waits for.
    if answered.is_null() {
        return None;
    }
    let segment = Segment::of(answered);
    if !segment.found || !drops::is_watched(answered) {
        return None;
    }
    let side = match segment.sender {
        Side::Server => Side::Client,
        Side::Client => Side::Server,
    };
    counted(side, loss::RESET_SENT);
    note(segment.peer, side, loss::RESET_SENT);
    Some(())
}

/// A reset is received.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub(crate) fn reset_received(ctx: BtfTracePointContext) -> i32 {
    try_reset_received(Socket(Object::new(ctx.arg(0))));
    0
}

#[inline(always)]
fn try_reset_received(socket: Socket) -> Option<()> {
    let side = socket.side()?;
    counted(side, loss::RESET_RECEIVED);
    note(Peer::of_socket(socket, side)?, side, loss::RESET_RECEIVED);
    Some(())
}

/// Apart from its record: a peer that may be absent must not be passed on, for the verifier does
/// not let registers be copied that nobody wrote.
#[inline(always)]
fn counted(side: Side, kind: u32) {
    let index = side as usize & 1;
    if kind == loss::RESET_SENT {
        count(|block| &mut block.resets_sent[index]);
    } else {
        count(|block| &mut block.resets_received[index]);
    }
}

#[inline(always)]
fn note(peer: Peer, side: Side, kind: u32) {
    peers::lost(
        peer,
        LossRecord {
            at_ns: 0,
            location: 0,
            kind,
            detail: 0,
            client: [0; 4],
            padding: 0,
            client_port: 0,
            side: side as u16,
            sequence: 0,
            count: 1,
        },
    );
}
