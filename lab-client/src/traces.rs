//! Reading what the kernel saw of a request: the probes' arrays, or something in their place.

use std::net::SocketAddrV4;
use std::sync::Arc;

use attribution::{Evidence, Handover, Request, Spent, TracedThread};
use ebpf::{FlowTable, SampleTable, Timelines};

/// Reads traces of requests, on the request path: must not block.
pub(crate) trait TraceReader: Send + Sync {
    /// Whether there are traces of the requests of a connection that were due at an instant: beyond
    /// some rate, a sample of the connections is traced.
    fn has(&self, from: SocketAddrV4, due_ns: u64) -> bool;

    /// An answer comes in: the request of that connection will be read next.
    fn prepare(&self, from: SocketAddrV4);

    /// The latest request of a connection, by the client's end.
    fn request(&self, from: SocketAddrV4) -> Option<Request>;

    /// A request of a connection on which other frames were sent since.
    fn request_behind(&self, from: SocketAddrV4, request: Request) -> Request;

    /// What the thread of a slot did between two instants.
    fn spent(&self, slot: u16, from_ns: u64, to_ns: u64) -> Spent;

    /// The thread behind a slot, and who had its CPU between two instants.
    fn thread(&self, slot: u16, from_ns: u64, to_ns: u64) -> Option<TracedThread>;
}

/// What the threads of a request did that was due at `due_ns` and over, or given up, at `end_ns`.
/// `request` is the latest of its connection, which may be an earlier one.
pub(crate) fn evidence(
    traces: &dyn TraceReader,
    request: &Request,
    due_ns: u64,
    end_ns: u64,
) -> Evidence {
    let (client, server) = (request.client_slot, request.server_slot);
    let spent = |slot: u16, from: Option<u64>, to_ns: u64| {
        from.map(|from_ns| traces.spent(slot, from_ns, to_ns)).unwrap_or_default()
    };
    if request.sent_ns < due_ns {
        let send_lag = spent(client, Some(due_ns), end_ns);
        return Evidence { send_lag, ..Evidence::default() };
    }
    let (t2, t3) = (request.server_ready_ns, request.server_read_ns);
    Evidence {
        send_lag: spent(client, Some(due_ns), request.sent_ns),
        server_wait: spent(server, t2, t3.unwrap_or(end_ns)),
        server_service: spent(server, t3, request.answered_ns.unwrap_or(end_ns)),
        client_receive: spent(client, request.ready_ns, request.read_ns.unwrap_or(end_ns)),
    }
}

/// The arrays of the probes, mapped into this process.
pub(crate) struct KernelTraces {
    flows: FlowTable,
    timelines: Timelines,
    sample: SampleTable,
}

impl KernelTraces {
    /// Maps the arrays that the process which attached the probes hands over.
    ///
    /// # Errors
    /// When they are no such arrays.
    pub(crate) fn map(handover: &Handover) -> std::io::Result<Arc<dyn TraceReader>> {
        let (flows, timelines, sample) = ebpf::map_inherited(handover)?;
        Ok(Arc::new(Self { flows, timelines, sample }))
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

    fn request(&self, from: SocketAddrV4) -> Option<Request> {
        self.flows.request(from)
    }

    fn request_behind(&self, from: SocketAddrV4, request: Request) -> Request {
        self.flows.entry(from).map_or(request, |entry| request.behind(&entry))
    }

    fn spent(&self, slot: u16, from_ns: u64, to_ns: u64) -> Spent {
        self.timelines.spent(slot, from_ns, to_ns)
    }

    fn thread(&self, slot: u16, from_ns: u64, to_ns: u64) -> Option<TracedThread> {
        let tid = self.timelines.threads().tid_of(slot)?;
        Some(TracedThread { tid, turns: self.timelines.turns(slot, from_ns, to_ns) })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use attribution::{Cause, Doing, attribute};

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
        losses: 0,
        mixed: false,
        beside: false,
        unread_ns: None,
        client_slot: 1,
        server_slot: 2,
    };

    /// The server's thread is stopped, and that of the client, in slot 1, does this.
    pub(crate) struct ServerIsStopped(pub(crate) Doing);

    impl TraceReader for ServerIsStopped {
        fn has(&self, _: SocketAddrV4, _: u64) -> bool {
            true
        }

        fn prepare(&self, _: SocketAddrV4) {}

        fn request(&self, _: SocketAddrV4) -> Option<Request> {
            None
        }

        fn request_behind(&self, _: SocketAddrV4, request: Request) -> Request {
            request
        }

        fn spent(&self, slot: u16, from_ns: u64, to_ns: u64) -> Spent {
            let doing = if slot == REQUEST.client_slot { self.0 } else { Doing::Stopped };
            Spent::all(doing, to_ns - from_ns)
        }

        fn thread(&self, _: u16, _: u64, _: u64) -> Option<TracedThread> {
            None
        }
    }

    /// Microseconds that the client was busy, the way took, and the server was stopped.
    fn check(request: Request, latency_us: u64, expected: [u64; 3]) {
        let latency_ns = latency_us * 1000;
        let evidence = evidence(&ServerIsStopped(Doing::Run), &request, DUE, DUE + latency_ns);
        let attributed = attribute(DUE, latency_ns, Some(&request), &evidence);
        let of = |cause: Cause| attributed.causes_ns[cause] / 1000;
        let found = [Cause::ClientBusy, Cause::NetworkDelay, Cause::ServerStopped].map(of);
        assert_eq!(found, expected, "{request:?}");
        assert_eq!(found.iter().sum::<u64>(), latency_us, "{request:?}");
    }

    #[test]
    fn each_thread_is_asked_for_the_time_in_which_it_had_to_act() {
        check(REQUEST, 210, [140, 20, 50]);
        let unanswered = Request { answered_ns: None, ready_ns: None, read_ns: None, ..REQUEST };
        check(unanswered, 5_000, [100, 10, 4_890]);
        let unread = Request { server_read_ns: None, ..unanswered };
        check(unread, 5_000, [100, 10, 4_890]);
        // The latest request that was seen is an earlier one: this one was not sent.
        let earlier = Request { sent_ns: DUE - 1, ..REQUEST };
        check(earlier, 5_000, [5_000, 0, 0]);
    }
}
