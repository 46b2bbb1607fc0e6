//! A request for tests.

use crate::attribute::Evidence;
use crate::request::Request;
use crate::spent::{Doing, Spent};

pub(crate) const DUE: u64 = 1_000_000;

/// A request of 100 µs before its send, 10 on the way there, 20 until it is read, 30 until it
/// is answered, 10 on the way back, 40 until that is read.
pub(crate) fn request() -> Request {
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
        losses: 0,
        mixed: false,
        beside: false,
        unread_ns: None,
        client_slot: 1,
        server_slot: 2,
    }
}

/// Both ends were busy all the time, but for 15 µs in which others had the server's CPU.
pub(crate) fn evidence() -> Evidence {
    let busy = |ns| Spent::all(Doing::Run, ns);
    let mut server_wait = busy(5_000);
    server_wait += Spent::all(Doing::WaitOther, 15_000);
    Evidence {
        send_lag: busy(100_000),
        server_wait,
        server_service: busy(30_000),
        client_receive: busy(40_000),
    }
}
