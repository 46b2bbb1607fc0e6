//! Segments sent again, by kind.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use events::{LossRecord, Retransmit, Side, loss};

use crate::{
    count::{add, count},
    flow::Peer,
    kernel::{Object, Socket, config},
    peers, requests,
};

/// `TCP_CA_Recovery`
const CA_RECOVERY: u8 = 3;
/// `TCP_CA_Loss`
const CA_LOSS: u8 = 4;
/// `ICSK_TIME_LOSS_PROBE`: still pending while the probe is sent; the retransmission timer is not.
const TIME_LOSS_PROBE: u8 = 5;
/// `TCP_SYN_SENT`
const SYN_SENT: u8 = 2;

/// `EAGAIN`, `ENOMEM`, `EBUSY`, `EINVAL` and `EHOSTUNREACH`: given up before the segment was built,
/// which `RetransSegs` does not count. After that it counts, whatever becomes of it.
const GIVEN_UP: [i32; 5] = [-11, -12, -16, -22, -113];

/// A segment is sent again.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn retransmitted(ctx: BtfTracePointContext) -> i32 {
    // The verifier leaves this out where there is no third argument.
    let error: i32 = if config!(retransmit_tells_error) != 0 { ctx.arg(2) } else { 0 };
    try_retransmitted(Socket(Object::new(ctx.arg(0))), Object::new(ctx.arg(1)), error);
    0
}

#[inline(always)]
fn try_retransmitted(socket: Socket, skb: Object, error: i32) -> Option<()> {
    let side = socket.side()?;
    if error != 0 {
        count(|block| &mut block.retransmits_failed);
        if GIVEN_UP.contains(&error) {
            return None;
        }
    }
    // `RetransSegs` counts the segments of an aggregate one by one.
    let segments: u16 = skb.copy(config!(offsets.skb_tcp_segments))?;
    let segments = u32::from(segments.max(1));
    requests::sent_again(socket, side);
    note(socket, side, kind_of(socket), segments)
}

#[inline(always)]
fn kind_of(socket: Socket) -> Retransmit {
    let state: u8 = socket.0.field(config!(offsets.skc_state));
    if state == SYN_SENT {
        return Retransmit::Syn;
    }
    let tcp = socket.tcp();
    if tcp.is_null() {
        return Retransmit::Other;
    }
    let pending: u8 = tcp.field(config!(offsets.icsk_pending));
    if pending == TIME_LOSS_PROBE {
        return Retransmit::TailLoss;
    }
    let byte: u8 = tcp.field(config!(offsets.ca_state_byte));
    let state =
        byte >> (config!(offsets.ca_state_shift) & 7) & config!(offsets.ca_state_mask) as u8;
    match state {
        CA_RECOVERY => Retransmit::Fast,
        CA_LOSS => Retransmit::Timeout,
        _ => Retransmit::Other,
    }
}

/// A SYN-ACK is sent again.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn synack_retransmitted(ctx: BtfTracePointContext) -> i32 {
    // The request begins with the same fields as a socket, and belongs to the server's end.
    try_synack(Socket(Object::new(ctx.arg(0))), Socket(Object::new(ctx.arg(1))));
    0
}

#[inline(always)]
fn try_synack(listener: Socket, request: Socket) -> Option<()> {
    let side @ Side::Server = listener.side()? else { return None };
    note(request, side, Retransmit::SynAck, 1)
}

#[inline(always)]
fn note(socket: Socket, side: Side, kind: Retransmit, segments: u32) -> Option<()> {
    add(u64::from(segments), |block| {
        &mut block.retransmits[side as usize & 1][(kind as usize).min(5)]
    });
    peers::lost(
        Peer::of_socket(socket, side)?,
        LossRecord {
            at_ns: 0,
            location: 0,
            kind: loss::RETRANSMIT,
            detail: kind as u32,
            client: [0; 4],
            padding: 0,
            client_port: 0,
            side: side as u16,
            sequence: 0,
            count: segments,
        },
    );
    Some(())
}
