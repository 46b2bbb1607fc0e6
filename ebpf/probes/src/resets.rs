//! Resets of the experiment's connections.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use events::{LossRecord, Side, loss};

use crate::{
    count::count,
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
        let side = socket.side()?;
        return note(Peer::of_socket(socket, side)?, side, loss::RESET_SENT);
    }
    // No socket: in answer to a segment that nobody waits for.
    if answered.is_null() {
        return None;
    }
    let segment = Segment::of(answered);
    if !segment.found {
        return None;
    }
    let side = match segment.sender {
        Side::Server => Side::Client,
        Side::Client => Side::Server,
    };
    note(segment.peer, side, loss::RESET_SENT)
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
    note(Peer::of_socket(socket, side)?, side, loss::RESET_RECEIVED)
}

#[inline(always)]
fn note(peer: Peer, side: Side, kind: u32) -> Option<()> {
    let index = side as usize & 1;
    if kind == loss::RESET_SENT {
        count(|block| &mut block.resets_sent[index]);
    } else {
        count(|block| &mut block.resets_received[index]);
    }
    peers::lost(
        peer,
        LossRecord {
            at_ns: 0,
            location: 0,
            kind,
            detail: 0,
            client_address: 0,
            client_port: 0,
            side: side as u16,
            sequence: 0,
            count: 1,
        },
    );
    Some(())
}
