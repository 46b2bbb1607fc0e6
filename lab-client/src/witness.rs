//! Who saw what happened to a request: the probes' arrays, or somebody in their place.

use std::net::SocketAddrV4;
use std::sync::Arc;

use ebpf::{CpuWait, FlowTable, Request, SampleTable, ThreadTable, WaitedBetween};

use crate::causes::BeforeSend;

/// Waits for a CPU are looked up only for sends that are later than this, which few are. What an
/// earlier one has of them (of [`ebpf::LONG_WAIT`] and more, as all that are kept) counts as busy.
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
    fn waited(&self, request: &Request, from_ns: u64, to_ns: u64) -> WaitedBetween;

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
        return BeforeSend { asleep_ns: slept_ns, ..BeforeSend::default() };
    }
    let woke_ns = due_ns + slept_ns;
    let first = witness.waited(request, due_ns, woke_ns);
    let then = witness.waited(request, woke_ns, request.sent_ns);
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
        let (flows, threads, sample) = handover.map()?;
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

    fn waited(&self, request: &Request, from_ns: u64, to_ns: u64) -> WaitedBetween {
        let waited = self.threads.waited_between(request.client_slot, from_ns, to_ns);
        // Of a thread that nobody watches, or whose entry is being written, nothing is known.
        let unknown_ns = to_ns.saturating_sub(from_ns);
        waited.unwrap_or(WaitedBetween { wait: CpuWait::default(), unknown_ns })
    }

    fn thread(&self, slot: u16) -> Option<SeenThread> {
        let thread = self.threads.thread(slot, shard::monotonic_ns())?;
        let held_by = self.threads.long_waits(slot).pop().map(|wait| wait.holder);
        Some(SeenThread { tid: thread.tid, held_by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::tests::{DUE, request};
    use crate::causes::{Cause, explain};

    /// A witness who has seen waits of a fixed length, and forgotten others.
    struct Forgetful(WaitedBetween);

    impl Witness for Forgetful {
        fn looks_at(&self, _: SocketAddrV4, _: u64) -> bool {
            true
        }

        fn prepare(&self, _: SocketAddrV4) {}

        fn request(&self, _: SocketAddrV4, _: u64) -> Option<Request> {
            None
        }

        fn waited(&self, _: &Request, from_ns: u64, to_ns: u64) -> WaitedBetween {
            if from_ns == to_ns { WaitedBetween::default() } else { self.0 }
        }

        fn thread(&self, _: u16) -> Option<SeenThread> {
            None
        }
    }

    #[test]
    fn what_the_witness_does_not_know_is_nobodys_fault() {
        let wait = CpuWait { foreign_ns: 40_000, own_ns: 0 };
        // Of the 100 µs before the send: busy, and unexplained.
        for (unknown_ns, slept_ns, busy_us, unexplained_us) in [
            (0, 0, 60, 0),
            (30_000, 0, 30, 30),
            (60_000, 0, 0, 60),
            // All of 50 µs of sleep and all of the 50 behind it are waits, or not known.
            (10_000, 50_000, 0, 20),
            (0, 50_000, 10, 10),
        ] {
            let witness = Forgetful(WaitedBetween { wait, unknown_ns });
            let before = before_send(&witness, &request(), DUE, slept_ns);
            let explained = explain(DUE, 210_000, Some(&request()), before);
            let of = |cause: Cause| explained.causes[cause as usize] / 1000;
            // The 40 µs at the end are those of a busy client.
            let found = (of(Cause::ClientBusy), of(Cause::Unexplained));
            assert_eq!(found, (busy_us + 40, unexplained_us), "{unknown_ns} {slept_ns}");
        }
    }
}
