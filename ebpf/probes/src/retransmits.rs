//! Segments sent again, by kind.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use events::{LossRecord, Retransmit, Side, loss};

use crate::{
    count::{add, count},
    flow::Peer,
    kernel::{Object, Socket, config},
    peers,
};

/// `TCP_CA_Recovery`
const CA_RECOVERY: u8 = 3;
/// `TCP_CA_Loss`
const CA_LOSS: u8 = 4;
/// `ICSK_TIME_LOSS_PROBE`: still pending while the probe is sent; the retransmission timer is not.
const TIME_LOSS_PROBE: u8 = 5;
/// `TCP_SYN_SENT`
const SYN_SENT: u8 = 2;

/// A segment is sent again.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn retransmitted(ctx: BtfTracePointContext) -> i32 {
    try_retransmitted(Socket(Object::new(ctx.arg(0))), Object::new(ctx.arg(1)));
    0
}

#[inline(always)]
fn try_retransmitted(socket: Socket, skb: Object) -> Option<()> {
    let side = socket.side()?;
    // `RetransSegs` counts the segments of an aggregate one by one.
    let segments: u16 = skb.copy(config!(offsets.skb_tcp_segments))?;
    let segments = u32::from(segments.max(1));
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

/// A segment was sent again in vain: the layer below would not take it.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn retransmit_failed(ctx: BtfTracePointContext) -> i32 {
    let error: i32 = ctx.arg(2);
    if error != 0 && Socket(Object::new(ctx.arg(0))).side().is_some() {
        count(|block| &mut block.retransmits_failed);
    }
    0
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
            client_address: 0,
            client_port: 0,
            side: side as u16,
            sequence: 0,
            count: segments,
        },
    );
    Some(())
}
