//! A request for tests.

use crate::request::{CpuWait, Request};

pub(crate) const DUE: u64 = 1_000_000;

/// A request of 100 µs before its send, 10 on the way there, 20 until it is read, 30 until it
/// is answered, 10 on the way back, 40 until that is read.
pub(crate) fn request() -> Request {
    let split = |foreign_ns| Some(CpuWait { foreign_ns, own_ns: 0 });
    Request {
        sequence: 1,
        end: 21,
        answer: 1,
        sent_ns: DUE + 100_000,
        server_ready_ns: Some(DUE + 110_000),
        server_read_ns: Some(DUE + 130_000),
        answered_ns: Some(DUE + 160_000),
        ready_ns: Some(DUE + 170_000),
        read_ns: Some(DUE + 210_000),
        server_wait: split(15_000),
        server_service: split(0),
        client_receive: split(0),
        losses: 0,
        mixed: false,
        client_slot: 1,
        server_slot: 2,
        ready_totals: None,
        sent_totals: None,
    }
}
