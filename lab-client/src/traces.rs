//! Reading what the kernel saw of a request: the probes' arrays, or something in their place.

use std::net::SocketAddrV4;
use std::sync::Arc;

use attribution::{BeforeSend, CpuWait, Handover, Request, TracedThread, WaitedBetween};
use ebpf::{FlowTable, SampleTable, ThreadTable};

/// Waits for a CPU are looked up only for sends that are later than this, which few are. What an
/// earlier one has of them (long ones, as all that are kept) counts as busy.
const WORTH_A_LOOK_NS: u64 = 100_000;

/// Reads traces of requests, on the request path: must not block.
pub(crate) trait TraceReader: Send + Sync {
    /// Whether there are traces of the requests of a connection that were due at an instant: beyond
    /// some rate, a sample of the connections is traced.
    fn has(&self, from: SocketAddrV4, due_ns: u64) -> bool;

    /// An answer comes in: the request of that connection will be read next.
    fn prepare(&self, from: SocketAddrV4);

    /// The latest request of a connection, by the client's end. The calling thread has read its
    /// answer by `now_ns`, if it has one.
    fn request(&self, from: SocketAddrV4, now_ns: u64) -> Option<Request>;

    /// How long the client's thread that sent a request waited for a CPU between two instants.
    fn waited(&self, request: &Request, from_ns: u64, to_ns: u64) -> WaitedBetween;

    /// The thread behind a slot, and the one that held its CPU when it last waited long.
    fn thread(&self, slot: u16) -> Option<TracedThread>;
}

/// What a client's thread did between the instant at which a shake was due and its send; it slept
/// for `slept_ns` of that, waiting for a CPU at the end of its sleep included.
pub(crate) fn before_send(
    traces: &dyn TraceReader,
    request: &Request,
    due_ns: u64,
    slept_ns: u64,
) -> BeforeSend {
    let lag_ns = request.sent_ns.saturating_sub(due_ns);
    if lag_ns < WORTH_A_LOOK_NS {
        return BeforeSend { asleep_ns: slept_ns, ..BeforeSend::default() };
    }
    let woke_ns = due_ns + slept_ns;
    let first = traces.waited(request, due_ns, woke_ns);
    let then = traces.waited(request, woke_ns, request.sent_ns);
    let of_sleep_ns = first.wait.foreign_ns + first.wait.own_ns + first.unknown_ns;
    BeforeSend {
        asleep_ns: slept_ns.saturating_sub(of_sleep_ns),
        waited: CpuWait {
            foreign_ns: first.wait.foreign_ns + then.wait.foreign_ns,
            own_ns: first.wait.own_ns + then.wait.own_ns,
        },
        unknown_ns: first.unknown_ns + then.unknown_ns,
    }
}

/// The arrays of the probes, mapped into this process.
pub(crate) struct KernelTraces {
    flows: FlowTable,
    threads: ThreadTable,
    sample: SampleTable,
}

impl KernelTraces {
    /// Maps the arrays that the process which attached the probes hands over.
    ///
    /// # Errors
    /// When they are no such arrays.
    pub(crate) fn map(handover: &Handover) -> std::io::Result<Arc<dyn TraceReader>> {
        let (flows, threads, sample) = ebpf::map_inherited(handover)?;
        Ok(Arc::new(Self { flows, threads, sample }))
    }
}

impl TraceReader for KernelTraces {
    fn has(&self, from: SocketAddrV4, due_ns: u64) -> bool {
        self.sample.contains(from, due_ns)
    }

    fn prepare(&self, from: SocketAddrV4) {
        if self.sample.contains(from, u64::MAX) {
            self.flows.prefetch(from);
        }
    }

    fn request(&self, from: SocketAddrV4, now_ns: u64) -> Option<Request> {
        let mut request = self.flows.request(from)?;
        request.read_at(now_ns, self.threads.own_totals(request.client_slot));
        Some(request)
    }

    fn waited(&self, request: &Request, from_ns: u64, to_ns: u64) -> WaitedBetween {
        let waited = self.threads.waited_between(request.client_slot, from_ns, to_ns);
        // Of a thread that is not watched, or whose entry is being written, nothing is known.
        let unknown_ns = to_ns.saturating_sub(from_ns);
        waited.unwrap_or(WaitedBetween { wait: CpuWait::default(), unknown_ns })
    }

    fn thread(&self, slot: u16) -> Option<TracedThread> {
        let thread = self.threads.thread(slot, platform::monotonic_ns())?;
        let held_by = self.threads.long_waits(slot).pop().map(|wait| wait.holder);
        Some(TracedThread { tid: thread.tid, held_by })
    }
}

#[cfg(test)]
mod tests {
    use attribution::{Cause, attribute};

    use super::*;

    const DUE: u64 = 1_000_000;

    /// 100 µs before its send, 20 on the way, 50 at the server, 40 until its answer is read.
    const REQUEST: Request = Request {
        sequence: 1,
        end: 21,
        answer: 1,
        sent_ns: DUE + 100_000,
        server_ready_ns: Some(DUE + 110_000),
        server_read_ns: Some(DUE + 130_000),
        answered_ns: Some(DUE + 160_000),
        ready_ns: Some(DUE + 170_000),
        read_ns: Some(DUE + 210_000),
        server_wait: Some(NO_WAIT),
        server_service: Some(NO_WAIT),
        client_receive: Some(NO_WAIT),
        losses: 0,
        mixed: false,
        client_slot: 1,
        server_slot: 2,
        ready_totals: None,
        sent_totals: None,
    };

    const NO_WAIT: CpuWait = CpuWait { foreign_ns: 0, own_ns: 0 };

    /// Traces of waits of a fixed length, in which others are overwritten.
    struct Overwritten(WaitedBetween);

    impl TraceReader for Overwritten {
        fn has(&self, _: SocketAddrV4, _: u64) -> bool {
            true
        }

        fn prepare(&self, _: SocketAddrV4) {}

        fn request(&self, _: SocketAddrV4, _: u64) -> Option<Request> {
            None
        }

        fn waited(&self, _: &Request, from_ns: u64, to_ns: u64) -> WaitedBetween {
            if from_ns == to_ns { WaitedBetween::default() } else { self.0 }
        }

        fn thread(&self, _: u16) -> Option<TracedThread> {
            None
        }
    }

    #[test]
    fn what_the_traces_do_not_have_is_unexplained() {
        let wait = CpuWait { foreign_ns: 40_000, own_ns: 0 };
        // Of the 100 µs before the send: busy, and unexplained.
        for (unknown_ns, slept_ns, busy_us, unexplained_us) in [
            (0, 0, 60, 0),
            (30_000, 0, 30, 30),
            (60_000, 0, 0, 60),
            // All of 50 µs of sleep and all of the 50 after it are waits, or not known.
            (10_000, 50_000, 0, 20),
            (0, 50_000, 10, 10),
        ] {
            let traces = Overwritten(WaitedBetween { wait, unknown_ns });
            let before = before_send(&traces, &REQUEST, DUE, slept_ns);
            let attributed = attribute(DUE, 210_000, Some(&REQUEST), before);
            let of = |cause: Cause| attributed.causes_ns[cause] / 1000;
            // The 40 µs at the end are those of a busy client.
            let found = (of(Cause::ClientBusy), of(Cause::Unexplained));
            assert_eq!(found, (busy_us + 40, unexplained_us), "{unknown_ns} {slept_ns}");
        }
    }
}
