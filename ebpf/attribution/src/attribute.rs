//! Splits the time of a request among the causes.
//!
//! Must not know: where the instants come from, or what a share is worth.

use serde::{Deserialize, Serialize};

use crate::causes::{Cause, PerCause};
use crate::request::{CpuWait, Request};
use crate::segments::PerSegment;

/// What the client's thread did between the instant at which a shake was due and its send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeSend {
    /// Asleep: its timer had not fired yet.
    pub asleep_ns: u64,
    /// Waiting for a CPU.
    pub waited: CpuWait,
    /// Of the rest, how long it is not known whether it waited.
    #[serde(default)]
    pub unknown_ns: u64,
}

/// The time of a request, attributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributed {
    /// By cause, in nanoseconds. What is negative or missing is unexplained.
    pub causes_ns: PerCause<u64>,
    /// From T1 on, in nanoseconds; `None` when an instant is missing.
    pub segments_ns: Option<PerSegment<u64>>,
}

impl Attributed {
    /// Nothing is known of a request but how long it took.
    pub fn unexplained(latency_ns: u64) -> Self {
        Self::to_one(Cause::Unexplained, latency_ns)
    }

    /// All of the time has one cause.
    pub fn to_one(cause: Cause, latency_ns: u64) -> Self {
        let mut causes_ns = PerCause::default();
        causes_ns[cause] = latency_ns;
        Self { causes_ns, segments_ns: None }
    }

    /// The cause that took most.
    #[inline]
    pub fn dominant(&self) -> Cause {
        let most = Cause::ALL.into_iter().max_by_key(|cause| self.causes_ns[*cause]);
        most.unwrap_or(Cause::Unexplained)
    }
}

/// The time of a request as far as it is attributed.
#[derive(Default)]
struct Split {
    causes_ns: PerCause<u64>,
    total_ns: i64,
}

/// Splits the time of a request that was due at `due_ns` and took `latency_ns` by the client's own
/// clock.
#[inline]
pub fn attribute(
    due_ns: u64,
    latency_ns: u64,
    request: Option<&Request>,
    before: BeforeSend,
) -> Attributed {
    // An instant of an earlier request is none of this one.
    let Some((request, segments)) = request
        .filter(|request| request.sent_ns >= due_ns)
        .and_then(|request| Some((request, request.segments()?)))
    else {
        return Attributed::unexplained(latency_ns);
    };
    let mut split = Split::default();
    split.add_send_lag(request.sent_ns - due_ns, before);
    let way = if request.losses > 0 { Cause::NetworkLoss } else { Cause::NetworkDelay };
    let server = [Cause::ServerRunqueue, Cause::ServerBusy];
    let client = [Cause::ClientRunqueue, Cause::ClientBusy];
    let segments_ns = PerSegment {
        network: split.add(segments.network_ns, Some(CpuWait::default()), [way; 2]),
        server_wait: split.add(segments.server_wait_ns, request.server_wait, server),
        server_service: split.add(segments.server_service_ns, request.server_service, server),
        client_receive_lag: split.add(
            segments.client_receive_lag_ns,
            request.client_receive,
            client,
        ),
    };
    let Split { mut causes_ns, total_ns } = split;
    causes_ns[Cause::Unexplained] += (latency_ns.cast_signed() - total_ns).unsigned_abs();
    Attributed { causes_ns, segments_ns: Some(segments_ns) }
}

impl Split {
    /// From T0 to T1.
    #[inline]
    fn add_send_lag(&mut self, send_lag_ns: u64, before: BeforeSend) {
        let foreign_ns = before.waited.foreign_ns.min(send_lag_ns);
        let own_ns = before.waited.own_ns.min(send_lag_ns - foreign_ns);
        let asleep_ns = before.asleep_ns.min(send_lag_ns - foreign_ns - own_ns);
        let unknown_ns = before.unknown_ns.min(send_lag_ns - foreign_ns - own_ns - asleep_ns);
        self.causes_ns[Cause::ClientRunqueue] += foreign_ns;
        self.causes_ns[Cause::ClientBusy] += send_lag_ns - foreign_ns - asleep_ns - unknown_ns;
        self.causes_ns[Cause::Unexplained] += asleep_ns + unknown_ns;
        self.total_ns += send_lag_ns.cast_signed();
    }

    /// A segment, of which waiting for a CPU that the program did not hold has one cause and the
    /// rest another. Returns its length, 0 where instants disagree.
    #[inline]
    fn add(&mut self, length_ns: i64, wait: Option<CpuWait>, [waiting, rest]: [Cause; 2]) -> u64 {
        self.total_ns += length_ns;
        let Ok(length) = u64::try_from(length_ns) else {
            self.causes_ns[Cause::Unexplained] += length_ns.unsigned_abs();
            return 0;
        };
        match wait {
            Some(wait) => {
                let foreign_ns = wait.foreign_ns.min(length);
                self.causes_ns[waiting] += foreign_ns;
                self.causes_ns[rest] += length - foreign_ns;
            }
            // Whose thread it was is not known, so neither is what it did.
            None => self.causes_ns[Cause::Unexplained] += length,
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{DUE, request};

    /// `us` are of the first seven causes; the others take nothing.
    fn check(request: Option<Request>, before: BeforeSend, latency_us: u64, us: [u64; 7]) {
        let attributed = attribute(DUE, latency_us * 1000, request.as_ref(), before);
        let mut expected = PerCause::default();
        expected.iter_mut().zip(us).for_each(|((_, place), us)| *place = us);
        assert_eq!(attributed.causes_ns.map(|ns| ns / 1000), expected, "{request:?}");
    }

    #[test]
    fn every_nanosecond_has_a_cause() {
        let nothing = BeforeSend::default();
        // Client busy: 100 before the send, 40 at the end. Server: 15 waiting, 5 + 30 busy.
        check(Some(request()), nothing, 210, [0, 140, 0, 20, 15, 35, 0]);
        // What the client saw later than the kernel is unexplained.
        check(Some(request()), nothing, 215, [0, 140, 0, 20, 15, 35, 5]);
        let before = BeforeSend {
            asleep_ns: 30_000,
            waited: CpuWait { foreign_ns: 40_000, own_ns: 10_000 },
            unknown_ns: 0,
        };
        check(Some(request()), before, 210, [40, 70, 0, 20, 15, 35, 30]);
        // More waiting than there was time is cut to the time.
        let waited = CpuWait { foreign_ns: 500_000, own_ns: 500_000 };
        check(
            Some(request()),
            BeforeSend { asleep_ns: 9, waited, unknown_ns: 9 },
            210,
            [100, 40, 0, 20, 15, 35, 0],
        );
    }

    #[test]
    fn a_loss_takes_the_whole_way() {
        let late = 200_000_000;
        let mut lost = request();
        lost.losses = 2;
        for instant in [
            &mut lost.server_ready_ns,
            &mut lost.server_read_ns,
            &mut lost.answered_ns,
            &mut lost.ready_ns,
            &mut lost.read_ns,
        ] {
            *instant = instant.map(|ns| ns + late);
        }
        check(Some(lost), BeforeSend::default(), 200_210, [0, 140, 200_020, 0, 15, 35, 0]);
    }

    #[test]
    fn what_is_not_known_is_unexplained() {
        let nothing = BeforeSend::default();
        let waited = CpuWait { foreign_ns: 25_000, own_ns: 0 };
        let before = BeforeSend { waited, ..nothing };
        check(None, nothing, 500, [0, 0, 0, 0, 0, 0, 500]);
        check(Some(Request { read_ns: None, ..request() }), nothing, 210, [0, 0, 0, 0, 0, 0, 210]);
        // The entry still has the request before this one.
        let stale = Request { sent_ns: DUE - 1, ..request() };
        check(Some(stale), nothing, 210, [0, 0, 0, 0, 0, 0, 210]);
        // Before the send, whether the thread waited or was busy.
        let unknown = BeforeSend { unknown_ns: 60_000, ..before };
        check(Some(request()), unknown, 210, [25, 55, 0, 20, 15, 35, 60]);
        let no_thread = Request { server_wait: None, ..request() };
        check(Some(no_thread), nothing, 210, [0, 140, 0, 20, 0, 30, 20]);
        // The server's clock went backwards by 5: negative time counts by its size, too.
        let odd = Request { server_read_ns: Some(DUE + 105_000), ..request() };
        let attributed = attribute(DUE, 210_000, Some(&odd), nothing);
        assert_eq!(attributed.causes_ns[Cause::Unexplained], 5_000);
    }
}
