//! Who saw what happened to a request: the probes' arrays, or somebody in their place.

use std::net::SocketAddrV4;
use std::sync::Arc;

use ebpf::{CpuWait, FlowTable, Request, SampleTable, ThreadTable};

use crate::causes::BeforeSend;

/// Waits for a CPU are looked up only for sends that are later than this: shorter ones are not kept
/// ([`ebpf::LONG_WAIT`]).
const WORTH_A_LOOK_NS: u64 = 100_000;

/// Somebody who saw requests. Asked on the request path: must not block.
pub trait Witness: Send + Sync {
    /// Whether requests of a connection that were due at an instant are looked at: beyond some
    /// rate, only a sample is.
    fn looks_at(&self, from: SocketAddrV4, due_ns: u64) -> bool;

    /// An answer comes in: the request of that connection will be asked for.
    fn prepare(&self, from: SocketAddrV4);

    /// The latest request of a connection, by the client's end. The calling thread has read its
    /// answer by `now_ns`, if it has one.
    fn request(&self, from: SocketAddrV4, now_ns: u64) -> Option<Request>;

    /// How long the client's thread that sent a request waited for a CPU between two instants.
    fn waited(&self, request: &Request, from_ns: u64, to_ns: u64) -> CpuWait;

    /// The thread behind a slot, and who held its CPU when it last waited long.
    fn thread(&self, slot: u16) -> Option<SeenThread>;
}

/// A thread, for the record of a slow request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenThread {
    /// Its number.
    pub tid: u32,
    /// The name of the thread that held the CPU during its last long wait.
    pub held_by: Option<String>,
}

/// What a client's thread did between the instant at which a shake was due and its send; it slept
/// for `slept_ns` of that, waiting for a CPU at the end of its sleep included.
pub(crate) fn before_send(
    witness: &dyn Witness,
    request: &Request,
    due_ns: u64,
    slept_ns: u64,
) -> BeforeSend {
    let lag_ns = request.sent_ns.saturating_sub(due_ns);
    if lag_ns < WORTH_A_LOOK_NS {
        return BeforeSend { asleep_ns: slept_ns, waited: CpuWait::default() };
    }
    let woke_ns = due_ns + slept_ns;
    let first = witness.waited(request, due_ns, woke_ns);
    let then = witness.waited(request, woke_ns, request.sent_ns);
    BeforeSend {
        asleep_ns: slept_ns.saturating_sub(first.foreign_ns + first.own_ns),
        waited: CpuWait {
            foreign_ns: first.foreign_ns + then.foreign_ns,
            own_ns: first.own_ns + then.own_ns,
        },
    }
}

/// The arrays of the probes, mapped into this process.
pub struct KernelWitness {
    flows: FlowTable,
    threads: ThreadTable,
    sample: SampleTable,
}

impl KernelWitness {
    /// The arrays that the process which attached the probes hands over.
    ///
    /// # Errors
    /// When they are no such arrays.
    pub fn take(handover: &ebpf::Handover) -> std::io::Result<Arc<dyn Witness>> {
        let (flows, threads, sample) = handover.take()?;
        Ok(Arc::new(Self { flows, threads, sample }))
    }
}

impl Witness for KernelWitness {
    fn looks_at(&self, from: SocketAddrV4, due_ns: u64) -> bool {
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

    fn waited(&self, request: &Request, from_ns: u64, to_ns: u64) -> CpuWait {
        let waited = self.threads.waited_between(request.client_slot, from_ns, to_ns);
        waited.map_or_else(CpuWait::default, |waited| waited.wait)
    }

    fn thread(&self, slot: u16) -> Option<SeenThread> {
        let thread = self.threads.thread(slot, shard::monotonic_ns())?;
        let held_by = self.threads.long_waits(slot).pop().map(|wait| wait.holder);
        Some(SeenThread { tid: thread.tid, held_by })
    }
}
